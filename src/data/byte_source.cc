#include "data/byte_source.h"

#include <fcntl.h>
#include <lzma.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

#include "stableqat/base/error.h"

namespace stableqat {

namespace {

constexpr std::size_t kInputBytes = std::size_t{1} << 17;
constexpr std::uint64_t kXzMemoryLimit = std::uint64_t{1} << 30;  // `xz -9` needs 65 MiB

[[noreturn]] void throw_read_error(const std::filesystem::path& path) {
  throw EnvironmentError({path.string(), std::generic_category().message(errno), "a readable file", "check its path and permissions"});
}

// What the three formats have in common: an input buffer, and a loop until something came out.
class Decoder : public ByteSource {
 public:
  explicit Decoder(ByteSource& input) : input_(input), buffer_(kInputBytes) {}

  std::size_t read(std::span<char> out) final {
    while (!finished_) {
      if (!damage_.empty()) throw CorruptStream(damage_);
      if (pending_.empty() && !input_ended_) refill();
      const std::size_t before = pending_.size();
      const std::size_t produced = decode(out);
      if (produced > 0) return produced;
      if (input_ended_ && pending_.size() == before && !finished_ && damage_.empty()) damage_ = "ends early";
    }
    return 0;
  }

 protected:
  // Decodes from the front of pending_, which it shortens, into `out`; sets finished_ after the last stream, damage_ to what is wrong with
  // it. Returns the bytes produced, which are good even where damage follows.
  virtual std::size_t decode(std::span<char> out) = 0;

  std::span<char> pending_;
  bool input_ended_ = false;
  bool finished_ = false;
  std::string damage_;

 private:
  void refill() {
    pending_ = std::span(buffer_).first(input_.read(buffer_));
    input_ended_ = pending_.empty();
  }

  ByteSource& input_;
  std::vector<char> buffer_;
};

class GzipDecoder final : public Decoder {
 public:
  explicit GzipDecoder(ByteSource& input) : Decoder(input) {
    constexpr int kGzipOnly = 16;
    if (inflateInit2(&stream_, MAX_WBITS + kGzipOnly) != Z_OK) throw std::bad_alloc();
  }
  ~GzipDecoder() override { inflateEnd(&stream_); }

 private:
  std::size_t decode(std::span<char> out) override {
    if (between_members_) {
      if (pending_.empty()) {
        finished_ = input_ended_;
        return 0;
      }
      inflateReset(&stream_);
      between_members_ = false;
    }
    stream_.next_in = reinterpret_cast<Bytef*>(pending_.data());
    stream_.avail_in = static_cast<uInt>(pending_.size());
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    const auto room = static_cast<uInt>(out.size());
    stream_.avail_out = room;
    const int status = inflate(&stream_, Z_NO_FLUSH);
    pending_ = pending_.last(stream_.avail_in);
    if (status == Z_MEM_ERROR) throw std::bad_alloc();
    if (status == Z_STREAM_END) {
      between_members_ = true;
    } else if (status != Z_OK && status != Z_BUF_ERROR) {
      damage_ = "is corrupt (" + std::string(stream_.msg != nullptr ? stream_.msg : "no end of block") + ")";
    }
    return room - stream_.avail_out;
  }

  z_stream stream_{};
  bool between_members_ = false;
};

class XzDecoder final : public Decoder {
 public:
  explicit XzDecoder(ByteSource& input) : Decoder(input) {
    if (lzma_stream_decoder(&stream_, kXzMemoryLimit, LZMA_CONCATENATED) != LZMA_OK) throw std::bad_alloc();
  }
  ~XzDecoder() override { lzma_end(&stream_); }

 private:
  std::size_t decode(std::span<char> out) override {
    stream_.next_in = reinterpret_cast<const std::uint8_t*>(pending_.data());
    stream_.avail_in = pending_.size();
    stream_.next_out = reinterpret_cast<std::uint8_t*>(out.data());
    stream_.avail_out = out.size();
    const lzma_ret status = lzma_code(&stream_, input_ended_ ? LZMA_FINISH : LZMA_RUN);
    pending_ = pending_.last(stream_.avail_in);
    switch (status) {
      case LZMA_OK:
      case LZMA_BUF_ERROR:
        break;
      case LZMA_STREAM_END:
        finished_ = true;
        break;
      case LZMA_MEM_ERROR:
        throw std::bad_alloc();
      case LZMA_MEMLIMIT_ERROR:
        damage_ = "needs more than 1 GiB of memory";
        break;
      case LZMA_FORMAT_ERROR:
        damage_ = "is of another format";
        break;
      case LZMA_OPTIONS_ERROR:
        damage_ = "uses options that are not supported";
        break;
      default:
        damage_ = "is corrupt";
        break;
    }
    return out.size() - stream_.avail_out;
  }

  lzma_stream stream_ = LZMA_STREAM_INIT;
};

class ZstdDecoder final : public Decoder {
 public:
  explicit ZstdDecoder(ByteSource& input) : Decoder(input), stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) throw std::bad_alloc();
  }
  ~ZstdDecoder() override { ZSTD_freeDStream(stream_); }

 private:
  std::size_t decode(std::span<char> out) override {
    if (between_frames_ && pending_.empty()) {
      finished_ = input_ended_;
      return 0;
    }
    ZSTD_inBuffer in{pending_.data(), pending_.size(), 0};
    ZSTD_outBuffer produced{out.data(), out.size(), 0};
    const std::size_t status = ZSTD_decompressStream(stream_, &produced, &in);
    pending_ = pending_.subspan(in.pos);
    between_frames_ = status == 0;
    if (ZSTD_isError(status) != 0) damage_ = "is corrupt (" + std::string(ZSTD_getErrorName(status)) + ")";
    return produced.pos;
  }

  ZSTD_DStream* stream_;
  bool between_frames_ = false;
};

}  // namespace

FileSource::FileSource(std::filesystem::path path)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)), hash_(XXH3_createState()) {
  if (descriptor_ < 0) throw_read_error(path_);
  XXH3_64bits_reset(hash_.get());
}

FileSource::~FileSource() { ::close(descriptor_); }

std::size_t FileSource::read(std::span<char> out) {
  ssize_t count;
  do {
    count = ::read(descriptor_, out.data(), out.size());
  } while (count < 0 && errno == EINTR);
  if (count < 0) throw_read_error(path_);
  const auto size = static_cast<std::size_t>(count);
  XXH3_64bits_update(hash_.get(), out.data(), size);
  bytes_read_ += size;
  return size;
}

std::string FileSource::hash() const {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(XXH3_64bits_digest(hash_.get())));
  return text.data();
}

std::unique_ptr<ByteSource> make_decoder(Compression compression, ByteSource& input) {
  switch (compression) {
    case Compression::kGzip:
      return std::make_unique<GzipDecoder>(input);
    case Compression::kXz:
      return std::make_unique<XzDecoder>(input);
    case Compression::kZstd:
      return std::make_unique<ZstdDecoder>(input);
    case Compression::kNone:
      break;
  }
  throw std::invalid_argument("make_decoder: no compression");
}

}  // namespace stableqat
