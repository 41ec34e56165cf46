// The program itself: exported models evaluate, train and generate like the model that they were made from; the flags of generate.
#include <algorithm>
#include <cctype>

#include "../support/training_folder.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using testing::Result;

class ExportCliTest : public testing::TrainingFolder {
 protected:
  // Exports the tiny model, rounded to 4 bits, as each format; the path.
  std::string exported(const std::string& format) const {
    const std::string output = format + (format == "gguf" ? ".gguf" : "");
    const Result result = run("export --model model --bits 4 --format " + format + " --output " + output + " --json " + format + ".json");
    EXPECT_EQ(result.code, 0) << result.err;
    return output;
  }

  nlohmann::json json(const std::string& name) const { return nlohmann::json::parse(read_text_file(folder_ / name)); }

  nlohmann::json perplexity(const std::string& model) const {
    const Result result = run("eval --model " + model + " --ppl valid.jsonl --context 64 --json eval.json");
    EXPECT_EQ(result.code, 0) << result.err;
    return json("eval.json").at("perplexity");
  }

  std::string generated(const std::string& arguments, int tokens = 24) const {
    const Result result = run("generate --model model --prompt 'the river' --max-tokens " + std::to_string(tokens) + " " + arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  }
};

const std::vector<std::string>& formats() {
  static const std::vector<std::string> names{"gguf", "packed", "compressed-tensors", "gptq", "hf"};
  return names;
}

// The same weights: the same digits of the perplexity.
TEST_F(ExportCliTest, ExportsEvaluateLikeTheModel) {
  const nlohmann::json expected = perplexity("model --bits 4");
  for (const std::string& format : formats()) {
    EXPECT_EQ(perplexity(exported(format)), expected) << format;
    EXPECT_EQ(json(format + ".json").at("differing"), 0) << format;
  }
}

// What keeps the codes starts training where the rounded model is: the first loss has the same digits. The others are plain weights, whose
// scales are sought again.
TEST_F(ExportCliTest, ExportsAreStartingPoints) {
  const auto first_loss = [this](const std::string& model, const std::string& output) {
    const Result result = train(output, "--quantization.bits 4 --train.max_steps 2 --model.path " + model);
    EXPECT_EQ(result.code, 0) << result.err;
    return metrics(output).at(0).at("loss").get<double>();
  };
  const double expected = first_loss("model", "plain");
  for (const std::string& format : formats()) {
    const double found = first_loss(exported(format), "from_" + format);
    if (format != "gguf" && format != "hf") {
      EXPECT_EQ(found, expected) << format;
    }
  }
}

// float16 cannot hold the weights: refused with the code of numeric failures, and nothing is left.
TEST_F(ExportCliTest, AFormatThatWouldChangeTheWeightsIsRefused) {
  expect_refused(run("export --model model --bits 3 --format hf --dtype float16 --output half"), 5,
                 {"float16 would change", "--allow-rounding"});
  EXPECT_FALSE(fs::exists(folder_ / "half"));
  EXPECT_EQ(run("export --model model --bits 3 --format hf --dtype float16 --allow-rounding --output half").code, 0);
  expect_refused(run("export --model model --bits 3 --format hf --output half"), 2, {"half", "--overwrite"});
}

TEST_F(ExportCliTest, TheDistortionReportIsTableJsonAndPicture) {
  const Result result = run("export --model model --bits 3 --distortion report");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("model.layers.1.mlp.down_proj"), std::string::npos);
  EXPECT_EQ(json("report.json").size(), 14U);
  const std::string picture = read_text_file(folder_ / "report.svg");
  EXPECT_EQ(picture.rfind("<svg", 0), 0U);
  EXPECT_NE(picture.find("14 layers"), std::string::npos);
}

TEST_F(ExportCliTest, AHostileFileIsOneLine) {
  const std::string path = exported("gguf");
  std::string bytes = read_text_file(folder_ / path);
  // The count of tensors, 2^64 - 1.
  bytes.replace(8, 8, std::string(8, '\xff'));
  write_text_file(folder_ / "many.gguf", bytes);
  const Result result = run("generate --model many.gguf --prompt a");
  expect_refused(result, 3, {"many.gguf"});
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

TEST_F(ExportCliTest, GenerateDrawsBySeedAndFlags) {
  const std::string greedy = generated("");
  EXPECT_EQ(greedy.rfind("the river", 0), 0U);
  EXPECT_EQ(generated("--temperature 0"), greedy);
  for (const char* certain : {"--top-k 1", "--top-p 1e-9", "--min-p 1"}) {
    EXPECT_EQ(generated(std::string("--temperature 1 --seed 5 ") + certain), greedy) << certain;
  }
  const std::string drawn = generated("--temperature 1 --seed 5");
  EXPECT_EQ(generated("--temperature 1 --seed 5"), drawn);
  EXPECT_NE(generated("--temperature 1 --seed 6"), drawn);
  EXPECT_NE(drawn, greedy);
  EXPECT_NE(generated("--repetition-penalty 1e6"), greedy);
  for (const char* wrong : {"--temperature -1", "--top-k -1", "--top-p 0", "--top-p 1.1", "--min-p 2", "--repetition-penalty 0"}) {
    EXPECT_EQ(run(std::string("generate --model model --prompt a ") + wrong).code, 2) << wrong;
  }
}

// Every token is a byte, so that a stop string is several tokens.
TEST_F(ExportCliTest, GenerateEndsBeforeAStopString) {
  const std::string whole = generated("--temperature 1 --seed 5", 60);
  const std::string prompt = "the river";
  const std::string answer = whole.substr(prompt.size());
  // Two neighbouring letters of the answer that a shell takes as they are.
  std::size_t place = 2;
  const auto plain = [&answer](std::size_t i) { return std::isalnum(static_cast<unsigned char>(answer[i])) != 0; };
  while (place + 1 < answer.size() && !(plain(place) && plain(place + 1))) ++place;
  ASSERT_LT(place + 1, answer.size()) << whole;
  const std::string stop = answer.substr(place, 2);
  const std::string cut = answer.substr(0, answer.find(stop));
  EXPECT_EQ(generated("--temperature 1 --seed 5 --stop " + stop, 60), prompt + cut + "\n");
  EXPECT_EQ(generated("--temperature 1 --seed 5 --stop never-there --stop " + stop, 60), prompt + cut + "\n");
}

// Each piece is written as soon as it is known: the output grows while the program runs.
TEST_F(ExportCliTest, GenerateStreams) {
  int seed = 1;
  while (generated("--temperature 1 --seed " + std::to_string(seed), 400).size() < 300)
    ASSERT_LT(++seed, 50);  // one that does not end soon
  bool partial = false;
  std::size_t last = 0;
  int sizes = 0;
  const int status = run_watched(
      "generate --model model --prompt 'the river' --max-tokens 400 --temperature 1 --seed " + std::to_string(seed), [&](pid_t) {
        std::error_code error;
        const auto size = fs::file_size(folder_ / "stdout", error);
        if (error || size == last) return;
        last = size;
        partial = ++sizes > 3;
      });
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(partial) << "the text came in " << sizes << " pieces";
}

TEST_F(ExportCliTest, ChatNeedsAndAppliesATemplate) {
  expect_refused(run("generate --model model --chat --prompt hello"), 2, {"--chat", "chat template"});
  write_text_file(folder_ / "model/tokenizer_config.json",
                  R"({"chat_template": "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"})");
  const Result chat = run("generate --model model --chat --system s --prompt hello --max-tokens 16");
  ASSERT_EQ(chat.code, 0) << chat.err;
  const Result plain = run("generate --model model --prompt '[system]s[user]hello' --max-tokens 16");
  EXPECT_EQ("[system]s[user]hello" + chat.out, plain.out);
  write_text_file(folder_ / "model/tokenizer_config.json",
                  R"({"chat_template": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"})");
  const Result bomb = run("generate --model model --chat --prompt hello");
  expect_refused(bomb, 3, {"chat template"});
}

}  // namespace
}  // namespace stableqat
