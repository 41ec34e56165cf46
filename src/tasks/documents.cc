#include "stableqat/tasks/documents.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "data/parquet_rows.h"
#include "data/text_records.h"
#include "io/strict_json.h"
#include "stableqat/base/error.h"
#include "tasks/document_steps.h"

namespace stableqat::tasks {

namespace fs = std::filesystem;

namespace {

constexpr int kMaxJsonDepth = 16;
constexpr std::uint64_t kMaxDocumentBytes = std::uint64_t{64} << 20;

// Folder below data_dir and stem of the file's name.
struct Place {
  fs::path folder;
  std::string stem;
};

std::vector<Place> places(const TaskDefinition& task, const std::string& split) {
  std::vector<Place> result{{{}, task.name + "_" + split}};
  if (!task.dataset_name.empty()) result.push_back({{}, task.dataset_name + "_" + split});
  for (const fs::path& base : {fs::path(task.dataset_path), fs::path(task.dataset_path).filename()}) {
    if (base.empty() || base.is_absolute()) continue;
    if (!task.dataset_name.empty()) result.push_back({base / task.dataset_name, split});
    result.push_back({base, split});
    result.push_back({base / "data", split});
  }
  return result;
}

// Whether `name` is the stem, perhaps with "-00000-of-00001", and the suffixes of a file of documents.
bool belongs(const fs::path& file, const std::string& stem) {
  const std::string name = file.filename().string();
  if (!name.starts_with(stem) || name.size() == stem.size() || (name[stem.size()] != '.' && name[stem.size()] != '-')) return false;
  return text_format(file).known_name;
}

TaskDocument parse_document(TextRecord&& record) {
  const std::string where = record.path.string() + ":" + std::to_string(record.line);
  if (!record.json) return {{{"text", std::move(record.bytes)}}, record.path.string()};
  nlohmann::json fields = io::parse_strict_json(record.bytes, where, kMaxJsonDepth);
  if (!fields.is_object()) throw DataError({where, std::string("JSON of type ") + fields.type_name(), "an object on each line", ""});
  return {std::move(fields), where};
}

}  // namespace

fs::path find_split(const fs::path& data_dir, const TaskDefinition& task, const std::string& split) {
  std::string looked;
  for (const Place& place : places(task, split)) {
    std::vector<fs::path> found;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(data_dir / place.folder, error)) {
      if (belongs(entry.path(), place.stem)) found.push_back(entry.path());
    }
    if (found.size() == 1) return found.front();
    if (found.size() > 1) {
      std::sort(found.begin(), found.end());
      throw DataError({found[1].string(), "a second file of " + task.name + "'s split '" + split + "'", "one: " + found[0].string(),
                       "join or remove one of them"});
    }
    looked += (looked.empty() ? "" : ", ") + (place.folder / place.stem).string() + ".*";
  }
  throw DataError({data_dir.string(), "no data of " + task.name + "'s split '" + split + "'",
                   "JSON lines (.jsonl, perhaps .gz, .xz, .zst) or Parquet as one of " + looked, "name the folder by --data-dir"});
}

std::vector<TaskDocument> read_split(const fs::path& data_dir, const TaskDefinition& task, const std::string& split) {
  const fs::path file = find_split(data_dir, task, split);
  std::vector<TaskDocument> documents;
  if (text_format(file).parquet) {
    for_each_parquet_row(file, [&](nlohmann::json row) {
      documents.push_back({std::move(row), file.string() + ", row " + std::to_string(documents.size() + 1)});
    });
  } else {
    RecordReader reader({file}, "", kMaxDocumentBytes);
    for (TextRecord record; reader.next(record);) documents.push_back(parse_document(std::move(record)));
  }
  documents = process_documents(std::move(documents), task.process_docs);
  if (documents.empty()) throw DataError({file.string(), "no documents", "the split '" + split + "' of " + task.name, ""});
  return documents;
}

}  // namespace stableqat::tasks
