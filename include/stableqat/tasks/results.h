// From log-likelihoods to scores, and what is written of them.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "stableqat/tasks/requests.h"

namespace stableqat::tasks {

struct Likelihood {
  double log_likelihood = 0.0;  // nats, summed over the continuation's tokens
  bool is_greedy = false;       // every token of the continuation is the most likely one
};

struct MetricValue {
  Metric metric;
  double value = 0.0;
  std::optional<double> standard_error;  // of accuracies, from the spread over documents; 0 for a single document
};

// One document's answers. `metrics` holds 1 or 0 for each of the task's accuracies; nothing for rolling tasks.
struct DocumentResult {
  std::vector<Likelihood> likelihoods;  // one for each request
  std::vector<double> metrics;
};

struct TaskResult {
  TaskDefinition task;
  std::int64_t num_fewshot = 0;
  std::uint64_t documents_in_split = 0;
  std::uint64_t truncated = 0;  // requests whose context was too long
  std::string requests_hash;    // of all texts that were scored and the right answers
  std::vector<TaskItem> items;
  std::vector<DocumentResult> documents;  // as items
  std::vector<MetricValue> metrics;       // in the task's order
};

// Accuracies of one item from its likelihoods, in the order of task.metrics: argmax of log-likelihood (divided by the choice's length), the
// first of equals, against gold. Empty for a rolling task.
std::vector<double> item_metrics(const TaskDefinition& task, const TaskItem& item, std::span<const Likelihood> likelihoods);

// Fills `metrics` from items and documents. Throws NumericError for a likelihood that is not finite.
void aggregate(TaskResult& result);

// 16 hex digits; the same for the same questions, in whatever file they stand.
std::string hash_requests(std::span<const TaskItem> items);

// The plain mean over the multiple-choice tasks of acc_norm where a task has it, else acc, and the standard error of that mean.
struct MeanScore {
  double value = 0.0;
  double standard_error = 0.0;
  std::size_t tasks = 0;
};
MeanScore mean_score(std::span<const TaskResult> results);

// What the run was, for the head of results.json.
struct RunDescription {
  std::string model;
  std::string precision;    // "float32", ...
  std::string fingerprint;  // of the weights
  std::string activation_rounding = "none";
  std::string bos;  // "auto", "on", "off"
  std::int64_t max_length = 0;
  std::uint64_t limit = 0;
  std::uint64_t fewshot_seed = 0;
  std::string version;  // of this program
  double seconds = 0.0;
};

// The table that people read, in the harness's columns.
std::string results_table(std::span<const TaskResult> results);

// The harness's results.json; our own facts, among them each document's accuracies for comparisons, under the key "stableqat".
nlohmann::json results_json(std::span<const TaskResult> results, const RunDescription& run);

// One line of the harness's samples_TASK.jsonl, for item `index`.
nlohmann::json sample_json(const TaskResult& result, std::size_t index);

}  // namespace stableqat::tasks
