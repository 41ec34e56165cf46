// Any tensors either are layers of packed codes that can be read, or are refused with DataError.
// Input: a byte that picks form and bits, then a safetensors file.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "models/packed_layers.h"
#include "stableqat/base/error.h"
#include "stableqat/io/safetensors.h"

namespace {

using Json = nlohmann::json;
using namespace stableqat;

std::unique_ptr<PackedLayers> open(std::uint8_t selector, const FindTensor& find) {
  const int bits = 2 + selector / 4 % 3;  // 2, 3, 4
  switch (selector % 4) {
    case 0:
      return open_own_packed({-(1 << (bits - 1)), 1, 1 << bits}, find, "fuzzed");
    case 1:
      return open_gptq({{"bits", bits}, {"checkpoint_format", selector < 128 ? "gptq" : "gptq_v2"}}, find, "fuzzed");
    default: {
      const Json weights{{"num_bits", bits}, {"strategy", "group"}, {"symmetric", selector % 4 == 2}};
      return open_compressed_tensors({{"config_groups", {{"group_0", {{"weights", weights}}}}}}, find, "fuzzed");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  try {
    const auto file = SafetensorsFile::from_bytes(std::as_bytes(std::span(data, size).subspan(1)), "fuzzed.safetensors");
    const FindTensor find = [&file](const std::string& name) -> std::optional<StoredTensor> {
      const SafetensorsTensor* tensor = file.find_tensor(name);
      if (tensor == nullptr) return std::nullopt;
      return StoredTensor{tensor->dtype, tensor->shape, file.bytes(name)};
    };
    const auto layers = open(data[0], find);
    for (const SafetensorsTensor& tensor : file.tensors()) {
      const std::string layer = tensor.name.substr(0, tensor.name.find('.'));
      if (!layers->packs(layer)) continue;
      const std::vector<std::int64_t> shape = layers->shape(layer);
      std::vector<float> values(static_cast<std::size_t>(shape[0]) * static_cast<std::size_t>(shape[1]));
      layers->read(layer, values);
      layers->steps(layer);
    }
  } catch (const DataError&) {
  }
  return 0;
}
