stableqat_test(base_test SOURCES unit/error_test.cc unit/file_test.cc unit/memory_test.cc LINK stableqat::base)
