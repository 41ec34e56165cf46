// stableqat sample: text of a data set on the Hub.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "hub_flags.h"
#include "model_path.h"
#include "stableqat/base/file.h"
#include "stableqat/data/tokenize.h"
#include "stableqat/hub/sample.h"
#include "stableqat/tokenizer/tokenizer.h"
#include "stop_signal.h"

namespace stableqat::app {

namespace {

struct SampleFlags {
  std::string data_set;
  std::string budget;
  std::string total_tokens;
  std::string folder;
  std::vector<std::string> include;
  std::uint64_t seed = 42;
  std::string output;
  std::string model;
  std::string json;
  bool plan_only = false;
  TextOptions text;
  HubFlags hub;
};

hub::SampleRequest request_of(const SampleFlags& options) {
  hub::SampleRequest request;
  if (options.data_set == "slimpajama") {
    request = hub::slimpajama_request();
  } else if (options.data_set == "fineweb-edu") {
    request = hub::fineweb_edu_request();
  } else {
    request = hub::data_set_request(options.data_set);
  }
  if (!options.budget.empty()) request.budget_tokens = parse_count("--budget", options.budget);
  if (!options.total_tokens.empty()) request.total_tokens = parse_count("--total-tokens", options.total_tokens);
  if (!options.folder.empty()) request.folder = options.folder;
  if (!options.include.empty()) request.include = options.include;
  request.seed = options.seed;
  return request;
}

// Tokens as they will stand in a token file: each document ends with one.
std::function<std::uint64_t(std::string_view)> token_counter(std::shared_ptr<const Tokenizer> tokenizer, const TokenEncoder& encoder) {
  const auto ids = std::make_shared<std::vector<std::int32_t>>();
  return [tokenizer, encoder, ids](std::string_view text) {
    ids->clear();
    encoder.append(text, *ids);
    const bool has_end = !ids->empty() && ids->back() == encoder.end_of_text;
    return std::uint64_t{ids->size() + (has_end ? 0 : 1)};
  };
}

void report(const hub::SampleResult& result, const SampleFlags& options) {
  const std::string plan = options.output + "/plan.json";
  if (!options.json.empty()) {
    const nlohmann::json object{{"plan", plan},
                                {"files", result.files},
                                {"documents", result.documents},
                                {"text_bytes", result.text_bytes},
                                {"tokens", result.tokens},
                                {"snapshot", result.snapshot.string()}};
    write_text_file(options.json, object.dump(1) + "\n");
  }
  if (options.plan_only) {
    fmt::print("{} files planned in {}\n", result.files, plan);
    return;
  }
  const std::string tokens = result.tokens > 0 ? fmt::format(", {} tokens", result.tokens) : "";
  fmt::print("{} documents{}, {:.1f} MB of JSON lines in {}/text\n", result.documents, tokens, static_cast<double>(result.text_bytes) / 1e6,
             options.output);
}

ExitCode run(const SampleFlags& options, Console& console) {
  hub::SampleOptions sample;
  sample.output = options.output;
  sample.revision = options.hub.revision;
  sample.plan_only = options.plan_only;
  sample.text = options.text;
  hub::SampleRequest request = request_of(options);
  if (!options.model.empty()) {
    const auto tokenizer = std::make_shared<const Tokenizer>(Tokenizer::open(local_model(options.model)));
    const TokenEncoder encoder = make_token_encoder(*tokenizer);
    request.counted_by = encoder.hash;
    sample.count_tokens = token_counter(tokenizer, encoder);
  }
  const hub::HubCallbacks callbacks{console.log_callback(), console.progress_callback(), stop_on_signals()};
  const auto result = hub::sample_data_set(request, sample, hub_options(options.hub), callbacks);
  if (!result) return ExitCode::kInterrupted;
  console.finish();
  report(*result, options);
  return ExitCode::kDone;
}

}  // namespace

void register_sample(CLI::App& app, Program& program) {
  CLI::App& command = add_command(app, program, "sample", "Text of a data set on the Hugging Face Hub",
                                  "stableqat sample slimpajama --budget 20B --output slimpajama");
  const auto options = std::make_shared<SampleFlags>();
  command.add_option("dataset", options->data_set, "slimpajama, fineweb-edu (20B tokens each, unless --budget says otherwise) or ORG/NAME")
      ->type_name("DATASET")
      ->required();
  command
      .add_option("--output", options->output, "Folder for plan.json, files.jsonl and text/; the same call again goes on where it stopped")
      ->type_name("DIR")
      ->required();
  command
      .add_option("--budget", options->budget, "Tokens to take, such as 500M or 20B, by the data set's own count; without it, everything")
      ->type_name("N");
  command.add_option("--total-tokens", options->total_tokens, "Tokens of the whole data set; known for slimpajama and fineweb-edu")
      ->type_name("N");
  command.add_option("--model", options->model, "Count the budget by this model's tokenizer, document by document (slower)")
      ->type_name("PATH");
  command.add_option("--seed", options->seed, "Of the draw")->type_name("N")->capture_default_str();
  command.add_option("--folder", options->folder, "Only files below this folder of the data set")->type_name("PATH");
  command.add_option("--include", options->include, "Only files whose path matches one of these patterns")->type_name("PATTERN");
  command.add_option("--json-key", options->text.json_key, "Key that holds the text in JSON lines, or column of Parquet files")
      ->type_name("KEY")
      ->capture_default_str();
  command.add_flag("--plan-only", options->plan_only, "Draw the files and write the plan, fetch nothing");
  command.add_flag("--skip-bad-lines", options->text.skip_bad_lines, "Leave out unreadable text instead of stopping at the first");
  command.add_option("--json", options->json, "Write the result to this file")->type_name("FILE");
  add_hub_flags(command, options->hub);
  command.callback([&program, options] { program.selected = [&program, options] { return run(*options, program.console); }; });
}

}  // namespace stableqat::app
