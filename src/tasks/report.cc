// What is written of results: the table, results.json and samples_*.jsonl.
#include <nlohmann/json.hpp>

#include "stableqat/tasks/results.h"
#include "tasks/markdown.h"

namespace stableqat::tasks {

namespace {

using nlohmann::json;

json number_or_text(const std::string& version) {
  const json number = json::parse(version, nullptr, false);
  return number.is_number() ? number : json(version);
}

json config_json(const TaskResult& result) {
  const TaskDefinition& task = result.task;
  const auto or_null = [](const std::string& text) { return text.empty() ? json() : json(text); };
  json config{{"task", task.name},
              {"dataset_path", or_null(task.dataset_path)},
              {"dataset_name", or_null(task.dataset_name)},
              {"training_split", or_null(task.training_split)},
              {"validation_split", or_null(task.validation_split)},
              {"test_split", or_null(task.test_split)},
              {"doc_to_text", task.doc_to_text.source()},
              {"doc_to_target", task.doc_to_target.source()},
              {"description", task.description},
              {"target_delimiter", task.target_delimiter},
              {"fewshot_delimiter", task.fewshot_delimiter},
              {"num_fewshot", result.num_fewshot},
              {"output_type", task.output_type == OutputType::kMultipleChoice ? "multiple_choice" : "loglikelihood_rolling"},
              {"metadata", {{"version", number_or_text(task.version)}}}};
  if (const auto* list = std::get_if<std::vector<std::string>>(&task.doc_to_choice)) {
    config["doc_to_choice"] = *list;
  } else {
    config["doc_to_choice"] = or_null(std::get<TextTemplate>(task.doc_to_choice).source());
  }
  return config;
}

// One character a document, or the log-likelihoods of a rolling task.
json document_json(const TaskResult& result) {
  json documents = json::object();
  if (result.task.output_type == OutputType::kLoglikelihoodRolling) {
    json values = json::array();
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < result.items.size(); ++i) {
      values.push_back(result.documents[i].likelihoods.front().log_likelihood);
      bytes += result.items[i].bytes;
    }
    return {{"log_likelihoods", values}, {"bytes", bytes}};
  }
  for (std::size_t m = 0; m < result.task.metrics.size(); ++m) {
    std::string bits;
    for (const DocumentResult& document : result.documents) bits += document.metrics[m] > 0 ? '1' : '0';
    documents[std::string(metric_name(result.task.metrics[m]))] = bits;
  }
  return documents;
}

}  // namespace

std::string results_table(std::span<const TaskResult> results) {
  std::vector<std::vector<std::string>> rows{{"Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"}};
  for (const TaskResult& result : results) {
    std::string name = result.task.name;
    std::string version = result.task.version;
    for (const MetricValue& value : result.metrics) {
      rows.push_back({name, version, "none", std::to_string(result.num_fewshot), std::string(metric_name(value.metric)),
                      higher_is_better(value.metric) ? "^" : "v", decimals(value.value), "+-",
                      value.standard_error ? decimals(*value.standard_error) : "N/A"});
      name.clear();
      version.clear();
    }
  }
  if (const MeanScore mean = mean_score(results); mean.tasks > 1) {
    rows.push_back({"mean of " + std::to_string(mean.tasks), "", "", "", "acc_norm, else acc", "^", decimals(mean.value), "+-",
                    decimals(mean.standard_error)});
  }
  return markdown_table(rows, "lrlrllrlr");
}

json results_json(std::span<const TaskResult> results, const RunDescription& run) {
  json out{{"results", json::object()}, {"group_subtasks", json::object()},   {"configs", json::object()},  {"versions", json::object()},
           {"n-shot", json::object()},  {"higher_is_better", json::object()}, {"n-samples", json::object()}};
  json own{{"version", run.version},      {"fingerprint", run.fingerprint},
           {"add_bos", run.bos},          {"max_length", run.max_length},
           {"documents", json::object()}, {"requests_hash", json::object()},
           {"truncated", json::object()}, {"activation_rounding", run.activation_rounding}};
  for (const TaskResult& result : results) {
    const std::string& name = result.task.name;
    json values{{"alias", name}};
    json better = json::object();
    for (const MetricValue& value : result.metrics) {
      const std::string metric(metric_name(value.metric));
      values[metric + ",none"] = value.value;
      values[metric + "_stderr,none"] = value.standard_error ? json(*value.standard_error) : json("N/A");
      better[metric] = higher_is_better(value.metric);
    }
    out["results"][name] = values;
    out["group_subtasks"][name] = json::array();
    out["configs"][name] = config_json(result);
    out["versions"][name] = number_or_text(result.task.version);
    out["n-shot"][name] = result.num_fewshot;
    out["higher_is_better"][name] = better;
    out["n-samples"][name] = {{"original", result.documents_in_split}, {"effective", result.items.size()}};
    own["documents"][name] = document_json(result);
    own["requests_hash"][name] = result.requests_hash;
    own["truncated"][name] = result.truncated;
  }
  if (const MeanScore mean = mean_score(results); mean.tasks > 1) {
    own["mean"] = {{"value", mean.value}, {"stderr", mean.standard_error}, {"tasks", mean.tasks}};
  }
  out["config"] = {{"model", "stableqat"},
                   {"model_args", "pretrained=" + run.model},
                   {"model_dtype", run.precision},
                   {"limit", run.limit == 0 ? json() : json(run.limit)},
                   {"fewshot_seed", run.fewshot_seed}};
  out["model_name"] = run.model;
  out["max_length"] = run.max_length;
  out["total_evaluation_time_seconds"] = std::to_string(run.seconds);
  out["stableqat"] = std::move(own);
  return out;
}

json sample_json(const TaskResult& result, std::size_t index) {
  const TaskItem& item = result.items[index];
  const DocumentResult& document = result.documents[index];
  json arguments = json::object();
  json responses = json::array();
  json filtered = json::array();
  for (std::size_t i = 0; i < item.requests.size(); ++i) {
    const bool is_rolling = item.choices.empty();
    const TextRequest& request = item.requests[i];
    const std::string key = "gen_args_" + std::to_string(i);
    arguments[key] = is_rolling ? json{{"arg_0", request.continuation}} : json{{"arg_0", request.context}, {"arg_1", request.continuation}};
    const std::string value = json(document.likelihoods[i].log_likelihood).dump();
    const json response = is_rolling ? json(value) : json{value, document.likelihoods[i].is_greedy ? "True" : "False"};
    responses.push_back(json::array({response}));
    filtered.push_back(response);
  }
  json sample{
      {"doc_id", item.doc_id},  {"doc", item.document.fields}, {"target", item.target.is_string() ? item.target : json(item.target.dump())},
      {"arguments", arguments}, {"resps", responses},          {"filtered_resps", filtered},
      {"filter", "none"},       {"metrics", json::array()}};
  for (std::size_t m = 0; m < result.task.metrics.size(); ++m) {
    const std::string metric(metric_name(result.task.metrics[m]));
    sample["metrics"].push_back(metric);
    if (item.choices.empty()) {
      const std::uint64_t count = result.task.metrics[m] == Metric::kWordPerplexity ? item.words : item.bytes;
      sample[metric] = json::array({document.likelihoods.front().log_likelihood, count});
    } else {
      sample[metric] = document.metrics[m];
    }
  }
  return sample;
}

}  // namespace stableqat::tasks
