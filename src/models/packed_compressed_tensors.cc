// compressed-tensors' "pack-quantized" format: vllm-project/compressed-tensors, compressors/pack_quantized and quantization/quant_args.py.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/packed_layers.h"
#include "stableqat/base/error.h"
#include "stableqat/io/code_stream.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

struct CompressedTensorsSettings {
  int bits = 4;
  bool symmetric = true;
};

[[noreturn]] void refuse_setting(const std::string& where, const std::string& key, const std::string& found, const std::string& expected) {
  throw DataError({where + "/config.json, quantization_config." + key, found, expected, "this form of quantization is not supported here"});
}

// One scheme for all packed layers.
CompressedTensorsSettings read_compressed_tensors_settings(const Json& config, const std::string& where) {
  try {
    if (const auto format = config.value("format", std::string("pack-quantized")); format != "pack-quantized") {
      refuse_setting(where, "format", format, "pack-quantized");
    }
    const Json& groups = config.at("config_groups");
    if (groups.size() != 1) refuse_setting(where, "config_groups", std::to_string(groups.size()) + " groups", "one");
    const Json& weights = groups.begin()->at("weights");
    if (const auto type = weights.value("type", std::string("int")); type != "int") refuse_setting(where, "weights.type", type, "int");
    if (const auto strategy = weights.at("strategy").get<std::string>(); strategy != "channel" && strategy != "group") {
      refuse_setting(where, "weights.strategy", strategy, "channel or group");
    }
    if (const Json order = weights.value("actorder", Json()); order == "group" || order == "dynamic") {
      refuse_setting(where, "weights.actorder", order.dump(), "none");
    }
    const CompressedTensorsSettings settings{weights.at("num_bits").get<int>(), weights.value("symmetric", true)};
    if (settings.bits < 2 || settings.bits > 8) refuse_setting(where, "weights.num_bits", std::to_string(settings.bits), "2 to 8");
    return settings;
  } catch (const Json::exception& error) {
    refuse_setting(where, "config_groups", error.what(), "one group with weights");
  }
}

class CompressedTensorsLayers final : public PackedLayers {
 public:
  CompressedTensorsLayers(const CompressedTensorsSettings& settings, FindTensor find, const std::string& where)
      : PackedLayers(std::move(find), where), settings_(settings) {}

  std::string_view codes_suffix() const noexcept override { return ".weight_packed"; }

  std::vector<std::int64_t> shape(const std::string& layer) const override {
    const std::string name = layer + ".weight_shape";
    const StoredTensor stored = require(name, {2}, {DType::kI64, DType::kI32});
    std::vector<std::int64_t> shape(2);
    for (std::size_t i = 0; i < 2; ++i) shape[i] = integer(stored, i);
    const StoredTensor codes = require(layer + ".weight_packed");
    const bool fits = codes.dtype == DType::kI32 && codes.shape.size() == 2 && shape[0] == codes.shape[0] && shape[1] >= 1 &&
                      shape[1] <= 16 * codes.shape[1] &&
                      (codes.shape[1] == dense_words(shape[1]) || codes.shape[1] == padded_words(shape[1]));
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
    const std::vector<std::uint8_t> zeros = zero_points(layer, rows, groups);
    const StoredTensor codes = require(layer + ".weight_packed");
    const auto words = static_cast<std::size_t>(codes.shape[1]);
    std::vector<std::uint8_t> row_codes(columns);
    for (std::size_t row = 0; row < rows; ++row) {
      unpack_row(codes.bytes.subspan(4 * row * words, 4 * words), row_codes);
      for (std::size_t column = 0; column < columns; ++column) {
        const std::size_t group = row * groups + column / (columns / groups);
        out[row * columns + column] = static_cast<float>(row_codes[column] - zeros[group]) * scales[group];
      }
    }
  }

  std::optional<std::vector<float>> steps(const std::string& layer) const override {
    if (!settings_.symmetric) return std::nullopt;
    return row_steps(layer, shape(layer));
  }

 private:
  static std::int64_t integer(const StoredTensor& tensor, std::size_t index) {
    std::int64_t value = 0;
    std::int32_t narrow = 0;
    if (tensor.dtype == DType::kI64) {
      std::copy_n(tensor.bytes.begin() + static_cast<std::ptrdiff_t>(8 * index), 8, std::as_writable_bytes(std::span(&value, 1)).begin());
      return value;
    }
    std::copy_n(tensor.bytes.begin() + static_cast<std::ptrdiff_t>(4 * index), 4, std::as_writable_bytes(std::span(&narrow, 1)).begin());
    return narrow;
  }

  // 32-bit words of a row: since 0.18.0 codes follow each other densely, before they did not straddle words.
  std::int64_t dense_words(std::int64_t columns) const { return (columns * settings_.bits + 31) / 32; }
  std::int64_t padded_words(std::int64_t columns) const {
    const std::int64_t per_word = 32 / settings_.bits;
    return (columns + per_word - 1) / per_word;
  }

  void unpack_row(std::span<const std::byte> words, std::span<std::uint8_t> codes) const {
    if (static_cast<std::int64_t>(words.size() / 4) == dense_words(static_cast<std::int64_t>(codes.size()))) {
      unpack_codes(words, settings_.bits, codes);
      return;
    }
    const auto per_word = static_cast<std::size_t>(32 / settings_.bits);
    for (std::size_t first = 0; first < codes.size(); first += per_word) {
      unpack_codes(words.subspan(4 * (first / per_word), 4), settings_.bits,
                   codes.subspan(first, std::min(per_word, codes.size() - first)));
    }
  }

  // The unsigned code of zero for each scale: 2^(bits-1), or that of "<layer>.weight_zero_point", packed down the rows.
  std::vector<std::uint8_t> zero_points(const std::string& layer, std::size_t rows, std::size_t groups) const {
    std::vector<std::uint8_t> zeros(rows * groups, static_cast<std::uint8_t>(1 << (settings_.bits - 1)));
    if (settings_.symmetric) return zeros;
    const std::int64_t words = dense_words(static_cast<std::int64_t>(rows));
    const auto stored = require(layer + ".weight_zero_point", {words, static_cast<std::int64_t>(groups)}, {DType::kI32});
    std::vector<std::byte> column(4 * static_cast<std::size_t>(words));
    std::vector<std::uint8_t> column_zeros(rows);
    for (std::size_t group = 0; group < groups; ++group) {
      for (std::size_t word = 0; word < static_cast<std::size_t>(words); ++word) {
        std::copy_n(stored.bytes.begin() + static_cast<std::ptrdiff_t>(4 * (word * groups + group)), 4,
                    column.begin() + static_cast<std::ptrdiff_t>(4 * word));
      }
      unpack_codes(column, settings_.bits, column_zeros);
      for (std::size_t row = 0; row < rows; ++row) zeros[row * groups + group] = column_zeros[row];
    }
    return zeros;
  }

  CompressedTensorsSettings settings_;
};

}  // namespace

std::unique_ptr<PackedLayers> open_compressed_tensors(const Json& config, FindTensor find, const std::string& where) {
  return std::make_unique<CompressedTensorsLayers>(read_compressed_tensors_settings(config, where), std::move(find), where);
}

}  // namespace stableqat
