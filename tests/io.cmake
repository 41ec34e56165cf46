stableqat_test(io_test SOURCES unit/io_half_test.cc unit/io_gguf_test.cc unit/io_safetensors_test.cc LINK stableqat::io ZLIB::ZLIB)
