// stableqat train: a whole run from its configuration.
#include <fmt/format.h>

#include <chrono>

#include "commands.h"
#include "heartbeat.h"
#include "model_path.h"
#include "profile.h"
#include "stableqat/config/train_config.h"
#include "stableqat/dist/process_group.h"
#include "stableqat/train/settings.h"
#include "stableqat/train/trainer.h"
#include "stop_signal.h"

namespace stableqat::app {

namespace {

struct TrainFlags {
  std::string config;
  std::vector<std::string> overrides;
  std::string profile;
  std::int64_t profile_steps = 10;
  bool dry_run = false;
  bool reference = false;
};

ExitCode run(const TrainFlags& options, Console& console) {
  if (options.reference) {
    fmt::print("{}", train_config_reference());
    return ExitCode::kDone;
  }
  std::vector<std::string> notices;
  TrainConfig config = load_train_config(options.config, options.overrides, notices);
  check_settings(config);
  const LaunchEnvironment self = launch_environment(environment_variable);
  for (const std::string& notice : notices) {
    if (self.rank == 0) console.log(LogLevel::kInfo, notice);
  }
  if (options.dry_run) {
    fmt::print("{}", to_yaml(config));
    return ExitCode::kDone;
  }
  config.model.path = local_model(config.model.path);
  config.distillation.teacher = local_model(config.distillation.teacher);
  const StopRequested stop = stop_on_signals();
  const auto timeout = std::chrono::milliseconds(static_cast<std::int64_t>(1e3 * config.distributed.timeout));
  const auto communicator = connect(self, timeout);
  const ProgressCallback shown = communicator->is_main() ? console.progress_callback() : ProgressCallback();
  StepProfile profile(options.profile, options.profile_steps, communicator->rank());
  const TrainerCallbacks callbacks{console.log_callback(), profile.watch(with_heartbeat(shown)), stop};
  const TrainOutcome outcome = train(config, callbacks, *communicator);
  profile.finish();
  return outcome == TrainOutcome::kFinished ? ExitCode::kDone : ExitCode::kInterrupted;
}

}  // namespace

void register_train(CLI::App& app, Program& program) {
  CLI::App& command = add_command(app, program, "train", "Quantization-aware training",
                                  "stableqat train --config run.yaml --quantization.bits 3 --train.max_steps 100");
  const auto options = std::make_shared<TrainFlags>();
  command.add_option("--config,--train_config_file", options->config, "YAML file; the PyTorch program's files work too")->type_name("FILE");
  command
      .add_option("--profile", options->profile,
                  "Write a time line of the first steps for Perfetto or chrome://tracing; further processes write FILE.rank-R")
      ->type_name("FILE");
  command.add_option("--profile-steps", options->profile_steps, "Steps in it")->check(CLI::PositiveNumber)->capture_default_str();
  CLI::Option* dry_run =
      command.add_flag("--dry-run", options->dry_run, "Check the configuration and print it in full; reads no model and no data");
  CLI::Option* reference =
      command.add_flag("--reference", options->reference, "Print the reference page of all keys (docs/configuration.md)");
  dry_run->excludes(reference);
  command.allow_extras();
  command.footer([] { return "Flags of the configuration, type and [default]; a list is written [a,b]:\n" + train_config_help(); });
  command.callback([&program, &command, options] {
    options->overrides = command.remaining();
    program.selected = [&program, options] { return run(*options, program.console); };
  });
}

}  // namespace stableqat::app
