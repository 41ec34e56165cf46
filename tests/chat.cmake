stableqat_test(chat_test SOURCES unit/chat_template_test.cc LINK stableqat::chat nlohmann_json::nlohmann_json)

include("${CMAKE_CURRENT_SOURCE_DIR}/fuzz/replay.cmake")
stableqat_fuzz_replay(chat_template LINK stableqat::chat)
