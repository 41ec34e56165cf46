#include "kernels/cuda/launch.h"
#include "kernels/cuda/rms_norm_rows.h"
#include "kernels/cuda/tables.h"

namespace stableqat::kernels::cuda {
namespace {

template <class Team, class T>
__global__ void forward_kernel(std::int64_t rows, std::int64_t columns, const T* x, const T* delta, const float* w, float eps, T* sum, T* y,
                               float* inverse_rms) {
  const Team team;
  for (std::int64_t row = Team::first_row(); row < rows; row += Team::row_stride()) {
    const std::int64_t begin = row * columns;
    rms_norm_forward_row(team, columns, x + begin, delta != nullptr ? delta + begin : nullptr, w, eps,
                         delta != nullptr ? sum + begin : nullptr, y + begin, inverse_rms + row);
  }
}

// One block for each row of the workspace.
template <class T>
__global__ void backward_kernel(std::int64_t rows, std::int64_t columns, const T* sum, const float* w, const float* inverse_rms,
                                const T* dy, const T* residual, T* dx, float* workspace) {
  const BlockTeam team;
  float* dw = workspace + blockIdx.x * columns;
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) dw[j] = 0.0F;
  for (std::int64_t row = BlockTeam::first_row(); row < rows; row += BlockTeam::row_stride()) {
    const std::int64_t begin = row * columns;
    rms_norm_backward_row(team, columns, sum + begin, w, inverse_rms[row], dy + begin, residual != nullptr ? residual + begin : nullptr,
                          dx + begin, dw);
  }
}

__global__ void sum_blocks_kernel(std::int64_t columns, const float* workspace, float* dw) {
  const std::int64_t j = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (j >= columns) return;
  float sum = 0.0F;
  for (std::int64_t block = 0; block < kRmsNormBlocks; ++block) sum += workspace[block * columns + j];
  dw[j] = sum;
}

Status forward(Stream stream, ElementType type, std::int64_t rows, std::int64_t columns, const void* x, const void* delta, const float* w,
               float eps, void* sum, void* y, float* inverse_rms) {
  return with_element(type, [&]<class T>() {
    return with_team(rows, columns, [&]<class Team>(unsigned blocks) {
      forward_kernel<Team, T><<<blocks, kThreads, 0, as_stream(stream)>>>(rows, columns, static_cast<const T*>(x),
                                                                          static_cast<const T*>(delta), w, eps, static_cast<T*>(sum),
                                                                          static_cast<T*>(y), inverse_rms);
      return launched();
    });
  });
}

Status backward(Stream stream, ElementType type, std::int64_t rows, std::int64_t columns, const void* sum, const float* w,
                const float* inverse_rms, const void* dy, const void* residual, void* dx, float* dw, float* workspace) {
  return with_element(type, [&]<class T>() {
    // Short rows (a head's) leave threads of a large block without work.
    const int threads = static_cast<int>(std::min<std::int64_t>(kThreads, (columns + 31) / 32 * 32));
    backward_kernel<T><<<static_cast<unsigned>(kRmsNormBlocks), threads, 0, as_stream(stream)>>>(
        rows, columns, static_cast<const T*>(sum), w, inverse_rms, static_cast<const T*>(dy), static_cast<const T*>(residual),
        static_cast<T*>(dx), workspace);
    if (const Status status = launched()) return status;
    sum_blocks_kernel<<<blocks_for(columns, kThreads), kThreads, 0, as_stream(stream)>>>(columns, workspace, dw);
    return launched();
  });
}

}  // namespace

void add_rms_norm_kernels(CudaKernels& table) {
  table.rms_norm_forward = forward;
  table.rms_norm_backward = backward;
}

}  // namespace stableqat::kernels::cuda
