// Writer of GGUF files (version 3, little-endian). Format: ggml's docs/gguf.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "stableqat/io/ggml_types.h"

namespace stableqat {

// Collects metadata and tensors and writes them as one file, both in the order in which they were given. Not thread-safe.
class GgufWriter {
 public:
  using Value =
      std::variant<bool, std::uint32_t, float, std::string, std::vector<std::string>, std::vector<std::int32_t>, std::vector<float>>;
  // Writes a whole tensor into the given buffer of its exact size, which is zero. Called once per write().
  using Fill = std::function<void(std::span<std::byte>)>;

  // One metadata entry; a second value for a key replaces the first. Throws ConfigError for an empty key.
  void set(std::string key, Value value);

  // A tensor that is made while writing, so that only one at a time is in memory; shape rows first, one to four dimensions. Throws
  // ConfigError for a name that is empty, used or longer than ggml's 63 bytes, a type whose size is not known, sizes below 1, and rows that
  // are not whole blocks.
  void add(std::string name, GgmlType type, std::vector<std::int64_t> shape, Fill fill);

  // Writes by AtomicFile (EnvironmentError when that fails).
  void write(const std::filesystem::path& path) const;

 private:
  struct Entry {
    std::string name;
    GgmlType type;
    std::vector<std::int64_t> shape;
    std::uint64_t byte_size;
    Fill fill;
  };

  std::vector<std::pair<std::string, Value>> metadata_;
  std::vector<Entry> entries_;
};

}  // namespace stableqat
