#include "stableqat/io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "io/parallel_for.h"
#include "io/strict_json.h"
#include "stableqat/base/error.h"
#include "stableqat/base/half.h"

namespace stableqat {

static_assert(std::endian::native == std::endian::little, "safetensors numbers are read in place");

namespace {

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr std::uint64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();
constexpr std::size_t kElementsPerThread = 1 << 18;
constexpr const char* kMetadataKey = "__metadata__";

[[noreturn]] void fail(const std::string& where, std::string found, std::string expected) {
  throw DataError({where, std::move(found), std::move(expected), "the file is damaged or not a safetensors file; get it again"});
}

std::string_view header_text(std::span<const std::byte> bytes, const std::string& file) {
  if (bytes.size() < kLengthBytes) fail(file, "a file of " + std::to_string(bytes.size()) + " bytes", "a header length of 8 bytes");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  const std::uint64_t limit = std::min(kMaxHeaderBytes, bytes.size() - kLengthBytes);
  if (length > limit) fail(file, "header length " + std::to_string(length), "at most " + std::to_string(limit));
  const auto header = bytes.subspan(kLengthBytes, length);
  return {reinterpret_cast<const char*>(header.data()), header.size()};
}

// The member `key` of a tensor's entry as a list of sizes, each at most 2^63 - 1.
std::vector<std::int64_t> size_list(const nlohmann::json& entry, const char* key, const std::string& where) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_array()) fail(where, std::string("no list \"") + key + "\"", "a list of sizes");
  std::vector<std::int64_t> sizes;
  for (const auto& item : *found) {
    const bool valid = item.is_number_unsigned() && item.get<std::uint64_t>() <= kMaxBytes;
    if (!valid) fail(where, std::string("\"") + key + "\" with an item that is no size", "integers from 0 to 2^63 - 1");
    sizes.push_back(item.get<std::int64_t>());
  }
  return sizes;
}

// Product of the sizes; fails when `element_size` times it does not fit 63 bits.
std::uint64_t count_elements(const std::vector<std::int64_t>& shape, std::uint64_t element_size, const std::string& where) {
  std::uint64_t count = 1;
  for (const std::int64_t size : shape) {
    const auto factor = static_cast<std::uint64_t>(size);
    if (factor != 0 && count > kMaxBytes / element_size / factor) {
      fail(where, "a shape of more than 2^63 bytes", "a tensor that fits memory");
    }
    count *= factor;
  }
  return count;
}

// `offset` is still counted from the start of the data.
SafetensorsTensor read_entry(const std::string& name, const nlohmann::json& entry, const std::string& file) {
  const std::string where = file + ", tensor " + name;
  if (!entry.is_object()) fail(where, entry.type_name(), "an object");
  const auto dtype_text = entry.find("dtype");
  if (dtype_text == entry.end() || !dtype_text->is_string()) fail(where, "no string \"dtype\"", "an element type");
  const auto dtype = parse_dtype(dtype_text->get_ref<const std::string&>());
  if (!dtype) fail(where, "dtype " + dtype_text->get<std::string>(), "F64, F32, F16, BF16, F8_E4M3, F8_E5M2, BOOL, or I8 to U64");
  const auto range = size_list(entry, "data_offsets", where);
  if (range.size() != 2 || range[0] > range[1]) fail(where, "another form of \"data_offsets\"", "[begin, end]");

  SafetensorsTensor tensor;
  tensor.name = name;
  tensor.dtype = *dtype;
  tensor.shape = size_list(entry, "shape", where);
  tensor.element_count = count_elements(tensor.shape, dtype_size(*dtype), where);
  tensor.offset = static_cast<std::uint64_t>(range[0]);
  tensor.byte_size = static_cast<std::uint64_t>(range[1] - range[0]);
  const std::uint64_t needed = tensor.element_count * dtype_size(*dtype);
  if (tensor.byte_size != needed) {
    fail(where, "data_offsets of " + std::to_string(tensor.byte_size) + " bytes", std::to_string(needed) + " for its dtype and shape");
  }
  return tensor;
}

// Sorts by position, checks that the tensors cover the data without overlap or hole, and turns offsets into file positions.
void place_tensors(std::vector<SafetensorsTensor>& tensors, std::uint64_t data_start, std::uint64_t file_size, const std::string& file) {
  std::ranges::sort(tensors, {}, [](const SafetensorsTensor& t) { return std::pair(t.offset, t.byte_size); });
  std::uint64_t end = 0;
  for (SafetensorsTensor& tensor : tensors) {
    if (tensor.offset != end) {
      fail(file + ", tensor " + tensor.name, "data_offsets that begin at " + std::to_string(tensor.offset),
           std::to_string(end) + ", without overlap or hole");
    }
    if (tensor.byte_size > file_size - data_start - end) {
      fail(file + ", tensor " + tensor.name, "the end of the file at byte " + std::to_string(file_size),
           std::to_string(tensor.byte_size) + " bytes of data at byte " + std::to_string(data_start + end));
    }
    end += tensor.byte_size;
    tensor.offset += data_start;
  }
  if (end != file_size - data_start) {
    fail(file, std::to_string(file_size - data_start) + " bytes of data", std::to_string(end) + " by the header");
  }
}

std::map<std::string, std::string, std::less<>> read_metadata(const nlohmann::json& entries, const std::string& file) {
  const std::string where = file + ", " + kMetadataKey;
  if (!entries.is_object()) fail(where, entries.type_name(), "an object");
  std::map<std::string, std::string, std::less<>> metadata;
  for (const auto& [key, value] : entries.items()) {
    if (!value.is_string()) fail(where, "\"" + key + "\" as " + value.type_name(), "strings");
    metadata.emplace(key, value.get<std::string>());
  }
  return metadata;
}

template <class T>
T load(const std::byte* data, std::size_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof value, sizeof value);
  return value;
}

template <class T>
void convert(DType dtype, const std::byte* data, std::span<T> out) {
  const auto each = [&](auto&& value_at) {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<T>(value_at(i));
  };
  switch (dtype) {
    case DType::kF64:
      return each([data](std::size_t i) { return load<double>(data, i); });
    case DType::kF16:
      return each([data](std::size_t i) { return half_to_float(load<std::uint16_t>(data, i)); });
    case DType::kBF16:
      return each([data](std::size_t i) { return bfloat16_to_float(load<std::uint16_t>(data, i)); });
    default:
      return each([data](std::size_t i) { return load<float>(data, i); });
  }
}

bool is_convertible(DType dtype) { return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16; }

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path), mapping_(path) { parse(mapping_->bytes()); }

SafetensorsFile SafetensorsFile::from_bytes(std::span<const std::byte> bytes, const std::filesystem::path& name) {
  SafetensorsFile file;
  file.path_ = name;
  file.parse(bytes);
  return file;
}

void SafetensorsFile::parse(std::span<const std::byte> bytes) {
  constexpr int kHeaderDepth = 3;  // table, entry, list
  bytes_ = bytes;
  const std::string file = path_.string();
  const std::string_view text = header_text(bytes, file);
  const nlohmann::json header = io::parse_strict_json(text, file + ", header", kHeaderDepth);
  if (!header.is_object()) fail(file + ", header", header.type_name(), "an object");
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataKey) {
      metadata_ = read_metadata(entry, file);
    } else {
      tensors_.push_back(read_entry(name, entry, file));
    }
  }
  place_tensors(tensors_, kLengthBytes + text.size(), bytes.size(), file);
  for (std::size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

const SafetensorsTensor* SafetensorsFile::find_tensor(std::string_view name) const noexcept {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const SafetensorsTensor& SafetensorsFile::tensor(std::string_view name) const {
  const SafetensorsTensor* found = find_tensor(name);
  if (found == nullptr) {
    throw DataError({path_.string(), "no tensor " + std::string(name), "that tensor", "check that the file belongs to this model"});
  }
  return *found;
}

std::span<const std::byte> SafetensorsFile::bytes(std::string_view name) const {
  const SafetensorsTensor& found = tensor(name);
  return bytes_.subspan(found.offset, found.byte_size);
}

template <class T>
void SafetensorsFile::read(std::string_view name, std::span<T> out) const {
  const SafetensorsTensor& found = tensor(name);
  const std::string where = path_.string() + ", tensor " + found.name;
  if (!is_convertible(found.dtype)) {
    throw DataError({where, "dtype " + std::string(dtype_name(found.dtype)), "F64, F32, F16 or BF16", "convert the file"});
  }
  if (out.size() != found.element_count) {
    throw ConfigError({where, "room for " + std::to_string(out.size()) + " values", std::to_string(found.element_count), ""});
  }
  const std::byte* data = bytes_.data() + found.offset;
  io::parallel_for(out.size(), kElementsPerThread, [&](std::size_t begin, std::size_t end) {
    convert(found.dtype, data + begin * dtype_size(found.dtype), out.subspan(begin, end - begin));
  });
  release({data, found.byte_size});
}

void SafetensorsFile::release(std::span<const std::byte> part) const noexcept {
  if (mapping_) mapping_->release(part);
}

void SafetensorsFile::read_f32(std::string_view name, std::span<float> out) const { read(name, out); }
void SafetensorsFile::read_f64(std::string_view name, std::span<double> out) const { read(name, out); }

}  // namespace stableqat
