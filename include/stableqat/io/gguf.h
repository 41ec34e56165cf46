// Reader of GGUF model files (version 2 and 3, little-endian). Format: ggml's docs/gguf.md; block layouts: ggml's ggml-common.h.
#pragma once

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

namespace stableqat {

// Element types by their ggml type id.
enum class GgmlType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ6_K = 14,
  kBF16 = 30,
};

// Name as users know it ("Q4_1"); "type 99" for ids that are not known here.
std::string ggml_type_name(GgmlType type);

// One metadata value. Integers of every width are widened; arrays keep one of four element kinds.
using GgufValue = std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>, std::vector<double>,
                               std::vector<std::string>, std::vector<bool>>;

// One tensor of the file. `shape` is in the usual order (rows first), the reverse of the file's; rows are contiguous.
struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<std::int64_t> shape;
  std::uint64_t element_count = 0;
  std::uint64_t offset = 0;  // in bytes, from the start of the file
  std::uint64_t byte_size = 0;
};

// An open GGUF file, memory-mapped; the object must outlive every span it hands out. Const members are thread-safe.
class GgufFile {
 public:
  // Throws DataError for a file that is missing, truncated, of another format or version, or inconsistent (names the field).
  explicit GgufFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const noexcept { return file_.path(); }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const noexcept { return metadata_; }
  const std::vector<GgufTensor>& tensors() const noexcept { return tensors_; }

  // nullptr when there is no such tensor.
  const GgufTensor* find_tensor(std::string_view name) const noexcept;

  // Typed metadata access; nullopt when the key is absent, DataError when it has another type.
  std::optional<std::int64_t> get_int(std::string_view key) const;
  std::optional<double> get_float(std::string_view key) const;
  std::optional<bool> get_bool(std::string_view key) const;
  std::optional<std::string> get_string(std::string_view key) const;
  const std::vector<std::string>* get_strings(std::string_view key) const;
  const std::vector<std::int64_t>* get_ints(std::string_view key) const;
  const std::vector<double>* get_floats(std::string_view key) const;

  // The stored bytes of a tensor.
  std::span<const std::byte> bytes(const GgufTensor& tensor) const noexcept;

  // Decodes the whole tensor to fp32; `out` holds element_count values. Throws ConfigError for a type that cannot be decoded here.
  void dequantize(const GgufTensor& tensor, std::span<float> out) const;

 private:
  MappedFile file_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<GgufTensor> tensors_;
};

}  // namespace stableqat
