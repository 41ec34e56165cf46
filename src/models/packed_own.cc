#include <algorithm>

#include "models/packed_layers.h"
#include "stableqat/io/code_stream.h"

namespace stableqat {

namespace {

class OwnPackedLayers final : public PackedLayers {
 public:
  OwnPackedLayers(const CodeGrid& grid, FindTensor find, const std::string& where) : PackedLayers(std::move(find), where), grid_(grid) {}

  std::string_view codes_suffix() const noexcept override { return ".weight_packed"; }

  // The columns are in "<layer>.weight_shape": packed rows end in whole bytes.
  std::vector<std::int64_t> shape(const std::string& layer) const override {
    const std::string name = layer + ".weight_shape";
    const StoredTensor stored = require(name, {2}, {DType::kI64});
    std::vector<std::int64_t> shape(2);
    std::copy(stored.bytes.begin(), stored.bytes.end(), std::as_writable_bytes(std::span(shape)).begin());
    const StoredTensor codes = require(layer + ".weight_packed");
    const bool fits =
        codes.dtype == DType::kU8 && codes.shape.size() == 2 && shape[0] == codes.shape[0] && shape[1] >= 1 &&
        shape[1] <= 8 * codes.shape[1] &&
        code_stream_bytes(static_cast<std::uint64_t>(shape[1]), grid_.index_bits()) == static_cast<std::uint64_t>(codes.shape[1]);
    if (!fits) fail(name, std::to_string(shape[0]) + " x " + std::to_string(shape[1]), "the size of the packed codes");
    return shape;
  }

  void read(const std::string& layer, std::span<float> out) const override {
    const auto size = shape(layer);
    check_room(layer, size[0], size[1], out);
    const auto rows = static_cast<std::size_t>(size[0]);
    const auto columns = static_cast<std::size_t>(size[1]);
    const std::vector<float> scales = row_steps(layer, size);
    const std::size_t groups = scales.size() / std::max<std::size_t>(rows, 1);
    const auto bytes = require(layer + ".weight_packed").bytes;
    const std::size_t row_bytes = bytes.size() / std::max<std::size_t>(rows, 1);
    std::vector<std::uint8_t> indices(columns);
    for (std::size_t row = 0; row < rows; ++row) {
      unpack_codes(bytes.subspan(row * row_bytes, row_bytes), grid_.index_bits(), indices);
      for (std::size_t column = 0; column < columns; ++column) {
        const int code = grid_.low + grid_.stride * indices[column];
        out[row * columns + column] = static_cast<float>(code) * scales[row * groups + column / (columns / groups)];
      }
    }
  }

  std::optional<std::vector<float>> steps(const std::string& layer) const override { return row_steps(layer, shape(layer)); }

 private:
  CodeGrid grid_;
};

}  // namespace

std::unique_ptr<PackedLayers> open_own_packed(const CodeGrid& grid, FindTensor find, const std::string& where) {
  return std::make_unique<OwnPackedLayers>(grid, std::move(find), where);
}

}  // namespace stableqat
