// The real program on a small model and small tasks: results, continuation after a kill, bad input.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "../support/tiny_model.h"
#include "stableqat/base/file.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Result {
  int code = -1;
  std::string out;
  std::string err;
};

class EvalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() / ("stableqat_eval_test_" + std::string(test->name()) + std::to_string(::getpid()));
    fs::create_directories(folder_);
    testing::write_tiny_model(folder_ / "model");
    fs::create_directory_symlink(STABLEQAT_SOURCE_DIR "/data/eval", folder_ / "data");
  }
  void TearDown() override { fs::remove_all(folder_); }

  Result run(const std::string& arguments) const {
    const std::string command = "cd '" + folder_.string() + "' && '" STABLEQAT_PROGRAM "' " + arguments + " >stdout 2>stderr </dev/null";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text_file(folder_ / "stdout"), read_text_file(folder_ / "stderr")};
  }

  Result eval(const std::string& more) const { return run("eval --model model --data-dir data --threads 1 " + more); }

  json results(const std::string& output) const { return json::parse(read_text_file(folder_ / output / "results.json")); }

  void expect_refused(const Result& result, int code, const std::vector<std::string>& words) const {
    EXPECT_EQ(result.code, code) << result.err;
    for (const std::string& word : words) EXPECT_NE(result.err.find(word), std::string::npos) << word << " not in: " << result.err;
  }

  fs::path folder_;
};

TEST_F(EvalTest, EightTasksGiveTableResultsAndSamples) {
  const Result result = eval("--tasks stableqat --limit 3 --max-length 300 --output out --log-samples");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("mean of 8"), std::string::npos);
  EXPECT_NE(result.err.find("longer than 300 tokens"), std::string::npos) << "this tokenizer has a token for each byte";
  const json out = results("out");
  EXPECT_EQ(out["results"].size(), 8U);
  EXPECT_EQ(out["n-samples"]["boolq"]["effective"], 3);
  EXPECT_GT(out["stableqat"]["truncated"]["boolq"].get<int>(), 0);
  const std::string samples = read_text_file(folder_ / "out" / "samples_winogrande.jsonl");
  const json sample = json::parse(samples.substr(0, samples.find('\n')));
  EXPECT_EQ(sample["arguments"]["gen_args_0"]["arg_1"], " always got the easier cases.");
  EXPECT_EQ(sample["filtered_resps"].size(), 2U);
}

TEST_F(EvalTest, AnInterruptedRunGoesOnToTheSameResults) {
  ASSERT_EQ(eval("--tasks piqa,sciq --limit 6 --tokens-at-once 1 --output whole").code, 0);
  ASSERT_EQ(eval("--tasks piqa,sciq --limit 6 --tokens-at-once 1 --output part").code, 0);
  // What a kill leaves: the first lines and a piece of one.
  const fs::path log = folder_ / "part" / "likelihoods.jsonl";
  const std::string text = read_text_file(log);
  std::size_t end = 0;
  for (int line = 0; line < 5; ++line) end = text.find('\n', end) + 1;
  write_text_file(log, text.substr(0, end + 20));
  fs::remove(folder_ / "part" / "results.json");
  const Result resumed = eval("--tasks piqa,sciq --limit 6 --tokens-at-once 1 --output part --resume");
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("4 documents are there already"), std::string::npos) << resumed.err;
  EXPECT_EQ(read_text_file(log), text);
  EXPECT_EQ(results("part")["results"], results("whole")["results"]);
}

// Results are written as they come: what a process killed in the middle has done is not done again.
TEST_F(EvalTest, AKilledProcessLosesNothingThatIsWritten) {
  const std::string common = "--tasks stableqat --limit 40 --max-length 400 --tokens-at-once 1 ";
  ASSERT_EQ(eval(common + "--output whole").code, 0);
  // Killed once 20 documents are written; given up after a minute.
  const std::string killed = "cd '" + folder_.string() + "' && { '" STABLEQAT_PROGRAM "' eval --model model --data-dir data --threads 1 " +
                             common +
                             "--output part >/dev/null </dev/null & pid=$!; n=0; "
                             "until [ \"$(wc -l <part/likelihoods.jsonl)\" -gt 20 ] || [ $n -gt 6000 ]; do n=$((n + 1)); sleep 0.01; done; "
                             "kill -KILL $pid; wait $pid; [ $? = 137 ]; } 2>/dev/null";
  ASSERT_EQ(std::system(killed.c_str()), 0) << "ended before it was killed";
  EXPECT_FALSE(fs::exists(folder_ / "part" / "results.json"));
  const Result resumed = eval(common + "--output part --resume");
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  const std::size_t found = resumed.err.find(" documents are there already");
  ASSERT_NE(found, std::string::npos) << resumed.err;
  const int kept = std::stoi(resumed.err.substr(resumed.err.find_last_of(" \n", found - 1) + 1));
  EXPECT_GE(kept, 20);
  EXPECT_LT(kept, 320);
  EXPECT_EQ(read_text_file(folder_ / "part" / "likelihoods.jsonl"), read_text_file(folder_ / "whole" / "likelihoods.jsonl"));
  EXPECT_EQ(results("part")["results"], results("whole")["results"]);
}

TEST_F(EvalTest, ResumingWithAnotherModelOrOtherRequestsIsRefused) {
  ASSERT_EQ(eval("--tasks piqa --limit 2 --output out").code, 0);
  expect_refused(eval("--tasks piqa --limit 2 --output out --resume --bits 4"), 3, {"likelihoods.jsonl:1", "weights", "--resume"});
  expect_refused(eval("--tasks piqa --limit 3 --output out --resume"), 3, {"requests of piqa"});
  expect_refused(eval("--tasks piqa --limit 2 --output out --resume --activation-rounding q8_0"), 3, {"activation_rounding"});
  expect_refused(eval("--tasks piqa --limit 2 --output out --resume --add-bos off"), 3, {"add_bos"});
  expect_refused(eval("--tasks piqa --limit 2 --output out --resume --max-length 300"), 3, {"max_length"});
}

TEST_F(EvalTest, BadInputIsNamed) {
  expect_refused(eval("--tasks winogrand"), 2, {"did you mean 'winogrande'"});
  expect_refused(run("eval --model model --tasks piqa"), 2, {"--data-dir"});
  expect_refused(run("eval --model model"), 2, {"--tasks, --ppl or both, or --compare"});
  expect_refused(eval("--tasks piqa --num-fewshot 2"), 3, {"no data of piqa's split 'train'", "piqa_train"});
  write_text_file(folder_ / "my.yaml", "include: piqa.yaml\ntask: mine\ndataset_name: piqa\ndoc_to_text: \"{{gaol}}\"\n");
  expect_refused(eval("--tasks my.yaml"), 3, {"my.yaml:4: doc_to_text", "piqa_validation.jsonl:1", "did you mean 'goal'"});
  write_text_file(folder_ / "my.yaml", "include: piqa.yaml\ntask: mine\ndataset_name: piqa\ndoc_to_txt: goal\n");
  expect_refused(eval("--tasks my.yaml"), 2, {"my.yaml:4: found unknown key 'doc_to_txt'; did you mean 'doc_to_text'?"});
}

TEST_F(EvalTest, BadDocumentsAreNamed) {
  fs::create_directories(folder_ / "bad");
  const auto piqa = [this](const std::string& text) {
    write_text_file(folder_ / "bad" / "piqa_validation.jsonl", text);
    return run("eval --model model --data-dir bad --tasks piqa --threads 1 --output out");
  };
  const std::string good = R"({"goal": "g", "sol1": "a", "sol2": "b", "label": 1})";
  EXPECT_EQ(piqa(good + "\n").code, 0);
  expect_refused(piqa(good + "\n" + R"({"goal": "g", "sol1": "a", "sol2": "b", "label": 2})"), 3,
                 {"piqa_validation.jsonl:2", "label 2", "0 to 1"});
  expect_refused(piqa(good + "\n" + R"({"goal": "g", "sol1": "a", "sol2": "b", "label": -1})"), 3, {"piqa_validation.jsonl:2", "label -1"});
  expect_refused(piqa(""), 3, {"piqa_validation.jsonl: found no documents", "split 'validation' of piqa"});
  expect_refused(piqa(good + "\n{\"goal\""), 3, {"piqa_validation.jsonl:2: "});
  expect_refused(piqa(good + "\n" + R"({"goal": "g", "sol1": "", "sol2": "b", "label": 1})"), 0, {});  // the blank alone is scored
  expect_refused(run("eval --model model --data-dir none --tasks piqa"), 3, {"none", "piqa_validation.*", "--data-dir"});
}

TEST_F(EvalTest, ComparesTwoModelsDocumentByDocument) {
  ASSERT_EQ(eval("--tasks piqa,boolq,wikitext --limit 20 --max-length 400 --output a").code, 0);
  ASSERT_EQ(eval("--tasks piqa,boolq,wikitext --limit 20 --max-length 400 --output b --bits 2").code, 0);
  const Result result = run("eval --compare a/results.json b/results.json --json c.json");
  ASSERT_EQ(result.code, 0) << result.err;
  const json comparison = json::parse(read_text_file(folder_ / "c.json"));
  ASSERT_EQ(comparison["scores"].size(), 4U) << result.out;
  const json a = results("a");
  const json b = results("b");
  for (const json& score : comparison["scores"]) {
    const std::string key = score["metric"].get<std::string>() + ",none";
    EXPECT_NEAR(score["a"].get<double>(), a["results"][score["task"].get<std::string>()][key].get<double>(), 1e-12);
    EXPECT_NEAR(score["b"].get<double>(), b["results"][score["task"].get<std::string>()][key].get<double>(), 1e-12);
  }
  ASSERT_EQ(eval("--tasks piqa --limit 19 --output other").code, 0);
  expect_refused(run("eval --compare a/results.json other/results.json"), 3, {"piqa with other documents", "other/results.json"});
  write_text_file(folder_ / "harness.json", R"({"results": {}})");
  expect_refused(run("eval --compare a/results.json harness.json"), 3, {"harness.json"});
}

TEST_F(EvalTest, PerplexityHasAnIntervalAndAgreementWithTheOriginal) {
  testing::write_tiny_corpus(folder_ / "text.jsonl", 20);
  const std::string common = "eval --model model --threads 1 --ppl text.jsonl --context 64 --json ";
  ASSERT_EQ(run(common + "same.json --reference model").code, 0);
  ASSERT_EQ(run(common + "rounded.json --reference model --bits 2").code, 0);
  const json same = json::parse(read_text_file(folder_ / "same.json"));
  const json rounded = json::parse(read_text_file(folder_ / "rounded.json"));
  EXPECT_EQ(same["agreement"]["same_top"], 1.0);
  EXPECT_EQ(same["agreement"]["kl_99"], 0.0);
  EXPECT_EQ(same["agreement"]["positions"], same["tokens"]);
  EXPECT_LT(rounded["agreement"]["same_top"], 1.0);
  EXPECT_GT(rounded["agreement"]["kl_median"], 0.0);
  EXPECT_GT(rounded["agreement"]["kl_99"], rounded["agreement"]["kl_mean"]);
  EXPECT_NEAR(same["perplexity_high"].get<double>(), std::exp(same["nll"].get<double>() + 1.96 * same["nll_standard_error"].get<double>()),
              1e-2);
  EXPECT_NEAR(std::sqrt(same["perplexity_low"].get<double>() * same["perplexity_high"].get<double>()), same["perplexity"].get<double>(),
              1e-6);
  const Result small = run(common + "x.json --reference none");
  EXPECT_EQ(small.code, 3) << small.err;
}

TEST_F(EvalTest, TrainingScoresTasksInItsMetrics) {
  testing::write_tiny_corpus(folder_ / "text.jsonl", 50);
  ASSERT_EQ(
      run("train --model.path model --data.train text.jsonl --data.sequence_length 64 --train.output_dir run --train.max_steps 4 "
          "--train.eval_steps 2 --train.eval_tasks [piqa,openbookqa] --train.eval_data_dir data --train.eval_limit 3 --train.threads 1")
          .code,
      0);
  std::vector<json> lines;
  std::istringstream metrics(read_text_file(folder_ / "run" / "metrics.jsonl"));
  for (std::string line; std::getline(metrics, line);) {
    if (json parsed = json::parse(line); parsed.contains("eval_tasks")) lines.push_back(parsed);
  }
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[1]["step"], 4);
  EXPECT_EQ(lines[1]["eval_tasks"].size(), 2U);
  EXPECT_TRUE(lines[1].contains("eval_tasks_mean"));
  // The trained model gives the same scores again.
  ASSERT_EQ(run("eval --model run/last_checkpoint --tasks piqa,openbookqa --data-dir data --limit 3 --threads 1 --output again").code, 0);
  EXPECT_EQ(results("again")["results"]["openbookqa"]["acc_norm,none"], lines[1]["eval_tasks"]["openbookqa"]["acc_norm"]);
  expect_refused(run("train --model.path model --data.train text.jsonl --train.output_dir other --train.eval_tasks piqa"), 2,
                 {"train.eval_data_dir"});
}

// Every form of a quantized model has the weights of the checkpoint, so it has its likelihoods, bit for bit.
TEST_F(EvalTest, ExportedFilesScoreLikeTheCheckpoint) {
  testing::write_tiny_corpus(folder_ / "text.jsonl", 20);
  ASSERT_EQ(run("train --model.path model --data.train text.jsonl --data.sequence_length 64 --train.output_dir run --train.max_steps 2 "
                "--quantization.bits 4 --train.threads 1")
                .code,
            0);
  const auto likelihoods = [this](const std::string& model) {
    const std::string output = "scores_of_" + model.substr(model.find('/') + 1);
    const Result result =
        run("eval --model " + model + " --data-dir data --threads 1 --tasks arc_easy,winogrande --limit 5 --output " + output);
    EXPECT_EQ(result.code, 0) << result.err;
    const std::string text = read_text_file(folder_ / output / "likelihoods.jsonl");
    return text.substr(text.find('\n'));  // the first line names the weights by their hash: codes have another than values
  };
  const auto perplexity_of = [this](const std::string& model) {
    EXPECT_EQ(run("eval --model " + model + " --threads 1 --ppl text.jsonl --context 64 --json ppl.json").code, 0);
    return json::parse(read_text_file(folder_ / "ppl.json"))["nll"].get<double>();
  };
  const std::string expected = likelihoods("run/last_checkpoint");
  const double expected_nll = perplexity_of("run/last_checkpoint");
  for (const char* format : {"gguf", "compressed-tensors", "gptq", "packed", "hf"}) {
    const std::string file = std::string("exported/") + format + (std::string(format) == "gguf" ? ".gguf" : "");
    fs::create_directories(folder_ / "exported");
    const Result result = run("export --model run/last_checkpoint --format " + std::string(format) + " --output " + file);
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(likelihoods(file), expected) << format;
    EXPECT_EQ(perplexity_of(file), expected_nll) << format;
  }
  EXPECT_NE(likelihoods("model"), expected);
}

// By the types of a GGUF file, which here all imply blocks of 32; a folder has no such types.
TEST_F(EvalTest, ActivationsAreRoundedAsTheFilesTypesImply) {
  ASSERT_EQ(run("export --model model --bits 4 --format gguf --embedding q8_0 --output q.gguf").code, 0);
  ASSERT_EQ(run("export --model model --bits 4 --format gguf --embedding f32 --output f.gguf").code, 0);
  const auto likelihoods = [this](const std::string& model, const std::string& rounding) {
    const Result result = run("eval --data-dir data --threads 1 --tasks piqa --limit 4 --output o --model " + model + " " + rounding);
    EXPECT_EQ(result.code, 0) << result.err;
    const std::string text = read_text_file(folder_ / "o" / "likelihoods.jsonl");
    return text.substr(text.find('\n'));
  };
  const std::string by_types = likelihoods("q.gguf", "--activation-rounding llama.cpp");
  EXPECT_EQ(results("o")["stableqat"]["activation_rounding"], "llama.cpp");
  EXPECT_EQ(by_types, likelihoods("q.gguf", "--activation-rounding q8_0"));
  EXPECT_NE(by_types, likelihoods("q.gguf", ""));
  EXPECT_NE(likelihoods("f.gguf", "--activation-rounding llama.cpp"), likelihoods("f.gguf", "--activation-rounding q8_0"))
      << "the head in F32 does not round";
  expect_refused(eval("--tasks piqa --activation-rounding llama.cpp"), 2, {"ggml's types", "q8_0 or q8_k"});
  expect_refused(eval("--tasks piqa --activation-rounding q4_0"), 2, {"--activation-rounding"});
  EXPECT_EQ(run("generate --model q.gguf --prompt The --max-tokens 3 --activation-rounding llama.cpp").code, 0);
}

TEST_F(EvalTest, WikitextIsScoredByArticles) {
  ASSERT_EQ(eval("--tasks wikitext --max-length 512 --output out").code, 0);
  const json out = results("out");
  EXPECT_EQ(out["n-samples"]["wikitext"]["effective"], 2);
  const std::string log = read_text_file(folder_ / "out" / "likelihoods.jsonl");
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 3) << "an article is written when its last window is done";
  const double bits = out["results"]["wikitext"]["bits_per_byte,none"];
  EXPECT_GT(bits, 7.0) << "random weights over 260 tokens";
  EXPECT_NEAR(out["results"]["wikitext"]["byte_perplexity,none"].get<double>(), std::exp2(bits), 1e-9 * std::exp2(bits));
}

}  // namespace
}  // namespace stableqat
