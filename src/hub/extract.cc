#include "hub/extract.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "data/text_records.h"
#include "hub/stop.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat::hub {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

// Records of one file, with what cannot be read left out or thrown.
class Records {
 public:
  Records(const fs::path& input, const SampleOptions& options, const HubCallbacks& callbacks)
      : reader_({input}, options.text.json_key, options.text.max_document_bytes), options_(options), callbacks_(callbacks) {}

  bool next(TextRecord& record) {
    while (true) {
      throw_if_stopped(callbacks_.stop);
      try {
        return reader_.next(record);
      } catch (const DataError& error) {
        pass_over(error);
      }
    }
  }
  // Throws where bad records are not to be passed over.
  void pass_over(const DataError& error) const {
    if (!options_.text.skip_bad_lines) throw DataError(error);
    if (callbacks_.log) callbacks_.log(LogLevel::kWarning, error.what());
  }
  std::uint64_t bytes_read() const { return reader_.bytes_read(); }

 private:
  RecordReader reader_;
  const SampleOptions& options_;
  const HubCallbacks& callbacks_;
};

std::uint64_t count_records(const fs::path& input, const SampleOptions& options, const HubCallbacks& callbacks) {
  HubCallbacks silent{{}, {}, callbacks.stop};  // warnings come when the records are written
  Records records(input, options, silent);
  TextRecord record;
  std::uint64_t count = 0;
  while (records.next(record)) ++count;
  return count;
}

// The output's lines, written in large pieces.
class LineWriter {
 public:
  explicit LineWriter(const fs::path& path) : file_(path) { buffer_.reserve(kBufferBytes); }

  void write(std::string_view line) {
    buffer_ += line;
    buffer_ += '\n';
    if (buffer_.size() >= kBufferBytes) flush();
  }
  std::uint64_t commit() {
    flush();
    const std::uint64_t bytes = file_.size();
    file_.commit();
    return bytes;
  }

 private:
  void flush() {
    file_.write(buffer_);
    buffer_.clear();
  }

  AtomicFile file_;
  std::string buffer_;
};

// JSON lines stay as they are, and are only parsed where their tokens count.
void write_record(TextRecord&& record, const SampleOptions& options, LineWriter& writer, Extracted& done) {
  if (record.json && !options.count_tokens) return writer.write(record.bytes);
  const std::string line = record.json ? record.bytes : "";
  const Document document = parse_record(std::move(record), options.text.json_key);
  if (options.count_tokens) done.tokens += options.count_tokens(document.text);
  writer.write(line.empty() ? nlohmann::json{{"text", document.text}}.dump() : line);
}

}  // namespace

Extracted extract_documents(const fs::path& input, const fs::path& output, const ExtractLimits& limits, const SampleOptions& options,
                            const HubCallbacks& callbacks, const std::function<void(std::uint64_t)>& advanced) {
  std::uint64_t wanted = std::numeric_limits<std::uint64_t>::max();
  if (limits.share < 1.0)
    wanted = static_cast<std::uint64_t>(std::ceil(limits.share * static_cast<double>(count_records(input, options, callbacks))));

  Extracted done;
  Records records(input, options, callbacks);
  LineWriter writer(output);
  TextRecord record;
  while (done.documents < wanted && !(limits.tokens && done.tokens >= *limits.tokens) && records.next(record)) {
    advanced(records.bytes_read());
    try {
      write_record(std::move(record), options, writer, done);
    } catch (const DataError& error) {
      records.pass_over(error);
      continue;
    }
    ++done.documents;
  }
  done.text_bytes = writer.commit();
  return done;
}

}  // namespace stableqat::hub
