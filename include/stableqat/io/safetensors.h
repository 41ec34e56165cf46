// Reader and writer of safetensors files and of Hugging Face model folders made of them.
// Format: huggingface/safetensors, README "Format"; sharded folders: transformers' model.safetensors.index.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "stableqat/base/file.h"
#include "stableqat/io/dtype.h"

namespace stableqat {

// One tensor of a file, row-major; no dimensions = a scalar.
struct SafetensorsTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::uint64_t element_count = 0;
  std::uint64_t offset = 0;  // in bytes, from the start of the file
  std::uint64_t byte_size = 0;
};

// An open safetensors file, memory-mapped; the object must outlive every span and reference it hands out. Move-only.
// Const members are thread-safe.
class SafetensorsFile {
 public:
  // Throws DataError for a file that is missing, truncated or inconsistent: header length, JSON, dtype, shape against byte range, overlap,
  // hole, duplicate name.
  explicit SafetensorsFile(const std::filesystem::path& path);

  // The same for bytes in memory, which must outlive the object; `name` stands for the path in messages.
  static SafetensorsFile from_bytes(std::span<const std::byte> bytes, const std::filesystem::path& name);

  const std::filesystem::path& path() const noexcept { return path_; }
  // The strings under "__metadata__".
  const std::map<std::string, std::string, std::less<>>& metadata() const noexcept { return metadata_; }
  // In the order of their bytes in the file.
  const std::vector<SafetensorsTensor>& tensors() const noexcept { return tensors_; }

  // nullptr when there is no such tensor.
  const SafetensorsTensor* find_tensor(std::string_view name) const noexcept;

  // Each of these throws DataError when there is no such tensor.
  const SafetensorsTensor& tensor(std::string_view name) const;
  // The stored bytes; their alignment is whatever the file's writer chose.
  std::span<const std::byte> bytes(std::string_view name) const;
  // Converts F64, F32, F16 or BF16 values, on all cores when they are many. `out` holds element_count values (else ConfigError); throws
  // DataError for other types. F64 to fp32 rounds to nearest.
  void read_f32(std::string_view name, std::span<float> out) const;
  void read_f64(std::string_view name, std::span<double> out) const;
  // Gives the pages of what bytes() returned, or of a part of it, back to the system (MappedFile::release()); the others do so by
  // themselves.
  void release(std::span<const std::byte> part) const noexcept;

 private:
  SafetensorsFile() = default;
  void parse(std::span<const std::byte> bytes);
  template <class T>
  void read(std::string_view name, std::span<T> out) const;

  std::filesystem::path path_;
  std::optional<MappedFile> mapping_;  // absent when made from bytes
  std::span<const std::byte> bytes_;
  std::map<std::string, std::string, std::less<>> metadata_;
  std::vector<SafetensorsTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;  // name -> position in tensors_
};

// The tensors of a Hugging Face model folder: model.safetensors, or else the shards named by model.safetensors.index.json.
// Lifetime, thread-safety and errors as for SafetensorsFile.
class SafetensorsModel {
 public:
  // Throws DataError when the folder has neither file, the index is malformed, a shard is missing, or a listed tensor is not in its shard.
  explicit SafetensorsModel(const std::filesystem::path& folder);

  const std::vector<SafetensorsFile>& files() const noexcept { return files_; }
  // All tensor names, sorted.
  std::vector<std::string> names() const;

  // nullptr when there is no such tensor.
  const SafetensorsTensor* find_tensor(std::string_view name) const noexcept;
  const SafetensorsTensor& tensor(std::string_view name) const { return file_of(name).tensor(name); }
  std::span<const std::byte> bytes(std::string_view name) const { return file_of(name).bytes(name); }
  void read_f32(std::string_view name, std::span<float> out) const { file_of(name).read_f32(name, out); }
  void read_f64(std::string_view name, std::span<double> out) const { file_of(name).read_f64(name, out); }

 private:
  void open_shards(const std::filesystem::path& index_path);
  const SafetensorsFile& file_of(std::string_view name) const;

  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t, std::less<>> shard_of_;  // tensor name -> position in files_
};

// Collects tensors and writes them as one file. The bytes depend on the tensors and metadata only, not on the order of the calls: they are
// laid out like the reference implementation's, by alignment (largest first), then by name. Not thread-safe.
class SafetensorsWriter {
 public:
  // Writes a whole tensor into the given buffer of its exact size. Called once per write().
  using Fill = std::function<void(std::span<std::byte>)>;

  // Adds a tensor whose bytes stay valid until write(). Throws ConfigError when their number does not fit dtype and shape, for a negative
  // size, an empty name or "__metadata__", and for a name that was added before.
  void add(std::string name, DType dtype, std::vector<std::int64_t> shape, std::span<const std::byte> bytes);

  // Adds a tensor that is made while writing, so that only one at a time is in memory. Errors as above.
  void add(std::string name, DType dtype, std::vector<std::int64_t> shape, Fill fill);

  // Adds a tensor of which this process has only `bytes`, which lie `first` bytes behind its start; for create() and fill(). They must lie
  // inside of it.
  void add_part(std::string name, DType dtype, std::vector<std::int64_t> shape, std::uint64_t first, std::span<const std::byte> bytes);

  // An entry of "__metadata__"; other readers look for {"format": "pt"}. A second value for a key replaces the first.
  void set_metadata(std::string key, std::string value);

  // Writes by AtomicFile (EnvironmentError when that fails). Throws ConfigError for a name or metadata that is not UTF-8.
  void write(const std::filesystem::path& path) const;

  // One file by several processes that added the same tensors: one calls create(), which makes the file with its header, and then all call
  // fill(), which writes and syncs what was added as bytes. Not whole-or-nothing: for files inside of an AtomicDirectory. Errors as above.
  void create(const std::filesystem::path& path) const;
  void fill(const std::filesystem::path& path) const;

  // What fill() writes and where it goes in the file, in the order of the file, for those who write it themselves.
  struct Part {
    std::uint64_t position = 0;
    std::span<const std::byte> bytes;
  };
  std::vector<Part> parts() const;

 private:
  struct Entry {
    DType dtype;
    std::vector<std::int64_t> shape;
    std::uint64_t byte_size;
    std::span<const std::byte> bytes;
    Fill fill;  // empty: `bytes` holds the tensor, or what this process has of it
    std::uint64_t first = 0;
  };
  using NamedEntry = std::pair<const std::string, Entry>;
  struct Layout {
    std::string head;  // length and header, padded
    std::vector<const NamedEntry*> order;
    std::uint64_t data_size = 0;
  };
  void insert(std::string name, Entry entry);
  Layout layout(const std::filesystem::path& path) const;

  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace stableqat
