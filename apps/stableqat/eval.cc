// stableqat eval: tasks and perplexity of a model.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "eval_tasks.h"
#include "model_flags.h"
#include "stableqat/base/file.h"
#include "stableqat/eval/agreement.h"
#include "stableqat/eval/perplexity.h"
#include "stableqat/tasks/comparison.h"
#include "stableqat/train/training_data.h"
#include "stop_signal.h"

namespace stableqat::app {

namespace {

struct Options {
  ModelFlags model;
  TaskFlags tasks;
  std::string text;
  std::string reference;
  std::string json_key = "text";
  PerplexityOptions perplexity;
  std::uint64_t max_tokens = 0;
  std::string json;
  std::vector<std::string> compared;  // two results.json
};

nlohmann::json read_results(const std::string& path) {
  nlohmann::json results = nlohmann::json::parse(read_text_file(path), nullptr, false);
  if (results.is_discarded()) throw DataError({path, "no JSON", "results.json of stableqat eval --output", ""});
  return results;
}

ExitCode compare(const Options& options) {
  const std::string& a = options.compared[0];
  const std::string& b = options.compared[1];
  const tasks::ResultsComparison comparison = tasks::compare_results(read_results(a), a, read_results(b), b);
  fmt::print("A: {}\nB: {}\n{}", a, b, tasks::comparison_table(comparison));
  if (!options.json.empty()) write_text_file(options.json, tasks::comparison_json(comparison).dump(2) + "\n");
  return ExitCode::kDone;
}

// How far the model is from the one named by --reference on the same tokens; adds to `json`.
void report_agreement(const Options& options, const CausalLm& model, std::span<const std::int32_t> ids, Console& console,
                      const StopRequested& stop, nlohmann::json& json) {
  ModelFlags flags;
  flags.path = options.reference;
  flags.precision = options.model.precision;
  const LoadedModel reference = load_model(flags);
  const AgreementResult result = agreement(model, reference.model.model(), ids, options.perplexity, console.progress_callback(), stop);
  if (stop()) return;
  console.finish();
  fmt::print("divergence from {}: mean {:.5f}, median {:.5f}, 99 % below {:.5f} nats; same most likely token {:.2f} % of {} positions\n",
             options.reference, result.mean_divergence, result.median_divergence, result.divergence_99, 100.0 * result.same_top,
             result.positions);
  json["agreement"] = {{"reference", options.reference}, {"kl_mean", result.mean_divergence}, {"kl_median", result.median_divergence},
                       {"kl_99", result.divergence_99},  {"same_top", result.same_top},       {"positions", result.positions}};
}

ExitCode run_perplexity(const Options& options, const LoadedModel& loaded, Console& console, const StopRequested& stop) {
  const CausalLm& model = loaded.model.model();
  TextOptions text;
  text.json_key = options.json_key;
  const auto ids = read_tokens(options.text, text, model_encoder(loaded.tokenizer, model.config().vocab_size), options.max_tokens);
  const PerplexityResult result = perplexity(model, ids, options.perplexity, console.progress_callback(), stop);
  if (stop()) return ExitCode::kInterrupted;
  console.finish();
  fmt::print("perplexity {:.4f}  ({} tokens predicted in {} blocks of {}; nll {:.5f} +- {:.5f}; 95 % interval {:.4g} to {:.4g})\n",
             result.perplexity, result.tokens, result.blocks, options.perplexity.context, result.nll, result.standard_error, result.low,
             result.high);
  nlohmann::json json{{"model", options.model.path},
                      {"text", options.text},
                      {"context", options.perplexity.context},
                      {"perplexity", result.perplexity},
                      {"nll", result.nll},
                      {"nll_standard_error", result.standard_error},
                      {"tokens", result.tokens},
                      {"blocks", result.blocks},
                      {"perplexity_low", result.low},
                      {"perplexity_high", result.high},
                      {"activation_rounding", options.model.activation_rounding}};
  if (!options.reference.empty()) report_agreement(options, model, ids, console, stop, json);
  if (stop()) return ExitCode::kInterrupted;
  if (!options.json.empty()) write_text_file(options.json, json.dump(2) + "\n");
  return ExitCode::kDone;
}

ExitCode run(const Options& options, Console& console) {
  if (!options.compared.empty()) return compare(options);
  if (print_task_list(options.tasks)) return ExitCode::kDone;
  if (options.model.path.empty()) throw ConfigError({"--model", "nothing", "a Hugging Face directory, checkpoint or GGUF file", ""});
  if (options.text.empty() && options.tasks.tasks.empty()) {
    throw ConfigError({"eval", "nothing to evaluate", "--tasks, --ppl or both, or --compare", "see stableqat eval --help"});
  }
  LoadedModel loaded = load_model(options.model);
  const StopRequested stop = stop_on_signals();
  ExitCode code = ExitCode::kDone;
  if (!options.text.empty()) code = run_perplexity(options, loaded, console, stop);
  if (code == ExitCode::kDone && !options.tasks.tasks.empty()) code = run_tasks(options.tasks, options.model, loaded, console, stop);
  return code;
}

}  // namespace

void register_eval(CLI::App& app, Program& program) {
  CLI::App& command = add_command(app, program, "eval", "Tasks and perplexity of a model",
                                  "stableqat eval --model quickstart/last_checkpoint --tasks stableqat --data-dir data/eval\n"
                                  "  stableqat eval --model quickstart/last_checkpoint --ppl data/text/valid.jsonl.xz --context 512");
  const auto options = std::make_shared<Options>();
  add_model_flags(command, options->model);
  add_activation_rounding_flag(command, options->model);
  command.get_option("--model")->required(false);  // not for `--tasks list`
  add_task_flags(command, options->tasks);
  command.add_option("--ppl", options->text, "Text (JSON lines or plain; .gz, .xz, .zst), or the prefix of token files")->type_name("FILE");
  command.add_option("--reference", options->reference, "Also measure how far the model is from this one, on the same text")
      ->type_name("M");
  command.add_option("--context", options->perplexity.context, "Tokens per block; blocks do not overlap")->capture_default_str();
  command.add_option("--max-tokens", options->max_tokens, "Use only the first tokens of the text; 0 = all")->capture_default_str();
  command.add_option("--json-key", options->json_key, "Key of the text in JSON lines")->capture_default_str();
  command.add_option("--json", options->json, "Write the perplexity, or the comparison, to this file")->type_name("FILE");
  command.add_option("--compare", options->compared, "Compare two results.json, document by document; needs no model")
      ->type_name("A B")
      ->expected(2);
  command.callback([&program, options] { program.selected = [&program, options] { return run(*options, program.console); }; });
}

}  // namespace stableqat::app
