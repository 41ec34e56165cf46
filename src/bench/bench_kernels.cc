#include "stableqat/bench/bench_kernels.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "bench/kernel_case.h"
#include "bench/stopwatch.h"
#include "stableqat/base/error.h"
#include "stableqat/bench/rates.h"

namespace stableqat::bench {

namespace {

// y = x w^T by LibTorch, in the shape of the model's feed-forward layer.
class ProductReference {
 public:
  explicit ProductReference(const KernelBenchOptions& options)
      : x_(at::randn({options.batch * options.tokens, options.model.hidden_size})),
        w_(at::randn({options.model.intermediate_size, options.model.hidden_size})),
        y_(at::empty({x_.size(0), w_.size(0)})) {
    flops_per_second();
  }

  double flops_per_second() {
    const Stopwatch watch;
    at::mm_out(y_, x_, w_.t());
    return 2.0 * static_cast<double>(x_.numel() * w_.size(0)) / watch.seconds();
  }

 private:
  at::Tensor x_, w_, y_;
};

class Bench {
 public:
  Bench(const KernelBenchOptions& options, const BenchCallbacks& callbacks) : options_(options), callbacks_(callbacks), product_(options) {}

  std::vector<KernelResult> run() {
    for (const KernelFamily& family : kernel_families()) {
      const void* last = nullptr;
      for (const kernels::Isa isa : kernels::kAllIsas) {
        if (isa > kernels::best_isa() || family.table(isa) == last) continue;
        last = family.table(isa);
        run(family, isa);
      }
    }
    if (results_.empty()) throw ConfigError({"--kernels", options_.filter, "a part of a kernel's name, such as swiglu", ""});
    return std::move(results_);
  }

 private:
  void run(const KernelFamily& family, kernels::Isa isa) {
    for (const KernelCase& kernel : family.cases(options_, isa)) {
      const std::string name = std::string(family.name) + "." + kernel.name;
      if (name.find(options_.filter) == name.npos) continue;
      if (callbacks_.progress) callbacks_.progress({"bench kernels", results_.size(), 0, "kernels"});
      kernel.check();
      results_.push_back(measured(name, isa, kernel));
    }
  }

  KernelResult measured(const std::string& name, kernels::Isa isa, const KernelCase& kernel) {
    std::vector<double> seconds;
    std::vector<double> rates;
    std::vector<double> references;
    for (int round = 0; round < options_.rounds.warmup + options_.rounds.repeats; ++round) {
      const double reference = kernel.bound == KernelBound::kMemory ? copy_.bytes_per_second() : product_.flops_per_second();
      const Stopwatch watch;
      kernel.run();
      const double taken = watch.seconds();
      if (round < options_.rounds.warmup) continue;
      seconds.push_back(taken);
      rates.push_back(kernel.work / taken);
      references.push_back(reference);
    }
    const double share = median_ratio(rates, references);
    return {name, isa, kernel.bound, spread(seconds).median, spread(rates).median, spread(references).median, share};
  }

  const KernelBenchOptions& options_;
  const BenchCallbacks& callbacks_;
  CopyReference copy_;
  ProductReference product_;
  std::vector<KernelResult> results_;
};

}  // namespace

std::vector<KernelResult> bench_kernels(const KernelBenchOptions& options, const BenchCallbacks& callbacks) {
  const at::NoGradGuard no_grad;
  return Bench(options, callbacks).run();
}

std::string_view bound_name(KernelBound bound) { return bound == KernelBound::kMemory ? "memory" : "arithmetic"; }

nlohmann::ordered_json to_json(const KernelResult& r) {
  nlohmann::ordered_json json{
      {"kernel", r.name}, {"isa", kernels::isa_name(r.isa)}, {"bound", bound_name(r.bound)}, {"seconds", r.seconds}};
  const bool is_memory = r.bound == KernelBound::kMemory;
  json[is_memory ? "bytes_per_second" : "flops_per_second"] = r.rate;
  json[is_memory ? "copy_bytes_per_second" : "gemm_flops_per_second"] = r.reference;
  json["share"] = r.share;
  return json;
}

}  // namespace stableqat::bench
