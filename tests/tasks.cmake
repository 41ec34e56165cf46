stableqat_test(
  tasks_test
  SOURCES unit/tasks_file_test.cc unit/tasks_requests_test.cc unit/tasks_text_test.cc
  LINK stableqat::tasks nlohmann_json::nlohmann_json)
target_include_directories(tasks_test PRIVATE "${PROJECT_SOURCE_DIR}/src")
