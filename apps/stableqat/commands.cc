#include "commands.h"

namespace stableqat::app {

CLI::App& add_command(CLI::App& app, Program& program, const std::string& name, const std::string& description,
                      const std::string& example) {
  CLI::App& command = *app.add_subcommand(name, description);
  command.footer("Example:\n  " + example);
  const auto set = [&program](Verbosity verbosity) {
    return [&program, verbosity](std::int64_t) { program.console.set_verbosity(verbosity); };
  };
  CLI::Option* quiet = command.add_flag_function("-q,--quiet", set(Verbosity::kQuiet), "Only warnings and errors");
  command.add_flag_function("-v,--verbose", set(Verbosity::kVerbose), "More messages")->excludes(quiet);
  return command;
}

}  // namespace stableqat::app
