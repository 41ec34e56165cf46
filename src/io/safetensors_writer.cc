#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/io/safetensors.h"

namespace stableqat {

namespace {

constexpr std::uint64_t kHeaderAlignment = 8;

std::uint64_t byte_size_of(const std::string& name, DType dtype, const std::vector<std::int64_t>& shape) {
  constexpr std::uint64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();
  std::uint64_t size = dtype_size(dtype);
  for (const std::int64_t factor : shape) {
    if (factor < 0 || (factor > 0 && size > kMaxBytes / static_cast<std::uint64_t>(factor))) {
      throw ConfigError({"tensor " + name, "dimension " + std::to_string(factor), "sizes that fit memory", ""});
    }
    size *= static_cast<std::uint64_t>(factor);
  }
  return size;
}

}  // namespace

void SafetensorsWriter::add(std::string name, DType dtype, std::vector<std::int64_t> shape, std::span<const std::byte> bytes) {
  const std::uint64_t size = byte_size_of(name, dtype, shape);
  if (bytes.size() != size) throw ConfigError({"tensor " + name, std::to_string(bytes.size()) + " bytes", std::to_string(size), ""});
  insert(std::move(name), {dtype, std::move(shape), size, bytes, nullptr});
}

void SafetensorsWriter::add(std::string name, DType dtype, std::vector<std::int64_t> shape, Fill fill) {
  const std::uint64_t size = byte_size_of(name, dtype, shape);
  insert(std::move(name), {dtype, std::move(shape), size, {}, std::move(fill)});
}

void SafetensorsWriter::add_part(std::string name, DType dtype, std::vector<std::int64_t> shape, std::uint64_t first,
                                 std::span<const std::byte> bytes) {
  const std::uint64_t size = byte_size_of(name, dtype, shape);
  if (bytes.size() > size || first > size - bytes.size()) {
    throw ConfigError({"tensor " + name, std::to_string(bytes.size()) + " bytes from byte " + std::to_string(first),
                       "bytes inside of its " + std::to_string(size), ""});
  }
  insert(std::move(name), {dtype, std::move(shape), size, bytes, nullptr, first});
}

void SafetensorsWriter::insert(std::string name, Entry entry) {
  if (name.empty() || name == "__metadata__") throw ConfigError({"tensor name", "\"" + name + "\"", "a name that the format allows", ""});
  if (entries_.contains(name)) throw ConfigError({"tensor " + name, "the name a second time", "unique names", ""});
  entries_.emplace(std::move(name), std::move(entry));
}

void SafetensorsWriter::set_metadata(std::string key, std::string value) { metadata_.insert_or_assign(std::move(key), std::move(value)); }

SafetensorsWriter::Layout SafetensorsWriter::layout(const std::filesystem::path& path) const {
  Layout result;
  for (const auto& entry : entries_) result.order.push_back(&entry);
  std::ranges::stable_sort(result.order, std::greater{}, [](const auto* entry) { return entry->second.dtype; });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata_.empty()) header["__metadata__"] = metadata_;
  for (const auto* entry : result.order) {
    const std::uint64_t begin = std::exchange(result.data_size, result.data_size + entry->second.byte_size);
    header[entry->first] = {
        {"dtype", dtype_name(entry->second.dtype)}, {"shape", entry->second.shape}, {"data_offsets", {begin, result.data_size}}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {
    throw ConfigError({path.string(), error.what(), "tensor names and metadata in UTF-8", ""});
  }
  text.resize((text.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  const std::uint64_t length = text.size();
  result.head.assign(reinterpret_cast<const char*>(&length), sizeof length);
  result.head += text;
  return result;
}

void SafetensorsWriter::write(const std::filesystem::path& path) const {
  const Layout file_layout = layout(path);
  AtomicFile file(path);
  file.write(file_layout.head);
  std::vector<std::byte> buffer;
  for (const auto* entry : file_layout.order) {
    if (entry->second.fill) {
      buffer.resize(entry->second.byte_size);
      entry->second.fill(buffer);
      file.write(buffer);
    } else {
      file.write(entry->second.bytes);
    }
  }
  file.commit();
}

void SafetensorsWriter::create(const std::filesystem::path& path) const {
  const Layout file_layout = layout(path);
  SharedFile file = SharedFile::create(path, file_layout.head.size() + file_layout.data_size);
  file.write_at(0, std::as_bytes(std::span(file_layout.head)));
  file.sync();
}

void SafetensorsWriter::fill(const std::filesystem::path& path) const {
  SharedFile file(path);
  for (const Part& part : parts()) file.write_at(part.position, part.bytes);
  file.sync();
}

std::vector<SafetensorsWriter::Part> SafetensorsWriter::parts() const {
  const Layout file_layout = layout("tensors");
  std::vector<Part> result;
  std::uint64_t begin = file_layout.head.size();
  for (const auto* entry : file_layout.order) {
    result.push_back({begin + entry->second.first, entry->second.bytes});
    begin += entry->second.byte_size;
  }
  return result;
}

}  // namespace stableqat
