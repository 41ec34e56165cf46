// stableqat info: what this program and this machine are.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "commands.h"
#include "machine.h"
#include "measure.h"
#include "stableqat/base/version.h"
#include "stableqat/kernels/cuda.h"
#include "stableqat/kernels/isa.h"

#if defined(STABLEQAT_JEMALLOC)
#include <jemalloc/jemalloc.h>
#endif

namespace stableqat::app {

namespace {

using Json = nlohmann::ordered_json;

// The one that is linked: a preloaded one may serve in its place.
std::string allocator() {
#if defined(STABLEQAT_JEMALLOC)
  return fmt::format("jemalloc {}.{}.{}", JEMALLOC_VERSION_MAJOR, JEMALLOC_VERSION_MINOR, JEMALLOC_VERSION_BUGFIX);
#else
  return "the C library's";
#endif
}

Json to_json(const Machine& machine, const std::optional<Rates>& rates) {
  Json gpus = Json::array();
  for (const Gpu& gpu : machine.gpus) {
    gpus.push_back({{"name", gpu.name}, {"compute_capability", gpu.compute_capability}, {"memory_bytes", gpu.memory_bytes}});
  }
  Json json = {{"version", std::string(version())},
               {"commit", commit()},
               {"libtorch", libtorch_version()},
               {"allocator", allocator()},
               {"cpu",
                {{"model", machine.cpu_model},
                 {"cores", machine.cores},
                 {"instruction_sets", machine.instruction_sets},
                 {"kernels", kernels::isa_name(kernels::active_isa())}}},
               {"memory", {{"total_bytes", machine.memory_bytes}, {"available_bytes", machine.available_memory_bytes}}},
               {"gpus", std::move(gpus)},
               {"cuda_kernels", kernels::cuda::cuda_backend().kernels != nullptr ? "usable" : kernels::cuda::cuda_backend().reason}};
  if (rates) {
    json["measured"] = {{"threads", rates->threads},
                        {"gemm_flops_per_second", rates->gemm_flops_per_second},
                        {"copy_bytes_per_second", rates->copy_bytes_per_second}};
  }
  return json;
}

std::string to_text(const Machine& machine, const std::optional<Rates>& rates) {
  constexpr double kGiga = 1e9;
  std::string text = fmt::format("stableqat    {}\n", version_text());
  text += fmt::format("LibTorch     {}\n", libtorch_version());
  text += fmt::format("allocator    {}\n", allocator());
  text += fmt::format("CPU          {}, {} cores\n", machine.cpu_model.empty() ? "unknown" : machine.cpu_model, machine.cores);
  text += fmt::format("             {}\n", fmt::join(machine.instruction_sets, " "));
  text += fmt::format("kernels      {}\n", kernels::isa_name(kernels::active_isa()));
  text += fmt::format("memory       {:.1f} GB, {:.1f} GB available\n", static_cast<double>(machine.memory_bytes) / kGiga,
                      static_cast<double>(machine.available_memory_bytes) / kGiga);
  if (machine.gpus.empty()) text += "GPU          none\n";
  for (const Gpu& gpu : machine.gpus) {
    text += fmt::format("GPU          {}, compute capability {}, {:.1f} GB\n", gpu.name, gpu.compute_capability,
                        static_cast<double>(gpu.memory_bytes) / kGiga);
  }
  if (!machine.gpus.empty()) {
    const kernels::cuda::CudaBackend& cuda = kernels::cuda::cuda_backend();
    text += fmt::format("CUDA kernels {}\n", cuda.kernels != nullptr ? "usable" : cuda.reason);
  }
  if (rates) {
    text += fmt::format("fp32 GEMM    {:.0f} GFLOP/s on {} threads\n", rates->gemm_flops_per_second / kGiga, rates->threads);
    text += fmt::format("memory copy  {:.1f} GB/s, reads and writes\n", rates->copy_bytes_per_second / kGiga);
  }
  return text;
}

struct InfoFlags {
  bool json = false;
  bool measure = false;
};

ExitCode run(const InfoFlags& options) {
  const Machine machine = inspect_machine();
  std::optional<Rates> rates;
  if (options.measure) rates = measure_rates();
  // A CPU's name may hold any byte: replace what is not UTF-8.
  fmt::print("{}",
             options.json ? to_json(machine, rates).dump(2, ' ', false, Json::error_handler_t::replace) + "\n" : to_text(machine, rates));
  return ExitCode::kDone;
}

}  // namespace

void register_info(CLI::App& app, Program& program) {
  CLI::App& command =
      add_command(app, program, "info", "Version, CPU, memory and GPUs, as the program sees them", "stableqat info --measure");
  const auto options = std::make_shared<InfoFlags>();
  command.add_flag("--json", options->json, "Print JSON (fields: docs/commands.md)");
  command.add_flag("--measure", options->measure, "Also measure the fp32 GEMM rate and the memory copy rate (about 2 s)");
  command.callback([&program, options] { program.selected = [options] { return run(*options); }; });
}

}  // namespace stableqat::app
