stableqat_test(
  kernels_test
  SOURCES unit/kernels_attention_test.cc
          unit/kernels_cross_entropy_test.cc
          unit/kernels_gemm_test.cc
          unit/kernels_isa_test.cc
          unit/kernels_packed_test.cc
          unit/kernels_rms_norm_test.cc
          unit/kernels_rope_test.cc
          unit/kernels_swiglu_test.cc
  LINK stableqat::kernels)

include("${CMAKE_CURRENT_SOURCE_DIR}/imitated_avx512.cmake")

if(STABLEQAT_HAS_CUDA)
  stableqat_test(kernels_cuda_test SOURCES unit/kernels_cuda_test.cc LINK stableqat::quant)
  target_include_directories(kernels_cuda_test PRIVATE "${PROJECT_SOURCE_DIR}/src")
  add_dependencies(kernels_cuda_test stableqat_cuda)
endif()

foreach(isa plain avx2 avx512 avx512_vnni amx)
  get_property(libraries GLOBAL PROPERTY STABLEQAT_ISA_OBJECTS_${isa})
  if(libraries AND NOT STABLEQAT_SANITIZE)
    list(TRANSFORM libraries REPLACE "(.+)" "$<TARGET_OBJECTS:\\1>")
    add_test(NAME isa_symbols.${isa} COMMAND "${CMAKE_COMMAND}" "-DNM=${CMAKE_NM}" -DISA=${isa} "-DOBJECTS=${libraries}" -P
                                             "${CMAKE_CURRENT_SOURCE_DIR}/isa_symbols.cmake")
  endif()
endforeach()
