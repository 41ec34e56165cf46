stableqat_test(
  data_test
  SOURCES
    unit/data_arrow_test.cc
    unit/data_ordered_parallel_test.cc
    unit/data_overlap_test.cc
    unit/data_text_reader_test.cc
    unit/data_token_file_test.cc
    unit/data_token_loader_test.cc
    unit/data_tokenize_test.cc
  LINK stableqat::data ZLIB::ZLIB LibLZMA::LibLZMA PkgConfig::ZSTD)
target_include_directories(data_test PRIVATE "${PROJECT_SOURCE_DIR}/src" "${CMAKE_CURRENT_SOURCE_DIR}")

include("${CMAKE_CURRENT_SOURCE_DIR}/fuzz/replay.cmake")
stableqat_fuzz_replay(idx LINK stableqat::data)
