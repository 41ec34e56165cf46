// Whether one model is better than another on the same documents, or may just have been luckier.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace stableqat::tasks {

// B against A for one score of one task, document by document.
struct ScoreComparison {
  std::string task;
  std::string metric;
  double a = 0.0;
  double b = 0.0;
  double difference = 0.0;      // b - a
  double standard_error = 0.0;  // of the difference, from the spread of the documents' own differences (paired)
  std::uint64_t documents = 0;
  std::uint64_t only_a = 0;  // documents that A alone has right (bits_per_byte: that A gives the higher likelihood)
  std::uint64_t only_b = 0;
  double p_value = 1.0;  // of the sign test on those, two-sided and exact: how often chance alone splits them as unevenly
};

struct ResultsComparison {
  std::vector<ScoreComparison> scores;
  // Mean over the multiple-choice tasks of acc_norm, else acc; its p value by the normal distribution. `documents` counts tasks.
  ScoreComparison mean;
};

// `a` and `b` as results_json() made them; `name_a` and `name_b` stand in messages. Tasks that only one of them has are left out. Throws
// DataError for JSON that is not from this program's eval, for no task in common, and for tasks whose documents or requests differ.
ResultsComparison compare_results(const nlohmann::json& a, const std::string& name_a, const nlohmann::json& b, const std::string& name_b);

// Two-sided exact p value of a sign test: the probability that fair coins fall at least as unevenly as `wins` to `losses`.
double sign_test(std::uint64_t wins, std::uint64_t losses);

std::string comparison_table(const ResultsComparison& comparison);
nlohmann::json comparison_json(const ResultsComparison& comparison);

}  // namespace stableqat::tasks
