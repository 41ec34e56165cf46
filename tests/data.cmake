stableqat_test(data_test SOURCES unit/data_token_loader_test.cc LINK stableqat::data)
