#include "stableqat/io/dtype.h"

#include <array>

namespace stableqat {

namespace {

struct Entry {
  std::string_view name;
  std::size_t size;
};

// In the order of the enumeration.
constexpr std::array<Entry, 15> kEntries{{{"BOOL", 1},
                                          {"U8", 1},
                                          {"I8", 1},
                                          {"F8_E5M2", 1},
                                          {"F8_E4M3", 1},
                                          {"I16", 2},
                                          {"U16", 2},
                                          {"F16", 2},
                                          {"BF16", 2},
                                          {"I32", 4},
                                          {"U32", 4},
                                          {"F32", 4},
                                          {"F64", 8},
                                          {"I64", 8},
                                          {"U64", 8}}};

const Entry& entry(DType dtype) noexcept { return kEntries[static_cast<std::size_t>(dtype)]; }

}  // namespace

std::size_t dtype_size(DType dtype) noexcept { return entry(dtype).size; }

std::string_view dtype_name(DType dtype) noexcept { return entry(dtype).name; }

std::optional<DType> parse_dtype(std::string_view name) noexcept {
  for (std::size_t i = 0; i < kEntries.size(); ++i) {
    if (kEntries[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

}  // namespace stableqat
