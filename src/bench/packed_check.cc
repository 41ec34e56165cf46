#include "bench/packed_check.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "stableqat/base/error.h"
#include "stableqat/models/packed_matrix.h"

namespace stableqat::bench {

namespace {

// One row of the weight: the product in double, and what may be added to it.
struct RowProduct {
  double value = 0;
  double bound = 0;
};

RowProduct product_of_row(const float* w, const float* x, double largest, const kernels::PackedWeight& packed, std::int64_t row) {
  constexpr double kUnit = std::numeric_limits<float>::epsilon() / 2;
  constexpr double kDigits = 127.0 * 128.0;
  const std::int64_t groups = packed.columns / packed.group;
  // Of a sum: at most ten for each group, and those that are added (a group of 8 bits in pieces of 512 columns).
  const double roundings = static_cast<double>(10 + groups + packed.columns / 512);
  const double lowest = std::abs(static_cast<double>(packed.lowest));
  RowProduct result;
  double weights = 0;
  double products = 0;
  double shifted = 0;  // levels count from the lowest code
  for (std::int64_t j = 0; j < packed.columns; ++j) {
    const double weight = static_cast<double>(w[j]);
    const double value = static_cast<double>(x[j]);
    const double step = std::abs(static_cast<double>(packed.step[row * groups + j / packed.group]));
    result.value += weight * value;
    weights += std::abs(weight);
    products += std::abs(weight * value);
    shifted += (std::abs(weight) + 2 * lowest * step) * std::abs(value);
  }
  result.bound = 0.5 * largest / kDigits * weights + 4 * kUnit * products + roundings * kUnit * shifted;
  return result;
}

}  // namespace

double checked_packed_product(const std::string& name, const PackedMatrix& packed, const at::Tensor& w) {
  const at::Tensor x = at::randn({1, packed.columns()}, at::kFloat);
  const at::Tensor y = packed.product(DigitActivations(x));
  const at::Tensor dense = w.contiguous();
  const at::Tensor shares = at::empty({packed.rows()}, at::kDouble);
  const double largest = x.abs().max().item<double>();
  at::parallel_for(0, packed.rows(), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const RowProduct expected =
          product_of_row(dense.const_data_ptr<float>() + row * packed.columns(), x.const_data_ptr<float>(), largest, packed.view(), row);
      const double difference = std::abs(static_cast<double>(y.const_data_ptr<float>()[row]) - expected.value);
      shares.mutable_data_ptr<double>()[row] = difference == 0 ? 0 : difference / expected.bound;
    }
  });
  const double share = shares.max().item<double>();
  if (!(share <= 1)) {
    throw NumericError({name + ", packed", std::to_string(share) + " times the difference that rounding can make", "at most 1",
                        "report it with the command line"});
  }
  return share;
}

double check_packed_products(QuantizedModel& model) {
  double largest = 0;
  model.model().visit_linears([&largest](const std::string& name, Linear& layer) {
    if (!layer.packed) return;
    const std::int64_t groups = layer.packed->columns() / layer.packed->view().group;
    const at::Tensor w =
        layer.codes.defined()
            ? (layer.codes.view({layer.codes.size(0), groups, -1}).to(at::kFloat) * layer.step.unsqueeze(2)).view(layer.codes.sizes())
            : layer.weight.detach();
    largest = std::max(largest, checked_packed_product(name, *layer.packed, w));
  });
  if (const auto& head = model.model().packed_head()) {
    largest = std::max(largest, checked_packed_product("the head", *head, model.model().head().detach()));
  }
  return largest;
}

}  // namespace stableqat::bench
