// Text to token ids: into token files with all cores, or into memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/base/log.h"
#include "stableqat/data/text_reader.h"
#include "stableqat/data/token_file.h"

namespace stableqat {

class Tokenizer;

// What this module needs of a tokenizer.
struct TokenEncoder {
  // Appends the ids of the text. Called from several threads at once.
  std::function<void(std::string_view text, std::vector<std::int32_t>& ids)> append;
  std::int32_t end_of_text = 0;      // id written after each document, unless append() ends with it
  std::int64_t vocabulary_size = 0;  // every id is below it
  std::string hash;                  // of the tokenizer, kept in the token files
};

// The tokenizer's own template applies (a begin-of-text id, say); special tokens spelled out in a document are text like any other. Throws
// ConfigError for a vocabulary without an end-of-text token.
TokenEncoder make_token_encoder(const Tokenizer& tokenizer);

struct TokenizeOptions {
  std::vector<std::filesystem::path> inputs;  // files and folders, see list_text_files()
  std::filesystem::path prefix;               // of the token files
  TextOptions text;
  int workers = 0;  // threads that tokenize; 0 = one per core
  // Takes only the documents with number % shard_count == shard_index, counted over all inputs, so that several machines share the work.
  std::uint64_t shard_index = 0;
  std::uint64_t shard_count = 1;
  double save_seconds = 10.0;  // between the points from which an interrupted call can go on
};

// Tokenizes the inputs into token files: the ids of each document and the end-of-text id; documents without text are left out. The files
// are the same for every number of workers. Progress counts bytes on disk. Returns what was written; nullopt when `stop` asked to stop.
// After that, and after a kill or an error, the same call with unchanged inputs goes on from the last point saved (PREFIX.*.partial) and
// gives the same files. Throws what DocumentReader and TokenFileWriter throw (of several errors the first in the order of the inputs),
// ConfigError for options out of range, DataError when the inputs hold no text at all.
std::optional<TokenFileInfo> tokenize_files(const TokenEncoder& encoder, const TokenizeOptions& options, const LogCallback& log = {},
                                            const ProgressCallback& progress = {}, const StopRequested& stop = {});

// The ids that tokenize_files() would write for this file or folder, in memory. `max_tokens` > 0 stops there. Throws like DocumentReader.
std::vector<std::int32_t> tokenize_text(const TokenEncoder& encoder, const std::filesystem::path& input, const TextOptions& options = {},
                                        std::uint64_t max_tokens = 0);

}  // namespace stableqat
