add_library(quantizer_cases STATIC golden/quantizer_cases.cc)
target_include_directories(quantizer_cases PUBLIC "${CMAKE_CURRENT_SOURCE_DIR}/golden")
target_link_libraries(quantizer_cases PUBLIC stableqat::quant PRIVATE nlohmann_json::nlohmann_json)
stableqat_test_options(quantizer_cases TRUE)
stableqat_warnings(quantizer_cases)

add_executable(compare_quantizers golden/compare_quantizers.cc)
target_link_libraries(compare_quantizers PRIVATE quantizer_cases)
stableqat_test_options(compare_quantizers TRUE)
stableqat_warnings(compare_quantizers)
add_test(NAME compare_quantizers COMMAND compare_quantizers "${CMAKE_CURRENT_SOURCE_DIR}/golden/data/quantizers.json")

stableqat_test(
  quant_test
  SOURCES unit/kernels_cuda_rows_test.cc
          unit/kernels_fp8_rows_test.cc
          unit/quant_golden_test.cc
          unit/quant_kernels_test.cc
          unit/quant_quantized_weight_test.cc
          unit/quant_scale_init_test.cc
          unit/quant_spec_test.cc
          unit/quant_surrogate_test.cc
          unit/quant_update_test.cc
  LINK quantizer_cases)
target_include_directories(quant_test PRIVATE "${PROJECT_SOURCE_DIR}/src")
# Their references must not contract to fused multiply-add where the target has it: the kernels do not.
set_source_files_properties(unit/kernels_cuda_rows_test.cc unit/quant_update_test.cc PROPERTIES COMPILE_OPTIONS -ffp-contract=off SKIP_PRECOMPILE_HEADERS ON)
