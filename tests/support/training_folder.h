// A folder with a small model, text and a configuration, in which the real program runs.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "stableqat/base/file.h"
#include "tiny_model.h"

namespace stableqat::testing {

struct Result {
  int code = -1;
  std::string out;
  std::string err;
};

class TrainingFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    namespace fs = std::filesystem;
    folder_ = fs::temp_directory_path() / ("stableqat_training_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    write_tiny_model(folder_ / "model");
    write_tiny_corpus(folder_ / "train.jsonl", 200);
    write_tiny_corpus(folder_ / "valid.jsonl", 10, 8);
    write_text_file(folder_ / "run.yaml", R"(
model: {path: model}
quantization: {method: stableqat, bits: 3}
data: {train: [train.jsonl], sequence_length: 64}
train: {output_dir: out, micro_batch_size: 2, gradient_accumulation_steps: 4, max_steps: 6, learning_rate: 1e-3, save_steps: 3,
        logging_steps: 1, threads: 1}
)");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Runs shell text in the folder.
  Result shell(const std::string& text) const {
    const std::string command = "cd '" + folder_.string() + "' && { " + text + "\n} >stdout 2>stderr </dev/null";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text_file(folder_ / "stdout"), read_text_file(folder_ / "stderr")};
  }

  // Runs the program by the shell; `before` is shell text in front of it.
  Result run(const std::string& arguments, const std::string& before = "") const {
    return shell(before + " '" STABLEQAT_PROGRAM "' " + arguments);
  }

  static std::string train_words(const std::string& output, const std::string& more = "") {
    return "train --config run.yaml --train.output_dir " + output + " " + more;
  }
  Result train(const std::string& output, const std::string& more = "") const { return run(train_words(output, more)); }

  // Starts the program in a process of its own, calls `watch` with its id about every millisecond until it ends, and returns its wait
  // status. `variables`: NAME=VALUE, of its environment.
  int run_watched(const std::string& arguments, const std::function<void(pid_t)>& watch, const std::string& variables = "") const {
    std::vector<std::string> words{
        "sh", "-c",
        "cd '" + folder_.string() + "' && exec env " + variables + " '" STABLEQAT_PROGRAM "' " + arguments + " >stdout 2>stderr"};
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    pid_t child = 0;
    EXPECT_EQ(::posix_spawn(&child, "/bin/sh", nullptr, nullptr, pointers.data(), environ), 0);
    int status = 0;
    while (::waitpid(child, &status, WNOHANG) == 0) {
      watch(child);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return status;
  }

  // The same, and sends `signal` once `path` exists.
  int run_and_signal(const std::string& arguments, const std::filesystem::path& path, int signal, const std::string& variables = "") const {
    bool sent = false;
    const int status = run_watched(
        arguments,
        [&](pid_t process) {
          if (sent || !std::filesystem::exists(folder_ / path)) return;
          ::kill(process, signal);
          sent = true;
        },
        variables);
    EXPECT_TRUE(sent) << "the run ended before " << path;
    return status;
  }

  void expect_same_checkpoint(const std::string& a, const std::string& b) const {
    for (const char* name : {"model.safetensors", "optimizer.safetensors", "trainer_state.json", "config.json", "tokenizer.json"}) {
      EXPECT_EQ(file_content_hash(folder_ / a / name), file_content_hash(folder_ / b / name)) << name;
    }
  }

  void expect_refused(const Result& result, int code, const std::vector<std::string>& words) const {
    EXPECT_EQ(result.code, code) << result.err;
    for (const std::string& word : words) EXPECT_NE(result.err.find(word), std::string::npos) << word << " not in: " << result.err;
  }

  std::vector<nlohmann::json> metrics(const std::string& output) const {
    std::ifstream file(folder_ / output / "metrics.jsonl");
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  std::filesystem::path folder_;
};

}  // namespace stableqat::testing
