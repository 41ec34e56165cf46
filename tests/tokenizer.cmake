find_package(CLI11 REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)

add_library(token_golden STATIC golden/token_golden.cc)
target_include_directories(token_golden PUBLIC "${CMAKE_CURRENT_SOURCE_DIR}")
target_link_libraries(token_golden PUBLIC stableqat::tokenizer PRIVATE LibLZMA::LibLZMA OpenSSL::Crypto nlohmann_json::nlohmann_json)
stableqat_test_options(token_golden FALSE)
stableqat_warnings(token_golden)

add_executable(compare_tokens golden/compare_tokens.cc)
target_link_libraries(compare_tokens PRIVATE token_golden CLI11::CLI11)
stableqat_test_options(compare_tokens FALSE)
stableqat_warnings(compare_tokens)

stableqat_test(
  tokenizer_test
  SOURCES unit/tokenizer_golden_test.cc unit/tokenizer_fixtures_test.cc unit/tokenizer_files_test.cc unit/tokenizer_text_stream_test.cc
  LINK token_golden nlohmann_json::nlohmann_json)
target_include_directories(tokenizer_test PRIVATE "${PROJECT_SOURCE_DIR}/src")

# Compared with other tokenizers by benchmarks/peers/run_tokenizers.py.
add_executable(tokenizer_speed "${PROJECT_SOURCE_DIR}/benchmarks/tokenizer_speed.cc")
target_link_libraries(tokenizer_speed PRIVATE stableqat::data CLI11::CLI11)
stableqat_warnings(tokenizer_speed)
