#include "hub/digest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <new>

namespace stableqat::hub {

namespace {

constexpr std::size_t kSha256Digits = 64;
constexpr std::size_t kSha1Digits = 40;

EVP_MD_CTX* as_context(void* context) { return static_cast<EVP_MD_CTX*>(context); }

}  // namespace

bool is_digest(std::string_view text) {
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return (text.size() == kSha256Digits || text.size() == kSha1Digits) && std::all_of(text.begin(), text.end(), is_hex);
}

void ContentDigest::Free::operator()(void* context) const noexcept { EVP_MD_CTX_free(as_context(context)); }

ContentDigest::ContentDigest(std::string_view expected, std::uint64_t bytes)
    : is_sha256_(expected.size() == kSha256Digits), context_(EVP_MD_CTX_new()) {
  if (!context_) throw std::bad_alloc();
  if (!is_sha256_) prefix_ = "blob " + std::to_string(bytes) + '\0';
  restart();
}

void ContentDigest::restart() {
  if (EVP_DigestInit_ex(as_context(context_.get()), is_sha256_ ? EVP_sha256() : EVP_sha1(), nullptr) != 1) throw std::bad_alloc();
  update(std::as_bytes(std::span(prefix_)));
}

void ContentDigest::update(std::span<const std::byte> bytes) {
  if (EVP_DigestUpdate(as_context(context_.get()), bytes.data(), bytes.size()) != 1) throw std::bad_alloc();
}

std::string ContentDigest::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  if (EVP_DigestFinal_ex(as_context(context_.get()), digest.data(), &size) != 1) throw std::bad_alloc();
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    text += kDigits[digest[i] >> 4];
    text += kDigits[digest[i] & 15];
  }
  return text;
}

}  // namespace stableqat::hub
