// compare_quantizers FILE: holds all quantizers against golden numbers. Exit code 0 when every case that is run agrees, 5 when one does
// not, 2 or 3 for bad usage or a bad file.
#include <cstdio>
#include <exception>
#include <map>

#include "quantizer_cases.h"
#include "stableqat/base/error.h"

namespace {

using stableqat::ExitCode;
using namespace stableqat::golden;

struct Way {
  const char* name;
  QuantizerNumbers (*run)(const QuantizerCase&);
};

constexpr Way kWays[] = {{"kernels", run_kernels}, {"QuantizedWeight", run_quantized_weight}, {"autograd", run_autograd}};

struct MethodTotal {
  int cases = 0;
  Deviation deviation;
};

bool compare_file(const char* path) {
  std::map<std::string, MethodTotal> totals;
  Deviation overall;
  int skipped = 0;
  for (const QuantizerCase& golden : read_quantizer_cases(path)) {
    if (!golden.skipped.empty()) {
      std::printf("skipped: %s: %s\n", golden.name.c_str(), golden.skipped.c_str());
      ++skipped;
      continue;
    }
    MethodTotal& total = totals[golden.method];
    ++total.cases;
    for (const Way& way : kWays) {
      const Deviation deviation = compare(way.run(golden), golden.expected);
      if (!deviation.within_tolerance) std::printf("FAILED: %s by %s: %.3e\n", golden.name.c_str(), way.name, deviation.largest());
      total.deviation.include(deviation);
    }
    overall.include(total.deviation);
  }
  std::printf("%-10s %5s %12s %12s %12s %12s   largest absolute deviation, float64\n", "method", "cases", "output", "grad_weight",
              "grad_scale", "grad_alpha");
  for (const auto& [method, total] : totals) {
    const Deviation& d = total.deviation;
    std::printf("%-10s %5d %12.3e %12.3e %12.3e %12.3e\n", method.c_str(), total.cases, d.output, d.grad_weight, d.grad_scale,
                d.grad_alpha);
  }
  std::printf("overall %.3e, %d skipped: %s\n", overall.largest(), skipped, overall.within_tolerance ? "all agree" : "NOT all agree");
  return overall.within_tolerance;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: compare_quantizers FILE\n");
    return static_cast<int>(ExitCode::kUsage);
  }
  try {
    return static_cast<int>(compare_file(argv[1]) ? ExitCode::kDone : ExitCode::kNumeric);
  } catch (const stableqat::Error& error) {
    std::fprintf(stderr, "compare_quantizers: %s\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "compare_quantizers: %s\n", error.what());
    return static_cast<int>(ExitCode::kEnvironment);
  }
}
