#include "stableqat/kernels/attention.h"

#include "kernels/isa_table.h"

namespace stableqat::kernels {

STABLEQAT_DECLARE_ISA_TABLES(AttentionKernels, attention_table)

const AttentionKernels& attention_kernels(Isa isa) { return STABLEQAT_ISA_TABLE(attention_table, isa); }

}  // namespace stableqat::kernels
