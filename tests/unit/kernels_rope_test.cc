#include "stableqat/kernels/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "../support/kernel_test.h"

namespace stableqat::kernels {
namespace {

using testing::kUnit;
using testing::normal_values;

// Projections of 3 parts share rows, so that strides differ from the shape; D = 6 and 20 leave remainders in every vector width.
TEST(RopeKernels, RotateHalvesAndBack) {
  for (const Isa isa : testing::supported_isas()) {
    for (const RopeShape& shape : {RopeShape{1, 1, 1, 2}, RopeShape{2, 3, 2, 6}, RopeShape{2, 5, 3, 20}, RopeShape{2, 70, 9, 64}}) {
      SCOPED_TRACE(std::string(isa_name(isa)) + " D " + std::to_string(shape.head_size));
      const std::int64_t half = shape.head_size / 2;
      const std::int64_t width = shape.heads * shape.head_size;
      const HeadStrides wide{shape.tokens * width * 3, width * 3, shape.head_size};
      const HeadStrides dense{shape.tokens * width, width, shape.head_size};
      const std::vector<float> angles = normal_values(shape.tokens * half, 7, 3.0F);
      std::vector<float> cos(angles);
      std::vector<float> sin(angles);
      for (float& value : cos) value = std::cos(value);
      for (float& value : sin) value = std::sin(value);
      std::vector<float> x = normal_values(shape.batch * shape.tokens * width * 3, 8);
      std::vector<float> y(static_cast<std::size_t>(shape.batch * shape.tokens * width));
      std::vector<float> back(y.size());
      rope_kernels(isa).forward(shape, cos.data(), sin.data(), {x.data(), wide}, {y.data(), dense});
      rope_kernels(isa).backward(shape, cos.data(), sin.data(), {y.data(), dense}, {back.data(), dense});
      rope_kernels(isa).forward(shape, cos.data(), sin.data(), {x.data(), wide}, {x.data(), wide});
      const std::vector<float> original = normal_values(shape.batch * shape.tokens * width * 3, 8);
      for (std::int64_t row = 0; row < shape.batch * shape.tokens; ++row) {
        for (std::int64_t i = 0; i < width * 3; ++i) {
          const auto at = static_cast<std::size_t>(row * width * 3 + i);
          if (i >= width) {
            ASSERT_EQ(x[at], original[at]);  // not part of this tensor
            continue;
          }
          const std::int64_t in_head = i % shape.head_size;
          const auto angle = static_cast<std::size_t>(row % shape.tokens * half + in_head % half);
          const double own = double{original[at]} * cos[angle];
          const bool first = in_head < half;
          const auto partner = static_cast<std::size_t>(row * width * 3 + i + (first ? half : -half));
          const double other = (first ? -1.0 : 1.0) * original[partner] * sin[angle];
          const auto to = static_cast<std::size_t>(row * width + i);
          const double bound = 3 * kUnit * (std::abs(own) + std::abs(other));
          ASSERT_NEAR(y[to], own + other, bound);
          ASSERT_EQ(x[at], y[to]);
          // Both turns round, and cos^2 + sin^2 is 1 within 2 units.
          ASSERT_NEAR(back[to], original[at], 8 * kUnit * (std::abs(original[at]) + std::abs(original[partner])));
        }
      }
    }
  }
}

}  // namespace
}  // namespace stableqat::kernels
