// stableqat launch: a command as several ranks on this machine.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

#include "commands.h"
#include "stableqat/dist/launcher.h"
#include "stop_signal.h"

namespace stableqat::app {

namespace {

struct LaunchFlags {
  int ranks = 1;
  int restarts = 0;
  double grace = 2.0;
  bool main_only = false;
  std::vector<std::string> command;  // of this program
};

ExitCode run(const LaunchFlags& options, Console& console) {
  std::vector<std::string> command = options.command;
  command.insert(command.begin(), std::filesystem::read_symlink("/proc/self/exe").string());
  const LaunchOptions launch_options{options.ranks, options.restarts,
                                     std::chrono::milliseconds(static_cast<std::int64_t>(1e3 * options.grace))};
  LaunchCallbacks callbacks;
  callbacks.log = console.log_callback();
  callbacks.stop = stop_on_signals();
  callbacks.output = [&options](int rank, bool is_error, std::string_view line) {
    if (rank != 0 && options.main_only) return;
    std::FILE* const stream = is_error ? stderr : stdout;
    if (options.main_only) {
      fmt::print(stream, "{}\n", line);
    } else {
      fmt::print(stream, "[{}] {}\n", rank, line);
    }
    std::fflush(stream);
  };
  return launch(command, launch_options, callbacks);
}

}  // namespace

void register_launch(CLI::App& app, Program& program) {
  CLI::App& command = add_command(app, program, "launch", "Run a command as several processes on this machine (data-parallel training)",
                                  "stableqat launch --nproc 2 --restarts 3 -- train --config run.yaml");
  const auto options = std::make_shared<LaunchFlags>();
  command.add_option("--nproc", options->ranks, "Number of processes (ranks)")->required()->check(CLI::Range(1, 1024));
  command
      .add_option("--restarts", options->restarts, "Start again this often when a process dies; training goes on from its last checkpoint")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_option("--grace", options->grace, "Seconds that the others get to end by themselves when a process has failed")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_flag("--rank0-output", options->main_only, "Show only what rank 0 writes, without the rank in front of each line");
  command.add_option("command", options->command, "A command of this program and its flags, behind --")->required();
  command.callback([&program, options] { program.selected = [&program, options] { return run(*options, program.console); }; });
}

}  // namespace stableqat::app
