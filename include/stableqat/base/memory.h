// Memory of this process and of the machine, in bytes.
#pragma once

#include <cstdint>

namespace stableqat {

// Thread-safe. 0 where the system does not say.

// Resident memory of this process: now, and the most it ever was (since reset_peak_memory(), where that worked).
std::uint64_t resident_memory();
std::uint64_t peak_memory();

// Lets peak_memory() start anew from what is resident now. False where the system cannot (it needs Linux's /proc/self/clear_refs).
bool reset_peak_memory();

// Of the machine, or the limit of this container when that is lower.
std::uint64_t total_memory();
// What a process can still take without the machine swapping.
std::uint64_t available_memory();

}  // namespace stableqat
