#include "stableqat/io/live_parts.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace stableqat {

namespace {

constexpr std::size_t kPieceBytes = std::size_t{16} << 20;

}  // namespace

void LiveParts::add(std::size_t file, std::uint64_t position, std::span<const std::byte> bytes) {
  bytes_ += bytes.size();
  while (!bytes.empty()) {
    const auto piece = bytes.first(std::min(bytes.size(), kPieceBytes));
    pieces_.push_back({file, position, piece});
    position += piece.size();
    bytes = bytes.subspan(piece.size());
  }
}

void LiveParts::write(std::span<SharedFile> files) {
  try {
    for (Piece piece; take(piece); end_piece()) files[piece.file].write_at(piece.position, piece.bytes);
  } catch (...) {
    give_up();
    throw;
  }
  for (SharedFile& file : files) file.sync();
}

void LiveParts::before_change() {
  std::unique_lock lock(mutex_);
  piece_ended_.wait(lock, [this] { return !reads_owners_; });
  for (std::size_t i = next_; i < pieces_.size(); ++i) {
    Piece& piece = pieces_[i];
    if (piece.copy) continue;
    piece.copy = std::make_unique_for_overwrite<std::byte[]>(piece.bytes.size());
    std::memcpy(piece.copy.get(), piece.bytes.data(), piece.bytes.size());
    piece.bytes = {piece.copy.get(), piece.bytes.size()};
    copied_ += piece.bytes.size();
  }
}

std::uint64_t LiveParts::copied_bytes() const {
  const std::scoped_lock lock(mutex_);
  return copied_;
}

bool LiveParts::take(Piece& piece) {
  const std::scoped_lock lock(mutex_);
  if (next_ == pieces_.size()) return false;
  piece = std::move(pieces_[next_++]);
  reads_owners_ = !piece.copy;
  return true;
}

void LiveParts::end_piece() {
  {
    const std::scoped_lock lock(mutex_);
    reads_owners_ = false;
  }
  piece_ended_.notify_all();
}

void LiveParts::give_up() {
  {
    const std::scoped_lock lock(mutex_);
    next_ = pieces_.size();
  }
  end_piece();
}

}  // namespace stableqat
