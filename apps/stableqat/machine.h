// What this machine has: for `stableqat info`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace stableqat::app {

struct Gpu {
  std::string name;
  std::string compute_capability;  // "9.0"
  std::uint64_t memory_bytes = 0;
};

struct Machine {
  std::string cpu_model;                      // "" when unknown
  int cores = 0;                              // that this process may use
  std::vector<std::string> instruction_sets;  // those that both the CPU has and the operating system lets programs use
  std::uint64_t memory_bytes = 0;             // of the machine, or the limit of this container when lower
  std::uint64_t available_memory_bytes = 0;
  std::vector<Gpu> gpus;
};

// Never throws for what cannot be found out; the field then keeps its default.
Machine inspect_machine();

}  // namespace stableqat::app
