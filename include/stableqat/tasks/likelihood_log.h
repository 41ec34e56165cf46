// Likelihoods on disk as they come, so that an evaluation that was killed goes on where it was.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "stableqat/tasks/results.h"

namespace stableqat::tasks {

// JSON lines: first what was evaluated, then one object a document. Not thread-safe.
class LikelihoodLog {
 public:
  // Starts a new file; with `resume` keeps the lines of one that is there (a torn last line is dropped). `subject` is everything that
  // likelihoods depend on, as one flat object. Throws DataError for a file of another subject, naming what differs, and for damaged lines;
  // EnvironmentError when it cannot be written.
  LikelihoodLog(std::filesystem::path path, const nlohmann::json& subject, bool resume);

  // The likelihoods of a document, or nullptr when it was not reached.
  const std::vector<Likelihood>* find(const std::string& task, std::uint64_t doc_id) const;
  std::size_t size() const noexcept { return known_.size(); }

  void append(const std::string& task, std::uint64_t doc_id, std::span<const Likelihood> likelihoods);
  // What was appended is on its way to the disk when flush() returns. Throws EnvironmentError.
  void flush();

 private:
  std::string read(const nlohmann::json& subject);

  std::filesystem::path path_;
  std::ofstream file_;
  std::map<std::pair<std::string, std::uint64_t>, std::vector<Likelihood>> known_;
};

}  // namespace stableqat::tasks
