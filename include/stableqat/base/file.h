// Files: read-only mappings and writes that appear whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace stableqat {

// A file mapped read-only. Move-only; the bytes stay valid while the object lives. Reads are thread-safe.
class MappedFile {
 public:
  // Throws DataError when the file does not exist or is a folder, EnvironmentError when it cannot be read.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  const std::filesystem::path& path() const noexcept { return path_; }
  // Gives the pages of a part of bytes() back to the system, which counts those that were read as memory of the process. The bytes stay
  // valid: they are fetched again when they are read again. Thread-safe.
  void release(std::span<const std::byte> part) const noexcept;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Sequential writer of one file that appears under its name only when commit() is called: it writes `PATH.tmp-PID`, syncs it and renames.
// Without commit() the temporary file is removed. Throws EnvironmentError (disk full, unwritable folder). Not thread-safe.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  // Writes at an absolute offset of what was written before (headers that are known last).
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  std::uint64_t size() const noexcept { return size_; }
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

// A file that several processes fill, each its own parts of it. Move-only. Throws EnvironmentError (disk full, unwritable folder). Not
// thread-safe.
class SharedFile {
 public:
  // Opens a file that is there.
  explicit SharedFile(const std::filesystem::path& path);
  SharedFile(SharedFile&& other) noexcept;
  SharedFile& operator=(SharedFile&& other) = delete;
  ~SharedFile();

  // A new file of `size` bytes, for all of which the disk has room; one of that name is replaced.
  static SharedFile create(const std::filesystem::path& path, std::uint64_t size);

  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  void sync();

 private:
  SharedFile(std::filesystem::path path, int flags);

  std::filesystem::path path_;
  int descriptor_ = -1;
};

// A work file that may grow over several runs of the program: opened under its own name (made if needed), with what is in it, and locked
// against other processes. Closing leaves it. Throws EnvironmentError (disk full, unwritable folder, locked). Not thread-safe.
class GrowingFile {
 public:
  explicit GrowingFile(std::filesystem::path path);
  GrowingFile(const GrowingFile&) = delete;
  GrowingFile& operator=(const GrowingFile&) = delete;
  ~GrowingFile();

  std::uint64_t size() const noexcept { return size_; }
  // Drops what lies behind the first `size` bytes (at most the present size), where writing goes on.
  void cut(std::uint64_t size);
  void write(std::span<const std::byte> bytes);
  void sync();
  // Syncs, closes, and gives the file the name `path`, in the same folder.
  void rename(const std::filesystem::path& path);
  // Closes and removes it.
  void remove() noexcept;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

// A folder that appears under its name only when commit() is called. Files are made in staging(); commit() syncs every file and the folder,
// and renames; an existing folder of that name is exchanged for the new one in one step where the file system can do that, and removed.
// Without commit() the staging folder is removed.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(std::filesystem::path path);
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;
  ~AtomicDirectory();

  const std::filesystem::path& staging() const noexcept { return staging_; }
  void commit();

  // Removes the staging folders in `folder` that killed processes of this machine have left. Those whose process id runs again stay.
  static void remove_leftovers(const std::filesystem::path& folder);

 private:
  std::filesystem::path path_;
  std::filesystem::path staging_;
  bool committed_ = false;
};

// The whole file as text. Throws like MappedFile.
std::string read_text_file(const std::filesystem::path& path);

// Writes `text` by AtomicFile.
void write_text_file(const std::filesystem::path& path, std::string_view text);

// XXH3 64-bit hash of the bytes, 16 hex digits.
std::string content_hash(std::span<const std::byte> bytes);
std::string file_content_hash(const std::filesystem::path& path);

}  // namespace stableqat
