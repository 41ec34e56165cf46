stableqat_test(export_test SOURCES unit/export_folder_test.cc unit/export_gguf_test.cc LINK test_support stableqat::export)
target_include_directories(export_test PRIVATE "${PROJECT_SOURCE_DIR}/src")

include("${CMAKE_CURRENT_SOURCE_DIR}/fuzz/replay.cmake")
stableqat_fuzz_replay(packed_layers LINK stableqat::models)
target_include_directories(packed_layers_replay PRIVATE "${PROJECT_SOURCE_DIR}/src")
