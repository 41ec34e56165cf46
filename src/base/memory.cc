#include "stableqat/base/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

namespace stableqat {

namespace {

// A line "KEY:   123 kB" of a file under /proc.
std::uint64_t proc_value(const char* file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key) && line.size() > key.size() && line[key.size()] == ':')
      return std::stoull(line.substr(key.size() + 1)) * 1024;
  }
  return 0;
}

std::uint64_t container_limit() {
  std::uint64_t limit = 0;
  for (const char* file : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {  // control groups 2 and 1
    if (std::ifstream(file) >> limit) return limit;
  }
  return std::numeric_limits<std::uint64_t>::max();
}

}  // namespace

std::uint64_t resident_memory() { return proc_value("/proc/self/status", "VmRSS"); }

std::uint64_t peak_memory() { return proc_value("/proc/self/status", "VmHWM"); }

bool reset_peak_memory() {
  std::ofstream file("/proc/self/clear_refs");
  return static_cast<bool>(file << "5" << std::flush);
}

std::uint64_t total_memory() { return std::min(proc_value("/proc/meminfo", "MemTotal"), container_limit()); }

std::uint64_t available_memory() { return std::min(proc_value("/proc/meminfo", "MemAvailable"), total_memory()); }

}  // namespace stableqat
