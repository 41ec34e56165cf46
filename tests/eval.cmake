find_package(CLI11 2.1 REQUIRED)
add_executable(compare_harness golden/compare_harness.cc)
target_link_libraries(compare_harness PRIVATE stableqat::eval CLI11::CLI11)
stableqat_test_options(compare_harness TRUE)
stableqat_warnings(compare_harness)

# The harness's likelihoods of SmolLM2-135M. compare_harness exits with 77 where the model is not on this machine.
set(golden "${CMAKE_CURRENT_SOURCE_DIR}/golden/data")
add_test(NAME compare_harness.smollm2 COMMAND compare_harness "${golden}/lm_eval_smollm2.jsonl" --data-dir "${PROJECT_SOURCE_DIR}/data/eval")
set_tests_properties(compare_harness.smollm2 PROPERTIES LABELS torch SKIP_RETURN_CODE 77 RUN_SERIAL TRUE)

stableqat_test(eval_likelihood_test SOURCES unit/eval_likelihood_test.cc LINK test_support stableqat::eval)

if(STABLEQAT_BUILD_APPS)
  stableqat_test(eval_test SOURCES integration/eval_test.cc LINK test_support)
  target_compile_definitions(eval_test PRIVATE STABLEQAT_PROGRAM="$<TARGET_FILE:stableqat>")
  add_dependencies(eval_test stableqat)
endif()
