#include "stableqat/export/export_model.h"

#include <map>
#include <nlohmann/json.hpp>

#include "stableqat/base/error.h"
#include "stableqat/models/packed_model.h"
#include "stableqat/models/quantized_model.h"

namespace stableqat {

namespace {

std::span<const float> values_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

ExportCodes codes_of(const QuantizedWeight& weight) {
  const at::Tensor step = weight.step().contiguous();
  const auto steps = values_of(step);
  return {{weight.codes().const_data_ptr<std::int8_t>(), static_cast<std::size_t>(weight.codes().numel())},
          {steps.begin(), steps.end()},
          weight.columns() / weight.scales_per_row(),
          code_grid(weight.spec()),
          weight.alpha().defined() ? std::optional(weight.alpha().item<float>()) : std::nullopt};
}

}  // namespace

ExportModel model_for_export(QuantizedModel& model, const Tokenizer& tokenizer) {
  if (model.model().dtype() != at::kFloat) throw ConfigError({"precision", "a model that is not float32", "float32", ""});
  model.set_code_products(CodeProducts::kOff);
  ExportModel result{model.model().config(), model.settings() ? to_json(*model.settings()).dump() : "", tokenizer, {}};
  std::map<std::string, const QuantizedWeight*> quantized;
  for (const QuantizedWeight& weight : model.weights()) quantized.emplace(weight.name(), &weight);
  model.model().visit_parameters([&](const std::string& name, ParameterRole, at::Tensor& value) {
    ExportTensor tensor{name, value.sizes().vec(), values_of(value), std::nullopt};
    if (const auto found = quantized.find(tensor.layer()); found != quantized.end() && name.ends_with(".weight")) {
      tensor.quantized = codes_of(*found->second);
    }
    result.tensors.push_back(std::move(tensor));
  });
  return result;
}

}  // namespace stableqat
