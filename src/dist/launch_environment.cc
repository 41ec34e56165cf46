#include "stableqat/dist/launch_environment.h"

#include <charconv>
#include <cstdlib>
#include <limits>

#include "stableqat/base/error.h"

namespace stableqat {

namespace {

std::int64_t number(const std::string& name, const std::string& text, std::int64_t least, std::int64_t most) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size() && value >= least && value <= most) return value;
  throw ConfigError({name, "'" + text + "'", "a number from " + std::to_string(least) + " to " + std::to_string(most),
                     "start the ranks by stableqat launch, torchrun, srun or mpirun"});
}

// The variables of one launcher.
struct Names {
  const char* rank;
  const char* ranks;
  const char* local_rank;
};
constexpr Names kTorchrun{"RANK", "WORLD_SIZE", "LOCAL_RANK"};
constexpr Names kSlurm{"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"};
constexpr Names kOpenMpi{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"};

class Reader {
 public:
  explicit Reader(const EnvironmentLookup& lookup) : lookup_(lookup) {}

  bool has(const char* name) const { return lookup_(name).has_value(); }

  std::string text(const char* name, const char* other) const {
    const std::optional<std::string> value = lookup_(name);
    if (value) return *value;
    throw ConfigError({name, std::string("nothing, but ") + other + " is set", "both or none",
                       "start the ranks by stableqat launch, torchrun, srun or mpirun"});
  }

  // `ranks` may come from a variable of another name.
  LaunchEnvironment identity(const Names& names, const char* ranks_name) const {
    constexpr std::int64_t kMostRanks = std::numeric_limits<int>::max();
    LaunchEnvironment result;
    result.ranks = static_cast<int>(number(ranks_name, text(ranks_name, names.rank), 1, kMostRanks));
    result.rank = static_cast<int>(number(names.rank, text(names.rank, ranks_name), 0, result.ranks - 1));
    result.local_rank = static_cast<int>(number(names.local_rank, lookup_(names.local_rank).value_or("0"), 0, kMostRanks));
    return result;
  }

  void read_address(LaunchEnvironment& result) const {
    if (const auto address = lookup_("MASTER_ADDR")) result.address = *address;
    if (const auto port = lookup_("MASTER_PORT")) result.port = static_cast<std::uint16_t>(number("MASTER_PORT", *port, 1, 65535));
  }

  LaunchEnvironment torchrun() const {
    LaunchEnvironment result = identity(kTorchrun, kTorchrun.ranks);
    if (result.ranks > 1) {
      text("MASTER_ADDR", "WORLD_SIZE");
      text("MASTER_PORT", "WORLD_SIZE");
    }
    result.agent_has_store = lookup_("TORCHELASTIC_USE_AGENT_STORE").value_or("") == "True";
    result.attempt = lookup_("TORCHELASTIC_RESTART_COUNT").value_or("0");
    return result;
  }

  // A batch script has SLURM_PROCID and SLURM_NTASKS too, although it is one process: in a job they count only for what srun started.
  const char* slurm_ranks() const {
    if (has(kSlurm.ranks)) return kSlurm.ranks;
    return has("SLURM_JOB_ID") && !has("SLURM_STEP_ID") ? nullptr : "SLURM_NTASKS";
  }

  LaunchEnvironment slurm(const char* ranks_name) const {
    LaunchEnvironment result = identity(kSlurm, ranks_name);
    const auto nodes = lookup_(has("SLURM_STEP_NODELIST") ? "SLURM_STEP_NODELIST" : "SLURM_NODELIST");
    if (nodes) result.address = first_slurm_host(*nodes);
    // A port of its own for each job that may run on a node.
    constexpr std::int64_t kFirstPort = 20000;
    constexpr std::int64_t kPorts = 10000;
    const auto job = lookup_("SLURM_JOB_ID");
    if (job) {
      result.port =
          static_cast<std::uint16_t>(kFirstPort + number("SLURM_JOB_ID", *job, 0, std::numeric_limits<std::int64_t>::max()) % kPorts);
    }
    return result;
  }

  LaunchEnvironment open_mpi() const {
    LaunchEnvironment result = identity(kOpenMpi, kOpenMpi.ranks);
    const bool one_machine = lookup_("OMPI_COMM_WORLD_LOCAL_SIZE").value_or("") == std::to_string(result.ranks);
    if (!one_machine && !has("MASTER_ADDR")) {
      throw ConfigError(
          {"MASTER_ADDR", "nothing, and ranks on several machines", "the machine of rank 0", "mpirun -x MASTER_ADDR=HOST ..."});
    }
    return result;
  }

 private:
  const EnvironmentLookup& lookup_;
};

}  // namespace

LaunchEnvironment launch_environment(const EnvironmentLookup& lookup) {
  const Reader reader(lookup);
  LaunchEnvironment result;
  if (reader.has(kTorchrun.rank) || reader.has(kTorchrun.ranks)) {
    result = reader.torchrun();
  } else if (const char* const ranks = reader.has(kSlurm.rank) ? reader.slurm_ranks() : nullptr) {
    result = reader.slurm(ranks);
  } else if (reader.has(kOpenMpi.rank) || reader.has(kOpenMpi.ranks)) {
    result = reader.open_mpi();
  }
  reader.read_address(result);
  return result;
}

std::optional<std::string> environment_variable(const std::string& name) {
  const char* const value = std::getenv(name.c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

std::string first_slurm_host(const std::string& list) {
  const std::size_t end = list.find_first_of("[,");
  std::string host = list.substr(0, end);
  if (end == std::string::npos || list[end] == ',') return host;
  return host + list.substr(end + 1, list.find_first_of("-,]", end) - end - 1);
}

}  // namespace stableqat
