// Text of fetched files, as JSON lines.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>

#include "stableqat/hub/sample.h"

namespace stableqat::hub {

struct ExtractLimits {
  double share = 1.0;                   // of the file's documents; rounded up
  std::optional<std::uint64_t> tokens;  // stop after the document that reaches so many
};

struct Extracted {
  std::uint64_t documents = 0;
  std::uint64_t text_bytes = 0;
  std::uint64_t tokens = 0;
};

// Writes the documents of `input` (its name tells the format, as in data/text_reader.h) to `output`, which appears whole or not at all.
// `advanced` is told the bytes of `input` read so far. Throws as DocumentReader does, Stopped.
Extracted extract_documents(const std::filesystem::path& input, const std::filesystem::path& output, const ExtractLimits& limits,
                            const SampleOptions& options, const HubCallbacks& callbacks,
                            const std::function<void(std::uint64_t)>& advanced);

}  // namespace stableqat::hub
