#include "train/weight_exchange.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "stableqat/base/row_range.h"
#include "stableqat/io/code_stream.h"
#include "stableqat/models/packed_model.h"

namespace stableqat {

namespace {

constexpr std::int64_t kCodesPerTask = std::int64_t{1} << 16;  // a multiple of 8: tasks begin on a byte of the stream

// Calls task(first, count) for stretches of `count` codes, on all threads.
template <class Task>
void for_stretches(std::int64_t count, const Task& task) {
  const std::int64_t stretches = (count + kCodesPerTask - 1) / kCodesPerTask;
  at::parallel_for(0, stretches, 1, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * kCodesPerTask;
    task(first, std::min(count, end * kCodesPerTask) - first);
  });
}

// Codes lie `stride` apart from `low` on; their indices are 0, 1, ... The usual stride has a loop without a lookup.
void to_indices(const CodeGrid& grid, std::span<const std::int8_t> codes, std::span<std::uint8_t> indices) {
  if (grid.stride == 1) {
    const auto low = static_cast<std::uint8_t>(grid.low);
#pragma omp simd
    for (std::size_t i = 0; i < codes.size(); ++i) indices[i] = static_cast<std::uint8_t>(static_cast<std::uint8_t>(codes[i]) - low);
    return;
  }
  std::array<std::uint8_t, 256> of_code{};
  for (int index = 0; index < grid.levels; ++index) {
    of_code[static_cast<std::uint8_t>(grid.low + grid.stride * index)] = static_cast<std::uint8_t>(index);
  }
  for (std::size_t i = 0; i < codes.size(); ++i) indices[i] = of_code[static_cast<std::uint8_t>(codes[i])];
}

// In place.
void to_codes(const CodeGrid& grid, std::span<std::int8_t> indices) {
  const auto low = static_cast<std::uint8_t>(grid.low);
  const auto stride = static_cast<std::uint8_t>(grid.stride);
#pragma omp simd
  for (std::size_t i = 0; i < indices.size(); ++i) {
    indices[i] = static_cast<std::int8_t>(static_cast<std::uint8_t>(low + stride * static_cast<std::uint8_t>(indices[i])));
  }
}

void pack(const CodeGrid& grid, int bits, std::span<const std::int8_t> codes, std::span<std::byte> stream) {
  for_stretches(static_cast<std::int64_t>(codes.size()), [&](std::int64_t first, std::int64_t count) {
    std::vector<std::uint8_t> indices(static_cast<std::size_t>(count));
    to_indices(grid, codes.subspan(static_cast<std::size_t>(first), indices.size()), indices);
    const auto begin = static_cast<std::size_t>(first / 8 * bits);
    pack_codes(indices, bits, stream.subspan(begin, code_stream_bytes(indices.size(), bits)));
  });
}

void unpack(const CodeGrid& grid, int bits, std::span<const std::byte> stream, std::span<std::int8_t> codes) {
  for_stretches(static_cast<std::int64_t>(codes.size()), [&](std::int64_t first, std::int64_t count) {
    const auto part = codes.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    unpack_codes(stream.subspan(static_cast<std::size_t>(first / 8 * bits)), bits,
                 {reinterpret_cast<std::uint8_t*>(part.data()), part.size()});
    to_codes(grid, part);
  });
}

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), static_cast<std::size_t>(tensor.nbytes())};
}

}  // namespace

std::uint64_t PackedPiece::code_bytes() const { return code_stream_bytes(static_cast<std::uint64_t>(rows * columns), code_bits); }
std::uint64_t PackedPiece::bytes() const {
  return code_bytes() + static_cast<std::uint64_t>(rows * steps_per_row) * at::elementSize(step_type);
}

PackedPiece packed_piece(const QuantizerSpec& spec, std::int64_t rows, std::int64_t columns, at::ScalarType dtype, std::int64_t ranks) {
  return {rows_per_rank(rows, ranks), columns, spec.group_size > 0 ? columns / spec.group_size : 1, code_grid(spec).index_bits(),
          spec.fp16_scales ? at::kHalf : dtype};
}

WeightExchange::WeightExchange(Communicator& communicator, QuantizedModel& model, std::vector<at::Tensor> plain, std::int64_t bucket_bytes)
    : communicator_(communicator) {
  // Plain tensors first: the largest, which needs no packing, is on its way while others are packed.
  for (at::Tensor& tensor : plain) {
    const std::int64_t row_bytes = static_cast<std::int64_t>(tensor.nbytes()) / tensor.size(0);
    const std::int64_t bytes = rows_per_rank(tensor.size(0), communicator_.ranks()) * row_bytes;
    add({nullptr, std::move(tensor), {}, 0, static_cast<std::uint64_t>(bytes)}, bucket_bytes);
  }
  for (QuantizedWeight& weight : model.weights()) {
    grid_ = code_grid(weight.spec());  // all have the same
    Item item{&weight, {}, {}, 0, 0};
    item.packed = packed_piece(weight.spec(), weight.rows(), weight.columns(), weight.master().scalar_type(), communicator_.ranks());
    item.bytes = item.packed.bytes();
    add(std::move(item), bucket_bytes);
  }
  for (Bucket& bucket : buckets_) {
    const Item& first = bucket.items.front();
    bucket.in_place = bucket.items.size() == 1 && first.weight == nullptr && first.plain.size(0) % communicator_.ranks() == 0;
    if (bucket.in_place) bucket.all = first.plain.view({communicator_.ranks(), -1});
  }
}

void WeightExchange::add(Item item, std::int64_t bucket_bytes) {
  const auto bytes = static_cast<std::int64_t>(item.bytes);
  if (buckets_.empty() || (buckets_.back().bytes + bytes) * communicator_.ranks() > bucket_bytes) buckets_.emplace_back();
  Bucket& bucket = buckets_.back();
  item.offset = static_cast<std::uint64_t>(std::exchange(bucket.bytes, bucket.bytes + bytes));
  bucket.items.push_back(std::move(item));
}

void WeightExchange::run() {
  RECORD_USER_SCOPE("weight_exchange");
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    start(buckets_[i]);
    if (i > 0) complete(buckets_[i - 1]);  // while the next one is on its way
  }
  if (!buckets_.empty()) complete(buckets_.back());
}

void WeightExchange::start(Bucket& bucket) {
  if (!bucket.in_place) {
    bucket.all = at::empty({communicator_.ranks(), bucket.bytes}, at::kByte);
    const at::Tensor own = bucket.all[communicator_.rank()];
    const std::span<std::byte> bytes(static_cast<std::byte*>(own.mutable_data_ptr()), static_cast<std::size_t>(bucket.bytes));
    for (const Item& item : bucket.items) write(item, bytes.subspan(item.offset, item.bytes));
  }
  bucket.transfer = communicator_.start_all_gather(bucket.all);
}

void WeightExchange::complete(Bucket& bucket) {
  bucket.transfer->wait();
  bucket.transfer.reset();
  if (bucket.in_place) return;
  for (int rank = 0; rank < communicator_.ranks(); ++rank) {
    if (rank == communicator_.rank()) continue;
    const at::Tensor part = bucket.all[rank];
    for (const Item& item : bucket.items) read(item, rank, bytes_of(part).subspan(item.offset, item.bytes));
  }
  bucket.all = at::Tensor();
}

void WeightExchange::write(const Item& item, std::span<std::byte> bytes) const {
  std::fill(bytes.begin(), bytes.end(), std::byte{0});  // short pieces are padded
  const auto copy = [](const at::Tensor& from, std::span<std::byte> to) {
    if (from.numel() > 0) std::memcpy(to.data(), from.const_data_ptr(), from.nbytes());
  };
  if (item.weight == nullptr) {
    const RowRange own = rows_of_rank(item.plain.size(0), communicator_.rank(), communicator_.ranks());
    return copy(item.plain.narrow(0, own.first, own.count), bytes);
  }
  const RowRange own = item.weight->own_rows();
  const at::Tensor codes = item.weight->codes().narrow(0, own.first, own.count);
  const std::span<const std::int8_t> values(static_cast<const std::int8_t*>(codes.const_data_ptr()),
                                            static_cast<std::size_t>(codes.numel()));
  pack(grid_, item.packed.code_bits, values, bytes.first(item.packed.code_bytes()));
  copy(item.weight->step().narrow(0, own.first, own.count).to(item.packed.step_type), bytes.subspan(item.packed.code_bytes()));
}

void WeightExchange::read(const Item& item, int rank, std::span<const std::byte> bytes) const {
  if (item.weight == nullptr) {
    const RowRange rows = rows_of_rank(item.plain.size(0), rank, communicator_.ranks());
    const at::Tensor target = item.plain.narrow(0, rows.first, rows.count);
    if (target.numel() > 0) std::memcpy(target.mutable_data_ptr(), bytes.data(), target.nbytes());
    return;
  }
  const RowRange rows = rows_of_rank(item.weight->rows(), rank, communicator_.ranks());
  if (rows.count == 0) return;
  at::Tensor codes = at::empty({rows.count, item.packed.columns}, at::kChar);
  at::Tensor steps = at::empty({rows.count, item.packed.steps_per_row}, item.packed.step_type);
  unpack(grid_, item.packed.code_bits, bytes.first(item.packed.code_bytes()),
         {codes.mutable_data_ptr<std::int8_t>(), static_cast<std::size_t>(codes.numel())});
  std::memcpy(steps.mutable_data_ptr(), bytes.data() + item.packed.code_bytes(), steps.nbytes());
  item.weight->set_rows(rows, codes, steps.to(item.weight->master().scalar_type()));
}

}  // namespace stableqat
