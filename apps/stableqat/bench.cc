// stableqat bench: what training costs on this machine.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <memory>

#include "bench_flags.h"
#include "commands.h"
#include "stableqat/bench/bench_kernels.h"
#include "stableqat/bench/bench_scaling.h"

namespace stableqat::app {

namespace {

constexpr double kMilli = 1e-3;
constexpr double kMega = 1e6;
constexpr double kGiga = 1e9;

using Run = ExitCode (*)(const BenchFlags&, Console&);

double percent(double part, double whole) { return 100 * part / whole; }

ExitCode run_step(const BenchFlags& flags, Console& console) {
  const auto results = bench::bench_step(method_jobs(flags), flags.rounds, bench_callbacks(console));
  console.finish();
  fmt::print("{:<10} {:>9} {:>7} {:>9} {:>17} {:>9} {:>9} {:>9} {:>8} {:>9}\n", "method", "tokens/s", "ratio", "step s", "min .. max",
             "forward", "backward", "update", "peak GB", "of GEMM");
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const bench::StepResult& r : results) {
    fmt::print("{:<10} {:>9.1f} {:>7.3f} {:>9.3f} {:>17} {:>9.3f} {:>9.3f} {:>9.3f} {:>8.2f} {:>7.1f} %\n", r.method, r.tokens_per_second,
               r.step_ratio, r.step_seconds.median, fmt::format("{:.3f} .. {:.3f}", r.step_seconds.min, r.step_seconds.max),
               r.forward_seconds, r.backward_seconds, r.update_seconds, static_cast<double>(r.peak_bytes) / kGiga,
               100 * r.model_flops_share);
    rows.push_back(bench_row(flags, to_json(r)));
  }
  fmt::print("\n{:<10} {:>9} {:>10} {:>9} {:>22} {:>9}   share of the step\n", "method", "GEMM", "attention", "head",
             "quantize + optimizer", "rest");
  for (const bench::StepResult& r : results) {
    const bench::StepParts& p = r.parts;
    const double whole = p.gemm + p.attention + p.head + p.update + p.rest;
    fmt::print("{:<10} {:>7.1f} % {:>8.1f} % {:>7.1f} % {:>20.1f} % {:>7.1f} %\n", r.method, percent(p.gemm, whole),
               percent(p.attention, whole), percent(p.head, whole), percent(p.update, whole), percent(p.rest, whole));
  }
  fmt::print("\nfp32 GEMM of this model's shapes, alone: {:.0f} GFLOP/s on {} threads. {} tokens a step, medians of {} rounds.\n",
             results.front().gemm_flops_per_second / kGiga, results.front().threads, flags.batch * flags.sequence_length * flags.accumulate,
             flags.rounds.repeats);
  write_bench_json(flags, rows);
  return ExitCode::kDone;
}

ExitCode run_kernels(const BenchFlags& flags, Console& console) {
  bench::KernelBenchOptions options;
  options.model = bench_model_config(flags);
  options.batch = flags.batch;
  options.tokens = flags.sequence_length;
  options.filter = flags.kernels;
  options.rounds = flags.rounds;
  if (flags.threads > 0) at::set_num_threads(flags.threads);
  const auto results = bench::bench_kernels(options, bench_callbacks(console));
  console.finish();
  fmt::print("{:<30} {:<12} {:>10} {:>16} {:>9}  of\n", "kernel", "built for", "ms", "rate", "share");
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const bench::KernelResult& r : results) {
    const bool is_memory = r.bound == bench::KernelBound::kMemory;
    const char* unit = is_memory ? "GB/s" : "GFLOP/s";
    fmt::print("{:<30} {:<12} {:>10.3f} {:>8.1f} {:<7} {:>7.1f} %  {} at {:.1f} {}\n", r.name, kernels::isa_name(r.isa), r.seconds / kMilli,
               r.rate / kGiga, unit, 100 * r.share, is_memory ? "copy" : "GEMM", r.reference / kGiga, unit);
    rows.push_back(bench_row(flags, to_json(r)));
  }
  fmt::print("\nEvery kernel was compared with its plain form first. {} threads.\n", at::get_num_threads());
  write_bench_json(flags, rows);
  return ExitCode::kDone;
}

std::string growth(const std::optional<double>& exponent) { return exponent ? fmt::format("{:.2f}", *exponent) : ""; }

ExitCode run_scaling(const BenchFlags& flags, Console& console) {
  const auto jobs = method_jobs(flags);
  const auto points = bench::scaling_points(jobs.front().job, flags.max_sequence_length);
  const auto results = bench::bench_scaling(points, flags.rounds, bench_callbacks(console));
  console.finish();
  fmt::print("{:<8} {:>8} {:>9} {:>17} {:>10} {:>8} {:>14} {:>16}\n", "", "", "step s", "min .. max", "tokens/s", "peak GB",
             "time grows as", "memory grows as");
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const bench::ScalingResult& r : results) {
    rows.push_back(bench_row(flags, to_json(r)));
    if (r.axis == "tokens") rows.back()["sequence_length"] = r.value;
    if (!r.skipped.empty()) {
      fmt::print("{:<8} {:>8}  left out: {}\n", r.axis, r.value, r.skipped);
      continue;
    }
    fmt::print("{:<8} {:>8} {:>9.3f} {:>17} {:>10.1f} {:>8.2f} {:>14} {:>16}\n", r.axis, r.value, r.step_seconds.median,
               fmt::format("{:.3f} .. {:.3f}", r.step_seconds.min, r.step_seconds.max), r.tokens_per_second,
               static_cast<double>(r.peak_bytes) / kGiga, growth(r.time_exponent), growth(r.memory_exponent));
  }
  fmt::print("\nMethod {}; a number p in the last columns: as the first column to the power p, since the line before.\n",
             jobs.front().name);
  write_bench_json(flags, rows);
  return ExitCode::kDone;
}

std::string mean_and_deviation(const bench::Spread& spread) {
  return fmt::format("{:.1f} +- {:.1f}", spread.mean / kMilli, spread.deviation / kMilli);
}

ExitCode run_efficiency(const BenchFlags& flags, Console& console) {
  const auto results = bench::bench_efficiency(method_jobs(flags), flags.rounds, bench_callbacks(console));
  console.finish();
  fmt::print("{:<10} {:>18} {:>12} {:>18} {:>12}\n", "method", "forward ms", "forward MB", "backward ms", "backward MB");
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const bench::EfficiencyResult& r : results) {
    fmt::print("{:<10} {:>18} {:>12.0f} {:>18} {:>12.0f}\n", r.method, mean_and_deviation(r.forward_seconds),
               static_cast<double>(r.forward_bytes) / kMega, mean_and_deviation(r.backward_seconds),
               static_cast<double>(r.backward_bytes) / kMega);
    rows.push_back(bench_row(flags, to_json(r)));
  }
  fmt::print("\nForward: quantization and decoder. Backward: head, decoder, surrogate. MB: most tensor memory alive.\n");
  write_bench_json(flags, rows);
  return ExitCode::kDone;
}

CLI::App& add_bench_command(CLI::App& bench, Program& program, const std::string& name, const std::string& description,
                            const std::string& example, const std::shared_ptr<BenchFlags>& flags, Run run) {
  CLI::App& command = add_command(bench, program, name, description, "stableqat bench " + name + " " + example);
  command.footer("Settings of `stableqat train` are flags here too, such as --train.recompute block or --train.threads 1.\n" +
                 command.get_footer());
  command.callback([&program, &command, flags, run] {
    flags->settings = command.remaining();
    program.selected = [&program, flags, run] { return run(*flags, program.console); };
  });
  return command;
}

}  // namespace

void register_bench(CLI::App& app, Program& program) {
  CLI::App& bench = add_command(app, program, "bench", "What training costs on this machine",
                                "stableqat bench step --shape smollm2-135m --batch 2 --seq 512 --accumulate 4");
  bench.require_subcommand(1);

  const auto step_flags = std::make_shared<BenchFlags>();
  CLI::App& step =
      add_bench_command(bench, program, "step", "Whole optimizer steps of several methods, in turns",
                        "--shape smollm2-135m --batch 2 --seq 512 --accumulate 4 --methods none,stableqat --bits 3", step_flags, run_step);
  add_bench_model_flags(step, *step_flags);
  step.add_option("--accumulate", step_flags->accumulate, "Micro-batches per optimizer step")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  add_bench_method_flags(step, *step_flags);
  add_bench_json_flag(step, *step_flags);

  const auto efficiency_flags = std::make_shared<BenchFlags>();
  efficiency_flags->rounds = {5, 30};
  CLI::App& efficiency = add_bench_command(bench, program, "efficiency", "The paper's cost table: forward and backward, time and memory",
                                           "--shape llama-3.2-1b --batch 4 --seq 128 --bits 4", efficiency_flags, run_efficiency);
  add_bench_model_flags(efficiency, *efficiency_flags);
  add_bench_method_flags(efficiency, *efficiency_flags);
  add_bench_json_flag(efficiency, *efficiency_flags);

  const auto scaling_flags = std::make_shared<BenchFlags>();
  scaling_flags->methods = {"stableqat"};
  scaling_flags->batch = 1;
  scaling_flags->sequence_length = 512;
  scaling_flags->rounds = {1, 3};
  CLI::App& scaling = add_bench_command(bench, program, "scaling", "Time and memory of a step against tokens, layers and width",
                                        "--shape smollm2-135m --max-seq 4096", scaling_flags, run_scaling);
  add_bench_model_flags(scaling, *scaling_flags);
  add_bench_method_flag(scaling, *scaling_flags);
  scaling
      .add_option("--max-seq", scaling_flags->max_sequence_length, "Longest sequence; the first has 128 tokens, each next twice as many")
      ->capture_default_str()
      ->check(CLI::Range(128, 1 << 20));
  add_bench_rounds_flags(scaling, *scaling_flags);
  add_bench_json_flag(scaling, *scaling_flags);

  const auto kernel_flags = std::make_shared<BenchFlags>();
  kernel_flags->shape = "smollm2-135m";
  kernel_flags->batch = 2;
  kernel_flags->sequence_length = 512;
  CLI::App& kernels = add_bench_command(bench, program, "kernels", "Every kernel for every instruction set, against copy and GEMM rates",
                                        "--shape qwen3-0.6b --kernels attention", kernel_flags, run_kernels);
  add_bench_model_flags(kernels, *kernel_flags);
  kernels.add_option("--kernels", kernel_flags->kernels, "Only kernels whose name contains this")->type_name("TEXT");
  kernels.add_option("--threads", kernel_flags->threads, "0 = all cores [0]")->check(CLI::NonNegativeNumber);
  add_bench_rounds_flags(kernels, *kernel_flags);
  add_bench_json_flag(kernels, *kernel_flags);

  register_bench_decode(bench, program);
}

}  // namespace stableqat::app
