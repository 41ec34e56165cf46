// What tests of training on a GPU share: the GPU, a fake one unless STABLEQAT_REAL_GPU is defined, and a small model on it.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/models/model_source.h"
#include "stableqat/models/quantized_model.h"
#include "stableqat/train/settings.h"
#include "stableqat/train/train_step.h"
#include "tiny_model.h"

#if !defined(STABLEQAT_REAL_GPU)
#include "fake_gpu.h"
#endif

namespace stableqat::testing {

#if defined(STABLEQAT_REAL_GPU)
inline at::Device gpu() {
  TrainConfig::Train train;
  train.device = TrainConfig::Device::kCuda;
  return open_device(train);
}
#else
inline at::Device gpu() { return fake_gpu(); }
#endif

// Empty: there is one.
inline std::string why_no_gpu() {
  try {
    gpu();
    return "";
  } catch (const EnvironmentError& error) {
    return error.what();
  }
}

inline QuantizerSpec spec(QuantizerKind kind, int bits, std::int64_t group_size, bool fourier) {
  QuantizerSpec result{.kind = kind, .bits = bits, .group_size = group_size};
  if (fourier) result.surrogate = Surrogate::fourier(0.21);
  return result;
}

// Each kind.
inline const std::vector<QuantizerSpec> kSpecs{spec(QuantizerKind::kLsq, 3, 0, true), spec(QuantizerKind::kLsq, 4, 32, false),
                                               spec(QuantizerKind::kSeq, 2, 0, false), spec(QuantizerKind::kDsq, 3, 0, false)};

// Models of a small one in a folder, which is there for a test.
class GpuTrainingFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = why_no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
    folder_ = std::filesystem::temp_directory_path() / ("stableqat_gpu_training_" + std::to_string(::getpid()));
    write_tiny_model(folder_ / "model");
    source_ = ModelSource::open(folder_ / "model");
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  QuantizedModel model(const QuantizerSpec& setting, at::ScalarType compute) const {
    QuantizedModel result(*source_, at::kFloat, QuantizationSettings{setting, {}});
    result.model().set_compute_dtype(compute);
    return result;
  }
  QuantizedModel gpu_model(const QuantizerSpec& setting, at::ScalarType compute) const {
    QuantizedModel result = model(setting, compute);
    result.move_to(gpu());
    return result;
  }

  static at::Tensor ids(std::int64_t seed, std::int64_t tokens = 24) {
    const at::Tensor tensor = at::empty({2, tokens}, at::kLong);
    for (std::int64_t i = 0; i < tensor.numel(); ++i) tensor.data_ptr<std::int64_t>()[i] = (i * 31 + seed * 17 + i * i / 7) % 257;
    return tensor;
  }

  std::filesystem::path folder_;
  std::unique_ptr<ModelSource> source_;
};

// All that training moves, on the CPU.
inline std::vector<at::Tensor> state_of(QuantizedModel& model, TrainStep& step) {
  std::vector<at::Tensor> tensors;
  const auto add = [&tensors](const at::Tensor& tensor) { tensors.push_back(tensor.detach().cpu().clone()); };
  for (std::size_t i = 0; i < step.optimizer().tensors().size(); ++i) {
    add(step.optimizer().tensors()[i].value);
    add(step.optimizer().first_moment(i));
    add(step.optimizer().second_moment(i));
  }
  for (const QuantizedWeight& weight : model.weights()) add(weight.codes());
  return tensors;
}

inline bool equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const at::Tensor& x, const at::Tensor& y) { return x.equal(y); });
}

}  // namespace stableqat::testing
