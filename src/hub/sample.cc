#include "stableqat/hub/sample.h"

#include <algorithm>
#include <set>
#include <utility>

#include "data/text_records.h"
#include "hub/extract.h"
#include "hub/sample_journal.h"
#include "hub/stop.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/hub/download.h"

namespace stableqat::hub {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPlanFile = "plan.json";
constexpr const char* kJournalFile = "files.jsonl";

// What makes `plan` another one than would be drawn now, or "".
std::string difference(const SamplePlan& plan, const SampleRequest& request) {
  const SampleRequest& planned = plan.request;
  const auto numbers = [](const char* what, std::uint64_t a, std::uint64_t b) {
    return std::string(what) + " " + std::to_string(a) + " instead of " + std::to_string(b);
  };
  if (planned.repository != request.repository) return "a plan for " + planned.repository + " instead of " + request.repository;
  if (planned.folder != request.folder || planned.include != request.include) return "a plan for other files of the data set";
  if (planned.seed != request.seed) return numbers("a plan with seed", planned.seed, request.seed);
  if (planned.budget_tokens != request.budget_tokens) return numbers("a plan with budget", planned.budget_tokens, request.budget_tokens);
  if (planned.total_tokens != request.total_tokens) return numbers("a plan with total tokens", planned.total_tokens, request.total_tokens);
  if (planned.counted_by != request.counted_by) return "a plan whose tokens are counted by another tokenizer, or by none";
  return "";
}

SamplePlan take_up_plan(const fs::path& path, const SampleRequest& request, const std::string& commit) {
  SamplePlan plan = parse_sample_plan(read_text_file(path), path.string());
  if (const std::string found = difference(plan, request); !found.empty()) {
    throw DataError({path.string(), found, "the plan of an earlier call with the same settings", "choose another output folder"});
  }
  if (plan.commit != commit) {
    throw DataError({path.string(), "a plan for revision " + plan.commit, "revision " + commit + " of the data set",
                     "go on with the plan by --revision " + plan.commit + ", or choose another output folder"});
  }
  return plan;
}

// The plan that lies in the output folder, or a new one, which is then there.
SamplePlan obtain_plan(const Repository& repository, const SampleRequest& request, const SampleOptions& options, const HubOptions& hub,
                       const HubCallbacks& callbacks) {
  const fs::path path = options.output / kPlanFile;
  if (fs::exists(path)) {
    const auto commit = find_commit(repository, options.revision, hub, callbacks);
    if (!commit) throw Stopped{};
    return take_up_plan(path, request, *commit);
  }
  if (fs::exists(options.output / kJournalFile)) {
    throw DataError({path.string(), "no plan beside the list of files that are done", "both or none", "choose another output folder"});
  }
  const auto listing = list_repository(repository, options.revision, request.folder, hub, callbacks);
  if (!listing) throw Stopped{};
  SamplePlan plan = make_sample_plan(request, *listing);
  fs::create_directories(options.output);
  write_text_file(path, to_json(plan));
  return plan;
}

// text/FOLDERS/NAME.jsonl, relative to the sample's folder.
std::string output_name(const std::string& path) {
  const TextFormat format = text_format(path);
  fs::path name = fs::path("text") / path;
  if (format.compression != Compression::kNone) name.replace_extension();
  if (format.json_lines || format.parquet) name.replace_extension();
  name += ".jsonl";
  return name.string();
}

void require_different_outputs(const SamplePlan& plan) {
  std::set<std::string> outputs;
  for (const PlannedChunk& chunk : plan.chunks) {
    for (const PlannedFile& planned : chunk.drawn) {
      if (outputs.insert(output_name(planned.file.path)).second) continue;
      throw DataError({plan.request.repository + "/" + planned.file.path, "another file whose text would have the same name",
                       "each document once", "leave one of them out by --include"});
    }
  }
}

// Files of a plan to JSON lines, chunk by chunk.
class Extraction {
 public:
  Extraction(const SamplePlan& plan, const SampleOptions& options, const HubCallbacks& callbacks, SampleResult& result)
      : plan_(plan), options_(options), callbacks_(callbacks), journal_(options.output / kJournalFile), result_(result) {
    for (const PlannedChunk& chunk : plan.chunks) {
      all_files_ += chunk.files;
      for (const PlannedFile& planned : chunk.drawn) total_bytes_ += planned.file.bytes;
    }
  }

  // Those whose text is not there yet.
  std::vector<HubFile> files_needed() const {
    std::vector<HubFile> files;
    for (const PlannedChunk& chunk : plan_.chunks) {
      for (const PlannedFile& planned : chunk.drawn) {
        if (find_done(planned) == nullptr) files.push_back(planned.file);
      }
    }
    return files;
  }

  void run() {
    for (const PlannedChunk& chunk : plan_.chunks) {
      std::uint64_t tokens = 0;
      for (const PlannedFile& planned : chunk.drawn) {
        const Extracted extracted = one_file(planned, limits(chunk, planned, tokens));
        tokens += extracted.tokens;
        result_.documents += extracted.documents;
        result_.text_bytes += extracted.text_bytes;
        result_.tokens += extracted.tokens;
        done_bytes_ += planned.file.bytes;
        report(done_bytes_);
      }
    }
  }

 private:
  // `tokens` of the chunk are there already.
  ExtractLimits limits(const PlannedChunk& chunk, const PlannedFile& planned, std::uint64_t tokens) const {
    if (!options_.count_tokens || plan_.request.budget_tokens == 0) return {planned.share, std::nullopt};
    const double share = static_cast<double>(chunk.files) / static_cast<double>(all_files_);
    const auto budget = static_cast<std::uint64_t>(share * static_cast<double>(plan_.request.budget_tokens));
    return {1.0, budget - std::min(budget, tokens)};
  }

  // The journal's entry, or null where there is none or the text is gone or cut.
  const Extracted* find_done(const PlannedFile& planned) const {
    const Extracted* const done = journal_.find(planned.file.path);
    std::error_code absent;
    const std::uintmax_t bytes = fs::file_size(options_.output / output_name(planned.file.path), absent);
    return done != nullptr && !absent && bytes == done->text_bytes ? done : nullptr;
  }

  Extracted one_file(const PlannedFile& planned, const ExtractLimits& limits) {
    if (const Extracted* const done = find_done(planned)) return *done;
    const std::string output = output_name(planned.file.path);
    const fs::path target = options_.output / output;
    fs::create_directories(target.parent_path());
    const Extracted extracted = extract_documents(result_.snapshot / planned.file.path, target, limits, options_, callbacks_,
                                                  [this](std::uint64_t bytes) { report(done_bytes_ + bytes); });
    journal_.add(planned.file.path, output, extracted);
    return extracted;
  }

  void report(std::uint64_t bytes) const {
    if (callbacks_.progress) callbacks_.progress({"extract", bytes, total_bytes_, "bytes"});
  }

  const SamplePlan& plan_;
  const SampleOptions& options_;
  const HubCallbacks& callbacks_;
  SampleJournal journal_;
  SampleResult& result_;
  std::uint64_t all_files_ = 0;
  std::uint64_t total_bytes_ = 0;
  std::uint64_t done_bytes_ = 0;
};

SampleResult sample(const SampleRequest& request, const SampleOptions& options, const HubOptions& hub, const HubCallbacks& callbacks) {
  const Repository repository = make_repository(RepositoryType::kDataset, request.repository);
  const SamplePlan plan = obtain_plan(repository, request, options, hub, callbacks);
  require_different_outputs(plan);
  SampleResult result;
  result.snapshot = snapshot_folder(repository, plan.commit, hub);
  for (const PlannedChunk& chunk : plan.chunks) result.files += chunk.drawn.size();
  if (options.plan_only) return result;

  Extraction extraction(plan, options, callbacks, result);
  const std::vector<HubFile> files = extraction.files_needed();
  std::uint64_t bytes = 0;
  for (const HubFile& file : files) bytes += file.bytes;
  if (callbacks.log) {
    callbacks.log(LogLevel::kInfo, std::to_string(files.size()) + " of " + std::to_string(result.files) + " files to do, " +
                                       std::to_string(bytes / 1'000'000) + " MB as they are on the Hub");
  }
  if (!download_files(repository, plan.commit, files, hub, callbacks)) throw Stopped{};
  write_reference(repository, options.revision, plan.commit, hub);
  extraction.run();
  return result;
}

}  // namespace

std::optional<SampleResult> sample_data_set(const SampleRequest& request, const SampleOptions& options, const HubOptions& hub,
                                            const HubCallbacks& callbacks) {
  try {
    return sample(request, options, hub, callbacks);
  } catch (const Stopped&) {
    return std::nullopt;
  }
}

}  // namespace stableqat::hub
