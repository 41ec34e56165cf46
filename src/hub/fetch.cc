#include "hub/fetch.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include "hub/address.h"
#include "hub/digest.h"
#include "hub/retry.h"
#include "hub/stop.h"
#include "stableqat/base/error.h"

namespace stableqat::hub {

namespace fs = std::filesystem;

namespace {

constexpr int kBadContentsAllowed = 3;
constexpr std::size_t kReadBytes = std::size_t{1} << 20;

[[noreturn]] void throw_disk_error(const fs::path& path, int code) {
  const bool full = code == ENOSPC || code == EDQUOT;
  throw EnvironmentError({path.string(), std::generic_category().message(code), "a file that can be read and written",
                          full ? "free space on that disk, or choose another cache by HF_HUB_CACHE" : "check its permissions"});
}

// A file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags) : path_(path), value_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (value_ < 0) throw_disk_error(path, errno);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { ::close(value_); }

  std::size_t read(std::span<std::byte> out) const {
    ssize_t count;
    do {
      count = ::read(value_, out.data(), out.size());
    } while (count < 0 && errno == EINTR);
    if (count < 0) throw_disk_error(path_, errno);
    return static_cast<std::size_t>(count);
  }
  void write(std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const ssize_t written = ::write(value_, bytes.data(), bytes.size());
      if (written < 0 && errno != EINTR) throw_disk_error(path_, errno);
      if (written > 0) bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }
  void empty() const {
    if (::ftruncate(value_, 0) != 0 || ::lseek(value_, 0, SEEK_SET) != 0) throw_disk_error(path_, errno);
  }
  void sync() const {
    if (::fsync(value_) != 0) throw_disk_error(path_, errno);
  }

 private:
  fs::path path_;
  int value_;
};

// Adds what is left of the file to the digest; returns the bytes read.
std::uint64_t add_rest(const Descriptor& file, ContentDigest& digest, const StopRequested& stop) {
  std::vector<std::byte> buffer(kReadBytes);
  std::uint64_t bytes = 0;
  while (const std::size_t count = file.read(buffer)) {
    throw_if_stopped(stop);
    digest.update(std::span(buffer).first(count));
    bytes += count;
  }
  return bytes;
}

// The server sent something else than was asked for; another attempt begins from byte 0.
class WrongAnswer : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The first byte that a 206 response brings ("bytes FIRST-LAST/SIZE"; RFC 9110, section 14.4).
bool continues_at(const HttpResponse& head, std::uint64_t first_byte) {
  const std::string range = head.header("content-range");
  constexpr std::string_view kUnit = "bytes ";
  std::uint64_t first = 0;
  if (!range.starts_with(kUnit)) return false;
  const auto parsed = std::from_chars(range.data() + kUnit.size(), range.data() + range.size(), first);
  return parsed.ec == std::errc{} && first == first_byte;
}

// The growing partial file of one blob and the digest of what it holds.
class Partial {
 public:
  Partial(const FetchContext& context, const HubFile& file)
      : context_(context), file_(file), output_(context.cache.partial(file), O_RDWR | O_CREAT), digest_(file.digest, file.bytes) {
    received_ = add_rest(output_, digest_, context.callbacks.stop);
    if (received_ > file.bytes) {
      received_ = 0;
      restart();
    }
    furthest_ = received_;
    context_.tally.moved(file_, static_cast<std::int64_t>(received_), received_);
  }

  std::uint64_t received() const noexcept { return received_; }
  bool is_complete() const noexcept { return received_ == file_.bytes; }

  void restart() {
    output_.empty();
    digest_.restart();
    context_.tally.moved(file_, -static_cast<std::int64_t>(received_), 0);
    received_ = 0;
  }

  // True when this is further than ever before.
  bool append(std::span<const std::byte> bytes) {
    if (bytes.size() > file_.bytes - received_) throw WrongAnswer("more than its " + std::to_string(file_.bytes) + " bytes");
    output_.write(bytes);
    digest_.update(bytes);
    received_ += bytes.size();
    context_.tally.moved(file_, static_cast<std::int64_t>(bytes.size()), received_);
    const bool is_further = received_ > furthest_;
    furthest_ = std::max(furthest_, received_);
    return is_further;
  }

  std::string digest() { return digest_.hex(); }
  void sync() const { output_.sync(); }

 private:
  const FetchContext& context_;
  const HubFile& file_;
  Descriptor output_;
  ContentDigest digest_;
  std::uint64_t received_ = 0;
  std::uint64_t furthest_ = 0;
};

// Asks for the bytes that are missing, until all of them came.
void receive(const FetchContext& context, const HubFile& file, HttpClient& client, Partial& partial, Retry& retry) {
  const std::string where = page_name(context.repository) + "/" + file.path;
  const std::string url = file_address(context.repository, context.commit, file.path, context.options);
  while (!partial.is_complete()) {
    const std::uint64_t first_byte = partial.received();
    bool is_first_piece = true;
    try {
      const HttpResponse head =
          client.get({url, context.options.token, first_byte}, [&](const HttpResponse& answer, std::span<const std::byte> piece) {
            if (is_first_piece && first_byte > 0) {
              if (answer.status != 206) partial.restart();  // the server sends the whole file
              if (answer.status == 206 && !continues_at(answer, first_byte)) throw WrongAnswer("another range than was asked for");
            }
            is_first_piece = false;
            if (partial.append(piece)) retry.advanced();
          });
      if (head.status == 416) throw WrongAnswer("status 416: a shorter file");
      if (!head.ok() && !is_passing(head.status)) throw_refused(head, where, context.options);
      if (!head.ok()) {
        retry.failed(where, "HTTP status " + std::to_string(head.status), head.retry_after);
      } else if (!partial.is_complete()) {
        retry.failed(where, "ended after " + std::to_string(partial.received()) + " of " + std::to_string(file.bytes) + " bytes");
      }
    } catch (const TransferError& error) {
      if (!error.may_pass()) throw EnvironmentError({where, error.what(), "", "check HF_ENDPOINT and the proxy settings"});
      retry.failed(where, error.what());
    }
  }
}

void fetch_blob(const FetchContext& context, const HubFile& file, HttpClient& client) {
  const std::string where = page_name(context.repository) + "/" + file.path;
  Partial partial(context, file);
  Retry retry(context.options, context.callbacks);
  for (int bad_contents = 0;;) {
    std::string found;
    try {
      receive(context, file, client, partial, retry);
      const std::string digest = partial.digest();
      if (digest == file.digest) break;
      found = "digest " + digest;
    } catch (const WrongAnswer& answer) {
      found = answer.what();
    }
    partial.restart();
    if (++bad_contents == kBadContentsAllowed) {
      throw DataError({where, found + ", " + std::to_string(bad_contents) + " times in a row",
                       "digest " + file.digest + " and " + std::to_string(file.bytes) + " bytes",
                       "the server or a proxy sends other content than the repository lists; try another network"});
    }
    if (context.callbacks.log)
      context.callbacks.log(LogLevel::kWarning, where + ": " + found + " instead of " + file.digest + "; fetched again");
  }
  partial.sync();
}

}  // namespace

bool has_good_content(const fs::path& blob, const HubFile& file, const StopRequested& stop) {
  ContentDigest digest(file.digest, file.bytes);
  const Descriptor content(blob, O_RDONLY);
  return add_rest(content, digest, stop) == file.bytes && digest.hex() == file.digest;
}

void fetch_file(const FetchContext& context, const HubFile& file, HttpClient& client) {
  const fs::path blob = context.cache.blob(file);
  const fs::path partial = context.cache.partial(file);
  make_folder(blob.parent_path());
  {
    const FileLock lock(context.cache.lock(file), context.callbacks.stop);
    if (!context.cache.has_blob(file)) {  // another process may have brought it meanwhile
      std::error_code error;
      if (fs::exists(blob)) {
        if (context.callbacks.log) context.callbacks.log(LogLevel::kWarning, blob.string() + ": not whole, is completed");
        fs::rename(blob, partial, error);
      }
      fetch_blob(context, file, client);
      fs::rename(partial, blob, error);
      if (error) throw_disk_error(blob, error.value());
    } else {
      context.tally.moved(file, static_cast<std::int64_t>(file.bytes), file.bytes);
    }
  }
  context.cache.link(context.commit, file);
  context.tally.finished(file);
  if (context.callbacks.log) context.callbacks.log(LogLevel::kDebug, file.path + ": " + std::to_string(file.bytes) + " bytes fetched");
}

}  // namespace stableqat::hub
