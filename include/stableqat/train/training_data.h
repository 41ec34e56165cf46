// The token streams of a run: token files as they are, text tokenized on the way.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "stableqat/base/log.h"
#include "stableqat/config/train_config.h"
#include "stableqat/data/token_file.h"
#include "stableqat/data/token_loader.h"
#include "stableqat/data/tokenize.h"
#include "stableqat/tokenizer/tokenizer.h"

namespace stableqat {

// make_token_encoder() for a model whose embedding has `vocabulary_size` rows. Throws DataError when the tokenizer has more ids than that.
TokenEncoder model_encoder(const Tokenizer& tokenizer, std::int64_t vocabulary_size);

// The training data: all entries of data.train as one stream, or one stream for each item of data.mixture; relative paths start from
// data.root. An entry PREFIX with PREFIX.idx is a token file; a folder that `datasets` saved is imported once into `cache_prefix`; for a
// folder that holds either as train_data it is that (the authors' layout); other entries are text, which is tokenized once into
// `cache_prefix` (.bin, .idx, .json; with the item's number behind it in a mixture) and taken from there next time when tokenizer and
// sources are the same. Returns nothing when `stop` asked to stop. Throws ConfigError (token files mixed with text), DataError (bad input,
// token file of another tokenizer).
std::vector<WeightedStream> open_training_tokens(const TrainConfig::Data& config, const TokenEncoder& encoder,
                                                 const std::filesystem::path& cache_prefix, const LogCallback& log = {},
                                                 const ProgressCallback& progress = {}, const StopRequested& stop = {});

// Ids of a token file, a dataset saved by `datasets`, a folder that holds either as valid_data, or text; in memory, at most `max_tokens`
// (0 = all). Throws DataError.
std::vector<std::int32_t> read_tokens(const std::filesystem::path& input, const TextOptions& text, const TokenEncoder& encoder,
                                      std::uint64_t max_tokens = 0);

}  // namespace stableqat
