#include "train/run_log.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "stableqat/tasks/results.h"

namespace stableqat {

namespace {

namespace fs = std::filesystem;

// Named as transformers' Trainer names them, where it has them.
std::vector<ScalarValue> scalars_of(const TrainMetrics& metrics) {
  const auto scalar = [](const char* tag, double value) { return ScalarValue{tag, static_cast<float>(value)}; };
  return {scalar("train/loss", metrics.loss),
          scalar("train/cross_entropy", metrics.cross_entropy),
          scalar("train/grad_norm", metrics.gradient_norm),
          scalar("train/learning_rate", metrics.learning_rate),
          scalar("train/tokens_per_second", metrics.tokens_per_second),
          scalar("train/codes_changed", metrics.codes_changed),
          scalar("train/clipped", metrics.clipped)};
}

fs::path event_folder(const TrainConfig::Train& config) {
  return config.logging_dir.empty() ? fs::path(config.output_dir) / "runs" : fs::path(config.logging_dir);
}

// How often each code occurs in a layer.
struct CodeCounts {
  std::string layer;
  std::int64_t first = 0;
  std::vector<std::uint64_t> counts;
};

CodeCounts count_codes(const QuantizedWeight& weight) {
  std::array<std::uint64_t, 256> counts{};
  const at::Tensor all = weight.codes().cpu();
  const std::int8_t* codes = all.const_data_ptr<std::int8_t>();
  for (std::int64_t i = 0; i < all.numel(); ++i) ++counts[static_cast<std::size_t>(codes[i] + 128)];
  const auto is_used = [](std::uint64_t count) { return count > 0; };
  const auto first = std::find_if(counts.begin(), counts.end(), is_used);
  const auto end = std::find_if(counts.rbegin(), counts.rend(), is_used).base();
  return {weight.name(), first - counts.begin() - 128, {first, end}};
}

std::vector<HistogramValue> histograms_of(const std::vector<CodeCounts>& all) {
  std::vector<HistogramValue> histograms;
  for (const CodeCounts& layer : all) histograms.push_back({"codes/" + layer.layer, layer.first, layer.counts});
  return histograms;
}

}  // namespace

RunLog::RunLog(const TrainConfig& config, const QuantizedModel& model, std::int64_t first_step, LogCallback log)
    : config_(config),
      model_(model),
      log_(std::move(log)),
      metrics_file_(fs::path(config.train.output_dir) / "metrics.jsonl", first_step > 0 ? first_step : -1) {
  if (config.train.report_to == TrainConfig::ReportTo::kTensorBoard) events_.emplace(event_folder(config.train), first_step);
}

void RunLog::say(const std::string& line) const {
  if (log_) log_(LogLevel::kInfo, line);
}

void RunLog::add(const StepSummary& summary) {
  last_ = summary;
  ++window_.steps;
  window_.loss.loss += summary.loss.loss;
  window_.loss.cross_entropy += summary.loss.cross_entropy;
  window_.codes_changed += summary.report.counts.changed;
  window_.training = Clock::now() - window_.start;
}

TrainMetrics RunLog::metrics() const {
  const auto steps = static_cast<double>(window_.steps);
  const double seconds = std::chrono::duration<double>(window_.training).count();
  const auto elements = static_cast<double>(std::max<std::int64_t>(1, model_.quantized_elements()));
  const std::int64_t tokens = config_.train.micro_batch_size * config_.data.sequence_length * config_.train.gradient_accumulation_steps;
  TrainMetrics metrics;
  metrics.step = last_.step;
  metrics.total_steps = last_.total_steps;
  metrics.tokens = last_.tokens;
  metrics.loss = window_.loss.loss / steps;
  metrics.cross_entropy = window_.loss.cross_entropy / steps;
  metrics.gradient_norm = last_.report.norms.total;
  metrics.learning_rate = last_.learning_rate;
  metrics.tokens_per_second = steps * static_cast<double>(tokens) / seconds;
  metrics.seconds_left = seconds / steps * static_cast<double>(last_.total_steps - last_.step);
  metrics.codes_changed = static_cast<double>(window_.codes_changed) / elements;
  metrics.bytes_sent = last_.bytes_sent;
  metrics.clipped = static_cast<double>(last_.report.counts.clipped) / elements;
  return metrics;
}

void RunLog::write_metrics() {
  const TrainMetrics line = metrics();
  metrics_file_.append(line);
  if (events_) {
    std::vector<CodeCounts> counts;
    if (config_.train.code_histograms)
      std::transform(model_.weights().begin(), model_.weights().end(), std::back_inserter(counts), count_codes);
    events_->append(last_.step, scalars_of(line), histograms_of(counts));
  }
  say(describe(line));
  window_ = Window();
}

void RunLog::write_perplexity(std::int64_t step, const PerplexityResult& result) {
  metrics_file_.append_evaluation(step, result.nll, result.perplexity, result.tokens);
  if (events_) {
    const std::array scalars{ScalarValue{"eval/loss", static_cast<float>(result.nll)},
                             ScalarValue{"eval/perplexity", static_cast<float>(result.perplexity)}};
    events_->append(step, scalars);
  }
  say("step " + std::to_string(step) + ": perplexity " + std::to_string(result.perplexity) + " on " + std::to_string(result.tokens) +
      " tokens of " + config_.data.valid);
}

void RunLog::write_tasks(std::int64_t step, std::span<const tasks::TaskResult> results) {
  metrics_file_.append_evaluation(step, results);
  const tasks::MeanScore mean = tasks::mean_score(results);
  if (mean.tasks == 0) return;
  if (events_) events_->append(step, std::array{ScalarValue{"eval/tasks_mean", static_cast<float>(mean.value)}});
  say("step " + std::to_string(step) + ": mean of " + std::to_string(mean.tasks) + " tasks " + std::to_string(mean.value) + " +- " +
      std::to_string(mean.standard_error));
}

}  // namespace stableqat
