# The AVX-512 kernels on machines without AVX-512: the same sources, with registers that the compiler splits and the instructions written out
# (support/avx512_in_plain.h). Shows wrong results at their widths and in their branches, not speed, and not what the instructions really do.
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  return()
endif()

set(imitated_objects)
function(stableqat_imitate family isa level contract)
  set(objects imitated_${family}_${isa})
  add_library(${objects} OBJECT "${PROJECT_SOURCE_DIR}/src/kernels/cpu/${family}.cc")
  target_compile_features(${objects} PRIVATE cxx_std_20)
  target_compile_definitions(${objects} PRIVATE STABLEQAT_ISA=${isa} STABLEQAT_IMITATED=${level})
  target_compile_options(
    ${objects}
    PRIVATE -O2
            -mavx2
            -mfma
            -fno-trapping-math
            -fno-math-errno
            -ffp-contract=${contract}
            -Wno-psabi
            "SHELL:-include ${CMAKE_CURRENT_SOURCE_DIR}/support/avx512_in_plain.h")
  target_include_directories(${objects} PRIVATE "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/src")
  target_link_libraries(${objects} PRIVATE LibTorch::openmp)
  set(imitated_objects ${imitated_objects} $<TARGET_OBJECTS:${objects}> PARENT_SCOPE)
endfunction()

foreach(family cross_entropy rms_norm rope swiglu)
  stableqat_imitate(${family} avx512 1 fast)
endforeach()
stableqat_imitate(attention avx512 1 fast)
foreach(family gemm packed)
  stableqat_imitate(${family} avx512 1 off)
  stableqat_imitate(${family} avx512_vnni 2 off)
endforeach()
stableqat_imitate(gemm amx 3 off)

# Objects come before libraries: their tables, and best_isa(), are found first.
stableqat_test(
  kernels_imitated_test
  SOURCES unit/kernels_attention_test.cc
          unit/kernels_cross_entropy_test.cc
          unit/kernels_gemm_test.cc
          unit/kernels_packed_test.cc
          unit/kernels_rms_norm_test.cc
          unit/kernels_rope_test.cc
          unit/kernels_swiglu_test.cc
          support/imitated_isa.cc
  LINK stableqat::kernels)
target_sources(kernels_imitated_test PRIVATE ${imitated_objects})
