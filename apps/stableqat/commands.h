// The program's subcommands: one file each, which describes its flags and says what to run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "console.h"
#include "stableqat/base/error.h"

namespace stableqat::app {

// What to run after the command line was read. Errors are thrown; the result is kDone or kInterrupted.
using Command = std::function<ExitCode()>;

// What the subcommands share.
struct Program {
  Console console;
  Command selected;  // set by the subcommand that the command line names
};

// Adds a subcommand with -q and -v, whose help ends with an example.
CLI::App& add_command(CLI::App& app, Program& program, const std::string& name, const std::string& description, const std::string& example);

void register_bench(CLI::App& app, Program& program);
void register_bench_decode(CLI::App& bench, Program& program);  // below `bench`
void register_download(CLI::App& app, Program& program);
void register_eval(CLI::App& app, Program& program);
void register_export(CLI::App& app, Program& program);
void register_generate(CLI::App& app, Program& program);
void register_info(CLI::App& app, Program& program);
void register_launch(CLI::App& app, Program& program);
void register_plan(CLI::App& app, Program& program);
void register_sample(CLI::App& app, Program& program);
void register_tokenize(CLI::App& app, Program& program);
void register_train(CLI::App& app, Program& program);

std::string commit();        // 12 digits, with "-dirty" when tracked files differed; "" when built outside of git
std::string version_text();  // "0.1.0 (COMMIT)"

}  // namespace stableqat::app
