#include "eval_tasks.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "commands.h"
#include "stableqat/base/file.h"
#include "stableqat/tasks/catalog.h"

namespace stableqat::app {

namespace fs = std::filesystem;

namespace {

using tasks::TaskResult;

constexpr const char* kTasks = "Tasks";

tasks::TaskCatalog catalog_of(const TaskFlags& flags) {
  tasks::TaskCatalog catalog = tasks::TaskCatalog::shipped();
  for (const std::string& path : flags.task_files) catalog.add(path);
  return catalog;
}

const char* bos_name(tasks::BosMode mode) { return mode == tasks::BosMode::kAuto ? "auto" : mode == tasks::BosMode::kOn ? "on" : "off"; }

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw EnvironmentError({folder.string(), error.message(), "a folder that can be made and written", "choose another --output"});
}

// Everything that likelihoods depend on.
nlohmann::json subject_of(const tasks::RunDescription& run, const TaskSet& set) {
  nlohmann::json subject{{"format", 1},        {"weights", run.fingerprint},   {"precision", run.precision},
                         {"add_bos", run.bos}, {"max_length", run.max_length}, {"activation_rounding", run.activation_rounding}};
  for (const TaskResult& result : set.tasks()) subject["requests of " + result.task.name] = result.requests_hash;
  return subject;
}

void write_samples(const fs::path& folder, const TaskResult& result) {
  AtomicFile file(folder / ("samples_" + result.task.name + ".jsonl"));
  for (std::size_t i = 0; i < result.items.size(); ++i) file.write(tasks::sample_json(result, i).dump() + "\n");
  file.commit();
}

void warn_of_truncation(std::span<const TaskResult> results, std::int64_t max_length, Console& console) {
  for (const TaskResult& result : results) {
    if (result.truncated == 0) continue;
    console.log(LogLevel::kWarning, fmt::format("{}: {} requests were longer than {} tokens; the beginning of their context was left out",
                                                result.task.name, result.truncated, max_length));
  }
}

}  // namespace

void add_task_flags(CLI::App& command, TaskFlags& flags) {
  command.add_option("--tasks", flags.tasks, "Tasks, groups, tags or task files (.yaml); `--tasks list` names those that are there")
      ->delimiter(',')
      ->type_name("A,B")
      ->group(kTasks);
  command.add_option("--task-files", flags.task_files, "More task files, or folders of them")->type_name("PATH")->group(kTasks);
  command
      .add_option("--data-dir", flags.data_dir, "Documents as TASK_SPLIT.jsonl (also .gz, .xz, .zst) or .parquet, or in the Hub's folders")
      ->type_name("D")
      ->group(kTasks);
  command.add_option("--limit", flags.set.requests.limit, "Only the first documents of each task; 0 = all [0]")->group(kTasks);
  command.add_option("--num-fewshot", flags.set.requests.num_fewshot, "Examples before each question [as the task says: 0]")
      ->check(CLI::NonNegativeNumber)
      ->group(kTasks);
  command.add_option("--fewshot-seed", flags.set.requests.fewshot_seed, "Seed of the choice of examples")
      ->capture_default_str()
      ->group(kTasks);
  command.add_option("--add-bos", flags.set.bos, "Begin-of-text id before each text: auto (as the tokenizer does), on, off [auto]")
      ->transform(CLI::CheckedTransformer(std::map<std::string, tasks::BosMode>{
          {"auto", tasks::BosMode::kAuto}, {"on", tasks::BosMode::kOn}, {"off", tasks::BosMode::kOff}}))
      ->type_name("auto|on|off")
      ->group(kTasks);
  command.add_option("--max-length", flags.set.max_length, "Tokens that the model sees at most; 0 = its positions [0]")
      ->check(CLI::NonNegativeNumber)
      ->group(kTasks);
  command
      .add_option("--tokens-at-once", flags.likelihood.tokens_at_once, "Tokens computed together, as far as 512 MB hold their activations")
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->group(kTasks);
  command.add_option("--output", flags.output, "Folder for results.json, likelihoods.jsonl and samples")->type_name("DIR")->group(kTasks);
  command.add_flag("--log-samples", flags.log_samples, "Write samples_TASK.jsonl: each document with its likelihoods")->group(kTasks);
  command.add_flag("--resume", flags.resume, "Go on with an interrupted evaluation in --output")->group(kTasks);
}

bool print_task_list(const TaskFlags& flags) {
  if (flags.tasks != std::vector<std::string>{"list"}) return false;
  fmt::print("{}", catalog_of(flags).describe());
  return true;
}

ExitCode run_tasks(const TaskFlags& flags, const ModelFlags& model_flags, LoadedModel& loaded, Console& console,
                   const StopRequested& stop) {
  const auto start = std::chrono::steady_clock::now();
  if (flags.data_dir.empty()) throw ConfigError({"--data-dir", "nothing", "the folder of the tasks' documents", ""});
  if (flags.output.empty() && (flags.log_samples || flags.resume)) {
    throw ConfigError({flags.resume ? "--resume" : "--log-samples", "no --output", "the folder to write to", ""});
  }
  CausalLm& model = loaded.model.model();
  TaskSetOptions options = flags.set;
  const std::int64_t positions = model.config().max_position_embeddings;
  if (options.max_length == 0) options.max_length = positions;
  if (options.max_length < 2 || options.max_length > positions) {
    throw ConfigError({"--max-length", std::to_string(options.max_length), "2 to the model's " + std::to_string(positions), ""});
  }
  const TaskSet set(catalog_of(flags).select(flags.tasks), flags.data_dir, loaded.tokenizer, options);
  warn_of_truncation(set.tasks(), options.max_length, console);

  tasks::RunDescription run;
  run.model = model_flags.path;
  run.precision = precision_name(model);
  run.activation_rounding = model_flags.activation_rounding;
  run.bos = bos_name(options.bos);
  run.max_length = options.max_length;
  run.limit = options.requests.limit;
  run.fewshot_seed = options.requests.fewshot_seed;
  run.version = version_text();
  std::optional<tasks::LikelihoodLog> log;
  if (!flags.output.empty()) {
    make_folder(flags.output);
    run.fingerprint = weights_hash(model);
    log.emplace(fs::path(flags.output) / "likelihoods.jsonl", subject_of(run, set), flags.resume);
    if (log->size() > 0) console.log(LogLevel::kInfo, fmt::format("{} documents are there already", log->size()));
  }
  const auto results = set.evaluate(model, flags.likelihood, log ? &*log : nullptr, console.progress_callback(), stop);
  console.finish();
  if (!results) {
    if (log) console.log(LogLevel::kInfo, "stopped; the same command with --resume goes on");
    return ExitCode::kInterrupted;
  }
  run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("stableqat ({}, {}, begin-of-text {}), limit: {}, {:.1f} s\n{}", run.model, run.precision, run.bos,
             run.limit == 0 ? "none" : std::to_string(run.limit), run.seconds, tasks::results_table(*results));
  if (flags.output.empty()) return ExitCode::kDone;
  for (const TaskResult& result : *results) {
    if (flags.log_samples) write_samples(flags.output, result);
  }
  write_text_file(fs::path(flags.output) / "results.json", tasks::results_json(*results, run).dump(2) + "\n");
  return ExitCode::kDone;
}

}  // namespace stableqat::app
