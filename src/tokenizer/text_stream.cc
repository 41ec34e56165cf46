#include "stableqat/tokenizer/text_stream.h"

#include <algorithm>
#include <utility>

namespace stableqat {

namespace {

// Bytes at the end of the text that are the beginning of a character.
std::size_t unfinished_bytes(std::string_view text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if (byte < 0x80) return 0;
    if (byte < 0xC0) continue;
    const std::size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
    return length > back ? back : 0;
  }
  return 0;
}

// The longest end of the text that `stop` begins with.
std::size_t begun_bytes(std::string_view text, std::string_view stop) {
  for (std::size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.ends_with(stop.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stop_strings, Write write)
    : stop_strings_(std::move(stop_strings)), write_(std::move(write)) {
  std::erase(stop_strings_, "");
}

std::size_t TextStream::final_bytes() const {
  std::size_t held = unfinished_bytes(pending_);
  for (const std::string& stop : stop_strings_) held = std::max(held, begun_bytes(pending_, stop));
  return pending_.size() - held;
}

bool TextStream::add(std::string_view bytes) {
  if (stopped_) return false;
  pending_ += bytes;
  std::size_t end = std::string::npos;
  for (const std::string& stop : stop_strings_) end = std::min(end, pending_.find(stop));
  stopped_ = end != std::string::npos;
  const std::size_t ready = stopped_ ? end : final_bytes();
  if (ready > 0) write_(std::string_view(pending_).substr(0, ready));
  pending_.erase(0, ready);
  if (stopped_) pending_.clear();
  return !stopped_;
}

void TextStream::finish() {
  if (!pending_.empty()) write_(pending_);
  pending_.clear();
}

}  // namespace stableqat
