#include "stableqat/kernels/gemm.h"

#include "kernels/isa_table.h"

namespace stableqat::kernels {

STABLEQAT_DECLARE_ALL_ISA_TABLES(GemmKernels, gemm_table)

const GemmKernels& gemm_kernels(Isa isa) { return STABLEQAT_ALL_ISA_TABLE(gemm_table, isa); }

}  // namespace stableqat::kernels
