#include "stableqat/data/tokenize.h"

#include <algorithm>
#include <exception>
#include <span>
#include <thread>
#include <utility>

#include "data/ordered_parallel.h"
#include "data/text_records.h"
#include "stableqat/base/error.h"
#include "stableqat/tokenizer/tokenizer.h"

namespace stableqat {

namespace {

constexpr std::size_t kBatchBytes = std::size_t{1} << 19;

// What one worker handles at a time.
struct Batch {
  std::vector<TextRecord> records;
  std::uint64_t bytes_read = 0;  // on disk, up to the end of this batch

  std::vector<std::string> bad_lines;
  std::vector<std::int32_t> ids;     // of all documents
  std::vector<std::size_t> lengths;  // of each document
  std::uint64_t text_bytes = 0;
  std::uint64_t empty_documents = 0;
};

// Reads this shard's records.
class BatchReader {
 public:
  explicit BatchReader(const TokenizeOptions& options)
      : options_(options), records_(list_text_files(options.inputs), options.text.max_document_bytes) {}

  bool next(Batch& batch) {
    if (error_) std::rethrow_exception(error_);
    bool more = true;
    for (std::size_t bytes = 0; more && bytes < kBatchBytes;) {
      TextRecord record;
      try {
        more = records_.next(record);
        if (!more || !ours()) continue;
      } catch (const DataError& error) {
        if (!options_.text.skip_bad_lines) {
          error_ = std::current_exception();  // after the lines before it, which may hold an earlier one
          return true;
        }
        if (ours()) batch.bad_lines.emplace_back(error.what());
        continue;
      }
      bytes += record.bytes.size();
      batch.records.push_back(std::move(record));
    }
    batch.bytes_read = records_.bytes_read();
    return more || !batch.records.empty() || !batch.bad_lines.empty();
  }

  const RecordReader& records() const noexcept { return records_; }

 private:
  bool ours() { return number_++ % options_.shard_count == options_.shard_index; }

  const TokenizeOptions& options_;
  RecordReader records_;
  std::uint64_t number_ = 0;
  std::exception_ptr error_;
};

// Returns the number of ids appended.
std::size_t append_document(const TokenEncoder& encoder, const std::string& text, std::vector<std::int32_t>& ids) {
  const std::size_t begin = ids.size();
  if (text.empty()) return 0;
  encoder.append(text, ids);
  if (ids.size() == begin || ids.back() != encoder.end_of_text) ids.push_back(encoder.end_of_text);
  return ids.size() - begin;
}

void encode_record(const TokenEncoder& encoder, const std::string& json_key, TextRecord&& record, Batch& batch) {
  const Document document = parse_record(std::move(record), json_key);
  batch.text_bytes += document.text.size();
  const std::size_t length = append_document(encoder, document.text, batch.ids);
  if (length > 0) {
    batch.lengths.push_back(length);
  } else {
    ++batch.empty_documents;
  }
}

void encode_batch(const TokenEncoder& encoder, const TextOptions& options, Batch& batch) {
  for (TextRecord& record : batch.records) {
    try {
      encode_record(encoder, options.json_key, std::move(record), batch);
    } catch (const DataError& error) {
      if (!options.skip_bad_lines) throw;
      batch.bad_lines.emplace_back(error.what());
    }
  }
  batch.records.clear();
}

void write_batch(const Batch& batch, TokenFileWriter& writer, TokenFileInfo& info, const LogCallback& log) {
  std::span<const std::int32_t> rest = batch.ids;
  for (const std::size_t length : batch.lengths) {
    writer.add_document(rest.first(length));
    rest = rest.subspan(length);
  }
  info.text_bytes += batch.text_bytes;
  info.empty_documents += batch.empty_documents;
  info.bad_lines += batch.bad_lines.size();
  if (!log) return;
  for (const std::string& line : batch.bad_lines) log(LogLevel::kWarning, line);
}

void check_options(const TokenizeOptions& options) {
  if (options.workers < 0) throw ConfigError({"workers", std::to_string(options.workers), "0 (one per core) or more", ""});
  if (options.shard_index >= options.shard_count) {
    throw ConfigError({"shard", std::to_string(options.shard_index) + "/" + std::to_string(options.shard_count), "i/n with i < n", ""});
  }
  if (options.prefix.filename().empty()) {
    throw ConfigError({"output", options.prefix.string(), "a prefix of file names such as data/train", ""});
  }
}

}  // namespace

TokenEncoder make_token_encoder(const Tokenizer& tokenizer) {
  const auto end_of_text = tokenizer.end_of_text_id();
  if (!end_of_text) throw ConfigError({"tokenizer", "no end-of-text token", "one to close each document with", "use a model that has one"});
  TokenEncoder encoder;
  encoder.append = [tokenizer](std::string_view text, std::vector<std::int32_t>& ids) {
    tokenizer.encode(text, ids, {.add_special_tokens = true, .parse_special_tokens = false});
  };
  encoder.end_of_text = *end_of_text;
  encoder.vocabulary_size = tokenizer.vocab_size();
  encoder.hash = tokenizer.hash();
  return encoder;
}

std::optional<TokenFileInfo> tokenize_files(const TokenEncoder& encoder, const TokenizeOptions& options, const LogCallback& log,
                                            const ProgressCallback& progress, const StopRequested& stop) {
  check_options(options);
  BatchReader reader(options);
  TokenFileWriter writer(options.prefix, encoder.vocabulary_size);
  TokenFileInfo info;
  info.tokenizer_hash = encoder.hash;
  info.end_of_text = encoder.end_of_text;
  info.shard_index = options.shard_index;
  info.shard_count = options.shard_count;

  const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
  const int workers = options.workers > 0 ? options.workers : static_cast<int>(cores);
  bool stopped = false;
  ordered_parallel<Batch>(
      workers, 2 * static_cast<std::size_t>(workers) + 2, [&](Batch& batch) { return reader.next(batch); },
      [&](Batch& batch) { encode_batch(encoder, options.text, batch); },
      [&](Batch& batch) {
        stopped = stop && stop();
        if (stopped) return false;
        write_batch(batch, writer, info, log);
        if (progress) progress({"tokenize", batch.bytes_read, reader.records().total_bytes(), "bytes"});
        return true;
      });
  if (stopped) return std::nullopt;
  if (writer.tokens() == 0) {
    throw DataError(
        {options.inputs.empty() ? "input" : options.inputs.front().string(), "no document with text", "at least one", "check the inputs"});
  }
  info.sources = reader.records().sources();
  writer.commit(info);
  return info;
}

std::vector<std::int32_t> tokenize_text(const TokenEncoder& encoder, const std::filesystem::path& input, const TextOptions& options,
                                        std::uint64_t max_tokens) {
  DocumentReader reader(list_text_files({&input, 1}), options);
  std::vector<std::int32_t> ids;
  Document document;
  while ((max_tokens == 0 || ids.size() < max_tokens) && reader.next(document)) {
    append_document(encoder, document.text, ids);
  }
  if (max_tokens > 0 && ids.size() > max_tokens) ids.resize(max_tokens);
  return ids;
}

}  // namespace stableqat
