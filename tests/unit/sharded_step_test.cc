// The optimizer step shared out over ranks (threads of this process) against the step of one process.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

#include "../support/tiny_model.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/dist/process_group.h"
#include "stableqat/models/parameters.h"
#include "stableqat/train/trace.h"
#include "stableqat/train/train_step.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr auto kTimeout = 60s;
constexpr std::int64_t kMicroBatches = 12;
constexpr int kSteps = 3;

QuantizationSettings settings(QuantizerKind kind, int bits, bool fourier, std::int64_t group_size = 0, bool fp16_scales = true) {
  QuantizationSettings result;
  result.spec.kind = kind;
  result.spec.bits = bits;
  if (fourier) result.spec.surrogate = Surrogate::fourier(0.21);
  result.spec.group_size = group_size;
  result.spec.fp16_scales = fp16_scales;
  return result;
}

const std::vector<QuantizationSettings> kSettings{
    settings(QuantizerKind::kLsq, 3, true), settings(QuantizerKind::kSeq, 2, false), settings(QuantizerKind::kDsq, 4, false),
    settings(QuantizerKind::kLsq, 2, true, 32, false), settings(QuantizerKind::kLsq, 1, false)};

at::Tensor ids(std::int64_t seed) {
  at::Tensor tensor = at::empty({2, 24}, at::kLong);
  for (std::int64_t i = 0; i < tensor.numel(); ++i) tensor.mutable_data_ptr<std::int64_t>()[i] = (i * 31 + seed * 17 + i * i / 7) % 257;
  return tensor;
}

// Whole tensors after training, by name; only what one rank has of it.
using State = std::map<std::string, at::Tensor>;

class ShardedStepTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stableqat_sharded_step_test_" + std::to_string(::getpid()));
    testing::write_tiny_model(folder_);
    source_ = ModelSource::open(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static TrainStepOptions options() {
    TrainStepOptions result;
    result.max_grad_norm = 0.5;
    result.adamw.weight_decay = 0.1;
    result.bucket_bytes = 40000;  // several buckets
    return result;
  }

  // Trains this rank's share; its micro-batches are those that TokenLoader would give it.
  static void train(TrainStep& step, const Communicator& self, int steps) {
    for (int s = 0; s < steps; ++s) {
      for (std::int64_t i = self.rank(); i < kMicroBatches; i += self.ranks()) {
        const at::Tensor batch = ids(s * kMicroBatches + i);
        if (i + self.ranks() < kMicroBatches) {
          step.accumulate(batch, 1.0 / kMicroBatches);
        } else {
          step.accumulate_last(batch, 1.0 / kMicroBatches);
        }
      }
      step.update(1e-3);
    }
  }

  // Runs `ranks` ranks and joins the rows that each has trained. `check` sees each rank's model at the end.
  State trained(int ranks, const QuantizationSettings& setting,
                const std::function<void(Communicator&, QuantizedModel&, TrainStep&)>& check = {}) const {
    std::mutex mutex;
    std::map<std::string, std::map<int, at::Tensor>> parts;
    run_as_threads(ranks, kTimeout, [&](Communicator& self) {
      QuantizedModel model(*source_, at::kDouble, setting);
      TrainStep step(model, options(), self);
      train(step, self, kSteps);
      if (check) check(self, model, step);
      const std::scoped_lock lock(mutex);
      for (std::size_t i = 0; i < step.optimizer().tensors().size(); ++i) {
        const TrainedTensor& tensor = step.optimizer().tensors()[i];
        if (tensor.rows.first == 0 && self.rank() > 0) continue;  // not shared out
        parts[tensor.name][self.rank()] = tensor.value.clone();
        parts["first." + tensor.name][self.rank()] = step.optimizer().first_moment(i).clone();
        parts["second." + tensor.name][self.rank()] = step.optimizer().second_moment(i).clone();
      }
    });
    State whole;
    for (const auto& [name, by_rank] : parts) {
      std::vector<at::Tensor> tensors;
      for (const auto& [rank, part] : by_rank) tensors.push_back(part);
      whole[name] = at::cat(tensors);
    }
    return whole;
  }

  fs::path folder_;
  std::unique_ptr<ModelSource> source_;
};

TEST_F(ShardedStepTest, AnyNumberOfRanksTrainsWhatOneTrains) {
  for (const QuantizationSettings& setting : kSettings) {
    const State expected = trained(1, setting);
    for (const int ranks : {2, 3, 4}) {
      const State found = trained(ranks, setting);
      ASSERT_EQ(found.size(), expected.size());
      for (const auto& [name, value] : expected) {
        // Sums in another order: 12 micro-batches and AdamW's quotients lose a few digits of 16.
        const double difference = at::linalg_vector_norm(found.at(name) - value).item<double>();
        EXPECT_LE(difference, 1e-10 * at::linalg_vector_norm(value).item<double>() + 1e-18) << name << " of " << ranks;
      }
    }
  }
}

TEST_F(ShardedStepTest, AllRanksHaveTheSameModelAndTheirRowsOnly) {
  for (const QuantizationSettings& setting : kSettings) {
    std::mutex mutex;
    State main;
    trained(3, setting, [&](Communicator& self, QuantizedModel& model, TrainStep& step) {
      State state;
      model.model().visit_parameters(
          [&](const std::string& name, ParameterRole, at::Tensor& value) { state[name] = value.detach().clone(); });
      for (const QuantizedWeight& weight : model.weights()) {
        state[weight.name() + ".codes"] = weight.codes();
        state[weight.name() + ".step"] = weight.step();
        EXPECT_LE(weight.master().size(0), (weight.rows() + 2) / 3);
      }
      for (const TrainedTensor& tensor : step.optimizer().tensors()) EXPECT_LE(tensor.rows.count, (tensor.all_rows + 2) / 3) << tensor.name;
      self.barrier();
      if (self.is_main()) main = state;
      self.barrier();
      const std::scoped_lock lock(mutex);
      for (const auto& [name, value] : state) EXPECT_TRUE(value.equal(main.at(name))) << name << " on rank " << self.rank();
    });
  }
}

TEST_F(ShardedStepTest, TheBytesSentAreThoseOfPackedCodes) {
  const ModelConfig c = testing::tiny_config();
  for (const QuantizationSettings& setting : kSettings) {
    for (const int ranks : {2, 4}) {  // divide all of the model's sizes
      std::int64_t quantized = 0;
      std::int64_t steps = 0;
      std::int64_t plain = 0;
      QuantizedModel model(*source_, at::kDouble, setting);
      for (const QuantizedWeight& weight : model.weights()) {
        quantized += weight.codes().numel();
        steps += weight.step().numel();
      }
      model.model().visit_parameters([&](const std::string&, ParameterRole role, at::Tensor& value) {
        if (role != ParameterRole::kProjection) plain += value.numel();
      });
      ASSERT_EQ(plain, c.vocab_size * c.hidden_size + 5 * c.hidden_size);
      const std::int64_t weights = quantized * std::max(1, setting.spec.bits) / 8 + steps * (setting.spec.fp16_scales ? 2 : 8) + 8 * plain;
      const std::int64_t gradients = 8 * (quantized + plain);
      const auto to_others = [&](std::int64_t bytes) { return static_cast<std::uint64_t>(kSteps * (bytes / ranks) * (ranks - 1)); };
      trained(ranks, setting, [&](Communicator& self, QuantizedModel&, TrainStep&) {
        EXPECT_EQ(self.traffic().gradients, to_others(gradients)) << ranks;
        EXPECT_EQ(self.traffic().weights, to_others(weights)) << ranks << " ranks, " << setting.spec.bits << " bits";
      });
    }
  }
}

TEST_F(ShardedStepTest, GradientsRoundedToBf16AreNearAndHalfTheBytes) {
  std::mutex mutex;
  std::map<bool, std::map<std::string, at::Tensor>> moments;
  std::map<bool, std::uint64_t> sent;
  for (const bool in_bf16 : {false, true}) {
    run_as_threads(2, kTimeout, [&](Communicator& self) {
      QuantizedModel model(*source_, at::kFloat, settings(QuantizerKind::kLsq, 3, true));
      TrainStepOptions plain;  // no clipping: the first moment is a tenth of the gradient
      plain.reduce_in_bf16 = in_bf16;
      TrainStep step(model, plain, self);
      train(step, self, 1);
      const std::scoped_lock lock(mutex);
      for (std::size_t i = 0; i < step.optimizer().tensors().size(); ++i) {
        const TrainedTensor& tensor = step.optimizer().tensors()[i];
        moments[in_bf16][tensor.name + std::to_string(self.rank())] = step.optimizer().first_moment(i).clone();
      }
      sent[in_bf16] = self.traffic().gradients;
    });
  }
  EXPECT_EQ(2 * sent[true], sent[false]);
  bool differs = false;
  for (const auto& [name, exact] : moments[false]) {
    // Each of two parts is rounded by at most 2^-9 of itself; parts of opposite sign may be larger than their sum, but not in the norm of a
    // tensor, where they are nearly independent: twice the norm bounds them.
    const double difference = at::linalg_vector_norm(moments[true].at(name) - exact).item<double>();
    EXPECT_LE(difference, 2 * 0x1p-9 * at::linalg_vector_norm(exact).item<double>()) << name;
    differs |= difference > 0;
  }
  EXPECT_TRUE(differs);
}

// Notes the state of another gradient when the first exchange of gradients begins.
class Watcher final : public Communicator {
 public:
  Watcher(Communicator& inner, std::function<void()> on_gradients) : inner_(inner), on_gradients_(std::move(on_gradients)) {}
  int rank() const noexcept override { return inner_.rank(); }
  int ranks() const noexcept override { return inner_.ranks(); }
  std::unique_ptr<Transfer> start_all_to_all(const at::Tensor& to, const at::Tensor& from) override {
    on_gradients_();
    return inner_.start_all_to_all(to, from);
  }
  std::unique_ptr<Transfer> start_all_gather(const at::Tensor& all) override { return inner_.start_all_gather(all); }
  std::vector<std::string> all_gather_text(const std::string& own) override { return inner_.all_gather_text(own); }
  std::vector<std::vector<double>> all_gather_numbers(const std::vector<double>& own) override { return inner_.all_gather_numbers(own); }
  void barrier() override { inner_.barrier(); }
  void main_only(const std::function<void()>& work) override { inner_.main_only(work); }
  std::unique_ptr<Communicator> duplicate() override { return inner_.duplicate(); }
  void set_activity(std::string activity) override { inner_.set_activity(std::move(activity)); }
  Traffic traffic() const noexcept override { return inner_.traffic(); }

 private:
  Communicator& inner_;
  std::function<void()> on_gradients_;
};

TEST_F(ShardedStepTest, TheExchangeBeginsWhileBackwardRuns) {
  for (const Recompute recompute : {Recompute::kNone, Recompute::kBlock}) {
    run_as_threads(2, kTimeout, [&](Communicator& self) {
      QuantizedModel model(*source_, at::kFloat, settings(QuantizerKind::kLsq, 3, true));
      const at::Tensor first_layer = model.weights().front().dequantized();
      std::vector<bool> first_layer_done;
      Watcher watcher(self, [&] { first_layer_done.push_back(first_layer.grad().abs().max().item<float>() > 0); });
      TrainStepOptions watched = options();
      watched.recompute = recompute;
      TrainStep step(model, watched, watcher);
      step.accumulate_last(ids(self.rank()), 0.5);
      ASSERT_GT(first_layer_done.size(), 2U);
      EXPECT_FALSE(first_layer_done.front());
      EXPECT_TRUE(first_layer_done.back());
    });
  }
}

TEST_F(ShardedStepTest, ATraceShowsExchangesThatOverlapBackward) {
  const fs::path path = folder_ / "trace.json";
  TraceRecorder recorder(path, 5);
  run_as_threads(2, kTimeout, [&](Communicator& self) {
    QuantizedModel model(*source_, at::kFloat, settings(QuantizerKind::kLsq, 3, true));
    TrainStep step(model, options(), self);
    step.accumulate(ids(self.rank()), 0.25);
    step.accumulate_last(ids(2 + self.rank()), 0.25);
    step.update(1e-3);
  });
  recorder.finish();

  struct Span {
    double begin, end;
  };
  std::map<std::string, std::vector<Span>> spans;
  std::map<std::int64_t, std::pair<std::string, Span>> open;
  std::uint64_t gradient_bytes = 0;
  const nlohmann::json events = nlohmann::json::parse(read_text_file(path));
  ASSERT_TRUE(events.is_array());
  for (const nlohmann::json& event : events) {
    EXPECT_EQ(event.at("pid"), 5);
    const std::string kind = event.at("ph");
    const std::string name = event.at("name");
    if (kind == "X") {
      const double begin = event.at("ts");
      spans[name].push_back({begin, begin + event.at("dur").get<double>()});
    } else if (kind == "b") {
      open[event.at("id")] = {name, {event.at("ts"), 0}};
      if (name.find("all_to_all") != name.npos) gradient_bytes += event.at("args").at("bytes").get<std::uint64_t>();
    } else if (kind == "e") {
      auto& [opened, span] = open.at(event.at("id"));
      EXPECT_EQ(opened, name);
      span.end = event.at("ts");
      EXPECT_GE(span.end, span.begin);
      spans[name].push_back(span);
    } else {
      EXPECT_EQ(kind, "M");
    }
  }
  // Two ranks, two micro-batches each.
  for (const auto& [name, count] :
       std::map<std::string, std::size_t>{{"forward", 4}, {"head", 4}, {"backward", 4}, {"update", 2}, {"weight_exchange", 2}}) {
    EXPECT_EQ(spans[name].size(), count) << name;
  }
  const std::vector<Span>& buckets = spans["gloo:all_to_all"];
  ASSERT_GT(buckets.size(), 8U);
  EXPECT_EQ(buckets.size(), spans["gradient_exchange"].size());
  std::size_t during_backward = 0;
  for (const Span& bucket : buckets) {
    during_backward += std::any_of(spans["backward"].begin(), spans["backward"].end(),
                                   [&](const Span& backward) { return bucket.begin > backward.begin && bucket.begin < backward.end; });
  }
  EXPECT_GT(during_backward, buckets.size() / 2);
  // Each of the two ranks sends half of its gradients, and the padding of uneven rows (none for two ranks).
  std::uint64_t parameters = 0;
  for (const ParameterShape& shape : parameter_shapes(testing::tiny_config())) parameters += static_cast<std::uint64_t>(shape.elements());
  EXPECT_EQ(gradient_bytes, 4 * parameters);
}

TEST_F(ShardedStepTest, AGradientThatIsNotFiniteOnOneRankStopsAllBeforeTheUpdate) {
  std::atomic<int> thrown = 0;
  run_as_threads(3, kTimeout, [&](Communicator& self) {
    QuantizedModel model(*source_, at::kFloat, settings(QuantizerKind::kLsq, 3, true));
    TrainStep step(model, {}, self);
    step.accumulate(ids(1), 0.5);
    if (self.rank() == 1) model.weights()[3].dequantized().mutable_grad()[0][0] = std::numeric_limits<float>::infinity();
    step.accumulate_last(ids(2), 0.5);
    const at::Tensor before = model.weights()[0].master().clone();
    try {
      step.update(1e-3);
    } catch (const NumericError&) {
      ++thrown;
    }
    EXPECT_TRUE(before.equal(model.weights()[0].master()));
    EXPECT_EQ(step.optimizer().steps(), 0);
  });
  EXPECT_EQ(thrown, 3);
}

}  // namespace
}  // namespace stableqat
