// Linear layers stored as packed integer codes and scales: our own packed form, compressed-tensors and GPTQ. No LibTorch.
// Letters: N out features, M in features, G scales per row.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/io/dtype.h"
#include "stableqat/io/ggml_encode.h"

namespace stableqat {

struct StoredTensor {
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

// The tensors of a model by name; nullopt when there is none of that name.
using FindTensor = std::function<std::optional<StoredTensor>(const std::string& name)>;

// One form of packing. `layer` is the module's Hugging Face name without ".weight". Const members are thread-safe; they throw DataError for
// tensors that are missing or contradict each other.
class PackedLayers {
 public:
  // `where` is the folder, for messages.
  PackedLayers(FindTensor find, std::string where) : find_(std::move(find)), where_(std::move(where)) {}
  virtual ~PackedLayers() = default;

  // Name of the codes' tensor after the layer's: a layer that has it is packed.
  virtual std::string_view codes_suffix() const noexcept = 0;
  virtual std::vector<std::int64_t> shape(const std::string& layer) const = 0;
  // The dequantized weight; `out` has N * M elements.
  virtual void read(const std::string& layer, std::span<float> out) const = 0;
  // [N, G]: weight = code * step with equal groups of columns and codes -2^(bits-1)..2^(bits-1)-1 (or those of our own file's grid);
  // nullopt for layers that are not of that kind (zero points, groups in another order).
  virtual std::optional<std::vector<float>> steps(const std::string& layer) const = 0;

  bool packs(const std::string& layer) const { return find_(layer + std::string(codes_suffix())).has_value(); }

 protected:
  StoredTensor require(const std::string& name) const;
  // The tensor, which must have this shape and one of these types.
  StoredTensor require(const std::string& name, const std::vector<std::int64_t>& shape, std::initializer_list<DType> dtypes) const;
  std::vector<float> floats(const std::string& name, const std::vector<std::int64_t>& shape) const;
  // "<layer>.weight_scale" of a layer [N, M]: its steps [N, G], for equal groups of columns.
  std::vector<float> row_steps(const std::string& layer, const std::vector<std::int64_t>& size) const;
  [[noreturn]] void fail(const std::string& name, const std::string& found, const std::string& expected) const;
  void check_room(const std::string& layer, std::int64_t rows, std::int64_t columns, std::span<float> out) const;

 private:
  FindTensor find_;
  std::string where_;
};

// The three forms. `config` is quantization_config of config.json; throw DataError for settings that are not supported (each named).
std::unique_ptr<PackedLayers> open_compressed_tensors(const nlohmann::json& config, FindTensor find, const std::string& where);
std::unique_ptr<PackedLayers> open_gptq(const nlohmann::json& config, FindTensor find, const std::string& where);
// Ours: "<layer>.weight_packed" U8 [N, ceil(M * bits / 8)], the grid's indices densely packed row by row, and "<layer>.weight_scale" F16 or
// F32 [N, G], the step.
std::unique_ptr<PackedLayers> open_own_packed(const CodeGrid& grid, FindTensor find, const std::string& where);

}  // namespace stableqat
