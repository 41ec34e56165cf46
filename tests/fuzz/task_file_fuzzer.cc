// Any bytes either are a task file, whose templates then give a value for a document or are refused with DataError, or are refused with
// ConfigError.
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>

#include "stableqat/base/error.h"
#include "stableqat/tasks/task.h"

namespace {

using namespace stableqat;

void evaluate(const tasks::TextTemplate& text, const tasks::TaskDocument& document) {
  try {
    text.text(document);
  } catch (const DataError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const tasks::TaskDocument document{{{"question", "Why?"},
                                             {"label", 1},
                                             {"answerKey", " B"},
                                             {"choices", {{"text", {"yes", "no"}}, {"label", {"A", "B"}}}},
                                             {"support", ""}},
                                            "fuzz.jsonl:1"};
  const tasks::IncludeReader include = [](const std::string&, const std::string& name) -> std::optional<tasks::NamedText> {
    return tasks::NamedText{name, "validation_split: v\ndoc_to_target: label\nmetric_list: [{metric: acc}]\ninclude: " + name + "\n"};
  };
  try {
    const tasks::TaskFile file = tasks::parse_task_file({"fuzzed.yaml", std::string(reinterpret_cast<const char*>(data), size)}, include);
    const auto* task = std::get_if<tasks::TaskDefinition>(&file);
    if (task == nullptr) return 0;
    evaluate(task->doc_to_text, document);
    evaluate(task->doc_to_target, document);
    if (const auto* choice = std::get_if<tasks::TextTemplate>(&task->doc_to_choice)) evaluate(*choice, document);
  } catch (const ConfigError&) {
  }
  return 0;
}
