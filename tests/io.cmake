stableqat_test(io_test SOURCES unit/io_code_stream_test.cc unit/io_ggml_encode_test.cc unit/io_gguf_test.cc unit/io_gguf_writer_test.cc unit/io_half_test.cc unit/io_live_parts_test.cc unit/io_safetensors_test.cc LINK stableqat::io ZLIB::ZLIB)

include("${CMAKE_CURRENT_SOURCE_DIR}/fuzz/replay.cmake")
stableqat_fuzz_replay(gguf LINK stableqat::io)
stableqat_fuzz_replay(safetensors LINK stableqat::io)
