stableqat_test(config_test SOURCES unit/config_field_test.cc unit/config_train_test.cc LINK stableqat::config)

if(STABLEQAT_BUILD_APPS)
  stableqat_test(terminal_test SOURCES unit/config_console_test.cc unit/config_progress_test.cc LINK stableqat::terminal)
  target_include_directories(terminal_test PRIVATE "${PROJECT_SOURCE_DIR}/apps/stableqat")

  stableqat_test(cli_test SOURCES unit/config_cli_test.cc LINK stableqat::base stableqat::config nlohmann_json::nlohmann_json LABELS torch)
  target_compile_definitions(cli_test PRIVATE STABLEQAT_PROGRAM="$<TARGET_FILE:stableqat>")
  add_dependencies(cli_test stableqat)
endif()
