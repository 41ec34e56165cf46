// What is asked of the model: for each document the texts to score, built as the LM evaluation harness builds them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "stableqat/tasks/task.h"

namespace stableqat::tasks {

struct RequestOptions {
  std::uint64_t limit = 0;            // documents of each task, from the first on; 0 = all
  std::int64_t num_fewshot = -1;      // examples before the question; -1 = as the task says
  std::uint64_t fewshot_seed = 1234;  // of the harness's default
};

// log p(continuation | context) is wanted.
struct TextRequest {
  std::string context;
  std::string continuation;
};

struct TaskItem {
  std::uint64_t doc_id = 0;  // position in its split
  TaskDocument document;
  std::vector<TextRequest> requests;  // one for each choice; a rolling task: one, with an empty context
  std::vector<std::string> choices;   // as they count for normalization; empty for rolling tasks
  std::size_t gold = 0;               // of choices
  nlohmann::json target;              // as the harness logs it: the number of the right choice, or the text
  std::uint64_t words = 0;            // of a rolling task's original text
  std::uint64_t bytes = 0;
};

// The number of examples that `options` ask for in this task; rolling tasks have none.
std::int64_t example_count(const TaskDefinition& task, const RequestOptions& options);

// One item for each of `documents`, up to the limit. Few-shot examples are taken from `examples` (example_split()), seeded and sampled as
// the harness 0.4.13 does; unused when there are to be none. Throws DataError for documents that do not fit the templates, labels that name
// no choice, and too few examples.
std::vector<TaskItem> build_items(const TaskDefinition& task, const std::vector<TaskDocument>& documents,
                                  const std::vector<TaskDocument>& examples, const RequestOptions& options);

}  // namespace stableqat::tasks
