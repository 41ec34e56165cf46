// Samples of text data sets on the Hub, drawn as the authors of StableQAT draw theirs: of every chunk (folder) of the data set
// ceil(files * budget / total) files, without replacement, by Python's random.sample() after random.seed(seed). Chunks take their turn in
// natural order (chunk2 before chunk10), files within a chunk stand in the order of their path.
//
// A token is one of the data set's own count: `total_tokens` over all its files. The last file drawn of a chunk is taken in part, so that
// the chunk gives its share of the budget exactly, counted in files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/data/text_reader.h"
#include "stableqat/hub/repository.h"

namespace stableqat::hub {

// Which sample of what.
struct SampleRequest {
  std::string repository;
  std::string folder;                // only what lies below it; "" = everything
  std::vector<std::string> include;  // patterns of select_files()
  std::uint64_t budget_tokens = 0;   // 0 = the whole data set
  std::uint64_t total_tokens = 0;    // of the data set's selected files; 0 only where the budget is 0
  std::uint64_t seed = 42;
  std::string counted_by;  // what SampleOptions::count_tokens counts by, a tokenizer's hash say; "" without it
};

// cerebras/SlimPajama-627B, train/*.jsonl.zst, 626e9 tokens (the authors' number): budget 20e9.
SampleRequest slimpajama_request();
// HuggingFaceFW/fineweb-edu, sample/100BT/*.parquet, 100e9 tokens: budget 20e9.
SampleRequest fineweb_edu_request();
// Any data set: all its JSON lines, compressed text and Parquet files.
SampleRequest data_set_request(std::string repository);

struct PlannedFile {
  HubFile file;
  double share = 1.0;  // of its documents, from the first on; in (0, 1]
};

struct PlannedChunk {
  std::string name;                // folder in the repository
  std::uint64_t files = 0;         // in the data set
  std::vector<PlannedFile> drawn;  // in the order of the draw
};

struct SamplePlan {
  SampleRequest request;
  std::string commit;
  std::vector<PlannedChunk> chunks;
};

// Throws ConfigError for a budget without a total and for numbers out of range; DataError when the listing has no file to draw from.
SamplePlan make_sample_plan(const SampleRequest& request, const Listing& listing);

// JSON, with a line end. parse_sample_plan() takes it back; throws DataError, naming `where`, for anything else.
std::string to_json(const SamplePlan& plan);
SamplePlan parse_sample_plan(std::string_view json, const std::string& where);

struct SampleOptions {
  std::filesystem::path output;  // folder; holds the plan, what was done so far and the text
  std::string revision = "main";
  bool plan_only = false;
  TextOptions text;  // as tokenize_files() takes them; the key matters for Parquet and for count_tokens
  // Tokens of a document. When given, every chunk is cut where its share of the budget is reached by this count, not by shares of files.
  std::function<std::uint64_t(std::string_view text)> count_tokens;
};

struct SampleResult {
  std::uint64_t files = 0;  // planned
  std::uint64_t documents = 0;
  std::uint64_t text_bytes = 0;    // of the JSON lines written
  std::uint64_t tokens = 0;        // by count_tokens; 0 without
  std::filesystem::path snapshot;  // the files as they are in the data set
};

// Draws the sample, or takes up the plan that lies in the output folder; fetches its files into the cache; writes their text. Below
// `options.output`:
//   plan.json                         to_json() of the plan
//   files.jsonl                       one object for each file that is done: path, output, documents, text_bytes, tokens
//   text/FOLDERS/NAME.jsonl           the documents, one JSON object a line: JSON lines as they are in the data set, other texts under
//   "text"
// Whatever was interrupted is taken up again by the same call: complete files are neither fetched nor written twice. Memory is bounded by
// the longest document. Empty when a stop was requested.
// Throws DataError for a plan in the output folder that was made for another request or another commit, and as list_repository(),
// download_files() and DocumentReader do.
std::optional<SampleResult> sample_data_set(const SampleRequest& request, const SampleOptions& options, const HubOptions& hub,
                                            const HubCallbacks& callbacks);

}  // namespace stableqat::hub
