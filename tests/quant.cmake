stableqat_test(quant_test SOURCES unit/quant_quantized_weight_test.cc LINK stableqat::quant)
