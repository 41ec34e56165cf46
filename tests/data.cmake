stableqat_test(
  data_test
  SOURCES unit/data_text_reader_test.cc unit/data_token_loader_test.cc
  LINK stableqat::data ZLIB::ZLIB LibLZMA::LibLZMA PkgConfig::ZSTD)
target_include_directories(data_test PRIVATE "${PROJECT_SOURCE_DIR}/src")
