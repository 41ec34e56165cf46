#include "bench_flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "model_path.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/bench/shapes.h"
#include "stableqat/models/model_source.h"

namespace stableqat::app {

namespace {

void require_model(const BenchFlags& flags) {
  if (!flags.model.empty() || !flags.shape.empty()) return;
  throw stableqat::ConfigError({"--model or --shape", "neither", "one of them", "for example --shape smollm2-135m"});
}

void add_bits_and_settings(CLI::App& command, BenchFlags& flags) {
  command.add_option("--bits", flags.bits, "Bits of the quantized weights")->capture_default_str();
  command.allow_extras();
}

}  // namespace

void add_bench_model_flags(CLI::App& command, BenchFlags& flags) {
  CLI::Option* model = command.add_option("--model", flags.model, "Hugging Face directory or GGUF file")->type_name("M");
  CLI::Option* shape =
      command.add_option("--shape", flags.shape, fmt::format("Random weights in the shape of {}", fmt::join(bench::shape_names(), ", ")))
          ->type_name("NAME");
  model->excludes(shape);
  command.add_option("--batch", flags.batch, "Sequences per micro-batch")->capture_default_str()->check(CLI::PositiveNumber);
  command.add_option("--seq", flags.sequence_length, "Tokens per sequence")->capture_default_str()->check(CLI::Range(2, 1 << 20));
}

void add_bench_method_flags(CLI::App& command, BenchFlags& flags) {
  command
      .add_option("--methods", flags.methods,
                  "Methods to compare, from none, ste, stableqat, dsq, seq; ratios are to the first [none,ste,stableqat,dsq]")
      ->delimiter(',')
      ->type_name("A,B,...");
  add_bits_and_settings(command, flags);
  add_bench_rounds_flags(command, flags);
}

void add_bench_method_flag(CLI::App& command, BenchFlags& flags) {
  command.add_option("--method", flags.methods.front(), "none, ste, stableqat, dsq or seq")->capture_default_str();
  add_bits_and_settings(command, flags);
}

void add_bench_rounds_flags(CLI::App& command, BenchFlags& flags) {
  command.add_option("--warmup", flags.rounds.warmup, "Rounds before the timed ones")->capture_default_str()->check(CLI::NonNegativeNumber);
  command.add_option("--repeats", flags.rounds.repeats, "Timed rounds; in each, every contestant has one turn")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
}

void add_bench_json_flag(CLI::App& command, BenchFlags& flags) {
  command.add_option("--json", flags.json, "Write the results to this file (fields: docs/commands.md)")->type_name("FILE");
}

ModelConfig bench_model_config(const BenchFlags& flags) {
  require_model(flags);
  return flags.model.empty() ? bench::shape(flags.shape) : ModelSource::open(local_model(flags.model))->config();
}

std::vector<bench::MethodJob> method_jobs(const BenchFlags& flags) {
  require_model(flags);
  std::vector<bench::MethodJob> jobs;
  for (const std::string& method : flags.methods) {
    std::vector<std::string> arguments{"--model.path", flags.model.empty() ? flags.shape : local_model(flags.model),
                                       // Required by `train`, not used here.
                                       "--data.train", "[none]", "--train.output_dir", "none",
                                       //
                                       "--data.sequence_length", std::to_string(flags.sequence_length),          //
                                       "--train.micro_batch_size", std::to_string(flags.batch),                  //
                                       "--train.gradient_accumulation_steps", std::to_string(flags.accumulate),  //
                                       "--quantization.method", method};
    if (method != "none") arguments.insert(arguments.end(), {"--quantization.bits", flags.bits});
    const auto is_given = [&flags](std::string_view flag) {
      return std::any_of(flags.settings.begin(), flags.settings.end(),
                         [flag](const std::string& given) { return given.starts_with(flag); });
    };
    // The search for the best scales takes its time and changes nothing that is measured.
    if (!is_given("--quantization.scale_init")) arguments.insert(arguments.end(), {"--quantization.scale_init", "absmax"});
    arguments.insert(arguments.end(), flags.settings.begin(), flags.settings.end());
    std::vector<std::string> notices;
    bench::MethodJob job{method, {load_train_config({}, arguments, notices), std::nullopt}};
    if (!flags.shape.empty()) job.job.random_weights = bench::shape(flags.shape);
    jobs.push_back(std::move(job));
  }
  return jobs;
}

bench::BenchCallbacks bench_callbacks(Console& console) { return {console.log_callback(), console.progress_callback()}; }

nlohmann::ordered_json bench_row(const BenchFlags& flags, const nlohmann::ordered_json& result) {
  nlohmann::ordered_json row = result;
  row["model"] = flags.model.empty() ? flags.shape : std::filesystem::path(flags.model).filename().string();
  row["batch"] = flags.batch;
  row["sequence_length"] = flags.sequence_length;
  row["accumulate"] = flags.accumulate;
  row["bits"] = flags.bits;
  row["repeats"] = flags.rounds.repeats;
  row["settings"] = flags.settings;
  return row;
}

void write_bench_json(const BenchFlags& flags, const nlohmann::ordered_json& rows) {
  if (!flags.json.empty()) write_text_file(flags.json, rows.dump(2) + "\n");
}

}  // namespace stableqat::app
