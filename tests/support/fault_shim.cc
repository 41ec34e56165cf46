// Preloaded into the program under test (LD_PRELOAD): faults at chosen calls of the C library. By environment variables:
//
//   FAULT_RANK=R           only the process whose RANK is R
//   FAULT_KILL_AT=N        SIGKILL in place of the N-th call that changes a folder in the making (its name has ".tmp-"): mkdir, creating a
//                          file, fallocate, write, fsync, rename. FAULT_MARK=FILE is made then; where it is there, nothing is killed
//   FAULT_COUNT=FILE       gets the number of such calls so far
//   FAULT_SLOW_WRITES=MS   each write to a file in such a folder takes so much longer
//   FAULT_READ_ONLY=1      such folders cannot be made: EROFS
//   FAULT_CLOCK_JUMP=S     the time of day is S seconds later than it is, FAULT_CLOCK_AFTER milliseconds after the start of the process
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>

namespace {

// The function that this file stands in front of.
template <class Function>
Function* next(Function& /*ours*/, const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}
#define NEXT(name) next(::name, #name)

long number(const char* name) {
  const char* const text = std::getenv(name);
  return text == nullptr ? 0 : std::atol(text);
}

bool is_meant() {
  const char* const wanted = std::getenv("FAULT_RANK");
  const char* const rank = std::getenv("RANK");
  return wanted == nullptr || (rank != nullptr && std::strcmp(wanted, rank) == 0);
}

bool is_staging(const char* path) { return path != nullptr && std::strstr(path, ".tmp-") != nullptr; }

bool is_staging_file(int descriptor) {
  char path[4096];
  const ssize_t size = ::readlink(("/proc/self/fd/" + std::to_string(descriptor)).c_str(), path, sizeof path - 1);
  if (size < 0) return false;
  path[size] = 0;
  return is_staging(path);
}

void kill_once() {
  if (const char* const mark = std::getenv("FAULT_MARK")) {
    const int descriptor = NEXT(open)(mark, O_CREAT | O_EXCL | O_WRONLY, 0644);
    if (descriptor < 0) return;
    ::close(descriptor);
  }
  ::kill(::getpid(), SIGKILL);
}

void note_call() {
  static std::atomic<long> calls = 0;
  if (!is_meant()) return;
  const long call = ++calls;
  if (const char* const path = std::getenv("FAULT_COUNT")) {
    const std::string text = std::to_string(call) + "\n";
    const int descriptor = NEXT(open)(path, O_CREAT | O_WRONLY, 0644);
    (void)!NEXT(pwrite)(descriptor, text.data(), text.size(), 0);
    ::close(descriptor);
  }
  if (call == number("FAULT_KILL_AT")) kill_once();
}

void before_write(int descriptor) {
  if (descriptor <= STDERR_FILENO || !is_staging_file(descriptor)) return;
  note_call();
  if (is_meant()) ::usleep(static_cast<useconds_t>(1000 * number("FAULT_SLOW_WRITES")));
}

// Seconds to add now.
long jump() {
  timespec now{};
  NEXT(clock_gettime)(CLOCK_MONOTONIC, &now);
  static const timespec start = now;
  const long passed = (now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1'000'000;
  return is_meant() && passed >= number("FAULT_CLOCK_AFTER") ? number("FAULT_CLOCK_JUMP") : 0;
}

}  // namespace

extern "C" {

int mkdir(const char* path, mode_t mode) noexcept {
  if (is_staging(path)) {
    if (number("FAULT_READ_ONLY") != 0 && is_meant()) {
      errno = EROFS;
      return -1;
    }
    note_call();
  }
  return NEXT(mkdir)(path, mode);
}

int open(const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if ((flags & O_CREAT) != 0 && is_staging(path)) note_call();
  return NEXT(open)(path, flags, mode);
}

int posix_fallocate(int descriptor, off_t offset, off_t length) {
  if (is_staging_file(descriptor)) note_call();
  return NEXT(posix_fallocate)(descriptor, offset, length);
}

ssize_t write(int descriptor, const void* bytes, std::size_t size) {
  before_write(descriptor);
  return NEXT(write)(descriptor, bytes, size);
}

ssize_t pwrite(int descriptor, const void* bytes, std::size_t size, off_t offset) {
  before_write(descriptor);
  return NEXT(pwrite)(descriptor, bytes, size, offset);
}

int fsync(int descriptor) {
  if (is_staging_file(descriptor)) note_call();
  return NEXT(fsync)(descriptor);
}

int rename(const char* from, const char* to) noexcept {
  if (is_staging(from)) note_call();
  return NEXT(rename)(from, to);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned int flags) noexcept {
  if (is_staging(from)) note_call();
  return NEXT(renameat2)(from_folder, from, to_folder, to, flags);
}

int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const int result = NEXT(clock_gettime)(clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += jump();
  return result;
}

int gettimeofday(timeval* __restrict time, void* __restrict zone) noexcept {
  const int result = NEXT(gettimeofday)(time, zone);
  if (result == 0) time->tv_sec += jump();
  return result;
}

std::time_t time(std::time_t* result) noexcept {
  const std::time_t now = NEXT(time)(nullptr) + jump();
  if (result != nullptr) *result = now;
  return now;
}
}
