// Bytes in memory that one thread writes to files while their owner goes on working and will change them.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "stableqat/base/file.h"

namespace stableqat {

// What is written is what the bytes were when write() began, or before: the owner calls before_change() before it changes any of them.
// Only what has not been written by then is copied. add() first; then one call of write() in one thread, before_change() in another.
class LiveParts {
 public:
  // `bytes` go to `position` of files[file]; they must outlive write(), or be there until before_change().
  void add(std::size_t file, std::uint64_t position, std::span<const std::byte> bytes);

  // Writes all parts and syncs the files. Throws EnvironmentError; the rest is then given up.
  void write(std::span<SharedFile> files);

  // Returns when the bytes may change. Waits for at most one piece (16 MiB) to be written.
  void before_change();

  std::uint64_t bytes() const noexcept { return bytes_; }
  // That before_change() had to copy.
  std::uint64_t copied_bytes() const;

 private:
  struct Piece {
    std::size_t file = 0;
    std::uint64_t position = 0;
    std::span<const std::byte> bytes;        // the owner's, or of the copy
    std::unique_ptr<std::byte[]> copy = {};  // null: the owner's are to be written
  };
  bool take(Piece& piece);
  void end_piece();
  void give_up();

  std::vector<Piece> pieces_;
  std::uint64_t bytes_ = 0;
  mutable std::mutex mutex_;  // of the following and of the pieces from next_ on
  std::condition_variable piece_ended_;
  std::size_t next_ = 0;
  bool reads_owners_ = false;  // the writer is at a piece of the owner's bytes
  std::uint64_t copied_ = 0;
};

}  // namespace stableqat
