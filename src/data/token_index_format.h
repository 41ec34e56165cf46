// Constants of the .idx layout, which heads stableqat/data/token_file.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>

#include "stableqat/base/error.h"

namespace stableqat::token_index {

inline constexpr std::array<char, 9> kMagic{'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
inline constexpr std::uint64_t kVersion = 1;
inline constexpr std::uint64_t kVersionOffset = 9, kTypeOffset = 17, kSequencesOffset = 18, kDocumentsOffset = 26, kHeaderSize = 34;

enum ElementType : std::uint8_t { kUint8 = 1, kInt8 = 2, kInt16 = 3, kInt32 = 4, kInt64 = 5, kUint16 = 8 };

// Values lie at any offset: each is copied out.
template <class T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

[[noreturn]] inline void refuse(const std::filesystem::path& path, std::string found, std::string expected) {
  throw DataError({path.string(), std::move(found), std::move(expected), "tokenize the text again"});
}

}  // namespace stableqat::token_index
