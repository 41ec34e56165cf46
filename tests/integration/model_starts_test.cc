// What a run may start from: a fine-tuned model that peft merged and transformers saved, an unquantized GGUF of it, a checkpoint of another
// run (tools/make_model_fixtures.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "../support/training_folder.h"
#include "stableqat/io/safetensors.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using testing::Result;

const fs::path kFixtures = fs::path(STABLEQAT_TEST_DATA) / "fine_tuned";

class ModelStartsTest : public testing::TrainingFolder {
 protected:
  Result start(const fs::path& model, const std::string& output, const std::string& more = "") const {
    return train(output, "--model.path '" + model.string() + "' --data.sequence_length 32 " + more);
  }

  std::vector<float> scales(const std::string& checkpoint) const {
    const SafetensorsFile file(folder_ / checkpoint / "model.safetensors");
    const std::string name = "model.layers.1.mlp.down_proj.weight_clip_val";
    std::vector<float> values(static_cast<std::size_t>(file.tensor(name).shape[0]));
    file.read_f32(name, values);
    return values;
  }
};

// float16 in several files here, one file with llama.cpp's order of rows there: the same run, bit for bit.
TEST_F(ModelStartsTest, AMergedFolderAndItsGgufStartTheSameRun) {
  const Result folder = start(kFixtures / "merged", "folder");
  ASSERT_EQ(folder.code, 0) << folder.err;
  const Result gguf = start(kFixtures / "merged.gguf", "gguf");
  ASSERT_EQ(gguf.code, 0) << gguf.err;
  ASSERT_EQ(metrics("folder").size(), 6U);
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(metrics("folder")[i].at("loss"), metrics("gguf")[i].at("loss")) << i;
  for (const char* checkpoint : {"before_training_checkpoint", "last_checkpoint"}) {
    EXPECT_EQ(file_content_hash(folder_ / "folder" / checkpoint / "model.safetensors"),
              file_content_hash(folder_ / "gguf" / checkpoint / "model.safetensors"))
        << checkpoint;
  }
  const Result distilled = start(kFixtures / "merged.gguf", "distilled", "--distillation.weight 1 --train.max_steps 1");
  ASSERT_EQ(distilled.code, 0) << distilled.err;
  EXPECT_GT(metrics("distilled")[0].at("loss").get<double>(), 0.0);
}

TEST_F(ModelStartsTest, ACurriculumFromAGguf) {
  ASSERT_EQ(start(kFixtures / "merged.gguf", "four", "--w_bits 4").code, 0);
  ASSERT_EQ(start("four/last_checkpoint", "three", "--w_bits 3").code, 0);
  ASSERT_EQ(start("three/last_checkpoint", "two", "--w_bits 2").code, 0);
  // Masters go on from stage to stage; scales are made anew for each grid.
  for (const auto& [from, to] : {std::pair<std::string, std::string>{"four", "three"}, {"three", "two"}}) {
    const SafetensorsFile before(folder_ / from / "last_checkpoint" / "model.safetensors");
    const SafetensorsFile after(folder_ / to / "before_training_checkpoint" / "model.safetensors");
    for (const std::string name : {"model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight", "model.norm.weight"}) {
      EXPECT_TRUE(std::ranges::equal(before.bytes(name), after.bytes(name))) << name;
    }
    EXPECT_NE(scales(from + "/last_checkpoint"), scales(to + "/before_training_checkpoint"));
  }
}

TEST_F(ModelStartsTest, StoredScalesAreTakenOverWhereTheyFitOrWhereItIsSaid) {
  ASSERT_EQ(start(kFixtures / "merged", "first").code, 0);
  const auto first_scales = [this](const std::string& output, const std::string& more) {
    EXPECT_EQ(start("first/last_checkpoint", output, "--train.max_steps 1 " + more).code, 0);
    return scales(output + "/before_training_checkpoint");
  };
  const std::vector<float> stored = scales("first/last_checkpoint");
  EXPECT_EQ(first_scales("auto", ""), stored);
  EXPECT_EQ(first_scales("use", "--contain_weight_clip_val True"), stored);
  EXPECT_EQ(first_scales("forced", "--contain_weight_clip_val True --w_bits 2"), stored);
  EXPECT_NE(first_scales("ignore", "--contain_weight_clip_val False"), stored);
  EXPECT_NE(first_scales("other_grid", "--w_bits 2"), stored);
}

TEST_F(ModelStartsTest, WhatIsNoModelYetIsNamed) {
  expect_refused(start(kFixtures / "adapter", "out"), 3, {"LoRA adapter", "merge_and_unload"});
  fs::remove(folder_ / "model" / "model.safetensors");
  expect_refused(train("out"), 3, {"without weights", "model.safetensors"});
  write_text_file(folder_ / "model" / "pytorch_model.bin", "pickle");
  expect_refused(train("out"), 3, {"pickles", "save_pretrained"});
}

}  // namespace
}  // namespace stableqat
