// Datasets of token blocks that the authors' pre-tokenization leaves: folders written by save_to_disk() of Hugging Face's `datasets`.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "stableqat/base/log.h"
#include "stableqat/data/token_file.h"
#include "stableqat/data/tokenize.h"

namespace stableqat {

// Whether `folder` is such a dataset.
bool is_saved_dataset(const std::filesystem::path& folder);

// Its data files, in order. Throws DataError.
std::vector<std::filesystem::path> saved_dataset_files(const std::filesystem::path& folder);

// Copies the column "input_ids" into token files, one document a row, nothing added: rows follow each other as they were cut from one
// text. Such a dataset does not say which tokenizer made it; `encoder` names the one that it is taken to be, and ids outside its vocabulary
// are refused. Returns nullopt when `stop` asked to stop. Throws DataError (damaged files, no such column), EnvironmentError.
std::optional<TokenFileInfo> import_saved_dataset(const std::filesystem::path& folder, const TokenEncoder& encoder,
                                                  const std::filesystem::path& prefix, const ProgressCallback& progress = {},
                                                  const StopRequested& stop = {});

// The ids of all its rows in memory, or the first `max_tokens` of them (0 = all). Throws DataError as import_saved_dataset() does.
std::vector<std::int32_t> read_saved_dataset(const std::filesystem::path& folder, const TokenEncoder& encoder,
                                             std::uint64_t max_tokens = 0);

}  // namespace stableqat
