// Digests of content, as the Hub names its files by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace stableqat::hub {

// 64 or 40 lower-case hex digits: a digest that ContentDigest can make, and a safe file name.
bool is_digest(std::string_view text);

// Digest of a file's content, of the kind that `expected` is: SHA-256 (64 digits), or git's blob id (40): SHA-1 of "blob SIZE", a zero
// byte and the content (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects).
class ContentDigest {
 public:
  // `expected` satisfies is_digest(); `bytes` is the size of the whole content.
  ContentDigest(std::string_view expected, std::uint64_t bytes);

  void update(std::span<const std::byte> bytes);
  std::string hex();  // ends the calculation
  void restart();     // as if nothing had been added

 private:
  struct Free {
    void operator()(void* context) const noexcept;
  };

  bool is_sha256_;
  std::string prefix_;
  std::unique_ptr<void, Free> context_;  // EVP_MD_CTX
};

}  // namespace stableqat::hub
