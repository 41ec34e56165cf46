// The flags that the commands below `bench` share, and the training jobs they describe.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "console.h"
#include "stableqat/bench/bench_step.h"

namespace stableqat::app {

struct BenchFlags {
  std::string model;
  std::string shape;
  std::int64_t batch = 4;
  std::int64_t sequence_length = 128;
  std::int64_t max_sequence_length = 8192;
  std::int64_t accumulate = 1;
  std::vector<std::string> methods = {"none", "ste", "stableqat", "dsq"};
  std::string bits = "4";
  bench::Rounds rounds;
  std::string kernels;
  int threads = 0;
  std::string json;
  std::vector<std::string> settings;  // what else was given: settings of `train`
};

// The flags write into `flags`, which must outlive the command.
void add_bench_model_flags(CLI::App& command, BenchFlags& flags);
void add_bench_method_flags(CLI::App& command, BenchFlags& flags);
void add_bench_method_flag(CLI::App& command, BenchFlags& flags);  // one method
void add_bench_rounds_flags(CLI::App& command, BenchFlags& flags);
void add_bench_json_flag(CLI::App& command, BenchFlags& flags);

// Of --model or --shape. Throws ConfigError (neither, an unknown shape) and DataError.
ModelConfig bench_model_config(const BenchFlags& flags);

// One job per method. Throws ConfigError for values out of range and unknown settings.
std::vector<bench::MethodJob> method_jobs(const BenchFlags& flags);

bench::BenchCallbacks bench_callbacks(Console& console);

// What a row of --json says about its run besides the result: model, batch, sequence_length, accumulate, bits,
// repeats, settings.
nlohmann::ordered_json bench_row(const BenchFlags& flags, const nlohmann::ordered_json& result);

// Writes an array of rows to --json, when that was given.
void write_bench_json(const BenchFlags& flags, const nlohmann::ordered_json& rows);

}  // namespace stableqat::app
