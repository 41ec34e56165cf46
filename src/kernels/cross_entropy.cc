#include "stableqat/kernels/cross_entropy.h"

#include "kernels/isa_table.h"

namespace stableqat::kernels {

STABLEQAT_DECLARE_ISA_TABLES(CrossEntropyKernels, cross_entropy_table)

const CrossEntropyKernels& cross_entropy_kernels(Isa isa) { return STABLEQAT_ISA_TABLE(cross_entropy_table, isa); }

}  // namespace stableqat::kernels
