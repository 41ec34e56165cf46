#include "hub/sample_journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "hub/json_count.h"
#include "io/strict_json.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat::hub {

namespace fs = std::filesystem;

namespace {

constexpr int kMaxEntryDepth = 4;

[[noreturn]] void throw_write_error(const fs::path& path, int code) {
  throw EnvironmentError({path.string(), std::generic_category().message(code), "a file that can be written",
                          code == ENOSPC || code == EDQUOT ? "free space on that disk" : "check its permissions"});
}

}  // namespace

SampleJournal::SampleJournal(fs::path path) : path_(std::move(path)) {
  if (!fs::exists(path_)) return;
  const std::string text = read_text_file(path_);
  const std::size_t whole = text.rfind('\n') + 1;  // npos + 1 = 0
  std::uint64_t number = 0;
  for (std::size_t begin = 0; begin < whole;) {
    const std::size_t end = text.find('\n', begin);
    const std::string where = path_.string() + ":" + std::to_string(++number);
    const auto entry = io::parse_strict_json(std::string_view(text).substr(begin, end - begin), where, kMaxEntryDepth);
    try {
      entries_[entry.at("path").get<std::string>()] = {count_at(entry, "documents"), count_at(entry, "text_bytes"),
                                                       count_at(entry, "tokens")};
    } catch (const std::exception& error) {
      throw DataError({where, error.what(), "an object with path, documents, text_bytes and tokens", "choose another output folder"});
    }
    begin = end + 1;
  }
  if (whole < text.size()) fs::resize_file(path_, whole);
}

const Extracted* SampleJournal::find(const std::string& path) const {
  const auto found = entries_.find(path);
  return found == entries_.end() ? nullptr : &found->second;
}

void SampleJournal::add(const std::string& path, const std::string& output, const Extracted& extracted) {
  const nlohmann::json entry{{"path", path},
                             {"output", output},
                             {"documents", extracted.documents},
                             {"text_bytes", extracted.text_bytes},
                             {"tokens", extracted.tokens}};
  const std::string line = entry.dump() + "\n";
  const int descriptor = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) throw_write_error(path_, errno);
  const ssize_t written = ::write(descriptor, line.data(), line.size());
  const bool good = written == static_cast<ssize_t>(line.size()) && ::fdatasync(descriptor) == 0;
  const int code = written >= 0 && written < static_cast<ssize_t>(line.size()) ? ENOSPC : errno;
  ::close(descriptor);
  if (!good) throw_write_error(path_, code);
  entries_[path] = extracted;
}

}  // namespace stableqat::hub
