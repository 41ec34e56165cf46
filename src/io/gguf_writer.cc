#include "stableqat/io/gguf_writer.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string_view>
#include <type_traits>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie in memory");

namespace {

constexpr std::uint64_t kAlignment = 32;  // what readers take when general.alignment is absent
constexpr std::size_t kLongestName = 63;

// The format's value types, by the C++ type that carries them here.
template <class T>
constexpr std::uint32_t value_type() {
  if constexpr (std::is_same_v<T, std::uint32_t>) return 4;
  if constexpr (std::is_same_v<T, std::int32_t>) return 5;
  if constexpr (std::is_same_v<T, float>) return 6;
  if constexpr (std::is_same_v<T, bool>) return 7;
  return 8;  // text
}
constexpr std::uint32_t kArrayType = 9;

// The header, built in memory: the tokenizer's lists are its largest part.
class Header {
 public:
  template <class T>
  void number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void value(bool value) { number(static_cast<std::uint8_t>(value)); }
  void value(std::uint32_t value) { number(value); }
  void value(std::int32_t value) { number(value); }
  void value(float value) { number(value); }
  void value(std::string_view text) {
    number<std::uint64_t>(text.size());
    text_ += text;
  }
  void raw(std::string_view text) { text_ += text; }
  std::string& text() { return text_; }

 private:
  std::string text_;
};

void append(Header& header, const std::string& key, const GgufWriter::Value& value) {
  header.value(key);
  std::visit(
      [&header](const auto& content) {
        using T = std::decay_t<decltype(content)>;
        if constexpr (requires { typename T::allocator_type; } && !std::is_same_v<T, std::string>) {
          header.number(kArrayType);
          header.number(value_type<typename T::value_type>());
          header.number<std::uint64_t>(content.size());
          for (const auto& item : content) header.value(item);
        } else {
          header.number(value_type<T>());
          header.value(content);
        }
      },
      value);
}

std::uint64_t padded(std::uint64_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

std::uint64_t byte_size_of(const std::string& where, GgmlType type, const std::vector<std::int64_t>& shape) {
  constexpr std::uint64_t kMaxElements = std::numeric_limits<std::int64_t>::max() / 8;
  const auto block = ggml_block(type);
  if (!block) throw ConfigError({where, ggml_type_name(type), "a type that this program knows", ""});
  if (shape.empty() || shape.size() > 4) throw ConfigError({where, std::to_string(shape.size()) + " dimensions", "1 to 4", ""});
  std::uint64_t elements = 1;
  for (const std::int64_t size : shape) {
    if (size < 1 || static_cast<std::uint64_t>(size) > kMaxElements / elements) {
      throw ConfigError({where, "dimension " + std::to_string(size), "sizes that fit memory", ""});
    }
    elements *= static_cast<std::uint64_t>(size);
  }
  if (static_cast<std::uint64_t>(shape.back()) % block->elements != 0) {
    throw ConfigError({where, "rows of " + std::to_string(shape.back()),
                       "whole " + ggml_type_name(type) + " blocks of " + std::to_string(block->elements), "choose another type"});
  }
  return elements / block->elements * block->bytes;
}

}  // namespace

void GgufWriter::set(std::string key, Value value) {
  if (key.empty()) throw ConfigError({"GGUF metadata", "an empty key", "a name", ""});
  const auto found = std::ranges::find(metadata_, key, &std::pair<std::string, Value>::first);
  if (found != metadata_.end()) {
    found->second = std::move(value);
  } else {
    metadata_.emplace_back(std::move(key), std::move(value));
  }
}

void GgufWriter::add(std::string name, GgmlType type, std::vector<std::int64_t> shape, Fill fill) {
  const std::string where = "tensor " + name;
  if (name.empty() || name.size() > kLongestName) {
    throw ConfigError({where, "a name of " + std::to_string(name.size()) + " bytes", "1 to " + std::to_string(kLongestName), ""});
  }
  if (std::ranges::find(entries_, name, &Entry::name) != entries_.end()) {
    throw ConfigError({where, "the name a second time", "unique names", ""});
  }
  const std::uint64_t size = byte_size_of(where, type, shape);
  entries_.push_back({std::move(name), type, std::move(shape), size, std::move(fill)});
}

void GgufWriter::write(const std::filesystem::path& path) const {
  Header header;
  header.raw("GGUF");
  header.number<std::uint32_t>(3);
  header.number<std::uint64_t>(entries_.size());
  header.number<std::uint64_t>(metadata_.size());
  for (const auto& [key, value] : metadata_) append(header, key, value);
  std::uint64_t offset = 0;
  for (const Entry& entry : entries_) {
    header.value(entry.name);
    header.number(static_cast<std::uint32_t>(entry.shape.size()));
    for (auto size = entry.shape.rbegin(); size != entry.shape.rend(); ++size) header.number(static_cast<std::uint64_t>(*size));
    header.number(static_cast<std::uint32_t>(entry.type));
    header.number(offset);
    offset += padded(entry.byte_size);
  }
  header.text().resize(padded(header.text().size()), '\0');

  AtomicFile file(path);
  file.write(header.text());
  std::vector<std::byte> buffer;
  for (const Entry& entry : entries_) {
    buffer.assign(padded(entry.byte_size), std::byte{0});
    entry.fill(std::span(buffer).first(entry.byte_size));
    file.write(buffer);
  }
  file.commit();
}

}  // namespace stableqat
