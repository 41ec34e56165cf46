// stableqat generate: continues a prompt, or answers in a chat.
#include "stableqat/models/generate.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>

#include "commands.h"
#include "model_flags.h"
#include "stableqat/chat/chat_template.h"
#include "stableqat/tokenizer/text_stream.h"
#include "stop_signal.h"

namespace stableqat::app {

namespace {

struct GenerateFlags {
  ModelFlags model;
  std::string prompt;
  bool chat = false;
  std::string system;
  GenerateOptions generate;
  std::vector<std::string> stop_strings;
};

// Ids of the model's special tokens of these names.
void add_special(const Tokenizer& tokenizer, std::initializer_list<std::string_view> names, std::vector<std::int32_t>& ids) {
  for (const std::string_view name : names) {
    const auto id = tokenizer.find_token(name);
    if (id && tokenizer.is_special(*id)) ids.push_back(*id);
  }
}

std::string text_of(const Tokenizer& tokenizer, std::optional<std::int32_t> id) {
  return id ? std::string(tokenizer.token_bytes(*id)) : std::string();
}

// Continues texts with one model.
class Generator {
 public:
  Generator(const GenerateFlags& options, Console& console)
      : options_(options), console_(console), loaded_(load_model(options.model)), stop_(stop_on_signals()) {
    loaded_.model.pack_for_decoding();
    options_.generate.vocabulary = tokenizer().vocab_size();
    for (const auto id : {tokenizer().eos_id(), tokenizer().end_of_text_id()}) {
      if (id) options_.generate.stop_ids.push_back(*id);
    }
    if (options.chat) add_special(tokenizer(), {"<|im_end|>", "<|eot_id|>", "<|end|>"}, options_.generate.stop_ids);
  }

  const Tokenizer& tokenizer() const { return loaded_.tokenizer; }
  bool stopped() const { return stop_(); }

  // Writes the continuation as it comes, and a line end; returns it.
  std::string answer(std::span<const std::int32_t> prompt) const {
    std::string written;
    TextStream text(options_.stop_strings, [&written](std::string_view bytes) {
      written += bytes;
      print(bytes);
    });
    const auto start = std::chrono::steady_clock::now();
    const std::int64_t count = generate(loaded_.model.model(), prompt, options_.generate,
                                        [&](std::int32_t id) { return text.add(tokenizer().token_bytes(id)) && !stop_(); });
    text.finish();
    print("\n");
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    console_.log(LogLevel::kInfo,
                 fmt::format("{} tokens in {:.1f} s, {:.1f} tokens/s", count, seconds, static_cast<double>(count) / seconds));
    return written;
  }

  static void print(std::string_view bytes) {
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    std::fflush(stdout);
  }

 private:
  GenerateFlags options_;
  Console& console_;
  LoadedModel loaded_;
  StopRequested stop_;
};

// One turn for --prompt, or one for each line of standard input.
void chat(const GenerateFlags& options, const Generator& generator) {
  const Tokenizer& tokenizer = generator.tokenizer();
  if (tokenizer.chat_template().empty()) {
    throw ConfigError({"--chat", "a model without a chat template", "a chat_template in its tokenizer files",
                       "use an instruct model, or --prompt alone"});
  }
  const ChatTemplate chat_template(tokenizer.chat_template(), options.model.path);
  const ChatSettings settings{.bos_token = text_of(tokenizer, tokenizer.bos_id()),
                              .eos_token = text_of(tokenizer, tokenizer.eos_id()),
                              .pad_token = text_of(tokenizer, tokenizer.pad_id())};
  std::vector<ChatMessage> messages;
  if (!options.system.empty()) messages.push_back({"system", options.system});
  const auto turn = [&](std::string text) {
    messages.push_back({"user", std::move(text)});
    const std::string conversation = chat_template.render(messages, settings);
    messages.push_back({"assistant", generator.answer(tokenizer.encode(conversation, {.add_special_tokens = false}))});
  };
  if (!options.prompt.empty()) return turn(options.prompt);
  const bool is_terminal = isatty(STDIN_FILENO) != 0;
  for (std::string line; !generator.stopped();) {
    if (is_terminal) fmt::print(stderr, "> ");
    if (!std::getline(std::cin, line)) break;
    if (!line.empty()) turn(line);
  }
}

ExitCode run(const GenerateFlags& options, Console& console) {
  if (options.prompt.empty() && !options.chat) {
    throw ConfigError({"stableqat generate", "neither --prompt nor --chat", "one of them", "see stableqat generate --help"});
  }
  if (!options.system.empty() && !options.chat) throw ConfigError({"--system", "no --chat", "--chat with it", ""});
  const Generator generator(options, console);
  if (options.chat) {
    chat(options, generator);
  } else {
    Generator::print(options.prompt);
    generator.answer(generator.tokenizer().encode(options.prompt));
  }
  return generator.stopped() ? ExitCode::kInterrupted : ExitCode::kDone;
}

}  // namespace

void register_generate(CLI::App& app, Program& program) {
  CLI::App& command = add_command(app, program, "generate", "Continue a text",
                                  "stableqat generate --model quickstart/last_checkpoint --prompt 'The history of' --max-tokens 40");
  const auto options = std::make_shared<GenerateFlags>();
  add_model_flags(command, options->model);
  add_activation_rounding_flag(command, options->model);
  command.add_option("--prompt", options->prompt, "Text to continue; with --chat what the user says")->type_name("TEXT");
  command.add_flag("--chat", options->chat,
                   "Put the prompt into the model's own chat template; without --prompt a turn for each line of standard input");
  command.add_option("--system", options->system, "What the chat's system message says")->type_name("TEXT");
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
