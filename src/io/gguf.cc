#include "stableqat/io/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "io/parallel_for.h"
#include "stableqat/base/error.h"

namespace stableqat {

static_assert(std::endian::native == std::endian::little, "GGUF numbers are read in place");

namespace {

constexpr std::uint32_t kMaxDims = 4;
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::uint64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();
constexpr std::size_t kElementsPerThread = 1 << 18;

enum ValueType : std::uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kFloat32, kBool, kString, kArray, kU64, kI64, kFloat64 };

// Reads fields in order; every read is checked against the end of the file, and errors name the field.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string file) : bytes_(bytes), file_(std::move(file)) {}

  [[noreturn]] void fail(const std::string& field, std::string found, std::string expected) const {
    throw DataError({file_ + ", " + field, std::move(found), std::move(expected), "the file is damaged or not a GGUF file; get it again"});
  }

  std::uint64_t position() const noexcept { return position_; }
  std::uint64_t remaining() const noexcept { return bytes_.size() - position_; }

  std::span<const std::byte> take(std::uint64_t count, const std::string& field) {
    if (count > remaining()) {
      fail(field, "the end of the file at byte " + std::to_string(bytes_.size()),
           std::to_string(count) + " more bytes at byte " + std::to_string(position_));
    }
    const auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }

  template <class T>
  T number(const std::string& field) {
    T value;
    std::memcpy(&value, take(sizeof value, field).data(), sizeof value);
    return value;
  }

  std::string string(const std::string& field) {
    const auto text = take(number<std::uint64_t>(field), field);
    return std::string(reinterpret_cast<const char*>(text.data()), text.size());
  }

  // A count of items that take at least `item_bytes` each: never more than the file can hold, so that it is safe to reserve memory for it.
  std::uint64_t count(std::uint64_t item_bytes, const std::string& field) {
    const auto value = number<std::uint64_t>(field);
    if (value > remaining() / item_bytes) {
      fail(field, std::to_string(value), "at most " + std::to_string(remaining() / item_bytes) + " in the rest of the file");
    }
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  std::string file_;
  std::uint64_t position_ = 0;
};

std::int64_t read_integer(Cursor& cursor, std::uint32_t type, const std::string& field) {
  switch (type) {
    case kU8:
      return cursor.number<std::uint8_t>(field);
    case kI8:
      return cursor.number<std::int8_t>(field);
    case kU16:
      return cursor.number<std::uint16_t>(field);
    case kI16:
      return cursor.number<std::int16_t>(field);
    case kU32:
      return cursor.number<std::uint32_t>(field);
    case kI32:
      return cursor.number<std::int32_t>(field);
    case kI64:
      return cursor.number<std::int64_t>(field);
    default: {
      const auto value = cursor.number<std::uint64_t>(field);
      if (value > kMaxBytes) cursor.fail(field, std::to_string(value), "an integer below 2^63");
      return static_cast<std::int64_t>(value);
    }
  }
}

double read_real(Cursor& cursor, std::uint32_t type, const std::string& field) {
  return type == kFloat32 ? static_cast<double>(cursor.number<float>(field)) : cursor.number<double>(field);
}

bool read_bool(Cursor& cursor, const std::string& field) {
  const auto value = cursor.number<std::uint8_t>(field);
  if (value > 1) cursor.fail(field, "boolean " + std::to_string(value), "0 or 1");
  return value == 1;
}

// Smallest size in bytes of a value in the file.
std::uint64_t minimum_size(Cursor& cursor, std::uint32_t type, const std::string& field) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kFloat32:
      return 4;
    case kString:
    case kU64:
    case kI64:
    case kFloat64:
      return 8;
    default:
      cursor.fail(field, "value type " + std::to_string(type), "0 to 12, and no array in an array");
  }
}

template <class T, class Read>
std::vector<T> read_items(std::uint64_t count, Read&& read) {
  std::vector<T> items;
  items.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) items.push_back(read());
  return items;
}

GgufValue read_array(Cursor& cursor, const std::string& field) {
  const auto type = cursor.number<std::uint32_t>(field);
  const std::uint64_t count = cursor.count(minimum_size(cursor, type, field), field);
  switch (type) {
    case kString:
      return read_items<std::string>(count, [&] { return cursor.string(field); });
    case kBool:
      return read_items<bool>(count, [&] { return read_bool(cursor, field); });
    case kFloat32:
    case kFloat64:
      return read_items<double>(count, [&] { return read_real(cursor, type, field); });
    default:
      return read_items<std::int64_t>(count, [&] { return read_integer(cursor, type, field); });
  }
}

GgufValue read_value(Cursor& cursor, const std::string& field) {
  const auto type = cursor.number<std::uint32_t>(field);
  switch (type) {
    case kArray:
      return read_array(cursor, field);
    case kString:
      return cursor.string(field);
    case kBool:
      return read_bool(cursor, field);
    case kFloat32:
    case kFloat64:
      return read_real(cursor, type, field);
    default:
      minimum_size(cursor, type, field);
      return read_integer(cursor, type, field);
  }
}

void check_header(Cursor& cursor) {
  const auto magic = cursor.take(4, "magic");
  if (std::memcmp(magic.data(), "GGUF", 4) != 0) cursor.fail("magic", "other bytes", "\"GGUF\"");
  const auto version = cursor.number<std::uint32_t>("version");
  if (version == 2 || version == 3) return;
  const bool big_endian = version == 0x02000000 || version == 0x03000000;
  cursor.fail("version", big_endian ? "a big-endian file" : "version " + std::to_string(version), "little-endian version 2 or 3");
}

GgufFile::Metadata read_metadata(Cursor& cursor, std::uint64_t count) {
  GgufFile::Metadata metadata;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string key = cursor.string("metadata key " + std::to_string(i));
    const std::string field = "metadata " + key;
    if (metadata.contains(key)) cursor.fail(field, "the key a second time", "unique keys");
    metadata.emplace(key, read_value(cursor, field));
  }
  return metadata;
}

// Name, shape and type of a tensor; `offset` is still counted from the start of the data section, byte_size is 0 for a type not known here.
GgufTensor read_tensor_info(Cursor& cursor, std::uint64_t index) {
  GgufTensor tensor;
  tensor.name = cursor.string("tensor name " + std::to_string(index));
  const std::string field = "tensor " + tensor.name;
  const auto dims = cursor.number<std::uint32_t>(field);
  if (dims > kMaxDims) cursor.fail(field, std::to_string(dims) + " dimensions", "at most " + std::to_string(kMaxDims));
  tensor.element_count = 1;
  tensor.shape.resize(dims);
  for (std::uint32_t d = dims; d-- > 0;) {
    const auto size = cursor.number<std::uint64_t>(field);
    if (size == 0 || size > kMaxBytes / 8 / tensor.element_count) {
      cursor.fail(field, "dimension " + std::to_string(size), "a size from 1 to memory's end");
    }
    tensor.element_count *= size;
    tensor.shape[d] = static_cast<std::int64_t>(size);
  }
  tensor.type = static_cast<GgmlType>(cursor.number<std::uint32_t>(field));
  tensor.offset = cursor.number<std::uint64_t>(field);
  if (const auto block = ggml_block(tensor.type)) {
    const std::uint64_t row = dims == 0 ? 1 : static_cast<std::uint64_t>(tensor.shape.back());
    if (row % block->elements != 0) {
      cursor.fail(field, "rows of " + std::to_string(row),
                  "whole " + ggml_type_name(tensor.type) + " blocks of " + std::to_string(block->elements));
    }
    tensor.byte_size = tensor.element_count / block->elements * block->bytes;
  }
  return tensor;
}

std::uint64_t alignment_of(const GgufFile& file, const Cursor& cursor) {
  const auto alignment = file.get_int("general.alignment");
  if (!alignment) return kDefaultAlignment;
  const bool valid = *alignment > 0 && *alignment <= std::numeric_limits<std::uint32_t>::max() &&
                     std::has_single_bit(static_cast<std::uint64_t>(*alignment));
  if (!valid) cursor.fail("metadata general.alignment", std::to_string(*alignment), "a power of two below 2^32");
  return static_cast<std::uint64_t>(*alignment);
}

std::uint64_t padded(std::uint64_t size, std::uint64_t alignment) { return (size + alignment - 1) / alignment * alignment; }

// Turns offsets into file positions. Tensors follow each other in the order of their infos, padded to `alignment`: the rule of ggml's
// reader, which excludes overlap. A tensor of unknown type takes all bytes up to the next one, wherever that is.
void place_tensors(std::vector<GgufTensor>& tensors, const Cursor& cursor, std::uint64_t alignment) {
  if (tensors.empty()) return;
  const std::uint64_t data_start = padded(cursor.position(), alignment);
  const std::uint64_t file_size = cursor.position() + cursor.remaining();
  if (data_start > file_size) {
    cursor.fail("data section", "a file of " + std::to_string(file_size) + " bytes", "data from byte " + std::to_string(data_start));
  }
  const std::uint64_t data_size = file_size - data_start;
  std::uint64_t expected = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    GgufTensor& tensor = tensors[i];
    const std::string field = "tensor " + tensor.name;
    if (tensor.offset != expected) cursor.fail(field, "offset " + std::to_string(tensor.offset), std::to_string(expected));
    if (!ggml_block(tensor.type)) {
      const std::uint64_t next = i + 1 < tensors.size() ? tensors[i + 1].offset : data_size;
      tensor.byte_size = next - std::min(tensor.offset, next);
    }
    if (tensor.offset > data_size || tensor.byte_size > data_size - tensor.offset) {
      cursor.fail(field, "a file of " + std::to_string(file_size) + " bytes",
                  std::to_string(tensor.byte_size) + " bytes of data at byte " + std::to_string(data_start) + " + " +
                      std::to_string(tensor.offset));
    }
    expected = padded(tensor.offset + tensor.byte_size, alignment);
    tensor.offset += data_start;
  }
}

template <class T>
std::optional<T> copy_of(const T* value) {
  return value == nullptr ? std::nullopt : std::optional<T>(*value);
}

}  // namespace

GgufFile::GgufFile(const std::filesystem::path& path) : path_(path), mapping_(path) { parse(mapping_->bytes()); }

GgufFile GgufFile::from_bytes(std::span<const std::byte> bytes, const std::filesystem::path& name) {
  GgufFile file;
  file.path_ = name;
  file.parse(bytes);
  return file;
}

void GgufFile::parse(std::span<const std::byte> bytes) {
  constexpr std::uint64_t kSmallestTensorInfo = 8 + 4 + 4 + 8;
  constexpr std::uint64_t kSmallestKeyValue = 8 + 4 + 1;
  bytes_ = bytes;
  Cursor cursor(bytes, path_.string());
  check_header(cursor);
  const std::uint64_t tensor_count = cursor.count(kSmallestTensorInfo, "tensor count");
  const std::uint64_t key_count = cursor.count(kSmallestKeyValue, "metadata count");
  metadata_ = read_metadata(cursor, key_count);
  for (std::uint64_t i = 0; i < tensor_count; ++i) {
    tensors_.push_back(read_tensor_info(cursor, i));
    const std::string& name = tensors_.back().name;
    if (!index_.emplace(name, i).second) cursor.fail("tensor " + name, "the name a second time", "unique names");
  }
  place_tensors(tensors_, cursor, alignment_of(*this, cursor));
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const noexcept {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

template <class T>
const T* GgufFile::find_value(std::string_view key, const char* expected) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return nullptr;
  const T* value = std::get_if<T>(&found->second);
  if (value == nullptr) {
    throw DataError({path_.string() + ", metadata " + std::string(key), "a value of another type", expected, "make the file again"});
  }
  return value;
}

std::optional<std::int64_t> GgufFile::get_int(std::string_view key) const { return copy_of(find_value<std::int64_t>(key, "an integer")); }
std::optional<double> GgufFile::get_float(std::string_view key) const { return copy_of(find_value<double>(key, "a real number")); }
std::optional<bool> GgufFile::get_bool(std::string_view key) const { return copy_of(find_value<bool>(key, "a boolean")); }
std::optional<std::string> GgufFile::get_string(std::string_view key) const { return copy_of(find_value<std::string>(key, "a string")); }

const std::vector<std::string>* GgufFile::get_strings(std::string_view key) const {
  return find_value<std::vector<std::string>>(key, "an array of strings");
}
const std::vector<std::int64_t>* GgufFile::get_ints(std::string_view key) const {
  return find_value<std::vector<std::int64_t>>(key, "an array of integers");
}
const std::vector<double>* GgufFile::get_floats(std::string_view key) const {
  return find_value<std::vector<double>>(key, "an array of real numbers");
}

std::span<const std::byte> GgufFile::bytes(const GgufTensor& tensor) const noexcept {
  return bytes_.subspan(tensor.offset, tensor.byte_size);
}

void GgufFile::dequantize(const GgufTensor& tensor, std::span<float> out) const {
  const std::string where = path_.string() + ", tensor " + tensor.name;
  if (!ggml_can_dequantize(tensor.type)) {
    throw DataError({where, ggml_type_name(tensor.type),
                     "a type that can be decoded: F32, F16, BF16, Q8_0, Q4_0 to Q5_1, Q2_K to Q6_K, TQ1_0, TQ2_0, Q2_0",
                     "convert the file to one of them"});
  }
  if (out.size() != tensor.element_count) {
    throw ConfigError({where, "room for " + std::to_string(out.size()) + " values", std::to_string(tensor.element_count), ""});
  }
  const auto data = bytes(tensor);
  const GgmlBlock block = *ggml_block(tensor.type);
  io::parallel_for(tensor.element_count / block.elements, kElementsPerThread / block.elements, [&](std::size_t begin, std::size_t end) {
    dequantize_blocks(tensor.type, data.subspan(begin * block.bytes, (end - begin) * block.bytes),
                      out.subspan(begin * block.elements, (end - begin) * block.elements));
  });
  if (mapping_) mapping_->release(data);
}

}  // namespace stableqat
