// What a task asks and how answers are counted: the part of the LM evaluation harness's task files (YAML) that multiple-choice and
// rolling-log-likelihood tasks need. Keys and their meaning: docs/evaluation.md.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "stableqat/tasks/text_template.h"

namespace stableqat::tasks {

enum class OutputType {
  kMultipleChoice,        // which of several continuations is the most likely
  kLoglikelihoodRolling,  // likelihood of a whole text
};

enum class Metric {
  kAcc,             // the answer with the largest log-likelihood is right
  kAccNorm,         // the same after division by the number of the choice's code points
  kAccBytes,        // the same after division by the number of its bytes in UTF-8
  kWordPerplexity,  // exp(-sum of log-likelihoods / sum of words)
  kBytePerplexity,
  kBitsPerByte,
};
std::string_view metric_name(Metric metric);
bool higher_is_better(Metric metric);

// Steps that templates cannot express, done to the documents of a split first.
enum class DocumentStep {
  kNone,
  kHellaswag,   // cleans WikiHow's markup up; adds `query` and `choices`
  kWinogrande,  // adds `contexts` (the sentence up to each option), `continuation` and `gold`, for partial evaluation
  kWikitext,    // cuts a plain text into articles (`page`); adds `text`, the article without the corpus's spacing
};

enum class Sampler { kDefault, kFirstN };

struct TaskDefinition {
  std::string name;
  std::string file;  // where it was read
  std::vector<std::string> tags;
  std::string version = "0";
  std::string dataset_path;                                                 // of the Hub: "allenai/ai2_arc"
  std::string dataset_name;                                                 // configuration of the data set, may be empty
  std::string training_split, validation_split, test_split, fewshot_split;  // empty = there is none
  OutputType output_type = OutputType::kMultipleChoice;
  DocumentStep process_docs = DocumentStep::kNone;
  // doc_to_text gives the context, and doc_to_choice the continuations; or, for partial evaluation, doc_to_text the number of the right
  // choice, doc_to_choice the contexts, and doc_to_target the continuation they share. A rolling task scores doc_to_target.
  TextTemplate doc_to_text;
  TextTemplate doc_to_target;
  std::variant<TextTemplate, std::vector<std::string>> doc_to_choice;
  bool has_choices = false;
  std::string description;
  std::string target_delimiter = " ";
  std::string fewshot_delimiter = "\n\n";
  Sampler fewshot_sampler = Sampler::kDefault;
  std::int64_t num_fewshot = 0;
  std::vector<Metric> metrics;

  // Where the documents come from that are asked about, and those shown as examples.
  const std::string& evaluated_split() const noexcept { return test_split.empty() ? validation_split : test_split; }
  const std::string& example_split() const noexcept;
};

// A name for several tasks (or groups).
struct TaskGroup {
  std::string name;
  std::string file;
  std::vector<std::string> members;
};

using TaskFile = std::variant<TaskDefinition, TaskGroup>;

struct NamedText {
  std::string file;
  std::string text;
};
// The file that an `include:` of `file` names; nullopt if there is none.
using IncludeReader = std::function<std::optional<NamedText>(const std::string& file, const std::string& included)>;

// Throws ConfigError with file and line: malformed YAML, unknown keys (with the nearest known one) and values, Python functions, keys that
// are missing or do not fit together, includes that cannot be read.
TaskFile parse_task_file(const NamedText& source, const IncludeReader& include = {});

}  // namespace stableqat::tasks
