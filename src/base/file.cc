#include "stableqat/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "stableqat/base/error.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

std::string system_message(int code) { return std::generic_category().message(code); }

[[noreturn]] void throw_write_error(const fs::path& path, int code) {
  std::string remedy = "check that the folder exists and may be written";
  if (code == ENOSPC || code == EDQUOT) remedy = "free space on that disk or choose another output folder";
  throw EnvironmentError({path.string(), system_message(code), "a writable file", remedy});
}

void sync_path(const fs::path& path, int flags) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC);
  if (descriptor < 0) throw_write_error(path, errno);
  const int result = ::fsync(descriptor);
  const int code = errno;
  ::close(descriptor);
  if (result != 0) throw_write_error(path, code);
}

void sync_parent(const fs::path& path) {
  const fs::path parent = path.parent_path();
  sync_path(parent.empty() ? fs::path(".") : parent, O_RDONLY | O_DIRECTORY);
}

// Returns the number of bytes. `path` is for messages.
std::uint64_t write_all(int descriptor, std::span<const std::byte> bytes, const fs::path& path) {
  const std::uint64_t size = bytes.size();
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      throw_write_error(path, errno);
    }
  }
  return size;
}

void write_all_at(int descriptor, std::uint64_t offset, std::span<const std::byte> bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0) {
      if (errno == EINTR) continue;
      throw_write_error(path, errno);
    }
    offset += static_cast<std::uint64_t>(written);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

constexpr std::string_view kTemporarySuffix = ".tmp-";

fs::path temporary_name(const fs::path& path) {
  fs::path name = path;
  if (name.filename().empty()) name = name.parent_path();
  name += std::string(kTemporarySuffix) + std::to_string(::getpid());
  return name;
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    const int code = errno;
    if (code == ENOENT || code == ENOTDIR) {
      throw DataError({path.string(), "no such file", "a readable file", "check the path"});
    }
    throw EnvironmentError({path.string(), system_message(code), "a readable file", "check its permissions"});
  }
  struct stat status {};
  const int result = ::fstat(descriptor, &status);
  if (result != 0 || S_ISDIR(status.st_mode)) {
    ::close(descriptor);
    throw DataError({path.string(), "a folder", "a file", "name a file inside it"});
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ > 0) {
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (address == MAP_FAILED) {
      const int code = errno;
      ::close(descriptor);
      throw EnvironmentError({path.string(), system_message(code), "a file that can be mapped", "check its permissions"});
    }
    data_ = static_cast<const std::byte*>(address);
  }
  ::close(descriptor);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(std::span<const std::byte> part) const noexcept {
  if (part.empty()) return;
  static const auto kPage = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t first = static_cast<std::size_t>(part.data() - data_) / kPage * kPage;
  const auto end = static_cast<std::size_t>(part.data() + part.size() - data_);
  ::madvise(const_cast<std::byte*>(data_ + first), end - first, MADV_DONTNEED);
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)), temporary_(temporary_name(path_)) {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw_write_error(path_, errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) { size_ += write_all(descriptor_, bytes, path_); }

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) { write_all_at(descriptor_, offset, bytes, path_); }

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) throw_write_error(path_, errno);
  const int closed = ::close(std::exchange(descriptor_, -1));
  if (closed != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int code = errno;
    ::unlink(temporary_.c_str());
    throw_write_error(path_, code);
  }
  sync_parent(path_);
}

SharedFile::SharedFile(fs::path path, int flags)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_WRONLY | O_CLOEXEC | flags, 0666)) {
  if (descriptor_ < 0) throw_write_error(path_, errno);
}

SharedFile::SharedFile(const fs::path& path) : SharedFile(path, 0) {}

SharedFile::SharedFile(SharedFile&& other) noexcept : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

SharedFile::~SharedFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

SharedFile SharedFile::create(const fs::path& path, std::uint64_t size) {
  SharedFile file(path, O_CREAT | O_TRUNC);
  const auto length = static_cast<off_t>(size);
  // File systems without reserved room only get the size.
  const int code = size == 0 ? 0 : ::posix_fallocate(file.descriptor_, 0, length);
  if (code == ENOSPC || code == EDQUOT || code == EFBIG) throw_write_error(path, code);
  if (code != 0 && ::ftruncate(file.descriptor_, length) != 0) throw_write_error(path, errno);
  return file;
}

void SharedFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) { write_all_at(descriptor_, offset, bytes, path_); }

void SharedFile::sync() {
  if (::fsync(descriptor_) != 0) throw_write_error(path_, errno);
}

GrowingFile::GrowingFile(fs::path path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw_write_error(path_, errno);
  struct stat status {};
  // File systems without locks are taken as they are.
  const bool is_taken = ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  if (is_taken || ::fstat(descriptor_, &status) != 0) {
    const int code = errno;
    ::close(descriptor_);
    if (!is_taken) throw_write_error(path_, code);
    throw EnvironmentError({path_.string(), "another process that is writing it", "one writer", "wait for it, or choose another output"});
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

GrowingFile::~GrowingFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void GrowingFile::cut(std::uint64_t size) {
  const auto offset = static_cast<off_t>(size);
  if (::ftruncate(descriptor_, offset) != 0 || ::lseek(descriptor_, offset, SEEK_SET) != offset) throw_write_error(path_, errno);
  size_ = size;
}

void GrowingFile::write(std::span<const std::byte> bytes) { size_ += write_all(descriptor_, bytes, path_); }

void GrowingFile::sync() {
  if (::fsync(descriptor_) != 0) throw_write_error(path_, errno);
}

void GrowingFile::rename(const fs::path& path) {
  sync();
  if (::close(std::exchange(descriptor_, -1)) != 0 || ::rename(path_.c_str(), path.c_str()) != 0) throw_write_error(path, errno);
  sync_parent(path);
}

void GrowingFile::remove() noexcept {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  ::unlink(path_.c_str());
}

namespace {

// False where `b` does not exist or the file system cannot do it.
bool exchange_folders(const fs::path& a, const fs::path& b) {
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

}  // namespace

AtomicDirectory::AtomicDirectory(fs::path path) : path_(std::move(path)), staging_(temporary_name(path_)) {
  std::error_code error;
  fs::remove_all(staging_, error);
  fs::create_directories(staging_, error);
  if (error) throw_write_error(path_, error.value());
}

AtomicDirectory::~AtomicDirectory() {
  if (committed_) return;
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
}

void AtomicDirectory::commit() {
  for (const auto& entry : fs::recursive_directory_iterator(staging_)) {
    sync_path(entry.path(), entry.is_directory() ? O_RDONLY | O_DIRECTORY : O_RDONLY);
  }
  sync_path(staging_, O_RDONLY | O_DIRECTORY);
  if (exchange_folders(staging_, path_)) {
    committed_ = true;
    sync_parent(path_);
    std::error_code ignored;
    fs::remove_all(staging_, ignored);
    return;
  }
  std::error_code error;
  fs::path old;
  if (fs::exists(path_)) {
    old = staging_;
    old += ".old";
    fs::remove_all(old, error);
    fs::rename(path_, old, error);
    if (error) throw_write_error(path_, error.value());
  }
  fs::rename(staging_, path_, error);
  if (error) {
    const int code = error.value();
    if (!old.empty()) fs::rename(old, path_, error);
    throw_write_error(path_, code);
  }
  committed_ = true;
  sync_parent(path_);
  if (!old.empty()) fs::remove_all(old, error);
}

void AtomicDirectory::remove_leftovers(const fs::path& folder) {
  std::error_code ignored;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    const std::size_t suffix = name.rfind(kTemporarySuffix);
    if (suffix == std::string::npos) continue;
    const std::string process = name.substr(suffix + kTemporarySuffix.size());
    const bool is_number = !process.empty() && process.find_first_not_of("0123456789") == std::string::npos;
    if (is_number && entry.is_directory(ignored) && !fs::exists("/proc/" + process, ignored)) leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) fs::remove_all(path, ignored);
}

std::string read_text_file(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  std::string text(bytes.size(), '\0');
  if (!bytes.empty()) std::memcpy(text.data(), bytes.data(), bytes.size());
  return text;
}

void write_text_file(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

namespace {

std::string hash_text(XXH64_hash_t hash) {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(hash));
  return std::string(text.data());
}

}  // namespace

std::string content_hash(std::span<const std::byte> bytes) { return hash_text(XXH3_64bits(bytes.data(), bytes.size())); }

// Pages that were read are given back: a checkpoint is larger than what training takes besides.
std::string file_content_hash(const fs::path& path) {
  constexpr std::size_t kPiece = std::size_t{8} << 20;
  const MappedFile file(path);
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  if (!state || XXH3_64bits_reset(state.get()) != XXH_OK) throw std::bad_alloc();
  for (std::size_t first = 0; first < file.bytes().size(); first += kPiece) {
    const auto piece = file.bytes().subspan(first, std::min(kPiece, file.bytes().size() - first));
    XXH3_64bits_update(state.get(), piece.data(), piece.size());
    file.release(piece);
  }
  return hash_text(XXH3_64bits_digest(state.get()));
}

}  // namespace stableqat
