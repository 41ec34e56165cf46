// The authors' quantizers in float64: values and gradients, by every way through the library.
#include <gtest/gtest.h>

#include "quantizer_cases.h"

namespace stableqat::golden {
namespace {

TEST(QuantizerGolden, AllCasesAgreeByKernelsQuantizedWeightAndAutograd) {
  const auto cases = read_quantizer_cases(STABLEQAT_TEST_DATA "/quantizers.json");
  ASSERT_EQ(cases.size(), 60U);
  int skipped = 0;
  for (const QuantizerCase& golden : cases) {
    if (!golden.skipped.empty()) {
      ++skipped;
      continue;
    }
    for (const auto run : {run_kernels, run_quantized_weight, run_autograd}) {
      const Deviation deviation = compare(run(golden), golden.expected);
      EXPECT_TRUE(deviation.within_tolerance) << golden.name << ": output " << deviation.output << ", weight " << deviation.grad_weight
                                              << ", scale " << deviation.grad_scale << ", alpha " << deviation.grad_alpha;
    }
  }
  EXPECT_EQ(skipped, 2);  // dsq at 1 bit, see quantizer_cases.cc
}

}  // namespace
}  // namespace stableqat::golden
