// Any bytes either are the index of token files whose documents lie in order inside the .bin, or are refused with DataError.
// Input: the size of the .bin as uint64, then the .idx.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

#include "stableqat/base/error.h"
#include "stableqat/data/token_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::uint64_t bin_bytes = 0;
  if (size < sizeof bin_bytes) return 0;
  std::memcpy(&bin_bytes, data, sizeof bin_bytes);
  try {
    const stableqat::TokenIndex index(std::as_bytes(std::span(data, size).subspan(sizeof bin_bytes)), bin_bytes, "fuzzed.idx");
    std::uint64_t end = 0;
    for (std::uint64_t i = 0; i < index.documents(); ++i) {
      const auto document = index.document(i);
      if (document.begin != end || document.end < document.begin || document.end > index.tokens()) std::abort();
      end = document.end;
    }
    if (index.tokens() != bin_bytes / index.element_size() || (index.documents() > 0 && end != index.tokens())) std::abort();
  } catch (const stableqat::DataError&) {
  }
  return 0;
}
