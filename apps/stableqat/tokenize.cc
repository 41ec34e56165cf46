// stableqat tokenize: text to token files.
#include <fmt/format.h>

#include <charconv>

#include "commands.h"
#include "stableqat/data/tokenize.h"
#include "stableqat/tokenizer/tokenizer.h"
#include "stop_signal.h"

namespace stableqat::app {

namespace {

struct Options {
  std::string model;
  std::vector<std::string> inputs;
  std::string output;
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

ExitCode run(Options options, Console& console) {
  parse_shard(options.shard, options.tokenize);
  options.tokenize.inputs.assign(options.inputs.begin(), options.inputs.end());
  options.tokenize.prefix = options.output;

  const Tokenizer tokenizer = Tokenizer::open(options.model);
  const auto info = tokenize_files(make_token_encoder(tokenizer), options.tokenize, console.log_callback(), console.progress_callback(),
                                   stop_on_signals());
  if (!info) return ExitCode::kInterrupted;
  console.finish();
  fmt::print("{} documents, {} tokens in {}.bin\n", info->documents, info->tokens, options.output);
  return ExitCode::kDone;
}

}  // namespace

void register_tokenize(CLI::App& app, Program& program) {
  CLI::App& command = add_command(app, program, "tokenize", "Text to token files for training",
                                  "stableqat tokenize --model SmolLM2-135M --input corpus.jsonl.zst --output tokens/train");
  const auto options = std::make_shared<Options>();
  command.add_option("--model", options->model, "Model whose tokenizer to use: folder, tokenizer.json or GGUF file")
      ->type_name("PATH")
      ->required();
  command.add_option("--input", options->inputs, "JSON lines or plain text, also .gz, .xz, .zst; folders of them")
      ->type_name("PATH")
      ->required();
  command.add_option("--output", options->output, "Writes PREFIX.bin, PREFIX.idx and PREFIX.json")->type_name("PREFIX")->required();
  command.add_option("--json-key", options->tokenize.text.json_key, "Key that holds the text in JSON lines")
      ->type_name("KEY")
      ->capture_default_str();
  command.add_flag("--skip-bad-lines", options->tokenize.text.skip_bad_lines,
                   "Leave out and count unreadable lines instead of stopping at the first");
  command.add_option("--workers", options->tokenize.workers, "Threads that tokenize; 0 = one per core")
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--shard", options->shard, "Take the documents i, i+n, i+2n, ... only, to share the work between n machines")
      ->type_name("I/N")
      ->capture_default_str();
  command.callback([&program, options] { program.selected = [&program, options] { return run(*options, program.console); }; });
}

}  // namespace stableqat::app
