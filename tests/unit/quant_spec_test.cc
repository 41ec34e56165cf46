#include "stableqat/quant/quantizer_spec.h"

#include <gtest/gtest.h>

#include <cmath>

#include "stableqat/base/error.h"
#include "stableqat/quant/layer_selection.h"

namespace stableqat {
namespace {

TEST(QuantizerSpec, KnowsTheIntegerRangeOfEachBitWidth) {
  const int expected[][3] = {{0, -1, 1}, {1, -1, 1}, {2, -2, 1}, {3, -4, 3}, {4, -8, 7}, {8, -128, 127}};
  for (const auto& [bits, low, high] : expected) {
    EXPECT_EQ(q_min(bits), low);
    EXPECT_EQ(q_max(bits), high);
  }
}

TEST(QuantizerSpec, ScalesLsqGradientByTheWholeTensor) {
  EXPECT_DOUBLE_EQ(QuantizerSpec{.bits = 3}.scale_gradient_factor(48), 1 / std::sqrt(48.0 * 3));
  EXPECT_DOUBLE_EQ(QuantizerSpec{.bits = 0}.scale_gradient_factor(49), 1.0 / 7);
  EXPECT_DOUBLE_EQ(QuantizerSpec{.bits = 1}.scale_gradient_factor(49), 1.0 / 7);
}

TEST(QuantizerSpec, RefusesWhatAKindCannotDo) {
  for (const int bits : {-1, 5, 6, 7, 9, 16}) EXPECT_THROW(QuantizerSpec{.bits = bits}.validate(), ConfigError) << bits;
  for (const int bits : {0, 1, 2, 3, 4, 8}) EXPECT_NO_THROW(QuantizerSpec{.bits = bits}.validate()) << bits;
  EXPECT_THROW((QuantizerSpec{.kind = QuantizerKind::kSeq, .bits = 8}.validate()), ConfigError);
  EXPECT_THROW((QuantizerSpec{.kind = QuantizerKind::kDsq, .bits = 1}.validate()), ConfigError);
  EXPECT_THROW((QuantizerSpec{.kind = QuantizerKind::kDsq, .bits = 3, .surrogate = Surrogate::fourier(0.2)}.validate()), ConfigError);
  for (const int size : {-32, 1, 16, 256}) EXPECT_THROW((QuantizerSpec{.group_size = size}.validate()), ConfigError) << size;
}

TEST(QuantizerSpec, CountsGroupsAndNamesTheLayerThatDoesNotDivide) {
  EXPECT_EQ(QuantizerSpec{}.scales_per_row(577), 1);
  EXPECT_EQ((QuantizerSpec{.group_size = 64}.scales_per_row(576)), 9);
  try {
    (QuantizerSpec{.group_size = 128}.scales_per_row(576, "layers.0.q_proj"));
    FAIL() << "128 does not divide 576";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.text().where, "layers.0.q_proj");
    EXPECT_NE(error.text().found.find("576"), std::string::npos);
    EXPECT_NE(error.text().expected.find("128"), std::string::npos);
  }
}

TEST(LayerSelection, TakesTheLinearLayersOfDecoderBlocksByDefault) {
  const LayerSelection selection;
  for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    EXPECT_TRUE(selection.selects("model.layers.12.self_attn." + std::string(name)));
  }
  for (const char* name : {"gate_proj", "up_proj", "down_proj"}) EXPECT_TRUE(selection.selects("model.layers.0.mlp." + std::string(name)));
  for (const char* name : {"lm_head", "model.embed_tokens", "model.layers.0.input_layernorm", "model.layers.0.self_attn.q_norm"}) {
    EXPECT_FALSE(selection.selects(name)) << name;
  }
}

TEST(LayerSelection, ExcludesAfterIncluding) {
  LayerSelection selection;
  selection.exclude = {"*.down_proj", "model.layers.[01].*"};
  EXPECT_FALSE(selection.selects("model.layers.5.mlp.down_proj"));
  EXPECT_FALSE(selection.selects("model.layers.1.mlp.up_proj"));
  EXPECT_TRUE(selection.selects("model.layers.10.mlp.up_proj"));
}

}  // namespace
}  // namespace stableqat
