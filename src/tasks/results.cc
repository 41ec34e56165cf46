#include "stableqat/tasks/results.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "tasks/unicode_text.h"

namespace stableqat::tasks {

namespace {

double length_for(Metric metric, const std::string& choice) {
  if (metric == Metric::kAccNorm) return static_cast<double>(count_code_points(choice));
  if (metric == Metric::kAccBytes) return static_cast<double>(choice.size());
  return 1.0;
}

// Mean and its standard error from the sample deviation.
MetricValue mean_of(Metric metric, std::span<const double> values) {
  const auto count = static_cast<double>(values.size());
  double mean = 0.0;
  for (const double value : values) mean += value / count;
  double squares = 0.0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {metric, mean, values.size() > 1 ? std::sqrt(squares / (count - 1) / count) : 0.0};
}

double rolling_value(Metric metric, double log_likelihood, double words, double bytes) {
  switch (metric) {
    case Metric::kWordPerplexity:
      return std::exp(-log_likelihood / words);
    case Metric::kBytePerplexity:
      return std::exp(-log_likelihood / bytes);
    default:
      return -log_likelihood / (bytes * std::numbers::ln2);
  }
}

void aggregate_rolling(TaskResult& result) {
  double log_likelihood = 0.0;
  double words = 0.0;
  double bytes = 0.0;
  for (std::size_t i = 0; i < result.items.size(); ++i) {
    log_likelihood += result.documents[i].likelihoods.front().log_likelihood;
    words += static_cast<double>(result.items[i].words);
    bytes += static_cast<double>(result.items[i].bytes);
  }
  for (const Metric metric : result.task.metrics) {
    result.metrics.push_back({metric, rolling_value(metric, log_likelihood, words, bytes), std::nullopt});
  }
}

}  // namespace

std::vector<double> item_metrics(const TaskDefinition& task, const TaskItem& item, std::span<const Likelihood> likelihoods) {
  if (task.output_type == OutputType::kLoglikelihoodRolling) return {};
  std::vector<double> metrics;
  for (const Metric metric : task.metrics) {
    std::vector<double> scores;
    for (std::size_t i = 0; i < likelihoods.size(); ++i) {
      scores.push_back(likelihoods[i].log_likelihood / length_for(metric, item.choices[i]));
    }
    const auto best = static_cast<std::size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
    metrics.push_back(best == item.gold ? 1.0 : 0.0);
  }
  return metrics;
}

void aggregate(TaskResult& result) {
  for (std::size_t i = 0; i < result.documents.size(); ++i) {
    for (const Likelihood& likelihood : result.documents[i].likelihoods) {
      if (std::isfinite(likelihood.log_likelihood)) continue;
      throw NumericError({result.items[i].document.where, "a log-likelihood of " + std::to_string(likelihood.log_likelihood),
                          "finite numbers", "check the model's weights"});
    }
  }
  result.metrics.clear();
  if (result.task.output_type == OutputType::kLoglikelihoodRolling) return aggregate_rolling(result);
  for (std::size_t m = 0; m < result.task.metrics.size(); ++m) {
    std::vector<double> values;
    for (const DocumentResult& document : result.documents) values.push_back(document.metrics[m]);
    result.metrics.push_back(mean_of(result.task.metrics[m], values));
  }
}

std::string hash_requests(std::span<const TaskItem> items) {
  std::string all;
  const auto add = [&all](const std::string& text) {
    all += std::to_string(text.size());
    all += ':';
    all += text;
  };
  for (const TaskItem& item : items) {
    for (const TextRequest& request : item.requests) {
      add(request.context);
      add(request.continuation);
    }
    for (const std::string& choice : item.choices) add(choice);
    add(std::to_string(item.gold));
  }
  return content_hash(std::as_bytes(std::span(all)));
}

MeanScore mean_score(std::span<const TaskResult> results) {
  MeanScore mean;
  double variance = 0.0;
  for (const TaskResult& result : results) {
    if (result.task.output_type != OutputType::kMultipleChoice) continue;
    const auto is_norm = [](const MetricValue& value) { return value.metric == Metric::kAccNorm; };
    const auto norm = std::find_if(result.metrics.begin(), result.metrics.end(), is_norm);
    const MetricValue& chosen = norm == result.metrics.end() ? result.metrics.front() : *norm;
    mean.value += chosen.value;
    variance += *chosen.standard_error * *chosen.standard_error;
    ++mean.tasks;
  }
  if (mean.tasks == 0) return mean;
  mean.value /= static_cast<double>(mean.tasks);
  mean.standard_error = std::sqrt(variance) / static_cast<double>(mean.tasks);
  return mean;
}

}  // namespace stableqat::tasks
