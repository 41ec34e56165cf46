#include "stableqat/kernels/rope.h"

#include "kernels/isa_table.h"

namespace stableqat::kernels {

STABLEQAT_DECLARE_ISA_TABLES(RopeKernels, rope_table)

const RopeKernels& rope_kernels(Isa isa) { return STABLEQAT_ISA_TABLE(rope_table, isa); }

}  // namespace stableqat::kernels
