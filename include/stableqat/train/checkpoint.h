// Checkpoints: Hugging Face directories that transformers can read, with everything that an exact continuation needs beside it.
//
//   config.json, tokenizer files   as the start model has them; quantization settings under "stableqat"
//   model.safetensors              masters and unquantized tensors under their Hugging Face names; "<layer>.weight_clip_val" [N, G]:
//                                  the scale in use (on the fp16 grid where the run asks for it); DSQ's "<layer>.alpha_dsq" [1]
//   optimizer.safetensors          "first." and "second." + name: Adam's moments; "value." + name: scales before they were put on
//                                  the grid
//   trainer_state.json             step, tokens, position in the data
//   train_config.yaml              the resolved configuration
//   manifest.json                  size and XXH3 hash of every other file
//
// Several ranks write one folder together, each its own rows of the tensors into the same files: what a checkpoint looks like does not
// depend on their number, and any number of them can go on from it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "stableqat/base/log.h"
#include "stableqat/data/token_loader.h"
#include "stableqat/train/adamw.h"

namespace stableqat {

struct TrainerState {
  std::int64_t step = 0;       // optimizer steps done
  LoaderPosition position;     // of the next batch
  std::string tokenizer_hash;  // of the data
};

// Throws DataError that names the first file that is missing, truncated or altered.
void verify_checkpoint(const std::filesystem::path& directory);

// Reads values and moments of the optimizer's rows into its tensors, in place, and returns the state. The caller quantizes anew. Throws
// DataError when a tensor is missing or has another shape (checkpoint of another model or method).
TrainerState load_checkpoint(const std::filesystem::path& directory, AdamW& optimizer);

// Folders checkpoint-N and last_checkpoint below `output_dir`, by their step, newest first. Folders without a readable state come last.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& output_dir);

// The newest checkpoint that verifies; those that do not are reported to `log` and passed over. nullopt when there is none at all. Throws
// DataError when there are checkpoints but none is whole.
std::optional<std::filesystem::path> find_checkpoint(const std::filesystem::path& output_dir, const LogCallback& log);

// Removes all checkpoint-N folders but the newest `keep` (0 = all) and those whose N is a multiple of `keep_every` (0 = none). Throws
// EnvironmentError.
void remove_old_checkpoints(const std::filesystem::path& output_dir, std::int64_t keep, std::int64_t keep_every);

}  // namespace stableqat
