// The part of `stableqat eval` that scores tasks.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "console.h"
#include "model_flags.h"
#include "stableqat/base/error.h"
#include "stableqat/eval/task_evaluation.h"

namespace stableqat::app {

struct TaskFlags {
  std::vector<std::string> tasks;
  std::vector<std::string> task_files;
  std::string data_dir;
  TaskSetOptions set;
  LikelihoodOptions likelihood;
  std::string output;
  bool log_samples = false;
  bool resume = false;
};

// The flags write into `flags`, which must outlive the command.
void add_task_flags(CLI::App& command, TaskFlags& flags);

// Whether the tasks of `flags` only ask for the list of tasks, which is then printed.
bool print_task_list(const TaskFlags& flags);

// Evaluates, prints the table and writes what --output asks for. Throws the library's errors.
ExitCode run_tasks(const TaskFlags& flags, const ModelFlags& model_flags, LoadedModel& loaded, Console& console, const StopRequested& stop);

}  // namespace stableqat::app
