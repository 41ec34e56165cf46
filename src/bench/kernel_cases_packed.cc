// Cases of the products of one row of activations with packed weights: reading the weights should be all of their time.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <memory>

#include "bench/kernel_case.h"
#include "stableqat/kernels/packed.h"

namespace stableqat::bench {

namespace {

constexpr std::int64_t kGroup = 64;
constexpr float kLevelStep = 2.0F;
constexpr float kLowest = -3.0F;

// y [1, N] = x [1, M] w^T with w = step * (kLevelStep * level + kLowest). x is rounded once, as a model does it for several weights.
class PackedProduct {
 public:
  // tiles: those of [rows, columns] levels of `bits` bits.
  PackedProduct(const kernels::PackedKernels& table, std::int64_t rows, std::int64_t columns, int bits, std::int64_t group,
                const at::Tensor& tiles)
      : x(at::randn({1, columns})),
        y(at::empty({1, rows})),
        step(at::rand({rows, columns / group})),
        high(at::empty({kernels::digit_stride(columns)}, at::kChar)),
        low(at::empty({kernels::digit_stride(columns)}, at::kChar)),
        scale(at::empty({1})),
        table_(table),
        tiles_(tiles),
        partial_sums_(at::empty({kernels::partial_sum_stride(columns)}, at::kInt)),
        weight_{.rows = rows,
                .columns = columns,
                .bits = bits,
                .tiles = tiles_.const_data_ptr<std::uint8_t>(),
                .level_step = kLevelStep,
                .lowest = kLowest,
                .step = step.const_data_ptr<float>(),
                .group = group} {
    table.round_to_digits(1, columns, x.const_data_ptr<float>(), digits());
  }

  void run() const { table_.forward(1, digits(), weight_, y.data_ptr<float>()); }

  double bytes() const { return static_cast<double>(tiles_.nbytes() + step.nbytes()); }

  at::Tensor x, y, step, high, low, scale;

 private:
  kernels::DigitRows digits() const {
    return {high.data_ptr<std::int8_t>(), low.data_ptr<std::int8_t>(), partial_sums_.data_ptr<std::int32_t>(), scale.data_ptr<float>()};
  }

  const kernels::PackedKernels& table_;
  at::Tensor tiles_, partial_sums_;
  kernels::PackedWeight weight_;
};

void check_packed(const kernels::PackedKernels& table, int bits, bool has_groups) {
  constexpr std::int64_t kColumns = 5 * kGroup;
  const std::int64_t group = has_groups ? kGroup : kColumns;
  const at::Tensor levels = at::randint(0, 1 << bits, {kCheckedRows, kColumns}, at::kByte);
  const at::Tensor tiles = at::empty({kernels::packed_bytes(kCheckedRows, kColumns, bits)}, at::kByte);
  kernels::pack_levels(kCheckedRows, kColumns, bits, levels.const_data_ptr<std::uint8_t>(), tiles.data_ptr<std::uint8_t>());
  const PackedProduct p(table, kCheckedRows, kColumns, bits, group, tiles);
  p.run();
  const at::Tensor x = ((wide(p.high) * 128 + wide(p.low)) * wide(p.scale)).view({1, kColumns});
  const at::Tensor step = wide(p.step).repeat_interleave(group, 1);
  const at::Tensor w = (wide(levels) * kLevelStep + kLowest) * step;
  // Levels are summed from zero on, and the lowest code is added to the sum.
  const at::Tensor terms = (wide(levels) * kLevelStep - kLowest) * step;
  require_close("packed", p.y, at::mm(x, w.t()), at::mm(x.abs(), terms.t()));
}

}  // namespace

std::vector<KernelCase> packed_cases(const KernelBenchOptions& options, kernels::Isa isa) {
  const auto& table = kernels::packed_kernels(isa);
  // As wide as whole groups can be in rows of the model.
  const std::int64_t columns = std::max(kGroup, options.model.hidden_size / kGroup * kGroup);
  std::vector<KernelCase> cases;
  for (const int bits : {2, 3, 4, 8}) {
    const std::int64_t rows = streaming_rows(columns) * 32 / bits;
    const at::Tensor tiles = at::randint(0, 256, {kernels::packed_bytes(rows, columns, bits)}, at::kByte);
    for (const bool has_groups : {false, true}) {
      const auto p = std::make_shared<const PackedProduct>(table, rows, columns, bits, has_groups ? kGroup : columns, tiles);
      cases.push_back({std::to_string(bits) + "_bits" + (has_groups ? "_group_64" : ""), KernelBound::kMemory, p->bytes(),
                       [&table, bits, has_groups] { check_packed(table, bits, has_groups); }, [p] { p->run(); }});
    }
  }
  return cases;
}

}  // namespace stableqat::bench
