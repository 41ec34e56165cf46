// What the tests of the file readers share: fixtures of other programs (tools/make_io_fixtures.py), damaged copies, expected messages.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat {

inline std::string fixture_path(const std::string& name) { return std::string(STABLEQAT_TEST_DATA) + "/" + name; }

inline std::vector<std::byte> fixture_bytes(const std::string& name) {
  const MappedFile file(fixture_path(name));
  return {file.bytes().begin(), file.bytes().end()};
}

// Bytes on the heap without room behind them, so that AddressSanitizer sees a read past the end.
inline std::vector<std::byte> prefix(const std::vector<std::byte>& bytes, std::size_t size) {
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)};
}

// `action` must throw E with a one-line message that holds every one of `parts`.
template <class E, class Action>
void expect_error(const std::vector<std::string>& parts, Action&& action) {
  try {
    action();
    ADD_FAILURE() << "no exception, expected one that says: " << ::testing::PrintToString(parts);
  } catch (const E& error) {
    const std::string message = error.what();
    for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << "\"" << part << "\" not in: " << message;
  }
}

// Bit patterns, so that NaN and -0 count.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace stableqat
