#include "stableqat/tasks/likelihood_log.h"

#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat::tasks {

namespace {

using nlohmann::json;

std::vector<Likelihood> likelihoods_of(const json& line) {
  std::vector<Likelihood> likelihoods;
  const json& values = line.at("log_likelihoods");
  const json& greedy = line.at("greedy");
  for (std::size_t i = 0; i < values.size(); ++i) likelihoods.push_back({values.at(i).get<double>(), greedy.at(i).get<bool>()});
  return likelihoods;
}

void require_same(const json& found, const json& expected, const std::string& where) {
  if (!found.is_object()) throw DataError({where, "no description of an evaluation", "a file that eval wrote", "leave out --resume"});
  for (const auto& [key, value] : expected.items()) {
    if (found.contains(key) && found[key] == value) continue;
    throw DataError({where, key + " " + (found.contains(key) ? found[key].dump() : "not given"), value.dump(),
                     "resume with the model, tasks and settings it was begun with, or leave out --resume to start anew"});
  }
}

}  // namespace

LikelihoodLog::LikelihoodLog(std::filesystem::path path, const json& subject, bool resume) : path_(std::move(path)) {
  const bool goes_on = resume && std::filesystem::exists(path_);
  write_text_file(path_, goes_on ? read(subject) : subject.dump() + "\n");
  file_.open(path_, std::ios::app);
  flush();
}

// Fills known_; returns the lines worth keeping.
std::string LikelihoodLog::read(const json& subject) {
  const std::string text = read_text_file(path_);
  std::size_t kept = 0;
  std::uint64_t number = 0;
  for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', kept)) {
    const std::string where = path_.string() + ":" + std::to_string(++number);
    const json line =
        json::parse(text.begin() + static_cast<std::ptrdiff_t>(kept), text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (number == 1) {
      require_same(line, subject, where);
    } else {
      try {
        known_[{line.at("task").get<std::string>(), line.at("doc_id").get<std::uint64_t>()}] = likelihoods_of(line);
      } catch (const json::exception&) {
        throw DataError({where, "no likelihoods of a document", "a line that eval wrote", "leave out --resume to start anew"});
      }
    }
    kept = end + 1;
  }
  return number == 0 ? subject.dump() + "\n" : text.substr(0, kept);
}

const std::vector<Likelihood>* LikelihoodLog::find(const std::string& task, std::uint64_t doc_id) const {
  const auto found = known_.find({task, doc_id});
  return found == known_.end() ? nullptr : &found->second;
}

void LikelihoodLog::append(const std::string& task, std::uint64_t doc_id, std::span<const Likelihood> likelihoods) {
  json line{{"task", task}, {"doc_id", doc_id}, {"log_likelihoods", json::array()}, {"greedy", json::array()}};
  for (const Likelihood& likelihood : likelihoods) {
    line["log_likelihoods"].push_back(likelihood.log_likelihood);
    line["greedy"].push_back(likelihood.is_greedy);
  }
  file_ << line.dump() << '\n';
}

void LikelihoodLog::flush() {
  file_.flush();
  if (!file_)
    throw EnvironmentError({path_.string(), std::generic_category().message(errno), "a writable file", "free space on that disk"});
}

}  // namespace stableqat::tasks
