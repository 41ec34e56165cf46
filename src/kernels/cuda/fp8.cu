#include "kernels/cuda/fp8_rows.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tables.h"

namespace stableqat::kernels::cuda {
namespace {

template <class Team, class T>
__global__ void round_rows_kernel(std::int64_t rows, std::int64_t columns, const T* x, const float* factor, std::uint8_t* codes,
                                  float* scale) {
  const Team team;
  for (std::int64_t row = Team::first_row(); row < rows; row += Team::row_stride()) {
    round_row_to_e4m3(team, columns, x + row * columns, factor, codes + row * columns, scale + row);
  }
}

Status round_rows(Stream stream, ElementType type, std::int64_t rows, std::int64_t columns, const void* x, const float* factor,
                  std::uint8_t* codes, float* scale) {
  return with_element(type, [&]<class T>() {
    return with_team(rows, columns, [&]<class Team>(unsigned blocks) {
      round_rows_kernel<Team, T><<<blocks, kThreads, 0, as_stream(stream)>>>(rows, columns, static_cast<const T*>(x), factor, codes, scale);
      return launched();
    });
  });
}

}  // namespace

void add_fp8_kernels(CudaKernels& table) { table.round_rows_to_e4m3 = round_rows; }

}  // namespace stableqat::kernels::cuda
