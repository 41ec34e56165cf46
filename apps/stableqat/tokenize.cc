// stableqat tokenize: text to token files.
#include <fmt/format.h>

#include <charconv>
#include <filesystem>

#include "commands.h"
#include "model_path.h"
#include "stableqat/config/field.h"
#include "stableqat/data/tokenize.h"
#include "stableqat/tokenizer/tokenizer.h"
#include "stop_signal.h"

namespace stableqat::app {

namespace {

struct TokenizeFlags {
  std::string config;
  std::string model;
  std::string input_root;
  std::vector<std::string> inputs;
  std::string output;
  std::string output_dir;
  std::string shard = "0/1";
  TokenizeOptions tokenize;
};

// "i/n" with i below n.
void parse_shard(const std::string& text, TokenizeOptions& options) {
  const char* const end = text.data() + text.size();
  const auto index = std::from_chars(text.data(), end, options.shard_index);
  const bool has_slash = index.ec == std::errc{} && index.ptr != end && *index.ptr == '/';
  const auto count = has_slash ? std::from_chars(index.ptr + 1, end, options.shard_count) : index;
  if (!has_slash || count.ec != std::errc{} || count.ptr != end || options.shard_index >= options.shard_count) {
    throw ConfigError({"--shard", "'" + text + "'", "i/n with i from 0 to n-1", ""});
  }
}

// The PyTorch program's file names the model; its length of sequences is the training's affair here.
void read_config(TokenizeFlags& options, Console& console) {
  std::string model;
  std::int64_t length = 0;
  const std::vector<Field> rows{{.key = "model_path", .target = &model},
                                {.key = "model_max_length", .target = &length, .range = kAtLeastOne}};
  apply_settings(settings_from_yaml(options.config, known_names(rows, {})), rows, {});
  if (options.model.empty()) options.model = model;
  if (length > 0) console.log(LogLevel::kInfo, "model_max_length: not used here; data.sequence_length of `stableqat train` cuts the text");
}

void require(const std::string& value, const char* flag, const char* meaning) {
  if (value.empty()) throw ConfigError({flag, "nothing", meaning, "see stableqat tokenize --help"});
}

ExitCode run(TokenizeFlags options, Console& console) {
  if (!options.config.empty()) read_config(options, console);
  if (options.output.empty() && !options.output_dir.empty())
    options.output = (std::filesystem::path(options.output_dir) / "train_data").string();
  require(options.model, "--model", "the model whose tokenizer to use");
  require(options.output, "--output", "the prefix of the files to write");
  parse_shard(options.shard, options.tokenize);
  for (const std::string& input : options.inputs) options.tokenize.inputs.push_back(std::filesystem::path(options.input_root) / input);
  options.tokenize.prefix = options.output;
  if (!options.output_dir.empty()) std::filesystem::create_directories(options.tokenize.prefix.parent_path());

  const Tokenizer tokenizer = Tokenizer::open(local_model(options.model));
  const auto info = tokenize_files(make_token_encoder(tokenizer), options.tokenize, console.log_callback(), console.progress_callback(),
                                   stop_on_signals());
  if (!info) {
    console.log(LogLevel::kInfo, "stopped; the same command goes on from here");
    return ExitCode::kInterrupted;
  }
  console.finish();
  fmt::print("{} documents, {} tokens in {}.bin\n", info->documents, info->tokens, options.output);
  return ExitCode::kDone;
}

}  // namespace

void register_tokenize(CLI::App& app, Program& program) {
  CLI::App& command = add_command(app, program, "tokenize", "Text to token files for training",
                                  "stableqat tokenize --model SmolLM2-135M --input corpus.jsonl.zst --output tokens/train");
  const auto options = std::make_shared<TokenizeFlags>();
  command
      .add_option("--model", options->model,
                  "Model whose tokenizer to use: folder, tokenizer.json, GGUF file, or ORG/NAME of a model that was downloaded")
      ->type_name("PATH");
  command.add_option("--config,--tokenize_config_file", options->config, "YAML file of the PyTorch program, which names the model too")
      ->type_name("FILE");
  command.add_option("--input,--train_data_file", options->inputs, "JSON lines or plain text, also .gz, .xz, .zst; folders of them")
      ->type_name("PATH")
      ->required();
  command.add_option("--train_data_dir", options->input_root, "Folder that relative paths of --input start from")->type_name("FOLDER");
  command.add_option("--output", options->output, "Writes PREFIX.bin, PREFIX.idx and PREFIX.json")->type_name("PREFIX");
  command.add_option("--tokenized_data_dir", options->output_dir, "Stands for --output FOLDER/train_data; the folder is made")
      ->type_name("FOLDER");
  command.add_option("--json-key", options->tokenize.text.json_key, "Key that holds the text in JSON lines")
      ->type_name("KEY")
      ->capture_default_str();
  command.add_flag("--skip-bad-lines", options->tokenize.text.skip_bad_lines,
                   "Leave out and count unreadable lines instead of stopping at the first");
  command.add_option("--workers", options->tokenize.workers, "Threads that tokenize; 0 = one per core")
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--save-seconds", options->tokenize.save_seconds, "How often to save the state from which a killed run can go on")
      ->type_name("S")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command.add_option("--shard", options->shard, "Take the documents i, i+n, i+2n, ... only, to share the work between n machines")
      ->type_name("I/N")
      ->capture_default_str();
  command.callback([&program, options] { program.selected = [&program, options] { return run(*options, program.console); }; });
}

}  // namespace stableqat::app
