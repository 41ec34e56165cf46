stableqat_test(
  hub_test
  SOURCES support/hub_server.cc unit/hub_download_test.cc unit/hub_plan_test.cc unit/hub_sample_test.cc
  LINK stableqat::hub nlohmann_json::nlohmann_json ZLIB::ZLIB LibLZMA::LibLZMA PkgConfig::ZSTD)
target_include_directories(hub_test PRIVATE "${PROJECT_SOURCE_DIR}/src" "${CMAKE_CURRENT_SOURCE_DIR}")

include("${CMAKE_CURRENT_SOURCE_DIR}/fuzz/replay.cmake")
stableqat_fuzz_replay(hub LINK stableqat::hub)
target_include_directories(hub_replay PRIVATE "${PROJECT_SOURCE_DIR}/src")

if(STABLEQAT_BUILD_APPS)
  stableqat_test(
    hub_cli_test
    SOURCES support/hub_server.cc integration/hub_test.cc
    LINK stableqat::hub nlohmann_json::nlohmann_json ZLIB::ZLIB LibLZMA::LibLZMA PkgConfig::ZSTD
    LABELS torch)
  target_include_directories(hub_cli_test PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
  target_compile_definitions(hub_cli_test PRIVATE STABLEQAT_PROGRAM="$<TARGET_FILE:stableqat>")
  add_dependencies(hub_cli_test stableqat)

  # Needs the huggingface_hub package for the Python that PATH finds; skipped without.
  add_test(NAME hub_cache.huggingface_hub
           COMMAND python3 "${CMAKE_CURRENT_SOURCE_DIR}/integration/huggingface_hub_test.py" "$<TARGET_FILE:stableqat>")
  set_tests_properties(hub_cache.huggingface_hub PROPERTIES SKIP_RETURN_CODE 77 LABELS torch)
endif()
