// How a kernel is built once per instruction set and chosen at run time.
//
// A family of kernels is a struct of function pointers, `Table` (public header). src/kernels/cpu/<family>.cc is compiled once per
// instruction set (stableqat_isa_kernels in cmake/Isa.cmake), each time with STABLEQAT_ISA naming a namespace of its own, and defines there
//     extern const Table <family>_table;
// Everything it includes and instantiates must live in that namespace as well (isa_namespace.h): were the linker to merge a function
// compiled for AVX-512 with its plain twin, old CPUs would stop on an illegal instruction.
#pragma once

#include "stableqat/kernels/isa.h"

#define STABLEQAT_DECLARE_ISA_TABLE(isa, Table, name) \
  namespace isa {                                     \
  extern const Table name;                            \
  }

// STABLEQAT_ISA_TABLE: the table of the highest instruction set up to `isa` that a family is built for: plain, avx2 and avx512.
// STABLEQAT_DOT_ISA_TABLE: of one that is built for those with dot products, too. STABLEQAT_ALL_ISA_TABLE: of one built for all.
#if defined(__x86_64__)
#define STABLEQAT_DECLARE_ISA_TABLES(Table, name) \
  STABLEQAT_DECLARE_ISA_TABLE(plain, Table, name) \
  STABLEQAT_DECLARE_ISA_TABLE(avx2, Table, name)  \
  STABLEQAT_DECLARE_ISA_TABLE(avx512, Table, name)
#define STABLEQAT_DECLARE_DOT_ISA_TABLES(Table, name) \
  STABLEQAT_DECLARE_ISA_TABLES(Table, name)           \
  STABLEQAT_DECLARE_ISA_TABLE(avx512_vnni, Table, name)
#define STABLEQAT_DECLARE_ALL_ISA_TABLES(Table, name) \
  STABLEQAT_DECLARE_DOT_ISA_TABLES(Table, name)       \
  STABLEQAT_DECLARE_ISA_TABLE(amx, Table, name)
#define STABLEQAT_ISA_TABLE(name, isa) ((isa) >= Isa::kAvx512 ? avx512::name : (isa) >= Isa::kAvx2 ? avx2::name : plain::name)
#define STABLEQAT_DOT_ISA_TABLE(name, isa) ((isa) >= Isa::kAvx512Vnni ? avx512_vnni::name : STABLEQAT_ISA_TABLE(name, isa))
#define STABLEQAT_ALL_ISA_TABLE(name, isa) ((isa) == Isa::kAmx ? amx::name : STABLEQAT_DOT_ISA_TABLE(name, isa))
#else
#define STABLEQAT_DECLARE_ISA_TABLES(Table, name) STABLEQAT_DECLARE_ISA_TABLE(plain, Table, name)
#define STABLEQAT_DECLARE_DOT_ISA_TABLES(Table, name) STABLEQAT_DECLARE_ISA_TABLE(plain, Table, name)
#define STABLEQAT_DECLARE_ALL_ISA_TABLES(Table, name) STABLEQAT_DECLARE_ISA_TABLE(plain, Table, name)
#define STABLEQAT_ISA_TABLE(name, isa) (static_cast<void>(isa), plain::name)
#define STABLEQAT_DOT_ISA_TABLE(name, isa) STABLEQAT_ISA_TABLE(name, isa)
#define STABLEQAT_ALL_ISA_TABLE(name, isa) STABLEQAT_ISA_TABLE(name, isa)
#endif
