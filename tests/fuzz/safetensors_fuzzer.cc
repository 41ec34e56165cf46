// Any bytes either open as a safetensors file whose tensors can be read, or are refused with DataError.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto file = stableqat::SafetensorsFile::from_bytes(std::as_bytes(std::span(data, size)), "fuzzed.safetensors");
    for (const stableqat::SafetensorsTensor& tensor : file.tensors()) {
      const auto bytes = file.bytes(tensor.name);
      [[maybe_unused]] const volatile auto last = bytes.empty() ? std::byte{} : bytes.back();
      std::vector<double> values(tensor.element_count);
      try {
        file.read_f64(tensor.name, values);
      } catch (const stableqat::DataError&) {  // a type without conversion
      }
    }
  } catch (const stableqat::DataError&) {
  }
  return 0;
}
