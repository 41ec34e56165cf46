// Bytes of an input file, decompressed as they are read.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

namespace stableqat {

enum class Compression { kNone, kGzip, kXz, kZstd };

// What is wrong with a compressed stream; the caller knows the file and line.
class CorruptStream : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class ByteSource {
 public:
  virtual ~ByteSource() = default;

  // Fills at most out.size() > 0 bytes and returns their number, 0 only at the end.
  virtual std::size_t read(std::span<char> out) = 0;
};

// The bytes on disk, counted and hashed as they pass.
class FileSource final : public ByteSource {
 public:
  // Throws EnvironmentError when the file cannot be opened; read() when it cannot be read.
  explicit FileSource(std::filesystem::path path);
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;
  ~FileSource() override;

  std::size_t read(std::span<char> out) override;
  std::uint64_t bytes_read() const noexcept { return bytes_read_; }
  std::string hash() const;  // content_hash() of what was read

 private:
  struct FreeHash {
    void operator()(XXH3_state_t* state) const noexcept { XXH3_freeState(state); }
  };

  std::filesystem::path path_;
  int descriptor_;
  std::uint64_t bytes_read_ = 0;
  std::unique_ptr<XXH3_state_t, FreeHash> hash_;
};

// A source that decompresses `input`, which must outlive it; several streams one after another count as one. Its read() throws
// CorruptStream for damage, for an early end and for what follows the last stream. Not for Compression::kNone.
std::unique_ptr<ByteSource> make_decoder(Compression compression, ByteSource& input);

}  // namespace stableqat
