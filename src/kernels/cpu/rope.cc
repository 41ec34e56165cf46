#include "stableqat/kernels/rope.h"

#include "kernels/parallel.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

namespace {

// `direction` 1 rotates, -1 rotates back.
void rotate_head(std::int64_t half, const float* cos, const float* sin, float direction, const float* x, float* y) {
#pragma omp simd
  for (std::int64_t i = 0; i < half; ++i) {
    const float first = x[i];
    const float second = x[half + i];
    const float sine = direction * sin[i];
    y[i] = first * cos[i] - second * sine;
    y[half + i] = second * cos[i] + first * sine;
  }
}

void rotate(const RopeShape& shape, const float* cos, const float* sin, float direction, HeadView<const float> x, HeadView<float> y) {
  const std::int64_t half = shape.head_size / 2;
#pragma omp parallel for schedule(static) if (worth_sharing(shape.batch * shape.tokens, shape.heads * shape.head_size))
  for (std::int64_t row = 0; row < shape.batch * shape.tokens; ++row) {
    const std::int64_t sequence = row / shape.tokens;
    const std::int64_t token = row % shape.tokens;
    const float* from = x.data + sequence * x.strides.batch + token * x.strides.token;
    float* to = y.data + sequence * y.strides.batch + token * y.strides.token;
    for (std::int64_t head = 0; head < shape.heads; ++head) {
      rotate_head(half, cos + token * half, sin + token * half, direction, from + head * x.strides.head, to + head * y.strides.head);
    }
  }
}

void forward(const RopeShape& shape, const float* cos, const float* sin, HeadView<const float> x, HeadView<float> y) {
  rotate(shape, cos, sin, 1.0F, x, y);
}

void backward(const RopeShape& shape, const float* cos, const float* sin, HeadView<const float> dy, HeadView<float> dx) {
  rotate(shape, cos, sin, -1.0F, dy, dx);
}

}  // namespace

extern const RopeKernels rope_table = {forward, backward};

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
