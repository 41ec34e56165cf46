stableqat_test(export_test SOURCES unit/export_folder_test.cc unit/export_gguf_test.cc unit/export_svg_test.cc unit/packed_layers_test.cc LINK test_support
               stableqat::export)
target_include_directories(export_test PRIVATE "${PROJECT_SOURCE_DIR}/src")

include("${CMAKE_CURRENT_SOURCE_DIR}/fuzz/replay.cmake")
stableqat_fuzz_replay(packed_layers LINK stableqat::models)
target_include_directories(packed_layers_replay PRIVATE "${PROJECT_SOURCE_DIR}/src")

if(STABLEQAT_BUILD_APPS)
  stableqat_test(export_cli_test SOURCES integration/export_cli_test.cc LINK test_support)
  target_compile_definitions(export_cli_test PRIVATE STABLEQAT_PROGRAM="$<TARGET_FILE:stableqat>")
  add_dependencies(export_cli_test stableqat)
endif()

# Programs that are not ours; skipped where they are not installed (tools/requirements.txt).
if(STABLEQAT_BUILD_APPS)
  foreach(what formats llama architectures)
    add_test(NAME export_peers.${what} COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/integration/export_peers.sh" "$<TARGET_FILE:stableqat>" ${what})
  endforeach()
  set_tests_properties(export_peers.formats export_peers.llama export_peers.architectures PROPERTIES LABELS "long;torch" SKIP_RETURN_CODE 77 RUN_SERIAL TRUE)
endif()
