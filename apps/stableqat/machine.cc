#include "machine.h"

#include <dlfcn.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <memory>
#include <string_view>

#include "stableqat/base/memory.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace stableqat::app {

namespace {

#if defined(__x86_64__)

enum Register { kEax, kEbx, kEcx, kEdx };

// Register state that the operating system saves for programs: bits of XCR0.
constexpr std::uint64_t kYmmState = 0x6;
constexpr std::uint64_t kZmmState = 0xe6;
constexpr std::uint64_t kTileState = 0x60000;

struct InstructionSet {
  const char* name;
  unsigned leaf;
  unsigned subleaf;
  Register reg;
  unsigned bits;  // all must be set
  std::uint64_t state;
};

// Intel's manual, volume 2, CPUID.
constexpr InstructionSet kInstructionSets[] = {
    {"avx2", 7, 0, kEbx, 1U << 5, kYmmState},
    {"fma", 1, 0, kEcx, 1U << 12, kYmmState},
    {"f16c", 1, 0, kEcx, 1U << 29, kYmmState},
    {"avx_vnni", 7, 1, kEax, 1U << 4, kYmmState},
    {"avx512", 7, 0, kEbx, 1U << 16 | 1U << 17 | 1U << 30 | 1U << 31, kZmmState},  // F, DQ, BW, VL
    {"avx512_vnni", 7, 0, kEcx, 1U << 11, kZmmState},
    {"avx512_bf16", 7, 1, kEax, 1U << 5, kZmmState},
    {"avx512_fp16", 7, 0, kEdx, 1U << 23, kZmmState},
    {"amx_int8", 7, 0, kEdx, 1U << 24 | 1U << 25, kTileState},  // TILE, INT8
    {"amx_bf16", 7, 0, kEdx, 1U << 24 | 1U << 22, kTileState},  // TILE, BF16
};

std::uint64_t saved_state() {
  std::array<unsigned, 4> r{};
  constexpr unsigned kOsxsave = 1U << 27;
  if (__get_cpuid(1, &r[kEax], &r[kEbx], &r[kEcx], &r[kEdx]) == 0 || (r[kEcx] & kOsxsave) == 0) return 0;
  unsigned low = 0;
  unsigned high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  std::uint64_t state = std::uint64_t{high} << 32 | low;
  // Linux gives tile registers to a process on request only; this asks whether it would.
  constexpr int kGetPermittedState = 0x1021;
  std::uint64_t permitted = 0;
  if (::syscall(SYS_arch_prctl, kGetPermittedState, &permitted) != 0 || (permitted & kTileState) != kTileState) state &= ~kTileState;
  return state;
}

std::vector<std::string> usable_instruction_sets() {
  const std::uint64_t state = saved_state();
  std::vector<std::string> names;
  for (const InstructionSet& set : kInstructionSets) {
    std::array<unsigned, 4> r{};
    if (__get_cpuid_count(set.leaf, set.subleaf, &r[kEax], &r[kEbx], &r[kEcx], &r[kEdx]) == 0) continue;
    if ((r[set.reg] & set.bits) == set.bits && (state & set.state) == set.state) names.emplace_back(set.name);
  }
  return names;
}

#else

std::vector<std::string> usable_instruction_sets() { return {}; }

#endif

// The text after "KEY<space>:" in a file of such lines.
std::string value_of(const char* file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t start = line.find_first_not_of(" \t", line.find(':') + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "";
}

int usable_cores() {
  cpu_set_t set;
  return ::sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

// The CUDA driver, where there is one. Its functions take and return ints and device handles (ints too).
class CudaDriver {
 public:
  CudaDriver() : library_(::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {}
  ~CudaDriver() {
    if (library_ != nullptr) ::dlclose(library_);
  }
  CudaDriver(const CudaDriver&) = delete;
  CudaDriver& operator=(const CudaDriver&) = delete;

  // True when the function exists and returns success.
  template <class... Args>
  bool call(const char* name, Args... args) const {
    void* address = library_ == nullptr ? nullptr : ::dlsym(library_, name);
    return address != nullptr && reinterpret_cast<int (*)(Args...)>(address)(args...) == 0;
  }

 private:
  void* library_;
};

std::vector<Gpu> find_gpus() {
  constexpr int kCapabilityMajor = 75;
  constexpr int kCapabilityMinor = 76;
  const CudaDriver driver;
  int count = 0;
  std::vector<Gpu> gpus;
  if (!driver.call("cuInit", 0U) || !driver.call("cuDeviceGetCount", &count)) return gpus;
  for (int i = 0; i < count; ++i) {
    int device = 0;
    std::array<char, 256> name{};
    std::size_t bytes = 0;
    int major = 0;
    int minor = 0;
    const bool is_known = driver.call("cuDeviceGet", &device, i) && driver.call("cuDeviceGetName", name.data(), int{name.size()}, device) &&
                          driver.call("cuDeviceTotalMem_v2", &bytes, device) &&
                          driver.call("cuDeviceGetAttribute", &major, kCapabilityMajor, device) &&
                          driver.call("cuDeviceGetAttribute", &minor, kCapabilityMinor, device);
    if (is_known) gpus.push_back({name.data(), std::to_string(major) + "." + std::to_string(minor), bytes});
  }
  return gpus;
}

}  // namespace

Machine inspect_machine() {
  Machine machine;
  machine.cpu_model = value_of("/proc/cpuinfo", "model name");
  machine.cores = usable_cores();
  machine.instruction_sets = usable_instruction_sets();
  machine.memory_bytes = total_memory();
  machine.available_memory_bytes = available_memory();
  machine.gpus = find_gpus();
  return machine;
}

}  // namespace stableqat::app
