// Quantizes one small weight with the installed library, and meets an error of it.
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <stableqat/base/error.h>
#include <stableqat/base/version.h>
#include <stableqat/quant/quantized_weight.h>

#include <iostream>

int main() {
  std::cout << "stableqat " << stableqat::version() << '\n';

  stableqat::QuantizerSpec spec;
  spec.bits = 3;
  spec.fp16_scales = false;
  // absmax puts 3 at code 3, so the step is 1 and integers are kept exactly.
  const at::Tensor integers = at::arange(-3, 4, at::kFloat).reshape({1, 7});
  stableqat::QuantizedWeight weight(integers.clone(), spec);
  weight.quantize();
  if (!weight.dequantized().detach().equal(integers)) {
    std::cerr << "3-bit absmax does not keep the integers -3..3\n";
    return 1;
  }

  try {
    spec.bits = 5;
    spec.validate();
  } catch (const stableqat::ConfigError& error) {
    std::cout << "as expected: " << error.what() << '\n';
    return 0;
  }
  std::cerr << "5 bits were accepted\n";
  return 1;
}
