// Reader of GGUF model files (version 2 and 3, little-endian). Format: ggml's docs/gguf.md; block layouts: ggml's ggml-common.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "stableqat/base/file.h"
#include "stableqat/io/ggml_types.h"

namespace stableqat {

// One metadata value. Integers of every width are widened; arrays keep one of four element kinds.
using GgufValue = std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>, std::vector<double>,
                               std::vector<std::string>, std::vector<bool>>;

// One tensor of the file. `shape` is in the usual order (rows first), the reverse of the file's; rows are contiguous.
// A type that is not listed in GgmlType may appear; its bytes then reach to the next tensor.
struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<std::int64_t> shape;
  std::uint64_t element_count = 0;
  std::uint64_t offset = 0;  // in bytes, from the start of the file
  std::uint64_t byte_size = 0;
};

// An open GGUF file, memory-mapped; the object must outlive every span and reference it hands out. Move-only. Const members are
// thread-safe.
class GgufFile {
 public:
  using Metadata = std::map<std::string, GgufValue, std::less<>>;

  // Throws DataError for a file that is missing, truncated, of another format or version, or inconsistent (names the field).
  // Metadata is read, tensor bytes are only located.
  explicit GgufFile(const std::filesystem::path& path);

  // The same for bytes in memory, which must outlive the object; `name` stands for the path in messages.
  static GgufFile from_bytes(std::span<const std::byte> bytes, const std::filesystem::path& name);

  const std::filesystem::path& path() const noexcept { return path_; }
  const Metadata& metadata() const noexcept { return metadata_; }
  const std::vector<GgufTensor>& tensors() const noexcept { return tensors_; }

  // nullptr when there is no such tensor.
  const GgufTensor* find_tensor(std::string_view name) const noexcept;

  // Typed metadata access; nullopt or nullptr when the key is absent, DataError when it has another type.
  std::optional<std::int64_t> get_int(std::string_view key) const;
  std::optional<double> get_float(std::string_view key) const;
  std::optional<bool> get_bool(std::string_view key) const;
  std::optional<std::string> get_string(std::string_view key) const;
  const std::vector<std::string>* get_strings(std::string_view key) const;
  const std::vector<std::int64_t>* get_ints(std::string_view key) const;
  const std::vector<double>* get_floats(std::string_view key) const;

  // The stored bytes of a tensor of this file.
  std::span<const std::byte> bytes(const GgufTensor& tensor) const noexcept;

  // Decodes a whole tensor of this file to fp32, on all cores when it is large; `out` holds element_count values (else ConfigError).
  // Throws DataError for a type that cannot be decoded here.
  void dequantize(const GgufTensor& tensor, std::span<float> out) const;

 private:
  GgufFile() = default;
  void parse(std::span<const std::byte> bytes);
  template <class T>
  const T* find_value(std::string_view key, const char* expected) const;

  std::filesystem::path path_;
  std::optional<MappedFile> mapping_;  // absent when made from bytes
  std::span<const std::byte> bytes_;
  Metadata metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;  // name -> position in tensors_
};

}  // namespace stableqat
