// stableqat bench decode: text token by token, from packed weights and from the same weights in float32.
#include "stableqat/bench/bench_decode.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "bench_flags.h"
#include "commands.h"
#include "model_flags.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat::app {

namespace {

struct DecodeFlags {
  ModelFlags model;
  bench::DecodeOptions decode;
  std::string json;
};

ExitCode run(const DecodeFlags& options, Console& console) {
  LoadedModel loaded = load_model(options.model);
  const auto results = bench::bench_decode(loaded.model, options.decode, bench_callbacks(console));
  console.finish();
  fmt::print("{:<10} {:>9} {:>12} {:>17} {:>9} {:>9} {:>10}\n", "weights", "tokens/s", "ms a token", "min .. max", "MB read", "GB/s",
             "of copy");
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const bench::DecodeResult& r : results) {
    const bench::Spread& s = r.seconds_per_token;
    fmt::print("{:<10} {:>9.1f} {:>12.2f} {:>17} {:>9.1f} {:>9.1f} {:>8.0f} %\n", r.weights, r.tokens_per_second, 1e3 * s.median,
               fmt::format("{:.2f} .. {:.2f}", 1e3 * s.min, 1e3 * s.max), static_cast<double>(r.bytes_per_token) / 1e6,
               r.bytes_per_second / 1e9, 100 * r.copy_share);
    rows.push_back(to_json(r));
    rows.back()["model"] = std::filesystem::path(options.model.path).filename().string();
    rows.back()["bits"] = loaded.model.settings() ? loaded.model.settings()->spec.bits : 16;
  }
  if (results.empty()) throw ConfigError({"--weights", "kinds that this model does not have", "float32 among them", ""});
  const bench::DecodeResult& last = results.back();
  fmt::print(
      "\nCopy: {:.1f} GB/s, read and written. {} threads. Logits differ from {}'s by {:.2g} of the largest; packed products by {:.2g} "
      "of\n"
      "what rounding allows.\n",
      last.copy_bytes_per_second / 1e9, at::get_num_threads(), results.front().weights, last.logit_difference, last.product_difference);
  if (!options.json.empty()) write_text_file(options.json, rows.dump(2) + "\n");
  return ExitCode::kDone;
}

}  // namespace

void register_bench_decode(CLI::App& bench, Program& program) {
  CLI::App& command = add_command(bench, program, "decode", "Tokens per second of text generation, by kind of weights",
                                  "stableqat bench decode --model quickstart/last_checkpoint");
  const auto options = std::make_shared<DecodeFlags>();
  add_model_flags(command, options->model);
  command.add_option("--weights", options->decode.weights, "Kinds of weights to time, separated by commas")
      ->delimiter(',')
      ->check(CLI::IsMember({"float32", "codes", "packed"}))
      ->capture_default_str();
  command.add_option("--prompt-tokens", options->decode.prompt_tokens, "Tokens that are there before")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command.add_option("--tokens", options->decode.tokens, "Tokens that are timed")->capture_default_str()->check(CLI::PositiveNumber);
  command.add_option("--warmup", options->decode.rounds.warmup, "Rounds before the timed ones")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command.add_option("--repeats", options->decode.rounds.repeats, "Timed rounds")->capture_default_str()->check(CLI::PositiveNumber);
  command.add_option("--json", options->json, "Write the results to this file (fields: docs/commands.md)")->type_name("FILE");
  command.callback([&program, options] { program.selected = [&program, options] { return run(*options, program.console); }; });
}

}  // namespace stableqat::app
