// stableqat generate: continues a prompt.
#include "stableqat/models/generate.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include "commands.h"
#include "model_flags.h"
#include "stableqat/tokenizer/text_stream.h"
#include "stop_signal.h"

namespace stableqat::app {

namespace {

struct Options {
  ModelFlags model;
  std::string prompt;
  GenerateOptions generate;
  std::vector<std::string> stop_strings;
};

ExitCode run(const Options& options, Console& console) {
  LoadedModel loaded = load_model(options.model);
  loaded.model.pack_for_decoding();
  const Tokenizer& tokenizer = loaded.tokenizer;
  GenerateOptions generate_options = options.generate;
  for (const auto id : {tokenizer.eos_id(), tokenizer.end_of_text_id()}) {
    if (id) generate_options.stop_ids.push_back(*id);
  }
  const std::vector<std::int32_t> prompt = tokenizer.encode(options.prompt);
  const StopRequested stop = stop_on_signals();
  const auto print = [](std::string_view bytes) {
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    std::fflush(stdout);
  };
  print(options.prompt);
  TextStream text(options.stop_strings, print);
  const auto start = std::chrono::steady_clock::now();
  const std::int64_t count = generate(loaded.model.model(), prompt, generate_options,
                                      [&](std::int32_t id) { return text.add(tokenizer.token_bytes(id)) && !stop(); });
  text.finish();
  print("\n");
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  console.log(LogLevel::kInfo, fmt::format("{} tokens in {:.1f} s, {:.1f} tokens/s", count, seconds, static_cast<double>(count) / seconds));
  return stop() ? ExitCode::kInterrupted : ExitCode::kDone;
}

}  // namespace

void register_generate(CLI::App& app, Program& program) {
  CLI::App& command = add_command(app, program, "generate", "Continue a text",
                                  "stableqat generate --model quickstart/last_checkpoint --prompt 'The history of' --max-tokens 40");
  const auto options = std::make_shared<Options>();
  add_model_flags(command, options->model);
  command.add_option("--prompt", options->prompt, "Text to continue")->required()->type_name("TEXT");
  command.add_option("--max-tokens", options->generate.max_tokens, "Longest answer")->capture_default_str();
  SamplingOptions& sampling = options->generate.sampling;
  command.add_option("--temperature", sampling.temperature, "0 = the most likely token each time; above 0 tokens are drawn")
      ->capture_default_str();
  command.add_option("--top-k", sampling.top_k, "Draw from the k most likely tokens only; 0 = all")->capture_default_str();
  command.add_option("--top-p", sampling.top_p, "Draw from the most likely tokens that together have this probability")
      ->capture_default_str();
  command.add_option("--min-p", sampling.min_p, "Draw from tokens with this share of the most likely one's probability")
      ->capture_default_str();
  command.add_option("--repetition-penalty", sampling.repetition_penalty, "Above 1: tokens that were there become less likely")
      ->capture_default_str();
  command.add_option("--seed", sampling.seed, "Of the drawing")->capture_default_str();
  command.add_option("--stop", options->stop_strings, "End before this text; may be given several times")->type_name("TEXT");
  command.callback([&program, options] { program.selected = [&program, options] { return run(*options, program.console); }; });
}

}  // namespace stableqat::app
