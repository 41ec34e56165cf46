#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "base/python_random.h"
#include "hub/digest.h"
#include "hub/json_count.h"
#include "hub/tree.h"
#include "io/strict_json.h"
#include "stableqat/base/error.h"
#include "stableqat/hub/sample.h"

namespace stableqat::hub {

namespace {

using nlohmann::json;

constexpr int kPlanVersion = 1;
constexpr int kMaxPlanDepth = 8;
constexpr std::uint64_t kMaxTokens = 10'000'000'000'000;  // with kMaxFiles, products stay below 2^64
constexpr std::uint64_t kMaxFiles = 1'000'000;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Bytewise, but runs of digits by their value.
bool natural_less(std::string_view a, std::string_view b) {
  while (!a.empty() && !b.empty()) {
    if (is_digit(a.front()) && is_digit(b.front())) {
      const auto run = [](std::string_view text) {
        const std::size_t end = std::min(text.find_first_not_of("0123456789"), text.size());
        const std::size_t zeros = std::min(text.find_first_not_of('0'), end);
        return text.substr(zeros, end - zeros);
      };
      const std::string_view x = run(a);
      const std::string_view y = run(b);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
      a.remove_prefix(static_cast<std::size_t>(x.data() + x.size() - a.data()));
      b.remove_prefix(static_cast<std::size_t>(y.data() + y.size() - b.data()));
    } else {
      if (a.front() != b.front()) return static_cast<unsigned char>(a.front()) < static_cast<unsigned char>(b.front());
      a.remove_prefix(1);
      b.remove_prefix(1);
    }
  }
  return a.size() < b.size();
}

struct NaturalOrder {
  bool operator()(const std::string& a, const std::string& b) const {
    return natural_less(a, b) || (!natural_less(b, a) && a < b);  // "a1" and "a01" are not the same
  }
};

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

void check_request(const SampleRequest& request) {
  const char* const where = "token budget";
  if (request.budget_tokens > kMaxTokens || request.total_tokens > kMaxTokens) {
    throw ConfigError({where, "more than " + std::to_string(kMaxTokens), "at most so many tokens", ""});
  }
  if (request.budget_tokens > 0 && request.total_tokens == 0) {
    throw ConfigError({"total tokens", "none beside the budget", "the tokens that the whole data set has",
                       "see its page, or leave out the budget to take everything"});
  }
}

// The draw from one chunk. With a budget of 0, everything in order.
std::vector<PlannedFile> draw(const SampleRequest& request, const std::vector<HubFile>& files, PythonRandom& random) {
  std::vector<PlannedFile> drawn;
  if (request.budget_tokens == 0 || request.budget_tokens >= request.total_tokens) {
    for (const HubFile& file : files) drawn.push_back({file, 1.0});
    return drawn;
  }
  const std::uint64_t share = files.size() * request.budget_tokens;  // in files, times total_tokens
  const std::uint64_t count = (share + request.total_tokens - 1) / request.total_tokens;
  for (const std::uint64_t index : random.sample(files.size(), count)) drawn.push_back({files[index], 1.0});
  const std::uint64_t of_last = share - (count - 1) * request.total_tokens;
  drawn.back().share = static_cast<double>(of_last) / static_cast<double>(request.total_tokens);
  return drawn;
}

json json_of(const PlannedFile& planned) {
  json object{{"path", planned.file.path}, {"bytes", planned.file.bytes}, {"digest", planned.file.digest}};
  if (planned.share < 1.0) object["share"] = planned.share;
  return object;
}

PlannedFile parse_planned_file(const json& object) {
  PlannedFile planned;
  planned.file.path = object.at("path").get<std::string>();
  planned.file.bytes = count_at(object, "bytes");
  planned.file.digest = object.at("digest").get<std::string>();
  planned.share = object.value("share", 1.0);
  if (!is_safe_path(planned.file.path) || !is_digest(planned.file.digest) || !(planned.share > 0.0 && planned.share <= 1.0)) {
    throw std::invalid_argument("a file whose path, digest or share no plan has");
  }
  return planned;
}

SamplePlan parse_plan_object(const json& object) {
  if (object.at("version").get<int>() != kPlanVersion) throw std::invalid_argument("another version of this format");
  SamplePlan plan;
  plan.request.repository = object.at("repository").get<std::string>();
  plan.request.folder = object.at("folder").get<std::string>();
  plan.request.include = object.at("include").get<std::vector<std::string>>();
  plan.request.budget_tokens = count_at(object, "budget_tokens");
  plan.request.total_tokens = count_at(object, "total_tokens");
  plan.request.seed = count_at(object, "seed");
  plan.request.counted_by = object.at("counted_by").get<std::string>();
  plan.commit = object.at("commit").get<std::string>();
  if (!is_digest(plan.commit)) throw std::invalid_argument("a commit that is none");
  for (const json& chunk : object.at("chunks")) {
    PlannedChunk parsed{chunk.at("name").get<std::string>(), count_at(chunk, "files"), {}};
    for (const json& file : chunk.at("drawn")) parsed.drawn.push_back(parse_planned_file(file));
    plan.chunks.push_back(std::move(parsed));
  }
  return plan;
}

}  // namespace

SampleRequest slimpajama_request() {
  SampleRequest request;
  request.repository = "cerebras/SlimPajama-627B";
  request.folder = "train";
  request.include = {"*.jsonl.zst"};
  request.budget_tokens = 20'000'000'000;
  request.total_tokens = 626'000'000'000;
  return request;
}

SampleRequest fineweb_edu_request() {
  SampleRequest request;
  request.repository = "HuggingFaceFW/fineweb-edu";
  request.folder = "sample/100BT";
  request.include = {"*.parquet"};
  request.budget_tokens = 20'000'000'000;
  request.total_tokens = 100'000'000'000;
  return request;
}

SampleRequest data_set_request(std::string repository) {
  SampleRequest request;
  request.repository = std::move(repository);
  request.include = {"*.jsonl", "*.ndjson", "*.parquet"};
  for (const char* compression : {"gz", "xz", "zst"}) {
    for (const char* format : {"jsonl", "ndjson", "json", "txt"}) request.include.push_back(std::string("*.") + format + "." + compression);
  }
  return request;
}

SamplePlan make_sample_plan(const SampleRequest& request, const Listing& listing) {
  check_request(request);
  const std::vector<HubFile> files = select_files(listing.files, request.include, {});
  if (files.empty() || files.size() > kMaxFiles) {
    throw DataError({request.repository + (request.folder.empty() ? "" : ", folder " + request.folder),
                     std::to_string(files.size()) + " files of " + std::to_string(listing.files.size()) + " to draw from", "1 to 1000000",
                     "name others by --include"});
  }
  std::map<std::string, std::vector<HubFile>, NaturalOrder> chunks;
  for (const HubFile& file : files) chunks[folder_of(file.path)].push_back(file);

  SamplePlan plan{request, listing.commit, {}};
  PythonRandom random(request.seed);
  for (const auto& [name, chunk] : chunks) plan.chunks.push_back({name, chunk.size(), draw(request, chunk, random)});
  return plan;
}

std::string to_json(const SamplePlan& plan) {
  json chunks = json::array();
  for (const PlannedChunk& chunk : plan.chunks) {
    json drawn = json::array();
    for (const PlannedFile& file : chunk.drawn) drawn.push_back(json_of(file));
    chunks.push_back({{"name", chunk.name}, {"files", chunk.files}, {"drawn", std::move(drawn)}});
  }
  const json object{{"version", kPlanVersion},
                    {"repository", plan.request.repository},
                    {"folder", plan.request.folder},
                    {"include", plan.request.include},
                    {"commit", plan.commit},
                    {"seed", plan.request.seed},
                    {"budget_tokens", plan.request.budget_tokens},
                    {"total_tokens", plan.request.total_tokens},
                    {"counted_by", plan.request.counted_by},
                    {"chunks", std::move(chunks)}};
  return object.dump(1) + "\n";
}

SamplePlan parse_sample_plan(std::string_view text, const std::string& where) {
  const auto object = io::parse_strict_json(text, where, kMaxPlanDepth);
  try {
    return parse_plan_object(object);
  } catch (const std::exception& error) {  // json's own for a key that is missing or of another type
    throw DataError({where, error.what(), "a plan as `stableqat sample` writes it", "remove it to draw anew"});
  }
}

}  // namespace stableqat::hub
