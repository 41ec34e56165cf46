// The proof: an exported model is read by the reader that eval uses, and has to be what was evaluated.
#include <cmath>
#include <cstring>

#include "export/formats.h"
#include "export/number_text.h"
#include "stableqat/base/error.h"
#include "stableqat/models/model_source.h"

namespace stableqat {

namespace {

constexpr const char* kRemedy = "the output was removed; please report this";

// Scripts, digits, blanks, code, and bytes outside of any vocabulary's common words.
constexpr const char* kTestText =
    "The quick brown fox, 1234567 times!\n\n  def f(x):\treturn x**2  # na\xC3\xAFve \xE4\xB8\xAD\xE6\x96\x87 \xD0\xBF\xD1\x80\xD0\xB8 "
    "\xF0\x9F\x98\x80 it's we'll   end";

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what, const std::string& found, const std::string& expected) {
  throw NumericError({path.string() + ", " + what, found, expected, kRemedy});
}

// Zeros of either sign are equal; a NaN equals nothing.
void compare(std::span<const float> expected, std::span<const float> found, ExportedTensor& report) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == found[i]) continue;
    ++report.differing;
    const double difference = std::fabs(static_cast<double>(expected[i]) - static_cast<double>(found[i]));
    report.max_difference = std::isnan(difference) ? difference : std::fmax(report.max_difference, difference);
  }
}

void prove_tensor(const ModelSource& source, const ExportTensor& tensor, ExportedTensor& report) {
  const std::string what = "tensor " + tensor.name;
  if (!source.has(tensor.name)) fail(source.path(), what, "nothing", "the tensor");
  if (source.shape(tensor.name) != tensor.shape) fail(source.path(), what, "another shape", "the model's");
  std::vector<float> found(tensor.values.size());
  source.read(tensor.name, found);
  compare(tensor.values, found, report);
  if (report.differing > 0 && (!report.may_round || std::isnan(report.max_difference))) {
    fail(source.path(), what,
         std::to_string(report.differing) + " of " + std::to_string(found.size()) + " values that differ, by up to " +
             number_text(report.max_difference),
         "the evaluated values");
  }
}

void prove_alpha(const ModelSource& source, const ExportTensor& tensor) {
  if (!tensor.quantized || !tensor.quantized->alpha) return;
  const std::string name = tensor.layer() + ".alpha_dsq";
  float found = 0;
  if (source.has(name)) source.read(name, {&found, 1});
  if (found != *tensor.quantized->alpha) fail(source.path(), name, number_text(found, 9), number_text(*tensor.quantized->alpha, 9));
}

// GGUF has no name for Mistral, and may add ids that the configuration leaves out.
void prove_config(const std::filesystem::path& path, const ModelConfig& expected, ModelConfig found) {
  if (expected.model_type == "mistral" && found.model_type == "llama") found.model_type = expected.model_type;
  found.bos_token_id = expected.bos_token_id;
  found.eos_token_id = expected.eos_token_id;
  if (found != expected) fail(path, "configuration", "other numbers", "the model's configuration");
}

}  // namespace

void prove(const ExportModel& model, const std::filesystem::path& path, ExportReport& report) {
  try {
    const auto source = ModelSource::open(path);
    prove_config(path, model.config, source->config());
    for (std::size_t i = 0; i < model.tensors.size(); ++i) prove_tensor(*source, model.tensors[i], report.tensors.at(i));
    if (report.format == ExportFormat::kPacked) {
      for (const ExportTensor& tensor : model.tensors) prove_alpha(*source, tensor);
    }
    if (model.config.tie_word_embeddings && source->has("lm_head.weight")) fail(path, "head", "a tensor of its own", "the embedding");
    report.test_text = kTestText;
    report.test_ids = model.tokenizer.encode(report.test_text);
    if (Tokenizer::open(path).encode(report.test_text) != report.test_ids) fail(path, "tokenizer", "other token ids", "the model's");
  } catch (const DataError& error) {
    fail(path, "reading it back", error.what(), "a model that can be read");
  }
}

}  // namespace stableqat
