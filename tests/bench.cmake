stableqat_test(bench_isolated_test SOURCES unit/bench_isolated_test.cc LINK stableqat::bench)
stableqat_test(bench_test SOURCES unit/bench_test.cc unit/memory_estimate_test.cc LINK stableqat::bench)
target_include_directories(bench_test PRIVATE "${PROJECT_SOURCE_DIR}/src")

if(STABLEQAT_BUILD_APPS)
  stableqat_test(bench_cli_test SOURCES integration/bench_test.cc LINK stableqat::base nlohmann_json::nlohmann_json LABELS torch)
  target_compile_definitions(bench_cli_test PRIVATE STABLEQAT_PROGRAM="$<TARGET_FILE:stableqat>")
  add_dependencies(bench_cli_test stableqat)
endif()

stableqat_test(recipes_test SOURCES integration/recipes_test.cc LINK stableqat::bench)
add_test(NAME recipes_test.true_layer_shapes COMMAND recipes_test --gtest_also_run_disabled_tests --gtest_filter=*TrueLayerShapes*)
set_tests_properties(recipes_test.true_layer_shapes PROPERTIES LABELS long RUN_SERIAL TRUE)
