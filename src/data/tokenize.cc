#include "stableqat/data/tokenize.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <nlohmann/json.hpp>
#include <span>
#include <thread>
#include <utility>

#include "data/ordered_parallel.h"
#include "data/text_records.h"
#include "data/token_file_info.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/tokenizer/tokenizer.h"

namespace stableqat {

namespace {

constexpr std::size_t kBatchBytes = std::size_t{1} << 19;

// How far the inputs were read.
struct ReadPosition {
  std::uint64_t records = 0;          // over all inputs
  std::uint64_t records_of_file = 0;  // of the file after those that were closed
};

// What one worker handles at a time.
struct Batch {
  std::vector<TextRecord> records;
  std::uint64_t bytes_read = 0;          // on disk, up to the end of this batch
  std::vector<TextSource> closed_files;  // in this batch
  ReadPosition position;                 // behind this batch
  bool ends_in_error = false;            // the next one is an error; the position is not known

  std::vector<std::string> bad_lines;
  std::vector<std::int32_t> ids;     // of all documents
  std::vector<std::size_t> lengths;  // of each document
  std::uint64_t text_bytes = 0;
  std::uint64_t empty_documents = 0;
};

// Reads this shard's records.
class BatchReader {
 public:
  BatchReader(const TokenizeOptions& options, std::vector<std::filesystem::path> files)
      : options_(options), records_(std::move(files), options.text.json_key, options.text.max_document_bytes) {}

  void go_on_after(std::vector<TextSource> closed_files, const ReadPosition& position) {
    files_told_ = closed_files.size();
    records_.go_on_after(std::move(closed_files), position.records_of_file);
    number_ = position.records;
  }

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
          batch.ends_in_error = true;
          return true;
        }
        if (ours()) batch.bad_lines.emplace_back(error.what());
        continue;
      }
      bytes += record.bytes.size();
      batch.records.push_back(std::move(record));
    }
    batch.bytes_read = records_.bytes_read();
    batch.position = {number_, records_.records_of_file()};
    const auto& sources = records_.sources();
    batch.closed_files.assign(sources.begin() + static_cast<std::ptrdiff_t>(files_told_), sources.end());
    files_told_ = sources.size();
    return more || !batch.records.empty() || !batch.bad_lines.empty();
  }

  std::uint64_t total_bytes() const noexcept { return records_.total_bytes(); }
  // Once all batches were read.
  const std::vector<TextSource>& sources() const noexcept { return records_.sources(); }

 private:
  bool ours() { return number_++ % options_.shard_count == options_.shard_index; }

  const TokenizeOptions& options_;
  RecordReader records_;
  std::uint64_t number_ = 0;
  std::size_t files_told_ = 0;  // of the closed ones, in earlier batches
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
  info.sources.insert(info.sources.end(), batch.closed_files.begin(), batch.closed_files.end());
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

// Changes with everything that decides what is written, but for whether bad lines stop the work.
std::string key_of(const TokenEncoder& encoder, const TokenizeOptions& options, const std::vector<std::filesystem::path>& files) {
  std::string text = encoder.hash + ' ' + std::to_string(encoder.end_of_text) + ' ' + options.text.json_key + ' ' +
                     std::to_string(options.text.max_document_bytes) + ' ' + std::to_string(options.shard_index) + '/' +
                     std::to_string(options.shard_count);
  for (const std::filesystem::path& file : files) {
    text += '\n' + file.string() + ' ' + std::to_string(std::filesystem::file_size(file)) + ' ' +
            std::to_string(std::filesystem::last_write_time(file).time_since_epoch().count());
  }
  return content_hash(std::as_bytes(std::span(text)));
}

// What an interrupted call leaves beside the ids: how far it was, and its counts.
std::string state_text(const std::string& key, const ReadPosition& position, const TokenFileInfo& info) {
  const nlohmann::json json{
      {"key", key}, {"records", position.records}, {"records_of_file", position.records_of_file}, {"info", to_json_text(info)}};
  return json.dump();
}

// Fills position and info from the state, unless it belongs to another call.
bool read_state(const std::string& text, const std::string& key, ReadPosition& position, TokenFileInfo& info) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object() || json.value("key", "") != key) return false;
  position = {json.value("records", std::uint64_t{0}), json.value("records_of_file", std::uint64_t{0})};
  info = token_file_info_from_text(json.value("info", ""), "saved state");
  return true;
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
  const std::vector<std::filesystem::path> files = list_text_files(options.inputs);
  const std::string key = key_of(encoder, options, files);
  BatchReader reader(options, files);
  TokenFileWriter writer(options.prefix, encoder.vocabulary_size);
  TokenFileInfo info;
  info.tokenizer_hash = encoder.hash;
  info.end_of_text = encoder.end_of_text;
  info.shard_index = options.shard_index;
  info.shard_count = options.shard_count;
  ReadPosition position;
  if (read_state(writer.saved_state(), key, position, info)) {
    writer.resume();
    reader.go_on_after(info.sources, position);
    if (log) log(LogLevel::kInfo, "going on after " + std::to_string(writer.documents()) + " documents, where the last call stopped");
  }

  const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
  const int workers = options.workers > 0 ? options.workers : static_cast<int>(cores);
  using Clock = std::chrono::steady_clock;
  Clock::time_point saved = Clock::now();
  bool stopped = false;
  ordered_parallel<Batch>(
      workers, 2 * static_cast<std::size_t>(workers) + 2, [&](Batch& batch) { return reader.next(batch); },
      [&](Batch& batch) { encode_batch(encoder, options.text, batch); },
      [&](Batch& batch) {
        stopped = stop && stop();
        if (stopped) return false;
        write_batch(batch, writer, info, log);
        if (batch.ends_in_error) return true;
        position = batch.position;
        if (progress) progress({"tokenize", batch.bytes_read, reader.total_bytes(), "bytes"});
        if (std::chrono::duration<double>(Clock::now() - saved).count() >= options.save_seconds) {
          writer.save(state_text(key, position, info));
          saved = Clock::now();
        }
        return true;
      });
  if (stopped) {
    writer.save(state_text(key, position, info));
    return std::nullopt;
  }
  if (writer.tokens() == 0) {
    throw DataError(
        {options.inputs.empty() ? "input" : options.inputs.front().string(), "no document with text", "at least one", "check the inputs"});
  }
  info.sources = reader.sources();
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
