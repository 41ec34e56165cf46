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

void SafetensorsWriter::insert(std::string name, Entry entry) {
  if (name.empty() || name == "__metadata__") throw ConfigError({"tensor name", "\"" + name + "\"", "a name that the format allows", ""});
  if (entries_.contains(name)) throw ConfigError({"tensor " + name, "the name a second time", "unique names", ""});
  entries_.emplace(std::move(name), std::move(entry));
}

void SafetensorsWriter::set_metadata(std::string key, std::string value) { metadata_.insert_or_assign(std::move(key), std::move(value)); }

void SafetensorsWriter::write(const std::filesystem::path& path) const {
  std::vector<const std::pair<const std::string, Entry>*> order;
  for (const auto& entry : entries_) order.push_back(&entry);
  std::ranges::stable_sort(order, std::greater{}, [](const auto* entry) { return entry->second.dtype; });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata_.empty()) header["__metadata__"] = metadata_;
  std::uint64_t end = 0;
  for (const auto* entry : order) {
    const std::uint64_t begin = std::exchange(end, end + entry->second.byte_size);
    header[entry->first] = {{"dtype", dtype_name(entry->second.dtype)}, {"shape", entry->second.shape}, {"data_offsets", {begin, end}}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {
    throw ConfigError({path.string(), error.what(), "tensor names and metadata in UTF-8", ""});
  }
  text.resize((text.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');

  AtomicFile file(path);
  const std::uint64_t length = text.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(text);
  std::vector<std::byte> buffer;
  for (const auto* entry : order) {
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

}  // namespace stableqat
