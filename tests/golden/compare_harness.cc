// compare_harness FILE [--model M] [--data-dir D]
// Checks task scores against the LM evaluation harness: FILE holds one JSON object a document, with the log-likelihood of each choice,
// whether it is the greedy continuation, the target, acc and acc_norm. Exit code 0 when all hold. Prints the largest deviation of each
// task.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/eval/task_evaluation.h"
#include "stableqat/models/model_source.h"
#include "stableqat/tasks/catalog.h"
#include "test_model.h"

namespace {

using namespace stableqat;
using Json = nlohmann::json;

constexpr int kSkipped = 77;  // exit code by which ctest knows a skipped test

// Both programs compute in fp32 with other orders of summation.
double limit_for(double log_likelihood) { return 2e-3 + 1e-4 * std::abs(log_likelihood); }

class Comparison {
 public:
  void check_document(const Json& golden, const tasks::TaskResult& result) {
    const auto index = golden.at("doc_id").get<std::size_t>();
    const std::string where = result.task.name + " " + std::to_string(index);
    if (index >= result.items.size()) return fail(where + ": no such document");
    const tasks::DocumentResult& document = result.documents[index];
    const Json& expected = golden.at("log_likelihoods");
    if (expected.size() != document.likelihoods.size()) return fail(where + ": another number of choices");
    for (std::size_t i = 0; i < expected.size(); ++i) {
      check_value(where + " choice " + std::to_string(i), document.likelihoods[i].log_likelihood, expected[i].get<double>());
      if (golden.at("greedy")[i].get<bool>() != document.likelihoods[i].is_greedy) fail(where + ": greedy differs");
    }
    const Json& target = result.items[index].target;
    if (golden.at("target") != (target.is_string() ? target.get<std::string>() : target.dump())) fail(where + ": another target");
    for (std::size_t m = 0; m < result.task.metrics.size(); ++m) {
      const std::string metric(tasks::metric_name(result.task.metrics[m]));
      if (golden.at(metric).get<double>() != document.metrics[m]) fail(where + ": " + metric + " differs");
    }
    ++documents_;
  }

  void end_task(const std::string& task) {
    std::printf("%-14s %4zu documents, largest deviation %.3g of its limit\n", task.c_str(), documents_, worst_);
    documents_ = 0;
    worst_ = 0.0;
  }

  int failures() const { return failures_; }

 private:
  void check_value(const std::string& what, double found, double expected) {
    const double share = std::abs(found - expected) / limit_for(expected);
    worst_ = std::max(worst_, share);
    if (share <= 1.0) return;  // false for NaN
    fail(what + ": found " + std::to_string(found) + ", expected " + std::to_string(expected));
  }

  void fail(const std::string& line) {
    ++failures_;
    std::printf("  FAIL %s\n", line.c_str());
  }

  int failures_ = 0;
  std::size_t documents_ = 0;
  double worst_ = 0.0;
};

std::map<std::string, std::vector<Json>> read_golden(const std::string& path) {
  std::map<std::string, std::vector<Json>> golden;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    Json json = Json::parse(line);
    std::vector<Json>& of_task = golden[json.at("task").get<std::string>()];
    of_task.push_back(std::move(json));
  }
  return golden;
}

int run(const std::string& file, const std::string& model_path, const std::string& data_dir) {
  const auto golden = read_golden(file);
  std::vector<std::string> names;
  std::uint64_t limit = 0;
  for (const auto& [task, documents] : golden) {
    names.push_back(task);
    for (const Json& document : documents) limit = std::max(limit, document.at("doc_id").get<std::uint64_t>() + 1);
  }
  const auto source = ModelSource::open(model_path);
  const CausalLm model(*source, at::kFloat);
  const std::vector<tasks::TaskDefinition> selected = tasks::TaskCatalog::shipped().select(names);
  const TaskSetOptions options{{.limit = limit}, tasks::BosMode::kAuto, model.config().max_position_embeddings};
  const TaskSet tasks(selected, data_dir, Tokenizer::open(model_path), options);
  const auto start = std::chrono::steady_clock::now();
  const auto results = *tasks.evaluate(model, {});
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  Comparison comparison;
  std::size_t requests = 0;
  for (const tasks::TaskResult& result : results) {
    for (const Json& document : golden.at(result.task.name)) comparison.check_document(document, result);
    comparison.end_task(result.task.name);
    for (const tasks::TaskItem& item : result.items) requests += item.requests.size();
  }
  std::printf("%zu requests in %.1f s; %d deviations\n", requests, seconds, comparison.failures());
  return comparison.failures() == 0 && !golden.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Compares task scores with the LM evaluation harness's");
  std::string file;
  std::string model;
  std::string data_dir;
  app.add_option("FILE", file, "JSON lines: task, doc_id, log_likelihoods, greedy, target, acc, acc_norm")->required();
  app.add_option("--model", model, "Hugging Face directory or GGUF file [the model of tools/setup.sh]");
  app.add_option("--data-dir", data_dir, "documents of the tasks")->required();
  CLI11_PARSE(app, argc, argv);
  if (model.empty()) {
    const auto found = golden::test_model();
    if (!found) {
      std::printf("no model on this machine: run tools/setup.sh, or name one by --model\n");
      return kSkipped;
    }
    model = found->string();
  }
  try {
    return run(file, model, data_dir);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.exit_code());
  }
}
