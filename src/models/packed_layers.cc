#include "models/packed_layers.h"

#include <algorithm>
#include <cstring>

#include "stableqat/base/error.h"
#include "stableqat/base/half.h"

namespace stableqat {

namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

template <class T>
T load(std::span<const std::byte> bytes, std::size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof value, sizeof value);
  return value;
}

float load_float(const StoredTensor& tensor, std::size_t index) {
  if (tensor.dtype == DType::kF32) return load<float>(tensor.bytes, index);
  const auto bits = load<std::uint16_t>(tensor.bytes, index);
  return tensor.dtype == DType::kF16 ? half_to_float(bits) : bfloat16_to_float(bits);
}

}  // namespace

void PackedLayers::fail(const std::string& name, const std::string& found, const std::string& expected) const {
  throw DataError({where_ + ", tensor " + name, found, expected, "export or download the model again"});
}

StoredTensor PackedLayers::require(const std::string& name) const {
  auto tensor = find_(name);
  if (!tensor) fail(name, "nothing", "a tensor");
  return *std::move(tensor);
}

StoredTensor PackedLayers::require(const std::string& name, const std::vector<std::int64_t>& shape,
                                   std::initializer_list<DType> dtypes) const {
  StoredTensor tensor = require(name);
  if (tensor.shape != shape) fail(name, "shape " + shape_text(tensor.shape), "shape " + shape_text(shape));
  if (std::ranges::find(dtypes, tensor.dtype) == dtypes.end()) {
    fail(name, "type " + std::string(dtype_name(tensor.dtype)), "type " + std::string(dtype_name(*dtypes.begin())));
  }
  return tensor;
}

std::vector<float> PackedLayers::floats(const std::string& name, const std::vector<std::int64_t>& shape) const {
  const StoredTensor tensor = require(name, shape, {DType::kF16, DType::kBF16, DType::kF32});
  std::vector<float> values(tensor.bytes.size() / dtype_size(tensor.dtype));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = load_float(tensor, i);
  return values;
}

void PackedLayers::check_room(const std::string& layer, std::int64_t rows, std::int64_t columns, std::span<float> out) const {
  if (out.size() == static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(columns)) return;
  throw ConfigError({where_ + ", layer " + layer, "room for " + std::to_string(out.size()) + " values",
                     std::to_string(rows) + " x " + std::to_string(columns), ""});
}

std::vector<float> PackedLayers::row_steps(const std::string& layer, const std::vector<std::int64_t>& size) const {
  const std::string name = layer + ".weight_scale";
  const StoredTensor stored = require(name);
  if (stored.shape.size() != 2) fail(name, std::to_string(stored.shape.size()) + " dimensions", "2");
  const std::int64_t groups = stored.shape[1];
  if (groups < 1 || size[1] % groups != 0) {
    fail(name, std::to_string(groups) + " scales for " + std::to_string(size[1]) + " columns", "equal groups of columns");
  }
  return floats(name, {size[0], groups});
}

}  // namespace stableqat
