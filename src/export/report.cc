#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "export/number_text.h"
#include "stableqat/export/export.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

const char* format_name(ExportFormat format) {
  switch (format) {
    case ExportFormat::kGguf:
      return "gguf";
    case ExportFormat::kCompressedTensors:
      return "compressed-tensors";
    case ExportFormat::kGptq:
      return "gptq";
    case ExportFormat::kPacked:
      return "packed";
    case ExportFormat::kHuggingFace:
      break;
  }
  return "hf";
}

struct TypeTotal {
  std::uint64_t tensors = 0;
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;
  double max_difference = 0;
};

std::string row(const std::string& type, const std::string& tensors, const std::string& weights, const std::string& megabytes,
                const std::string& bits, const std::string& difference) {
  return left_aligned(type, 16) + right_aligned(tensors, 8) + right_aligned(weights, 13) + right_aligned(megabytes, 10) +
         right_aligned(bits, 13) + right_aligned(difference, 16) + "\n";
}

std::string total_row(const std::string& type, const TypeTotal& total) {
  return row(type, std::to_string(total.tensors), std::to_string(total.elements), fixed_text(static_cast<double>(total.bytes) / 1e6, 2),
             fixed_text(8.0 * static_cast<double>(total.bytes) / static_cast<double>(total.elements), 3),
             number_text(total.max_difference));
}

std::string proof_text(const ExportReport& report) {
  const std::string same_ids = std::to_string(report.test_ids.size()) + " token ids of the test text are the same";
  if (report.differing() == 0) return "read back: every weight is the evaluated one, bit for bit; " + same_ids;
  return "read back: " + std::to_string(report.differing()) + " of " + std::to_string(report.parameters) +
         " weights were rounded as allowed, the others are the evaluated ones, bit for bit; " + same_ids;
}

}  // namespace

Json to_json(const ExportReport& report) {
  Json tensors = Json::array();
  for (const ExportedTensor& tensor : report.tensors) {
    tensors.push_back({{"name", tensor.name},
                       {"type", tensor.type},
                       {"elements", tensor.elements},
                       {"bytes", tensor.bytes},
                       {"bits_per_weight", 8.0 * static_cast<double>(tensor.bytes) / static_cast<double>(tensor.elements)},
                       {"differing", tensor.differing},
                       {"max_difference", tensor.max_difference},
                       {"may_round", tensor.may_round}});
  }
  return {{"format", format_name(report.format)},
          {"output", report.output.string()},
          {"bytes", report.bytes},
          {"model_bytes", report.model_bytes},
          {"parameters", report.parameters},
          {"bits_per_weight", report.bits_per_weight()},
          {"max_difference", report.max_difference()},
          {"differing", report.differing()},
          {"test_text", report.test_text},
          {"test_ids", report.test_ids},
          {"tensors", tensors}};
}

std::string to_text(const ExportReport& report) {
  std::map<std::string, TypeTotal> totals;
  for (const ExportedTensor& tensor : report.tensors) {
    const bool table = tensor.name.find("emb") != std::string::npos || tensor.name == "output.weight" || tensor.name == "lm_head.weight";
    TypeTotal& total = totals[(table ? "embedding " : "") + tensor.type];
    ++total.tensors;
    total.elements += tensor.elements;
    total.bytes += tensor.bytes;
    total.max_difference = std::max(total.max_difference, tensor.max_difference);
  }
  std::string text = row("type", "tensors", "weights", "MB", "bits/weight", "max difference");
  for (const auto& [type, total] : totals) text += total_row(type, total);
  text += report.output.string() + ": " + fixed_text(static_cast<double>(report.bytes) / 1e6, 2) + " MB, " +
          fixed_text(report.bits_per_weight(), 3) + " bits per weight\n";
  return text + proof_text(report) + "\n";
}

}  // namespace stableqat
