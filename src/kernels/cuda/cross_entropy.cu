#include "kernels/cuda/cross_entropy_rows.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tables.h"

namespace stableqat::kernels::cuda {
namespace {

template <class T>
__global__ void log_probs_kernel(std::int64_t rows, std::int64_t columns, const T* logits, const std::int64_t* targets, float* log_probs) {
  const BlockTeam team;
  for (std::int64_t row = BlockTeam::first_row(); row < rows; row += BlockTeam::row_stride()) {
    log_prob_of_row(team, columns, logits + row * columns, targets[row], log_probs + row);
  }
}

template <class T>
__global__ void cross_entropy_kernel(std::int64_t rows, std::int64_t columns, const std::int64_t* targets, float scale, T* logits,
                                     double* losses) {
  const BlockTeam team;
  for (std::int64_t row = BlockTeam::first_row(); row < rows; row += BlockTeam::row_stride()) {
    cross_entropy_row(team, columns, targets[row], scale, logits + row * columns, losses + row);
  }
}

template <class T>
__global__ void distilled_kernel(std::int64_t rows, std::int64_t columns, const std::int64_t* targets, DistillationTerms terms, float scale,
                                 const T* teacher, T* logits, double* losses, double* divergences) {
  const BlockTeam team;
  for (std::int64_t row = BlockTeam::first_row(); row < rows; row += BlockTeam::row_stride()) {
    distilled_row(team, columns, targets[row], terms, scale, teacher + row * columns, logits + row * columns, losses + row,
                  divergences + row);
  }
}

Status log_probs(Stream stream, ElementType type, std::int64_t rows, std::int64_t columns, const void* logits, const std::int64_t* targets,
                 float* out) {
  return with_element(type, [&]<class T>() {
    log_probs_kernel<T>
        <<<blocks_for(rows, 1), kVocabularyThreads, 0, as_stream(stream)>>>(rows, columns, static_cast<const T*>(logits), targets, out);
    return launched();
  });
}

Status cross_entropy(Stream stream, ElementType type, std::int64_t rows, std::int64_t columns, const std::int64_t* targets, float scale,
                     void* logits, double* losses) {
  return with_element(type, [&]<class T>() {
    cross_entropy_kernel<T>
        <<<blocks_for(rows, 1), kVocabularyThreads, 0, as_stream(stream)>>>(rows, columns, targets, scale, static_cast<T*>(logits), losses);
    return launched();
  });
}

Status distilled(Stream stream, ElementType type, std::int64_t rows, std::int64_t columns, const std::int64_t* targets,
                 const DistillationTerms& terms, float scale, const void* teacher, void* logits, double* losses, double* divergences) {
  return with_element(type, [&]<class T>() {
    distilled_kernel<T><<<blocks_for(rows, 1), kVocabularyThreads, 0, as_stream(stream)>>>(
        rows, columns, targets, terms, scale, static_cast<const T*>(teacher), static_cast<T*>(logits), losses, divergences);
    return launched();
  });
}

}  // namespace

void add_cross_entropy_kernels(CudaKernels& table) {
  table.log_probs = log_probs;
  table.cross_entropy = cross_entropy;
  table.distilled = distilled;
}

}  // namespace stableqat::kernels::cuda
