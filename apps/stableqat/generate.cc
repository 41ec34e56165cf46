// stableqat generate: continues a prompt.
#include "stableqat/models/generate.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include "commands.h"
#include "model_flags.h"
#include "stop_signal.h"

namespace stableqat::app {

namespace {

struct Options {
  ModelFlags model;
  std::string prompt;
  GenerateOptions generate;
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
  const auto start = std::chrono::steady_clock::now();
  const std::int64_t count = generate(loaded.model.model(), prompt, generate_options, [&](std::int32_t id) {
    print(tokenizer.token_bytes(id));
    return !stop();
  });
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
  command.add_option("--temperature", options->generate.temperature, "0 = the most likely token each time")->capture_default_str();
  command.add_option("--seed", options->generate.seed, "Of the sampling at a temperature above 0")->capture_default_str();
  command.callback([&program, options] { program.selected = [&program, options] { return run(*options, program.console); }; });
}

}  // namespace stableqat::app
