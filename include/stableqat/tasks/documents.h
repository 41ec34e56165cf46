// The documents of a data set's split, from JSON lines, Parquet or plain text.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "stableqat/tasks/task.h"

namespace stableqat::tasks {

// The file that holds `split` of the task's data below `data_dir`, the first of
//   TASK_SPLIT, NAME_SPLIT, PATH/NAME/SPLIT*, PATH/SPLIT*, PATH/data/SPLIT*, and the last three with LAST in place of PATH
// with .jsonl, .json, .ndjson or .txt, perhaps .gz, .xz or .zst, or with .parquet. NAME and PATH are the task's dataset_name and dataset_path as the Hub
// has them, LAST is PATH's last part; SPLIT* also matches SPLIT-00000-of-00001. Throws DataError that lists the places.
std::filesystem::path find_split(const std::filesystem::path& data_dir, const TaskDefinition& task, const std::string& split);

// All documents of a split, after the task's process_docs; plain text is one document with the field `text`. Throws DataError with file and
// line for JSON that is malformed or no object, and for a file without documents.
std::vector<TaskDocument> read_split(const std::filesystem::path& data_dir, const TaskDefinition& task, const std::string& split);

}  // namespace stableqat::tasks
