// STABLEQAT_ISA names the instruction set that this translation unit is compiled for; in all ordinary code, "portable". Headers whose
// inline functions are used by kernels put them into an inline namespace of that name, so that each compilation keeps its own copy.
#pragma once

#ifndef STABLEQAT_ISA
#define STABLEQAT_ISA portable
#endif
