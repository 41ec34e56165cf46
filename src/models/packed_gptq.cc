// GPTQ's layout: AutoGPTQ and GPTQModel, nn_modules/qlinear; checkpoint formats "gptq" (v1) and "gptq_v2".
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "models/packed_layers.h"
#include "stableqat/base/error.h"
#include "stableqat/io/code_stream.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

struct GptqSettings {
  int bits = 4;
  bool stores_zero_minus_one = true;  // v1
};

GptqSettings read_gptq_settings(const Json& config, const std::string& where) {
  const auto unsupported = [&where](const std::string& key, const std::string& found, const std::string& expected) {
    throw DataError(
        {where + "/config.json, quantization_config." + key, found, expected, "this form of quantization is not supported here"});
  };
  GptqSettings settings;
  try {
    settings.bits = config.at("bits").get<int>();
    const auto format = config.value("checkpoint_format", std::string("gptq"));
    if (format != "gptq" && format != "gptq_v2") unsupported("checkpoint_format", format, "gptq or gptq_v2");
    settings.stores_zero_minus_one = format == "gptq";
  } catch (const Json::exception& error) {
    unsupported("bits", error.what(), "2, 3, 4 or 8");
  }
  if (settings.bits != 2 && settings.bits != 3 && settings.bits != 4 && settings.bits != 8) {
    unsupported("bits", std::to_string(settings.bits), "2, 3, 4 or 8");
  }
  return settings;
}

// Where a layer's tensors are and how they fit together.
struct Layer {
  std::size_t rows = 0;     // N: columns of qweight
  std::size_t columns = 0;  // M
  std::size_t groups = 0;
  StoredTensor codes;                           // [M * bits / 32, N]
  std::vector<float> scales;                    // [G, N]
  std::vector<std::int16_t> zeros;              // [G, N]
  std::vector<std::int32_t> groups_of_columns;  // [M]
};

class GptqLayers final : public PackedLayers {
 public:
  GptqLayers(const GptqSettings& settings, FindTensor find, const std::string& where)
      : PackedLayers(std::move(find), where), settings_(settings) {}

  std::string_view codes_suffix() const noexcept override { return ".qweight"; }

  std::vector<std::int64_t> shape(const std::string& layer) const override {
    const std::string name = layer + ".qweight";
    const StoredTensor codes = require(name);
    const bool fits = codes.dtype == DType::kI32 && codes.shape.size() == 2 && codes.shape[0] >= 1 && codes.shape[1] >= 1 &&
                      codes.shape[0] % settings_.bits == 0;
    if (!fits) fail(name, "another type or shape", "I32, " + std::to_string(settings_.bits) + " rows for 32 input features");
    return {codes.shape[1], codes.shape[0] / settings_.bits * 32};
  }

  void read(const std::string& name, std::span<float> out) const override {
    const Layer layer = open(name);
    check_room(name, static_cast<std::int64_t>(layer.rows), static_cast<std::int64_t>(layer.columns), out);
    const std::size_t words = layer.codes.bytes.size() / 4 / layer.rows;
    std::vector<std::byte> stream(4 * words);
    std::vector<std::uint8_t> codes(layer.columns);
    for (std::size_t row = 0; row < layer.rows; ++row) {
      gather(layer.codes.bytes, layer.rows, row, stream);
      unpack_codes(stream, settings_.bits, codes);
      for (std::size_t column = 0; column < layer.columns; ++column) {
        const std::size_t place = static_cast<std::size_t>(layer.groups_of_columns[column]) * layer.rows + row;
        out[row * layer.columns + column] = static_cast<float>(codes[column] - layer.zeros[place]) * layer.scales[place];
      }
    }
  }

  std::optional<std::vector<float>> steps(const std::string& name) const override {
    const Layer layer = open(name);
    const int zero = 1 << (settings_.bits - 1);
    if (std::ranges::any_of(layer.zeros, [zero](int z) { return z != zero; })) return std::nullopt;
    if (layer.columns % layer.groups != 0) return std::nullopt;
    const std::size_t group_size = layer.columns / layer.groups;
    for (std::size_t column = 0; column < layer.columns; ++column) {
      if (static_cast<std::size_t>(layer.groups_of_columns[column]) != column / group_size) return std::nullopt;
    }
    std::vector<float> steps(layer.scales.size());
    for (std::size_t i = 0; i < steps.size(); ++i) steps[i] = layer.scales[i % layer.groups * layer.rows + i / layer.groups];
    return steps;
  }

 private:
  Layer open(const std::string& name) const {
    const auto size = shape(name);
    Layer layer;
    layer.rows = static_cast<std::size_t>(size[0]);
    layer.columns = static_cast<std::size_t>(size[1]);
    layer.codes = require(name + ".qweight");
    const StoredTensor scales = require(name + ".scales");
    if (scales.shape.size() != 2 || scales.shape[0] < 1) fail(name + ".scales", "another shape", "[groups, out features]");
    layer.groups = static_cast<std::size_t>(scales.shape[0]);
    layer.scales = floats(name + ".scales", {scales.shape[0], size[0]});
    layer.zeros = zero_points(name, layer);
    layer.groups_of_columns = group_index(name, layer);
    return layer;
  }

  // The 32-bit words of column `index` of a matrix with `columns` columns.
  static void gather(std::span<const std::byte> matrix, std::size_t columns, std::size_t index, std::span<std::byte> out) {
    for (std::size_t word = 0; word < out.size() / 4; ++word) {
      std::memcpy(out.data() + 4 * word, matrix.data() + 4 * (word * columns + index), 4);
    }
  }

  std::vector<std::int16_t> zero_points(const std::string& name, const Layer& layer) const {
    const auto words = static_cast<std::int64_t>(code_stream_bytes(layer.rows, settings_.bits) + 3) / 4;
    const auto stored = require(name + ".qzeros", {static_cast<std::int64_t>(layer.groups), words}, {DType::kI32});
    const auto row_bytes = 4 * static_cast<std::size_t>(words);
    const int offset = settings_.stores_zero_minus_one ? 1 : 0;
    std::vector<std::uint8_t> codes(layer.rows);
    std::vector<std::int16_t> zeros;
    zeros.reserve(layer.groups * layer.rows);
    for (std::size_t group = 0; group < layer.groups; ++group) {
      unpack_codes(stored.bytes.subspan(group * row_bytes, row_bytes), settings_.bits, codes);
      for (const std::uint8_t code : codes) zeros.push_back(static_cast<std::int16_t>(code + offset));
    }
    return zeros;
  }

  std::vector<std::int32_t> group_index(const std::string& name, const Layer& layer) const {
    const auto stored = require(name + ".g_idx", {static_cast<std::int64_t>(layer.columns)}, {DType::kI32});
    std::vector<std::int32_t> groups(layer.columns);
    std::copy(stored.bytes.begin(), stored.bytes.end(), std::as_writable_bytes(std::span(groups)).begin());
    for (const std::int32_t group : groups) {
      if (group < 0 || static_cast<std::size_t>(group) >= layer.groups) {
        fail(name + ".g_idx", std::to_string(group), "groups 0 to " + std::to_string(layer.groups - 1));
      }
    }
    return groups;
  }

  GptqSettings settings_;
};

}  // namespace

std::unique_ptr<PackedLayers> open_gptq(const Json& config, FindTensor find, const std::string& where) {
  return std::make_unique<GptqLayers>(read_gptq_settings(config, where), std::move(find), where);
}

}  // namespace stableqat
