// Any bytes either open as a GGUF file whose tensors can be read, or are refused with DataError.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/io/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto file = stableqat::GgufFile::from_bytes(std::as_bytes(std::span(data, size)), "fuzzed.gguf");
    for (const stableqat::GgufTensor& tensor : file.tensors()) {
      if (!stableqat::ggml_can_dequantize(tensor.type)) {
        const auto bytes = file.bytes(tensor);
        [[maybe_unused]] const volatile auto last = bytes.empty() ? std::byte{} : bytes.back();
        continue;
      }
      std::vector<float> values(tensor.element_count);
      file.dequantize(tensor, values);
    }
  } catch (const stableqat::DataError&) {
  }
  return 0;
}
