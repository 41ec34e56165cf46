#include "stableqat/tasks/comparison.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "stableqat/base/error.h"
#include "tasks/markdown.h"

namespace stableqat::tasks {

namespace {

using nlohmann::json;

constexpr const char* kMeanMetric = "acc_norm, else acc";

// Mean and standard error of differences between documents.
struct Paired {
  double mean = 0.0;
  double standard_error = 0.0;
};

Paired paired(const std::vector<double>& differences) {
  Paired result;
  const auto count = static_cast<double>(differences.size());
  for (const double difference : differences) result.mean += difference / count;
  double squares = 0.0;
  for (const double difference : differences) squares += (difference - result.mean) * (difference - result.mean);
  if (differences.size() > 1) result.standard_error = std::sqrt(squares / (count - 1) / count);
  return result;
}

ScoreComparison compare(const std::string& task, const std::string& metric, const std::vector<double>& a, const std::vector<double>& b) {
  ScoreComparison result{.task = task, .metric = metric};
  std::vector<double> differences;
  for (std::size_t i = 0; i < a.size(); ++i) {
    differences.push_back(b[i] - a[i]);
    result.a += a[i] / static_cast<double>(a.size());
    result.b += b[i] / static_cast<double>(a.size());
    if (a[i] > b[i]) ++result.only_a;
    if (b[i] > a[i]) ++result.only_b;
  }
  const Paired difference = paired(differences);
  result.difference = difference.mean;
  result.standard_error = difference.standard_error;
  result.documents = a.size();
  result.p_value = sign_test(result.only_a, result.only_b);
  return result;
}

std::vector<double> digits(const json& text) {
  std::vector<double> values;
  for (const char digit : text.get_ref<const std::string&>()) values.push_back(digit == '1' ? 1.0 : 0.0);
  return values;
}

// Bits per byte: what counts is the sum over documents of their likelihoods, so each weighs with its length.
ScoreComparison compare_rolling(const std::string& task, const json& a, const json& b) {
  auto likelihoods_a = a.at("log_likelihoods").get<std::vector<double>>();
  auto likelihoods_b = b.at("log_likelihoods").get<std::vector<double>>();
  const double bits_per_nat = static_cast<double>(likelihoods_a.size()) / (a.at("bytes").get<double>() * std::numbers::ln2);
  ScoreComparison result = compare(task, "bits_per_byte", likelihoods_a, likelihoods_b);
  for (double* value : {&result.a, &result.b, &result.difference}) *value *= -bits_per_nat;
  result.standard_error *= bits_per_nat;
  return result;
}

void require_same_requests(const std::string& task, const json& a, const json& b, const std::string& name_a, const std::string& name_b) {
  const json& hash_a = a.at("requests_hash").at(task);
  const json& hash_b = b.at("requests_hash").at(task);
  if (hash_a == hash_b) return;
  throw DataError({name_b, task + " with other documents or requests", "those of " + name_a,
                   "evaluate both with the same data, --limit and --num-fewshot"});
}

ScoreComparison mean_of(const std::vector<ScoreComparison>& scores) {
  ScoreComparison mean{.task = "", .metric = kMeanMetric};
  double variance = 0.0;
  for (const ScoreComparison& score : scores) {
    const auto is_norm = [&score](const ScoreComparison& other) { return other.task == score.task && other.metric == "acc_norm"; };
    const bool has_norm = std::any_of(scores.begin(), scores.end(), is_norm);
    if (score.metric != (has_norm ? "acc_norm" : "acc")) continue;
    ++mean.documents;
    mean.a += score.a;
    mean.b += score.b;
    variance += score.standard_error * score.standard_error;
  }
  if (mean.documents == 0) return mean;
  const auto count = static_cast<double>(mean.documents);
  mean.a /= count;
  mean.b /= count;
  mean.difference = mean.b - mean.a;
  mean.standard_error = std::sqrt(variance) / count;
  if (mean.standard_error > 0) mean.p_value = std::erfc(std::abs(mean.difference) / mean.standard_error / std::numbers::sqrt2);
  mean.task = "mean of " + std::to_string(mean.documents);
  return mean;
}

std::vector<std::string> cells(const ScoreComparison& score) {
  const bool is_mean = score.metric == kMeanMetric;
  return {score.task,
          score.metric,
          decimals(score.a),
          decimals(score.b),
          (score.difference >= 0 ? "+" : "") + decimals(score.difference),
          decimals(score.standard_error),
          is_mean ? "" : std::to_string(score.only_a),
          is_mean ? "" : std::to_string(score.only_b),
          decimals(score.p_value, 3)};
}

json score_json(const ScoreComparison& score) {
  return {{"task", score.task},
          {"metric", score.metric},
          {"a", score.a},
          {"b", score.b},
          {"difference", score.difference},
          {"standard_error", score.standard_error},
          {"documents", score.documents},
          {"only_a", score.only_a},
          {"only_b", score.only_b},
          {"p_value", score.p_value}};
}

}  // namespace

double sign_test(std::uint64_t wins, std::uint64_t losses) {
  const std::uint64_t fewer = std::min(wins, losses);
  const auto count = static_cast<double>(wins + losses);
  double tail = 0.0;
  for (std::uint64_t k = 0; k <= fewer; ++k) {
    const auto chosen = static_cast<double>(k);
    tail += std::exp(std::lgamma(count + 1) - std::lgamma(chosen + 1) - std::lgamma(count - chosen + 1) - count * std::numbers::ln2);
  }
  return std::min(1.0, 2.0 * tail);
}

ResultsComparison compare_results(const json& a, const std::string& name_a, const json& b, const std::string& name_b) {
  ResultsComparison result;
  try {
    const json& own_a = a.at("stableqat");
    const json& own_b = b.at("stableqat");
    for (const auto& [task, documents_a] : own_a.at("documents").items()) {
      if (!own_b.at("documents").contains(task)) continue;
      require_same_requests(task, own_a, own_b, name_a, name_b);
      const json& documents_b = own_b.at("documents").at(task);
      if (documents_a.contains("log_likelihoods")) {
        result.scores.push_back(compare_rolling(task, documents_a, documents_b));
        continue;
      }
      for (const auto& [metric, right_a] : documents_a.items()) {
        const std::vector<double> values_a = digits(right_a);
        const std::vector<double> values_b = digits(documents_b.at(metric));
        if (values_a.size() != values_b.size()) throw DataError({name_b, task + " of another length", "that of " + name_a, ""});
        result.scores.push_back(compare(task, metric, values_a, values_b));
      }
    }
  } catch (const json::exception& problem) {
    throw DataError({name_a + " or " + name_b, std::string("JSON without what is compared (") + problem.what() + ")",
                     "results.json of stableqat eval --output", ""});
  }
  if (result.scores.empty()) throw DataError({name_a + " and " + name_b, "no task in common", "results of the same tasks", ""});
  result.mean = mean_of(result.scores);
  return result;
}

std::string comparison_table(const ResultsComparison& comparison) {
  std::vector<std::vector<std::string>> rows{{"Tasks", "Metric", "A", "B", "B - A", "Stderr", "only A", "only B", "p"}};
  for (const ScoreComparison& score : comparison.scores) rows.push_back(cells(score));
  if (comparison.mean.documents > 1) rows.push_back(cells(comparison.mean));
  return markdown_table(rows, "llrrrrrrr");
}

json comparison_json(const ResultsComparison& comparison) {
  json out{{"scores", json::array()}};
  for (const ScoreComparison& score : comparison.scores) out["scores"].push_back(score_json(score));
  if (comparison.mean.documents > 1) {
    out["mean"] = score_json(comparison.mean);
    out["mean"]["tasks"] = comparison.mean.documents;
    for (const char* key : {"documents", "only_a", "only_b"}) out["mean"].erase(key);
  }
  return out;
}

}  // namespace stableqat::tasks
