#include "golden/token_golden.h"

#include <lzma.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat::golden {

namespace {

std::string decompress_xz(const std::string& packed, const std::filesystem::path& path) {
  lzma_stream stream = LZMA_STREAM_INIT;
  if (lzma_stream_decoder(&stream, UINT64_MAX, 0) != LZMA_OK) throw EnvironmentError({path.string(), "liblzma does not start", "", ""});
  stream.next_in = reinterpret_cast<const std::uint8_t*>(packed.data());
  stream.avail_in = packed.size();
  std::string text;
  std::vector<char> piece(1 << 16);
  lzma_ret result = LZMA_OK;
  while (result == LZMA_OK) {
    stream.next_out = reinterpret_cast<std::uint8_t*>(piece.data());
    stream.avail_out = piece.size();
    result = lzma_code(&stream, LZMA_FINISH);
    text.append(piece.data(), piece.size() - stream.avail_out);
  }
  lzma_end(&stream);
  if (result != LZMA_STREAM_END) throw DataError({path.string(), "damaged data", "an .xz file", "fetch the file again"});
  return text;
}

}  // namespace

std::vector<Section> read_sections(const std::filesystem::path& path) {
  constexpr std::string_view kOpen = "===== ";
  constexpr std::string_view kClose = " =====\n";
  std::string text = read_text_file(path);
  if (path.extension() == ".xz") text = decompress_xz(text, path);
  std::vector<Section> sections;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t line_end = std::min(text.find('\n', at), text.size() - 1) + 1;
    const std::string_view line(text.data() + at, line_end - at);
    if (line.starts_with(kOpen) && line.ends_with(kClose)) {
      sections.push_back({std::string(line.substr(kOpen.size(), line.size() - kOpen.size() - kClose.size())), ""});
    } else if (!sections.empty()) {
      sections.back().text += line;
    }
    at = line_end;
  }
  return sections;
}

std::string sha256(std::span<const std::int32_t> ids) {
  std::vector<std::uint8_t> bytes;
  bytes.reserve(4 * ids.size());
  for (const std::int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<std::uint8_t>(static_cast<std::uint32_t>(id) >> shift));
  }
  std::array<std::uint8_t, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), &length, EVP_sha256(), nullptr) != 1) {
    throw EnvironmentError({"SHA-256", "OpenSSL refuses it", "", ""});
  }
  std::string hex;
  for (unsigned int i = 0; i < length; ++i) {
    hex += "0123456789abcdef"[digest[i] >> 4];
    hex += "0123456789abcdef"[digest[i] & 15];
  }
  return hex;
}

TokenComparison compare_tokens(const Tokenizer& tokenizer, const std::filesystem::path& golden_file,
                               const std::filesystem::path& text_file) {
  std::map<std::string, std::string> texts;
  for (Section& section : read_sections(text_file)) texts[section.name] = std::move(section.text);
  TokenComparison comparison;
  try {
    const nlohmann::json golden = nlohmann::json::parse(read_text_file(golden_file));
    for (const auto& [name, expected] : golden.items()) {
      ++comparison.sections;
      const auto text = texts.find(name);
      if (text == texts.end()) {
        comparison.mismatches.push_back(name + ": no such section in " + text_file.string());
        continue;
      }
      const std::vector<std::int32_t> ids = tokenizer.encode(text->second, {.add_special_tokens = false});
      const auto count = expected.at("count").get<std::size_t>();
      const auto first = expected.at("first").get<std::vector<std::int32_t>>();
      if (ids.size() != count) {
        comparison.mismatches.push_back(name + ": " + std::to_string(ids.size()) + " ids, expected " + std::to_string(count));
      } else if (first.size() > count || !std::equal(first.begin(), first.end(), ids.begin())) {
        comparison.mismatches.push_back(name + ": other ids among the first " + std::to_string(first.size()));
      } else if (sha256(ids) != expected.at("sha256").get<std::string>()) {
        comparison.mismatches.push_back(name + ": other ids after the first " + std::to_string(first.size()));
      }
    }
  } catch (const nlohmann::json::exception& error) {
    throw DataError({golden_file.string(), error.what(), "{section: {count, sha256, first}}", ""});
  }
  return comparison;
}

Tokenizer open_tokenizer(const std::filesystem::path& model) {
  if (std::filesystem::is_directory(model) || model.extension() == ".json") return Tokenizer::from_huggingface(model);
  return Tokenizer::from_gguf(GgufFile(model));
}

}  // namespace stableqat::golden
