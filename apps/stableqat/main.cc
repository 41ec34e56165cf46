// The program `stableqat`: reads the command line, runs one subcommand, turns errors into one line and an exit code.
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "commands.h"

namespace {

using stableqat::EnvironmentError;
using stableqat::Error;
using stableqat::ExitCode;
using namespace stableqat::app;

constexpr int kInternalError = 1;  // a fault of ours: not one of the library's errors

bool is_out_of_memory(const std::exception& error) {
  const std::string_view text = error.what();
  return dynamic_cast<const std::bad_alloc*>(&error) != nullptr || text.find("allocate memory") != text.npos ||
         text.find("out of memory") != text.npos;
}

// What is wrong with the command line, in our words where CLI11's would not help.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  const auto used = app.get_subcommands();
  if (!used.empty()) return std::string(error.what()) + "; see stableqat " + used.front()->get_name() + " --help";
  if (argc < 2 || std::string_view(argv[1]).starts_with('-')) return "no command; see stableqat --help";
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands(nullptr)) names.push_back(command->get_name());
  const std::string near = stableqat::nearest_name(argv[1], names);
  return "unknown command '" + std::string(argv[1]) + "'; " + (near.empty() ? "see stableqat --help" : "did you mean '" + near + "'?");
}

int failed(Console& console, int code, const std::string& message) {
  console.error(message);
  return code;
}

int run(int argc, char** argv) {
  Program program;
  CLI::App app("Quantization-aware training of language models in 2, 3 and 4 bits", "stableqat");
  app.set_version_flag("--version", "stableqat " + version_text());
  app.require_subcommand(1);
  register_info(app, program);
  register_download(app, program);
  register_sample(app, program);
  register_tokenize(app, program);
  register_train(app, program);
  register_launch(app, program);
  register_plan(app, program);
  register_eval(app, program);
  register_export(app, program);
  register_generate(app, program);
  register_bench(app, program);
  app.footer("`stableqat COMMAND --help` shows the flags of a command and an example.");

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  } catch (const CLI::ParseError& error) {
    return failed(program.console, static_cast<int>(ExitCode::kUsage), usage_message(app, error, argc, argv));
  }

  try {
    const ExitCode code = program.selected();
    program.console.finish();
    if (std::fflush(stdout) != 0) throw EnvironmentError({"standard output", "a write error", "", "free space on that disk"});
    return static_cast<int>(code);
  } catch (const Error& error) {
    return failed(program.console, static_cast<int>(error.exit_code()), error.what());
  } catch (const std::exception& error) {
    if (is_out_of_memory(error)) return failed(program.console, static_cast<int>(ExitCode::kEnvironment), "not enough memory for this job");
    const std::string text = error.what();  // LibTorch puts a stack trace below its first line
    return failed(program.console, kInternalError, "internal error, please report it: " + text.substr(0, text.find('\n')));
  }
}

}  // namespace

int main(int argc, char** argv) { return run(argc, argv); }
