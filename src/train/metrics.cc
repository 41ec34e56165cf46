#include "stableqat/train/metrics.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat {

namespace {

template <class... Args>
std::string format(const char* pattern, Args... args) {
  std::array<char, 256> text{};
  std::snprintf(text.data(), text.size(), pattern, args...);
  return std::string(text.data());
}

std::string duration(double seconds) {
  const auto total = static_cast<long long>(seconds + 0.5);
  if (total >= 3600) return format("%lld:%02lld:%02lld", total / 3600, total / 60 % 60, total % 60);
  return format("%lld:%02lld", total / 60, total % 60);
}

// The lines up to `last_step`; a torn last line is dropped.
std::string kept_lines(const std::filesystem::path& path, std::int64_t last_step) {
  std::string kept;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && json.value("step", last_step + 1) <= last_step) kept += line + "\n";
  }
  return kept;
}

}  // namespace

std::string describe(const TrainMetrics& metrics) {
  return format("step %lld/%lld  loss %.4f  gradient norm %.3g  learning rate %.3g  %.0f tokens/s  %s left",
                static_cast<long long>(metrics.step), static_cast<long long>(metrics.total_steps), metrics.loss, metrics.gradient_norm,
                metrics.learning_rate, metrics.tokens_per_second, duration(metrics.seconds_left).c_str()) +
         format("  codes changed %.3g %%  clipped %.3g %%", 100.0 * metrics.codes_changed, 100.0 * metrics.clipped);
}

MetricsFile::MetricsFile(std::filesystem::path path, std::int64_t last_step) : path_(std::move(path)) {
  write_text_file(path_, last_step < 0 ? std::string() : kept_lines(path_, last_step));
}

void MetricsFile::append(const TrainMetrics& metrics) {
  nlohmann::json line({{"step", metrics.step},
                       {"tokens", metrics.tokens},
                       {"loss", metrics.loss},
                       {"cross_entropy", metrics.cross_entropy},
                       {"gradient_norm", metrics.gradient_norm},
                       {"learning_rate", metrics.learning_rate},
                       {"tokens_per_second", metrics.tokens_per_second},
                       {"seconds_left", metrics.seconds_left},
                       {"codes_changed", metrics.codes_changed},
                       {"clipped", metrics.clipped}});
  if (metrics.bytes_sent > 0) line["bytes_sent"] = metrics.bytes_sent;
  append_line(line);
}

void MetricsFile::append_evaluation(std::int64_t step, double nll, double perplexity, std::uint64_t tokens) {
  append_line({{"step", step}, {"eval_loss", nll}, {"eval_perplexity", perplexity}, {"eval_tokens", tokens}});
}

void MetricsFile::append_evaluation(std::int64_t step, std::span<const tasks::TaskResult> results) {
  nlohmann::json scores = nlohmann::json::object();
  for (const tasks::TaskResult& result : results) {
    nlohmann::json& of_task = scores[result.task.name];
    for (const tasks::MetricValue& value : result.metrics) {
      const std::string metric(tasks::metric_name(value.metric));
      of_task[metric] = value.value;
      if (value.standard_error) of_task[metric + "_stderr"] = *value.standard_error;
    }
  }
  nlohmann::json line{{"step", step}, {"eval_tasks", scores}};
  if (const tasks::MeanScore mean = tasks::mean_score(results); mean.tasks > 0) line["eval_tasks_mean"] = mean.value;
  append_line(line);
}

void MetricsFile::append_line(const nlohmann::json& json) {
  std::ofstream file(path_, std::ios::app);
  file << json.dump() << std::endl;
  if (!file) {
    throw EnvironmentError({path_.string(), std::generic_category().message(errno), "a writable file", "free space on that disk"});
  }
}

}  // namespace stableqat
