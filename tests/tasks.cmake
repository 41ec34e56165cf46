stableqat_test(
  tasks_test
  SOURCES unit/tasks_file_test.cc unit/tasks_requests_test.cc unit/tasks_text_test.cc
  LINK stableqat::tasks nlohmann_json::nlohmann_json)
target_include_directories(tasks_test PRIVATE "${PROJECT_SOURCE_DIR}/src")

include("${CMAKE_CURRENT_SOURCE_DIR}/fuzz/replay.cmake")
stableqat_fuzz_replay(task_file LINK stableqat::tasks)
