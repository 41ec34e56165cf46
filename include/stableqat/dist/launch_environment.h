// Who this process is among those that were started together, as launchers say it in environment variables.
//
//   torchrun, stableqat launch   RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT (torch.distributed, "env://" initialization)
//   srun                         SLURM_PROCID, SLURM_STEP_NUM_TASKS or SLURM_NTASKS, SLURM_LOCALID, SLURM_STEP_NODELIST (man srun)
//   mpirun                       OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE (Open MPI's documentation, "Environment variables")
//
// The first that is there counts, in this order. MASTER_ADDR and MASTER_PORT, where rank 0 can be reached, override what the others
// give. None of them = one process.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace stableqat {

struct LaunchEnvironment {
  int rank = 0;
  int ranks = 1;
  int local_rank = 0;  // among those of this machine
  std::string address = "127.0.0.1";
  std::uint16_t port = 29500;
  bool agent_has_store = false;  // the launcher serves the store at address:port (torchrun), not rank 0
  std::string attempt = "0";     // of a launcher that starts the ranks again after a failure

  // Whether all ranks are certainly on this machine.
  bool is_loopback() const { return address == "localhost" || address.rfind("127.", 0) == 0; }
};

// The value of an environment variable.
using EnvironmentLookup = std::function<std::optional<std::string>(const std::string& name)>;

// Throws ConfigError that names the variable: missing, not a number, out of range, or a rank that is not below the number of ranks.
LaunchEnvironment launch_environment(const EnvironmentLookup& lookup);

// Of this process.
std::optional<std::string> environment_variable(const std::string& name);

// The first host of Slurm's compressed list: "node[03-05,9],login" -> "node03".
std::string first_slurm_host(const std::string& list);

}  // namespace stableqat
