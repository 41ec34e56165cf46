// How a kernel is built once per instruction set and chosen at run time.
//
// A family of kernels is a struct of function pointers, `Table` (public header). src/kernels/cpu/<family>.cc is compiled once per
// instruction set (stableqat_isa_kernels in cmake/Isa.cmake), each time with STABLEQAT_ISA naming a namespace of its own, and defines there
//     extern const Table <family>_table;
// Everything it includes and instantiates must live in that namespace as well (isa_namespace.h): were the linker to merge a function
// compiled for AVX-512 with its plain twin, old CPUs would stop on an illegal instruction.
#pragma once

#include "stableqat/kernels/isa.h"

#if defined(__x86_64__)
#define STABLEQAT_DECLARE_ISA_TABLES(Table, name) \
  namespace plain {                               \
  extern const Table name;                        \
  }                                               \
  namespace avx2 {                                \
  extern const Table name;                        \
  }                                               \
  namespace avx512 {                              \
  extern const Table name;                        \
  }
// The table of the highest instruction set up to `isa` that the family is built for: plain, avx2 and avx512.
#define STABLEQAT_ISA_TABLE(name, isa) ((isa) >= Isa::kAvx512 ? avx512::name : (isa) >= Isa::kAvx2 ? avx2::name : plain::name)
#else
#define STABLEQAT_DECLARE_ISA_TABLES(Table, name) \
  namespace plain {                               \
  extern const Table name;                        \
  }
#define STABLEQAT_ISA_TABLE(name, isa) (static_cast<void>(isa), plain::name)
#endif
