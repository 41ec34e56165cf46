// stableqat plan: what a run over several processes keeps, sends and takes.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "model_path.h"
#include "stableqat/base/file.h"
#include "stableqat/config/train_config.h"
#include "stableqat/models/model_source.h"
#include "stableqat/train/run_plan.h"

namespace stableqat::app {

namespace {

struct PlanFlags {
  std::string config;
  std::vector<std::string> overrides;
  int gpus = 8;
  std::uint64_t gpu_memory = 80'000'000'000;
  ClusterRates rates;
  std::string json;
};

nlohmann::json plan_json(const RunPlan& plan) {
  nlohmann::json parts = nlohmann::json::object();
  for (const MemoryEstimate::Part& part : plan.memory.parts) parts[part.name] = part.bytes;
  return {{"ranks", plan.ranks},
          {"micro_batches", plan.micro_batches},
          {"memory_bytes", plan.memory.total()},
          {"memory_parts", parts},
          {"gradient_bytes_sent", plan.traffic.gradients},
          {"weight_bytes_sent", plan.traffic.weights},
          {"control_bytes_sent", plan.traffic.control},
          {"compute_seconds", plan.compute},
          {"update_seconds", plan.update},
          {"gradient_seconds", plan.gradients},
          {"gradient_seconds_exposed", plan.gradients_exposed},
          {"weight_seconds", plan.weights},
          {"step_seconds", plan.step()},
          {"tokens_per_second", plan.tokens_per_second},
          {"efficiency", plan.efficiency}};
}

std::string size_text(std::uint64_t bytes) {
  return bytes < 100'000'000 ? fmt::format("{:.2f} MB", static_cast<double>(bytes) / 1e6)
                             : fmt::format("{:.2f} GB", static_cast<double>(bytes) / 1e9);
}

void print_chosen(const RunPlan& plan, std::uint64_t gpu_memory) {
  const bool fits = plan.memory.total() <= gpu_memory;
  fmt::print("{} ranks, each with {}: {} of {}\n", plan.ranks, fits ? "room" : "TOO LITTLE MEMORY", size_text(plan.memory.total()),
             size_text(gpu_memory));
  for (const MemoryEstimate::Part& part : plan.memory.parts) fmt::print("  {:<18}{:>10}\n", part.name, size_text(part.bytes));
  fmt::print("sent by each rank and step: gradients {}, packed weights {}, control {} bytes\n", size_text(plan.traffic.gradients),
             size_text(plan.traffic.weights), plan.traffic.control);
  fmt::print("step: {:.4g} s = forward and backward {:.4g} + update {:.4g} + gradients not hidden {:.4g} (of {:.4g}) + weights {:.4g}\n\n",
             plan.step(), plan.compute, plan.update, plan.gradients_exposed, plan.gradients, plan.weights);
}

void print_table(const std::vector<RunPlan>& plans) {
  fmt::print("{:>6}{:>15}{:>12}{:>13}{:>13}{:>12}{:>14}{:>12}\n", "ranks", "micro-batches", "memory", "gradients", "weights", "step s",
             "tokens/s", "efficiency");
  for (const RunPlan& plan : plans) {
    fmt::print("{:>6}{:>15}{:>12}{:>13}{:>13}{:>12.4g}{:>14.4g}{:>11.1f}%\n", plan.ranks, plan.micro_batches,
               size_text(plan.memory.total()), size_text(plan.traffic.gradients), size_text(plan.traffic.weights), plan.step(),
               plan.tokens_per_second, 100 * plan.efficiency);
  }
}

ExitCode run(const PlanFlags& options, Console& console) {
  std::vector<std::string> notices;
  const TrainConfig config = load_train_config(options.config, options.overrides, notices);
  for (const std::string& notice : notices) console.log(LogLevel::kInfo, notice);
  const ModelConfig model = ModelSource::open(local_model(config.model.path))->config();
  const RunPlan chosen = plan_run(model, config, options.rates, options.gpus);
  constexpr int kMostRanks = 1024;
  std::vector<RunPlan> plans;
  for (int ranks = 1; ranks <= kMostRanks; ranks *= 2) plans.push_back(plan_run(model, config, options.rates, ranks));
  if (!options.json.empty()) {
    nlohmann::json scaling = nlohmann::json::array();
    for (const RunPlan& plan : plans) scaling.push_back(plan_json(plan));
    const nlohmann::json result{{"plan", plan_json(chosen)}, {"fits", chosen.memory.total() <= options.gpu_memory}, {"scaling", scaling}};
    write_text_file(options.json, result.dump(2) + "\n");
  }
  print_chosen(chosen, options.gpu_memory);
  print_table(plans);
  const ClusterRates& rates = options.rates;
  fmt::print(
      "\nfor {} ranks per machine, each with {:.4g} operations/s, memory {:.4g} B/s, links of {:.4g} B/s inside and {:.4g} B/s between "
      "machines\n",
      rates.ranks_per_machine, rates.operations, rates.memory, rates.link_in_machine, rates.link_to_machines);
  return ExitCode::kDone;
}

}  // namespace

void register_plan(CLI::App& app, Program& program) {
  CLI::App& command = add_command(app, program, "plan", "Memory, traffic and scaling of a run over several processes",
                                  "stableqat plan --config run.yaml --gpus 16 --gpu-memory 80GB");
  const auto options = std::make_shared<PlanFlags>();
  ClusterRates& rates = options->rates;
  command.add_option("--config,--train_config_file", options->config, "YAML file, as for `train`; its flags may follow, too")
      ->type_name("FILE");
  command.add_option("--gpus", options->gpus, "Number of processes (ranks), one for each GPU")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command.add_option("--gpu-memory", options->gpu_memory, "Memory of each, such as 80GB")->transform(CLI::AsSizeValue(true));
  command.add_option("--gpus-per-machine", rates.ranks_per_machine, "Ranks of one machine")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--operations", rates.operations, "Operations a second that forward and backward reach")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--memory-rate", rates.memory, "Bytes a second, reads and writes, of the optimizer step")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--link", rates.link_in_machine, "Bytes a second that a rank sends to others of its machine")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--network", rates.link_to_machines, "Bytes a second that a rank sends to other machines")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--json", options->json, "Also write the plan to this file")->type_name("FILE");
  command.allow_extras();
  command.callback([&program, &command, options] {
    options->overrides = command.remaining();
    program.selected = [&program, options] { return run(*options, program.console); };
  });
}

}  // namespace stableqat::app
