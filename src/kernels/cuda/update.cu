#include "kernels/cuda/launch.h"
#include "kernels/cuda/tables.h"
#include "kernels/cuda/update_rows.h"

namespace stableqat::kernels::cuda {
namespace {

template <class Team>
__device__ void add_counts(const Team& team, const QuantizeCounts& counts, CountsPointer total) {
  const auto changed = team.sum(static_cast<unsigned long long>(counts.changed));
  const auto clipped = team.sum(static_cast<unsigned long long>(counts.clipped));
  if (team.rank() != 0) return;
  atomicAdd(total, changed);
  atomicAdd(total + 1, clipped);
}

template <class T>
__device__ QuantizedRow<T> row_of(std::int8_t* codes, T* dequantized, std::int64_t begin) {
  return {codes + begin, dequantized != nullptr ? dequantized + begin : nullptr};
}

template <class Team, class T, class Element>
__global__ void quantize_kernel(Element element, std::int64_t rows, std::int64_t columns, const float* weight, const float* scale,
                                std::int8_t* codes, T* dequantized, CountsPointer total) {
  const Team team;
  QuantizeCounts counts;
  for (std::int64_t row = Team::first_row(); row < rows; row += Team::row_stride()) {
    const std::int64_t begin = row * columns;
    counts += quantize_row(team, element, columns, weight + begin, scale[row], row_of(codes, dequantized, begin));
  }
  add_counts(team, counts, total);
}

template <class Element>
__global__ void steps_kernel(Element element, std::int64_t count, const float* scale, float* step) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) step[i] = element.step(scale[i]);
}

template <class Team, class Surrogate>
__global__ void surrogate_sums_kernel(Surrogate surrogate, QuantizedArrays<float> arrays, double scale_factor, double* squares,
                                      float* scale_gradient, double* alpha_terms) {
  const Team team;
  for (std::int64_t row = Team::first_row(); row < arrays.rows; row += Team::row_stride()) {
    const std::int64_t begin = row * arrays.columns;
    const RowSums sums =
        surrogate_sums_of_row(team, surrogate, arrays.columns, arrays.weight + begin, arrays.gradient + begin, arrays.scale[row]);
    if (team.rank() != 0) continue;
    squares[row] = sums.squares;
    scale_gradient[row] = static_cast<float>(scale_factor * sums.scale);
    if constexpr (Surrogate::kHasAlpha) alpha_terms[row] = sums.alpha;
  }
}

template <class Team, class T, class Surrogate>
__global__ void update_quantized_kernel(Surrogate surrogate, AdamWElement<float> adamw, FactorPointer factor, QuantizedArrays<float> arrays,
                                        UpdateOutputs<float> outputs, T* dequantized, CountsPointer total) {
  if (!take_factor(factor, adamw)) return;
  const Team team;
  QuantizeCounts counts;
  for (std::int64_t row = Team::first_row(); row < arrays.rows; row += Team::row_stride()) {
    const std::int64_t begin = row * arrays.columns;
    const MovedRow moved{arrays.weight + begin, arrays.gradient + begin, outputs.first + begin, outputs.second + begin};
    counts += update_row(team, surrogate, adamw, arrays.columns, moved, arrays.scale[row], outputs.scale[row],
                         row_of(outputs.codes, dequantized, begin));
  }
  add_counts(team, counts, total);
}

__global__ void squares_kernel(std::int64_t count, const float* values, double* squares) {
  const BlockTeam team;
  const std::int64_t blocks = (count + kSquaresBlock - 1) / kSquaresBlock;
  for (std::int64_t block = BlockTeam::first_row(); block < blocks; block += BlockTeam::row_stride()) {
    const std::int64_t end = (block + 1) * kSquaresBlock < count ? (block + 1) * kSquaresBlock : count;
    double sum = 0.0;
    for (std::int64_t j = block * kSquaresBlock + team.rank(); j < end; j += team.size()) {
      sum += static_cast<double>(values[j]) * static_cast<double>(values[j]);
    }
    sum = team.sum(sum);
    if (team.rank() == 0) squares[block] = sum;
  }
}

__global__ void update_plain_kernel(AdamWElement<float> adamw, FactorPointer factor, std::int64_t count, float* value, float* gradient,
                                    float* first, float* second) {
  if (!take_factor(factor, adamw)) return;
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    value[i] = adamw.step(value[i], gradient[i], first[i], second[i]);
    gradient[i] = 0.0F;
  }
}

Status quantize(Stream stream, const QuantRule& rule, std::int64_t rows, std::int64_t columns, const float* weight, const float* scale,
                std::int8_t* codes, const DequantizedOutput& out, CountsPointer counts) {
  return with_rounding(rule, [&]<Rounding kRounding>() {
    const QuantElement<float, kRounding> element(rule);
    return with_element(out.type, [&]<class T>() {
      return with_team(rows, columns, [&]<class Team>(unsigned blocks) {
        quantize_kernel<Team, T>
            <<<blocks, kThreads, 0, as_stream(stream)>>>(element, rows, columns, weight, scale, codes, static_cast<T*>(out.data), counts);
        return launched();
      });
    });
  });
}

Status steps(Stream stream, const QuantRule& rule, std::int64_t count, const float* scale, float* step) {
  return with_rounding(rule, [&]<Rounding kRounding>() {
    steps_kernel<<<blocks_for(count, kThreads), kThreads, 0, as_stream(stream)>>>(QuantElement<float, kRounding>(rule), count, scale, step);
    return launched();
  });
}

Status surrogate_sums(Stream stream, const QuantRule& rule, const QuantizedArrays<float>& arrays, double scale_factor, double* squares,
                      float* scale_gradient, double* alpha_terms) {
  return with_surrogate(rule, arrays.alpha, [&](auto surrogate) {
    return with_team(arrays.rows, arrays.columns, [&]<class Team>(unsigned blocks) {
      surrogate_sums_kernel<Team>
          <<<blocks, kThreads, 0, as_stream(stream)>>>(surrogate, arrays, scale_factor, squares, scale_gradient, alpha_terms);
      return launched();
    });
  });
}

Status update_quantized(Stream stream, const QuantRule& rule, const AdamWRule& adamw, FactorPointer factor,
                        const QuantizedArrays<float>& arrays, const UpdateOutputs<float>& outputs, const DequantizedOutput& out,
                        CountsPointer counts) {
  return with_surrogate(rule, arrays.alpha, [&](auto surrogate) {
    return with_element(out.type, [&]<class T>() {
      return with_team(arrays.rows, arrays.columns, [&]<class Team>(unsigned blocks) {
        update_quantized_kernel<Team, T><<<blocks, kThreads, 0, as_stream(stream)>>>(surrogate, AdamWElement<float>(adamw), factor, arrays,
                                                                                     outputs, static_cast<T*>(out.data), counts);
        return launched();
      });
    });
  });
}

Status squares(Stream stream, std::int64_t count, const float* values, double* sums) {
  squares_kernel<<<blocks_for(count, kSquaresBlock), kThreads, 0, as_stream(stream)>>>(count, values, sums);
  return launched();
}

Status update_plain(Stream stream, const AdamWRule& adamw, FactorPointer factor, std::int64_t count, float* value, float* gradient,
                    float* first, float* second) {
  update_plain_kernel<<<blocks_for(count, kThreads), kThreads, 0, as_stream(stream)>>>(AdamWElement<float>(adamw), factor, count, value,
                                                                                       gradient, first, second);
  return launched();
}

}  // namespace

void add_update_kernels(CudaKernels& table) {
  table.quantize = quantize;
  table.steps = steps;
  table.surrogate_sums = surrogate_sums;
  table.update_quantized = update_quantized;
  table.squares = squares;
  table.update_plain = update_plain;
}

}  // namespace stableqat::kernels::cuda
