#include "stableqat/kernels/rms_norm.h"

#include "kernels/isa_table.h"

namespace stableqat::kernels {

STABLEQAT_DECLARE_ISA_TABLES(RmsNormKernels, rms_norm_table)

const RmsNormKernels& rms_norm_kernels(Isa isa) { return STABLEQAT_ISA_TABLE(rms_norm_table, isa); }

}  // namespace stableqat::kernels
