// Launchers' environment variables: values as the launchers' documentation gives them.
#include <gtest/gtest.h>

#include <map>

#include "stableqat/base/error.h"
#include "stableqat/dist/launch_environment.h"

namespace stableqat {
namespace {

using Variables = std::map<std::string, std::string>;

LaunchEnvironment read(const Variables& variables) {
  return launch_environment([&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  });
}

std::string error_of(const Variables& variables) {
  try {
    read(variables);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(LaunchEnvironment, NoVariablesAreOneProcess) {
  const LaunchEnvironment self = read({});
  EXPECT_EQ(self.rank, 0);
  EXPECT_EQ(self.ranks, 1);
}

TEST(LaunchEnvironment, Torchrun) {
  const LaunchEnvironment self = read({{"RANK", "9"},
                                       {"WORLD_SIZE", "16"},
                                       {"LOCAL_RANK", "1"},
                                       {"MASTER_ADDR", "node0"},
                                       {"MASTER_PORT", "29400"},
                                       {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                       {"TORCHELASTIC_RESTART_COUNT", "2"},
                                       {"SLURM_PROCID", "0"},
                                       {"SLURM_NTASKS", "2"}});
  EXPECT_EQ(self.rank, 9);
  EXPECT_EQ(self.ranks, 16);
  EXPECT_EQ(self.local_rank, 1);
  EXPECT_EQ(self.address, "node0");
  EXPECT_EQ(self.port, 29400);
  EXPECT_TRUE(self.agent_has_store);
  EXPECT_EQ(self.attempt, "2");
}

TEST(LaunchEnvironment, Srun) {
  const LaunchEnvironment self = read({{"SLURM_JOB_ID", "123456"},
                                       {"SLURM_STEP_ID", "0"},
                                       {"SLURM_PROCID", "5"},
                                       {"SLURM_STEP_NUM_TASKS", "8"},
                                       {"SLURM_NTASKS", "64"},
                                       {"SLURM_LOCALID", "1"},
                                       {"SLURM_STEP_NODELIST", "gpu[07-08]"}});
  EXPECT_EQ(self.rank, 5);
  EXPECT_EQ(self.ranks, 8);
  EXPECT_EQ(self.local_rank, 1);
  EXPECT_EQ(self.address, "gpu07");
  EXPECT_EQ(self.port, 23456);
  EXPECT_EQ(read({{"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "2"}}).ranks, 2);
  // A batch script without srun is one process.
  EXPECT_EQ(read({{"SLURM_JOB_ID", "7"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}}).ranks, 1);
}

TEST(LaunchEnvironment, Mpirun) {
  const Variables variables{{"OMPI_COMM_WORLD_RANK", "1"},
                            {"OMPI_COMM_WORLD_SIZE", "2"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
  EXPECT_EQ(read(variables).rank, 1);
  EXPECT_TRUE(read(variables).is_loopback());
  Variables two_machines = variables;
  two_machines["OMPI_COMM_WORLD_LOCAL_SIZE"] = "1";
  EXPECT_NE(error_of(two_machines).find("MASTER_ADDR"), std::string::npos);
  two_machines["MASTER_ADDR"] = "node0";
  EXPECT_EQ(read(two_machines).address, "node0");
}

TEST(LaunchEnvironment, ErrorsNameTheVariable) {
  EXPECT_EQ(error_of({{"WORLD_SIZE", "2"}}).rfind("RANK:", 0), 0U);
  EXPECT_EQ(error_of({{"RANK", "0"}}).rfind("WORLD_SIZE:", 0), 0U);
  const Variables good{{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "1"}};
  EXPECT_EQ(error_of(good), "");
  for (const auto& [name, value] : Variables{{"RANK", "2"}, {"WORLD_SIZE", "0"}, {"MASTER_PORT", "65536"}, {"LOCAL_RANK", "one"}}) {
    Variables bad = good;
    bad[name] = value;
    EXPECT_EQ(error_of(bad).rfind(name == "WORLD_SIZE" ? "WORLD_SIZE:" : name + ":", 0), 0U) << name << ": " << error_of(bad);
  }
  for (const char* name : {"MASTER_ADDR", "MASTER_PORT"}) {
    Variables bad = good;
    bad.erase(name);
    EXPECT_EQ(error_of(bad).rfind(std::string(name) + ":", 0), 0U) << error_of(bad);
  }
}

TEST(LaunchEnvironment, SlurmHostLists) {
  EXPECT_EQ(first_slurm_host("node1"), "node1");
  EXPECT_EQ(first_slurm_host("node1,node2"), "node1");
  EXPECT_EQ(first_slurm_host("node[03-05,9],login"), "node03");
  EXPECT_EQ(first_slurm_host("rack2-[7,11]"), "rack2-7");
}

}  // namespace
}  // namespace stableqat
