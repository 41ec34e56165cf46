#include "stableqat/kernels/swiglu.h"

#include "kernels/isa_table.h"

namespace stableqat::kernels {

STABLEQAT_DECLARE_ISA_TABLES(SwigluKernels, swiglu_table)

const SwigluKernels& swiglu_kernels(Isa isa) { return STABLEQAT_ISA_TABLE(swiglu_table, isa); }

}  // namespace stableqat::kernels
