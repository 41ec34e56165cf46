// Rounded inputs of linear layers against ggml's own rounding (tools/make_activation_fixtures.py), and what a model does with them.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "../support/tiny_model.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/eval/perplexity.h"
#include "stableqat/models/activation_rounding.h"
#include "stableqat/models/head.h"
#include "stableqat/models/model_source.h"
#include "stableqat/models/packed_matrix.h"
#include "stableqat/models/quantized_model.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const Json& fixture() {
  static const Json golden = Json::parse(read_text_file(STABLEQAT_TEST_DATA "/activation_rounding.json"));
  return golden;
}

at::Tensor row_of(const Json& bits) {
  at::Tensor row = at::empty({1, static_cast<std::int64_t>(bits.size())}, at::kFloat);
  for (std::size_t i = 0; i < bits.size(); ++i) row.data_ptr<float>()[i] = std::bit_cast<float>(bits[i].get<std::uint32_t>());
  return row;
}

TEST(ActivationRounding, GivesGgmlsValuesBitForBit) {
  for (const Json& example : fixture().at("rows")) {
    const at::Tensor row = row_of(example.at("input"));
    for (const ActivationRounding rounding : {ActivationRounding::kQ8_0, ActivationRounding::kQ8_K}) {
      const at::Tensor expected = row_of(example.at(activation_rounding_name(rounding)));
      const at::Tensor found = rounded_activations(row, rounding);
      EXPECT_TRUE(at::equal(found, expected)) << activation_rounding_name(rounding) << " off by " << (found - expected).abs().max();
    }
    EXPECT_TRUE(at::equal(rounded_activations(row, ActivationRounding::kNone), row));
  }
}

TEST(ActivationRounding, ByTypeOfTheWeightAsInGgml) {
  const std::map<std::string, GgmlType> types{{"F32", GgmlType::kF32},   {"F16", GgmlType::kF16},     {"BF16", GgmlType::kBF16},
                                              {"Q4_0", GgmlType::kQ4_0}, {"Q4_1", GgmlType::kQ4_1},   {"Q5_0", GgmlType::kQ5_0},
                                              {"Q5_1", GgmlType::kQ5_1}, {"Q8_0", GgmlType::kQ8_0},   {"Q2_K", GgmlType::kQ2_K},
                                              {"Q3_K", GgmlType::kQ3_K}, {"Q4_K", GgmlType::kQ4_K},   {"Q5_K", GgmlType::kQ5_K},
                                              {"Q6_K", GgmlType::kQ6_K}, {"TQ1_0", GgmlType::kTQ1_0}, {"TQ2_0", GgmlType::kTQ2_0}};
  EXPECT_EQ(fixture().at("types").size(), types.size());
  for (const auto& [name, type] : types) {
    EXPECT_EQ(activation_rounding_name(activation_rounding_of(type)), fixture().at("types").at(name).get<std::string>()) << name;
  }
}

TEST(ActivationRounding, TakesAnyShapeAndType) {
  const at::Tensor x = at::randn({3, 5, 512});
  const at::Tensor rounded = rounded_activations(x, ActivationRounding::kQ8_K);
  EXPECT_EQ(rounded.sizes(), x.sizes());
  EXPECT_TRUE(at::equal(rounded[1][2], rounded_activations(x[1][2].view({1, 512}), ActivationRounding::kQ8_K)[0]));
  const at::Tensor wide = rounded_activations(x.to(at::kDouble), ActivationRounding::kQ8_K);
  EXPECT_EQ(wide.scalar_type(), at::kDouble);
  EXPECT_TRUE(at::equal(wide, rounded.to(at::kDouble)));
  EXPECT_TRUE(at::equal(rounded_activations(x.transpose(0, 1), ActivationRounding::kQ8_K), rounded.transpose(0, 1)));
  EXPECT_THROW(rounded_activations(at::randn({1, 272}), ActivationRounding::kQ8_K), ConfigError);
}

// Layers with one input, each with its own rounding; a packed weight is left aside, for it would round once more.
TEST(ActivationRounding, LayersMultiplyWhatIsRounded) {
  const at::NoGradGuard no_grad;
  const at::Tensor x = at::randn({7, 256}) * 3;
  std::vector<Linear> layers(3);
  const ActivationRounding kinds[] = {ActivationRounding::kQ8_0, ActivationRounding::kNone, ActivationRounding::kQ8_K};
  for (int i = 0; i < 3; ++i) {
    Linear& layer = layers[static_cast<std::size_t>(i)];
    layer.codes = (at::randn({40, 256}) * 3).clamp(-8, 7).to(at::kChar);
    layer.step = at::randn({40, 1}).abs() + 0.1;
    layer.weight = layer.codes * layer.step;
    layer.packed = std::make_shared<PackedMatrix>(PackedMatrix::from_codes(layer.codes, layer.step));
    layer.bias = at::randn({40});
    layer.input_rounding = kinds[i];
  }
  const std::vector<at::Tensor> y = linear(x, {&layers[0], &layers[1], &layers[2]});
  for (std::size_t i = 0; i < 3; ++i) {
    const at::Tensor rounded = rounded_activations(x, kinds[i]).to(at::kDouble);
    const at::Tensor weight = layers[i].weight.to(at::kDouble);
    const at::Tensor expected = at::mm(rounded, weight.t()) + layers[i].bias;
    // fp32 sums of 256 products, and a bias.
    const at::Tensor bound = (at::mm(rounded.abs(), weight.abs().t()) + layers[i].bias.abs()) * (258 * 0x1p-24);
    EXPECT_LE(((y[i].to(at::kDouble) - expected).abs() - bound).max().item<double>(), 0.0) << i;
  }
  const at::AutoGradMode with_grad(true);
  EXPECT_THROW(linear(x, layers[0]), ConfigError);
}

class RoundedModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stableqat_rounding_test_" + std::to_string(::getpid()));
    testing::write_tiny_model(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

TEST_F(RoundedModelTest, EveryLayerAndTheHead) {
  const auto source = ModelSource::open(folder_);
  CausalLm model(*source, at::kFloat);
  round_activations(model, ActivationRounding::kQ8_K);  // 64 and 128 columns: no whole blocks of 256
  model.visit_linears([](const std::string& name, Linear& layer) { EXPECT_EQ(layer.input_rounding, ActivationRounding::kQ8_0) << name; });
  EXPECT_EQ(model.head_input_rounding(), ActivationRounding::kQ8_0);
  EXPECT_THROW(round_activations_like_llama_cpp(model, *source), ConfigError) << "a folder has no types of ggml";
  model.set_compute_dtype(at::kBFloat16);
  EXPECT_THROW(round_activations(model, ActivationRounding::kQ8_0), ConfigError);
}

// The head rounds what it is given, on all of its ways; in the blocks rounding moves the result by about what 8 bits move it.
TEST_F(RoundedModelTest, HeadAndBlocksRound) {
  const at::NoGradGuard no_grad;
  QuantizedModel quantized(*ModelSource::open(folder_), at::kFloat, QuantizationSettings{{}, {}});
  quantized.set_code_products(CodeProducts::kFloat);
  quantized.pack_for_decoding();
  CausalLm& model = quantized.model();
  const at::Tensor hidden = at::randn({300, 64});
  const at::Tensor rounded = rounded_activations(hidden, ActivationRounding::kQ8_0);
  at::Tensor ids = at::empty({1, 300}, at::kLong);
  for (std::int64_t i = 0; i < 300; ++i) ids.data_ptr<std::int64_t>()[i] = i % 257;
  const at::Tensor whole = model.hidden_states(ids);
  const at::Tensor expected = logits(model, rounded);
  const at::Tensor expected_log_probs = token_log_probs(model, rounded.unsqueeze(0), ids);
  model.set_head_input_rounding(ActivationRounding::kQ8_0);
  EXPECT_TRUE(at::equal(logits(model, hidden), expected));
  EXPECT_TRUE(at::equal(token_log_probs(model, hidden.unsqueeze(0), ids), expected_log_probs));
  const at::Tensor few = logits(model, hidden.narrow(0, 0, 2));
  EXPECT_LT((few - expected.narrow(0, 0, 2)).abs().max().item<double>(), 64 * 0x1p-24 * 64);

  round_activations(model, ActivationRounding::kQ8_0);
  const double moved = (at::linalg_vector_norm(model.hidden_states(ids) - whole) / at::linalg_vector_norm(whole)).item<double>();
  EXPECT_GT(moved, 1e-4);
  EXPECT_LT(moved, 0.05);
}

// Packed weights round inputs in their own way, so they are not used then: the same bits as without them.
TEST_F(RoundedModelTest, DecodesWithoutPackedWeights) {
  const at::NoGradGuard no_grad;
  const auto decoded = [&](bool packed) {
    QuantizedModel quantized(*ModelSource::open(folder_), at::kFloat, QuantizationSettings{{}, {}});
    quantized.set_code_products(CodeProducts::kFloat);
    if (packed) quantized.pack_for_decoding();
    round_activations(quantized.model(), ActivationRounding::kQ8_0);
    KvCache cache(quantized.model().config(), 1, 8, at::kFloat);
    at::Tensor hidden;
    for (std::int64_t id : {5, 250, 17}) hidden = quantized.model().hidden_states(at::full({1, 1}, id, at::kLong), &cache);
    return logits(quantized.model(), hidden.select(1, 0));
  };
  EXPECT_TRUE(at::equal(decoded(true), decoded(false)));
}

}  // namespace
}  // namespace stableqat
