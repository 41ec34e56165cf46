// The plan's bytes against those that ranks (threads of this process) count, its times against closed forms.
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "../support/tiny_model.h"
#include "stableqat/dist/process_group.h"
#include "stableqat/train/run_plan.h"
#include "stableqat/train/settings.h"
#include "stableqat/train/train_step.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

class RunPlanTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stableqat_run_plan_test_" + std::to_string(::getpid()));
    config_.data.sequence_length = 16;
    config_.train.precision = TrainConfig::Precision::kFloat32;
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
  TrainConfig config_;
};

TEST_F(RunPlanTest, BytesAreThoseThatRanksCount) {
  testing::write_tiny_model(folder_);
  const auto source = ModelSource::open(folder_);
  struct Case {
    TrainConfig::Method method;
    std::int64_t bits;
    std::int64_t group_size;
    TrainConfig::Reduce reduce;
  };
  for (const Case& c : {Case{TrainConfig::Method::kStableqat, 3, 0, TrainConfig::Reduce::kFp32},
                        Case{TrainConfig::Method::kDsq, 2, 0, TrainConfig::Reduce::kBf16},
                        Case{TrainConfig::Method::kSte, 4, 32, TrainConfig::Reduce::kFp32},
                        Case{TrainConfig::Method::kNone, 16, 0, TrainConfig::Reduce::kFp32}}) {
    config_.quantization.method = c.method;
    config_.quantization.bits = c.bits;
    config_.quantization.group_size = c.group_size;
    config_.distributed.reduce = c.reduce;
    for (const int ranks : {2, 3, 4}) {  // 3: rows that do not come out even
      run_as_threads(ranks, std::chrono::seconds(60), [&](Communicator& self) {
        QuantizedModel model(*source, at::kFloat, quantization_settings(config_.quantization));
        TrainStep step(model, train_step_options(config_), self);
        at::Tensor ids = at::empty({1, 16}, at::kLong).fill_(7);
        constexpr std::uint64_t kSteps = 2;
        for (std::uint64_t i = 0; i < kSteps; ++i) {
          step.accumulate_last(ids, 1.0 / ranks);
          self.all_gather_numbers({0, 0, 0, 0});  // the trainer's
          step.update(1e-3);
        }
        const Traffic planned = step_traffic(model.model().config(), config_, ranks);
        EXPECT_EQ(self.traffic().gradients, kSteps * planned.gradients) << c.bits << " bits, " << ranks << " ranks";
        EXPECT_EQ(self.traffic().weights, kSteps * planned.weights) << c.bits << " bits, " << ranks << " ranks";
        EXPECT_EQ(self.traffic().control, kSteps * planned.control) << c.bits << " bits, " << ranks << " ranks";
      });
    }
  }
}

TEST_F(RunPlanTest, TimesFollowFromTheRates) {
  const ModelConfig model = testing::tiny_config();
  config_.train.gradient_accumulation_steps = 8;
  ClusterRates rates;
  const RunPlan alone = plan_run(model, config_, rates, 1);
  EXPECT_EQ(alone.traffic.total(), 0U);
  EXPECT_DOUBLE_EQ(alone.efficiency, 1.0);
  EXPECT_DOUBLE_EQ(alone.tokens_per_second, 8 * 16 / alone.step());

  // Only links between machines count: their share of the bytes over their rate.
  rates.ranks_per_machine = 1;
  rates.link_to_machines = 1e6;
  rates.latency = 0;
  rates.operations = std::numeric_limits<double>::infinity();
  const RunPlan slow = plan_run(model, config_, rates, 4);
  EXPECT_NEAR(slow.step(), static_cast<double>(slow.traffic.gradients + slow.traffic.weights) / 1e6 + slow.update, 1e-12);
  rates.ranks_per_machine = 4;  // now none
  rates.link_in_machine = std::numeric_limits<double>::infinity();
  const RunPlan fast = plan_run(model, config_, rates, 4);
  EXPECT_NEAR(fast.step(), fast.update, 1e-15);

  // Half the optimizer state on two ranks, a quarter on four.
  const auto moments = [&](int ranks) {
    for (const MemoryEstimate::Part& part : plan_run(model, config_, rates, ranks).memory.parts) {
      if (part.name == "moments") return part.bytes;
    }
    return std::uint64_t{0};
  };
  EXPECT_NEAR(static_cast<double>(moments(1)), 2.0 * static_cast<double>(moments(2)), 2.0);
  EXPECT_NEAR(static_cast<double>(moments(1)), 4.0 * static_cast<double>(moments(4)), 4.0);
  EXPECT_EQ(plan_run(model, config_, rates, 64).micro_batches, 64);
}

}  // namespace
}  // namespace stableqat
