// From documents to requests, tokens and scores.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/tasks/catalog.h"
#include "stableqat/tasks/comparison.h"
#include "stableqat/tasks/documents.h"
#include "stableqat/tasks/encode.h"
#include "stableqat/tasks/likelihood_log.h"
#include "stableqat/tasks/requests.h"
#include "stableqat/tasks/results.h"

namespace stableqat::tasks {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const json& fixture() {
  static const json golden = json::parse(read_text_file(STABLEQAT_TEST_DATA "/tasks.json"));
  return golden;
}

TaskDefinition task_of(const std::string& more = "") {
  const std::string text =
      "task: mine\nvalidation_split: validation\ndoc_to_text: \"Q: {{q}}\"\ndoc_to_target: label\n"
      "doc_to_choice: choices\nmetric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_bytes}]\n";
  return std::get<TaskDefinition>(parse_task_file({"my.yaml", text + more}));
}

TaskDocument document_of(int i, const json& label = 1) {
  return {{{"q", i}, {"choices", {"no", "yes"}}, {"label", label}}, "d:" + std::to_string(i)};
}

TEST(Requests, ContextAndContinuationsOfAChoice) {
  const std::vector<TaskItem> items = build_items(task_of(), {document_of(3)}, {}, {});
  ASSERT_EQ(items.size(), 1U);
  ASSERT_EQ(items[0].requests.size(), 2U);
  EXPECT_EQ(items[0].requests[1].context, "Q: 3");
  EXPECT_EQ(items[0].requests[1].continuation, " yes");
  EXPECT_EQ(items[0].gold, 1U);
}

TEST(Requests, ADescriptionStandsFirstAndDocumentsAreNumbered) {
  const RequestOptions options{.num_fewshot = 1};
  const std::string more = "description: \"Answer.\\n\"\nfewshot_split: train\nfewshot_delimiter: \"##\"\ntarget_delimiter: \"->\"\n";
  const auto items = build_items(task_of(more), {document_of(3), document_of(4)}, {document_of(9)}, options);
  EXPECT_EQ(items[1].requests[1].context, "Answer.\nQ: 9->yes##Q: 4");
  EXPECT_EQ(items[1].requests[1].continuation, "->yes");
  EXPECT_EQ(items[0].doc_id, 0U);
  EXPECT_EQ(items[1].doc_id, 1U);
}

// Words and bytes count the original page, what is scored is the text made of it.
TEST(Requests, WikitextCountsTheOriginalPage) {
  TaskCatalog catalog = TaskCatalog::shipped();
  const TaskDefinition task = catalog.select(std::vector<std::string>{"wikitext"}).front();
  for (const json& example : fixture().at("wikitext")) {
    const json fields{{"page", example[0]}, {"text", example[1]}};
    const TaskItem item = build_items(task, {{fields, "w:1"}}, {}, {}).front();
    EXPECT_EQ(item.requests.front().continuation, example[1].get<std::string>());
    EXPECT_EQ(item.words, example[2]);
    EXPECT_EQ(item.bytes, example[3]);
  }
}

TEST(Requests, LabelsMustNameAChoice) {
  EXPECT_EQ(build_items(task_of(), {document_of(0, "yes")}, {}, {})[0].gold, 1U) << "a text is looked up among the choices";
  for (const json& label : {json(2), json(-1), json("maybe"), json("1"), json(0.5), json(nullptr), json({1})}) {
    EXPECT_THROW(build_items(task_of(), {document_of(0, label)}, {}, {}), DataError) << label;
  }
}

TEST(Requests, FewShotExamplesAreThoseOfTheHarness) {
  for (const json& example : fixture().at("samples")) {
    std::vector<TaskDocument> documents;
    for (const json& id : example.at("documents")) documents.push_back(document_of(id.get<int>()));
    std::string more = example.at("first_n").get<bool>() ? "fewshot_config: {sampler: first_n}\n" : "";
    if (!example.at("shared_split").get<bool>()) more += "fewshot_split: train\n";
    RequestOptions options;
    options.num_fewshot = example.at("count").get<std::int64_t>();
    options.fewshot_seed = example.at("seed").get<std::uint64_t>();
    options.limit = example.at("drawn").size();
    const std::vector<TaskItem> items = build_items(task_of(more), documents, documents, options);
    for (std::size_t i = 0; i < items.size(); ++i) {
      std::string context;
      for (const json& id : example.at("drawn")[i]) context += "Q: " + id.dump() + " yes\n\n";
      EXPECT_EQ(items[i].requests[0].context, context + "Q: " + example.at("documents")[i].dump());
    }
  }
  RequestOptions too_many;
  too_many.num_fewshot = 3;
  EXPECT_THROW(build_items(task_of(), {document_of(0)}, {document_of(0), document_of(1)}, too_many), DataError);
}

// All eight tasks over the documents in data/eval, which stand for the examples as well: every context, continuation, choice and answer.
TEST(Requests, TextsAreThoseOfTheHarness) {
  const fs::path folder = fs::temp_directory_path() / ("stableqat_requests_test_" + std::to_string(::getpid()));
  fs::create_directories(folder);
  TaskCatalog catalog = TaskCatalog::shipped();
  for (const TaskDefinition& task : catalog.select(std::vector<std::string>{"stableqat"})) {
    const fs::path documents = find_split(STABLEQAT_SOURCE_DIR "/data/eval", task, task.evaluated_split());
    fs::create_symlink(documents, folder / documents.filename());
    fs::create_symlink(documents, folder / (task.name + "_train.jsonl"));
  }
  EXPECT_EQ(fixture().at("requests").size(), 8U * 4U);
  for (const json& example : fixture().at("requests")) {
    const TaskDefinition task = catalog.select(std::vector{example.at("task").get<std::string>()}).front();
    const RequestOptions options{.num_fewshot = example.at("num_fewshot").get<std::int64_t>(),
                                 .fewshot_seed = example.at("seed").get<std::uint64_t>()};
    const auto items = build_items(task, read_split(folder, task, task.evaluated_split()), read_split(folder, task, "train"), options);
    EXPECT_EQ(hash_requests(items), example.at("hash").get<std::string>()) << example;
  }
  fs::remove_all(folder);
}

TEST(Requests, HashChangesWithTextsAndAnswers) {
  const auto hash = [](const TaskDocument& document) { return hash_requests(build_items(task_of(), {document}, {}, {})); };
  EXPECT_EQ(hash(document_of(1)), hash(document_of(1)));
  EXPECT_NE(hash(document_of(1)), hash(document_of(2)));
  EXPECT_NE(hash(document_of(1)), hash(document_of(1, 0)));
}

// GPT-2's rules with a small vocabulary; <|endoftext|> begins a text if the template says so.
Tokenizer tokenizer(bool template_has_bos = false, const std::string& eos = "<|endoftext|>", bool has_bos = true) {
  const fs::path folder = fs::temp_directory_path() / ("stableqat_tokenizer_" + std::to_string(::getpid()));
  fs::create_directories(folder);
  json rules = json::parse(read_text_file(STABLEQAT_TEST_DATA "/tokenizer/gpt2.json"));
  if (template_has_bos) {
    const json bos{{"SpecialToken", {{"id", "<|endoftext|>"}, {"type_id", 0}}}};
    const json text{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
    rules["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", json::array({bos, text})},
        {"pair", json::array({bos, text})},
        {"special_tokens", {{"<|endoftext|>", {{"id", "<|endoftext|>"}, {"ids", {520}}, {"tokens", {"<|endoftext|>"}}}}}}};
  }
  write_text_file(folder / "tokenizer.json", rules.dump());
  json config{{"eos_token", eos}};
  if (has_bos) config["bos_token"] = "<|endoftext|>";
  write_text_file(folder / "tokenizer_config.json", config.dump());
  Tokenizer made = Tokenizer::from_huggingface(folder);
  fs::remove_all(folder);
  return made;
}

TEST(RequestEncoder, TheBoundaryBelongsToTheContinuation) {
  const Tokenizer gpt2 = tokenizer();
  const RequestEncoder encoder(gpt2, BosMode::kAuto, 64);
  const ScoredTokens tokens = encoder.pair({"the answer", " is here"}, "d:1");
  const auto context = gpt2.encode("the answer");
  EXPECT_EQ(tokens.ids, gpt2.encode("the answer is here"));
  EXPECT_EQ(tokens.ids.size() - static_cast<std::size_t>(tokens.scored), context.size());
  const ScoredTokens moved = encoder.pair({"the answer  ", "is here"}, "d:1");
  EXPECT_EQ(moved.ids, gpt2.encode("the answer  is here")) << "blanks at the end of the context are scored";
  EXPECT_EQ(moved.ids.size() - static_cast<std::size_t>(moved.scored), context.size());
  EXPECT_THROW(encoder.pair({"the answer", ""}, "d:1"), DataError);
}

TEST(RequestEncoder, SplitsTokensLikeTheHarness) {
  const Tokenizer gpt2 = tokenizer();
  const RequestEncoder encoder(gpt2, BosMode::kAuto, 64);
  for (const json& example : fixture().at("pairs")) {
    const TextRequest request{example[0].get<std::string>(), example[1].get<std::string>()};
    if (example[3].empty()) {  // the harness stops there as well
      EXPECT_THROW(encoder.pair(request, "d:1"), DataError) << example;
      continue;
    }
    std::vector<std::int32_t> expected = example[2];
    for (const json& id : example[3]) expected.push_back(id.get<std::int32_t>());
    const ScoredTokens tokens = encoder.pair(request, "d:1");
    EXPECT_EQ(tokens.ids, expected) << example;
    EXPECT_EQ(tokens.scored, static_cast<std::int64_t>(example[3].size())) << example;
  }
}

TEST(RequestEncoder, ATextWithoutContextFollowsBeginOfTextElseEndOfText) {
  EXPECT_EQ(RequestEncoder(tokenizer(false, "<end>"), BosMode::kAuto, 64).pair({"", "b"}, "").ids.front(), 520);
  EXPECT_EQ(RequestEncoder(tokenizer(false, "<end>"), BosMode::kAuto, 64).rolling("b").front().ids.front(), 520);
  EXPECT_EQ(RequestEncoder(tokenizer(false, "<end>", false), BosMode::kAuto, 64).pair({"", "b"}, "").ids.front(), 522);
}

TEST(RequestEncoder, LongContextsLoseTheirBeginning) {
  const Tokenizer gpt2 = tokenizer();
  const ScoredTokens whole = RequestEncoder(gpt2, BosMode::kAuto, 1000).pair({"one two three four five six", " seven"}, "d:1");
  const ScoredTokens cut = RequestEncoder(gpt2, BosMode::kAuto, whole.scored + 2).pair({"one two three four five six", " seven"}, "d:1");
  EXPECT_FALSE(whole.truncated);
  EXPECT_TRUE(cut.truncated);
  EXPECT_EQ(cut.scored, whole.scored);
  EXPECT_TRUE(std::equal(cut.ids.rbegin(), cut.ids.rend(), whole.ids.rbegin()));
  EXPECT_EQ(static_cast<std::int64_t>(cut.ids.size()), whole.scored + 3);
  const auto length = static_cast<std::int64_t>(whole.ids.size());
  EXPECT_FALSE(RequestEncoder(gpt2, BosMode::kAuto, length - 1).pair({"one two three four five six", " seven"}, "d:1").truncated)
      << "the last token is not read";
  EXPECT_TRUE(RequestEncoder(gpt2, BosMode::kAuto, length - 2).pair({"one two three four five six", " seven"}, "d:1").truncated);
  EXPECT_EQ(RequestEncoder(gpt2, BosMode::kAuto, whole.scored).pair({"one two three four five six", " seven"}, "d:1").scored, whole.scored);
  EXPECT_THROW(RequestEncoder(gpt2, BosMode::kAuto, whole.scored - 1).pair({"one two three four five six", " seven"}, "d:1"), DataError);
  EXPECT_THROW(RequestEncoder(gpt2, BosMode::kAuto, 2).pair({"a", " b c d e f g h i j k l m n o p q r s t u v"}, "d:1"), DataError);
}

TEST(RequestEncoder, BeginOfTextByMode) {
  const Tokenizer gpt2 = tokenizer(true);
  const auto count = [&](BosMode mode, const std::string& context) {
    const auto ids = RequestEncoder(gpt2, mode, 64).pair({context, " b"}, "d:1").ids;
    return std::count(ids.begin(), ids.end(), *gpt2.bos_id());
  };
  EXPECT_EQ(count(BosMode::kAuto, "a"), 1) << "this tokenizer's template puts one";
  EXPECT_EQ(count(BosMode::kOff, "a"), 0);
  EXPECT_EQ(count(BosMode::kOn, "a"), 1);
  EXPECT_EQ(count(BosMode::kAuto, ""), 1) << "a text without context follows it";
  for (const BosMode mode : {BosMode::kAuto, BosMode::kOff, BosMode::kOn}) EXPECT_EQ(count(mode, "<|endoftext|>a"), 1) << "no second one";
  const Tokenizer without = tokenizer();
  EXPECT_EQ(RequestEncoder(without, BosMode::kAuto, 64).pair({"a", " b"}, "").ids, without.encode("a b"));
  EXPECT_EQ(RequestEncoder(without, BosMode::kOn, 64).pair({"a", " b"}, "").ids.front(), *without.bos_id());
}

// The fixture numbers the tokens 1, 2, ... behind a prefix 0; here they are the places of the encoded text's tokens.
TEST(RequestEncoder, RollingWindowsAreThoseOfTheHarness) {
  const Tokenizer gpt2 = tokenizer();
  for (const json& example : fixture().at("windows")) {
    std::string text;
    while (gpt2.encode(text).size() < example.at("tokens").get<std::size_t>()) text += text.size() % 2 == 0 ? "." : "\n";
    const auto encoded = gpt2.encode(text);
    ASSERT_EQ(encoded.size(), example.at("tokens").get<std::size_t>());
    const auto windows = RequestEncoder(gpt2, BosMode::kAuto, example.at("max_length").get<std::int64_t>()).rolling(text);
    ASSERT_EQ(windows.size(), example.at("windows").size());
    for (std::size_t w = 0; w < windows.size(); ++w) {
      std::vector<std::int32_t> expected;
      for (const json& part : example.at("windows")[w]) {
        for (const json& place : part) {
          const auto i = place.get<std::size_t>();
          expected.push_back(i == 0 ? *gpt2.bos_id() : encoded[i - 1]);
        }
      }
      EXPECT_EQ(windows[w].ids, expected);
      EXPECT_EQ(windows[w].scored, static_cast<std::int64_t>(example.at("windows")[w][1].size()));
    }
  }
}

TaskItem scored_item() {
  TaskItem item;
  item.choices = {"\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9", "abcdef", "x"};  // 4 code points in 8 bytes, 6 in 6
  item.gold = 0;
  return item;
}

TEST(Metrics, NormalizeByCodePointsOrBytes) {
  const std::vector<Likelihood> likelihoods{{-6.0, false}, {-6.6, false}, {-9.0, false}};  // by points -1.5, -1.1, -9; by bytes -0.75, -1.1
  EXPECT_EQ(item_metrics(task_of(), scored_item(), likelihoods), (std::vector{1.0, 0.0, 1.0}));
}

TEST(Metrics, TiesGoToTheFirst) {
  const std::vector<Likelihood> likelihoods{{-2.0, false}, {-2.0, false}, {-2.0, false}};
  EXPECT_EQ(item_metrics(task_of(), scored_item(), likelihoods)[0], 1.0);
}

TaskResult result_of(const std::vector<double>& values) {
  TaskResult result;
  result.task = task_of();
  for (const double value : values) {
    result.items.push_back(scored_item());
    result.documents.push_back({{{-1.0, false}}, {value, value, value}});
  }
  aggregate(result);
  return result;
}

TEST(Metrics, MeanAndErrorAreThoseOfTheHarness) {
  const json& golden = fixture().at("mean");
  const TaskResult result = result_of(golden.at("values"));
  EXPECT_DOUBLE_EQ(result.metrics[0].value, golden.at("mean").get<double>());
  EXPECT_DOUBLE_EQ(*result.metrics[0].standard_error, golden.at("stderr").get<double>());
  const std::vector<TaskResult> two{result, result_of({1.0, 1.0})};
  EXPECT_DOUBLE_EQ(mean_score(two).value, (golden.at("mean").get<double>() + 1.0) / 2);
  EXPECT_DOUBLE_EQ(mean_score(two).standard_error, golden.at("stderr").get<double>() / 2);
}

TEST(Metrics, PerplexitiesOfRollingTextsAreThoseOfTheHarness) {
  const json& golden = fixture().at("rolling");
  TaskResult result;
  result.task.output_type = OutputType::kLoglikelihoodRolling;
  result.task.metrics = {Metric::kWordPerplexity, Metric::kBytePerplexity, Metric::kBitsPerByte};
  for (const json& document : golden.at("documents")) {
    TaskItem item;
    item.words = document[1].get<std::uint64_t>();
    item.bytes = document[2].get<std::uint64_t>();
    result.items.push_back(item);
    result.documents.push_back({{{document[0].get<double>(), false}}, {}});
  }
  aggregate(result);
  for (const MetricValue& value : result.metrics) {
    EXPECT_DOUBLE_EQ(value.value, golden.at(std::string(metric_name(value.metric))).get<double>());
    EXPECT_FALSE(value.standard_error);
  }
  // The mean over tasks is of accuracies: acc_norm where there is one.
  TaskResult accuracies;
  accuracies.task = task_of();
  accuracies.metrics = {{Metric::kAcc, 0.9, 0.3}, {Metric::kAccNorm, 0.5, 0.1}};
  TaskResult plain = accuracies;
  plain.metrics.pop_back();
  const std::vector<TaskResult> all{result, accuracies, plain};
  EXPECT_EQ(mean_score(all).tasks, 2U);
  EXPECT_DOUBLE_EQ(mean_score(all).value, (0.5 + 0.9) / 2);
  EXPECT_DOUBLE_EQ(mean_score(all).standard_error, std::sqrt(0.1 * 0.1 + 0.3 * 0.3) / 2);
}

TEST(Metrics, RefuseLikelihoodsThatAreNotFinite) {
  TaskResult result = result_of({1.0});
  result.documents[0].likelihoods[0].log_likelihood = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(aggregate(result), NumericError);
}

TEST(Metrics, ResultsHaveTheHarnessLayout) {
  const std::vector<TaskResult> results{result_of({1.0, 0.0})};
  const json out = results_json(results, RunDescription{});
  EXPECT_EQ(out["results"]["mine"]["acc,none"], 0.5);
  EXPECT_EQ(out["results"]["mine"]["acc_stderr,none"], 0.5);
  EXPECT_EQ(out["n-samples"]["mine"]["effective"], 2);
  EXPECT_EQ(out["stableqat"]["documents"]["mine"]["acc"], "10");
  EXPECT_NE(results_table(results).find("|mine |"), std::string::npos);
}

// 9 documents that only A has right, 2 that only B has, 5 both, 4 neither.
TEST(Comparison, PairsDocuments) {
  const std::string a = std::string(9, '1') + "00" + std::string(5, '1') + "0000";
  const std::string b = std::string(9, '0') + "11" + std::string(5, '1') + "0000";
  const auto results = [](const std::string& right) {
    return json{{"stableqat", {{"documents", {{"t", {{"acc", right}}}}}, {"requests_hash", {{"t", "h"}}}}}};
  };
  const ScoreComparison score = compare_results(results(a), "a", results(b), "b").scores.at(0);
  EXPECT_DOUBLE_EQ(score.a, 14.0 / 20);
  EXPECT_DOUBLE_EQ(score.difference, -7.0 / 20);
  EXPECT_EQ(score.only_a, 9U);
  EXPECT_EQ(score.only_b, 2U);
  // Variance of differences that are -1 nine times, +1 twice, 0 else; and the tail of the binomial distribution with 11 fair coins.
  EXPECT_DOUBLE_EQ(score.standard_error, std::sqrt((11.0 / 20 - 0.35 * 0.35) * 20 / 19 / 20));
  EXPECT_NEAR(score.p_value, 2.0 * (1 + 11 + 55) / 2048, 1e-12);
  EXPECT_DOUBLE_EQ(sign_test(0, 0), 1.0);
  EXPECT_NEAR(sign_test(5000, 5000), 1.0, 1e-9);
}

json results_with(const json& documents, const std::string& hash = "h") {
  json hashes = json::object();
  for (const auto& [task, value] : documents.items()) hashes[task] = hash;
  return {{"stableqat", {{"documents", documents}, {"requests_hash", hashes}}}};
}

// Two articles of 100 bytes together: bits per byte are sums over both, and so is their difference.
TEST(Comparison, PairsArticlesByTheirLikelihoods) {
  const json a = results_with({{"w", {{"log_likelihoods", {-10.0, -30.0}}, {"bytes", 100}}}});
  const json b = results_with({{"w", {{"log_likelihoods", {-12.0, -29.0}}, {"bytes", 100}}}});
  const ScoreComparison score = compare_results(a, "a", b, "b").scores.at(0);
  const double bits = 1.0 / (100 * std::log(2.0));
  EXPECT_NEAR(score.a, 40 * bits, 1e-14);
  EXPECT_NEAR(score.b, 41 * bits, 1e-14);
  EXPECT_NEAR(score.difference, 1 * bits, 1e-14);
  EXPECT_NEAR(score.standard_error, 2 * std::sqrt(((1.5 * 1.5) + (1.5 * 1.5)) / 2) * bits, 1e-14)
      << "differences -2 and 1 around -0.5, twice their mean's error";
  EXPECT_EQ(score.only_a, 1U);
  EXPECT_EQ(score.only_b, 1U);
}

TEST(Comparison, MeanOverTasks) {
  const json a = results_with({{"s", {{"acc", "1100"}, {"acc_norm", "1110"}}}, {"t", {{"acc", "1010"}}}});
  const json b = results_with({{"s", {{"acc", "0000"}, {"acc_norm", "0100"}}}, {"t", {{"acc", "1000"}}}});
  const ScoreComparison mean = compare_results(a, "a", b, "b").mean;
  EXPECT_EQ(mean.documents, 2U);
  EXPECT_DOUBLE_EQ(mean.a, (0.75 + 0.5) / 2);
  EXPECT_DOUBLE_EQ(mean.b, (0.25 + 0.25) / 2);
  // Differences of documents -1, 0, -1, 0 and 0, 0, -1, 0.
  const double s = std::sqrt(1.0 / 3 / 4);
  const double t = std::sqrt(0.75 / 3 / 4);
  EXPECT_DOUBLE_EQ(mean.standard_error, std::sqrt(s * s + t * t) / 2);
  EXPECT_NEAR(mean.p_value, std::erfc(0.375 / mean.standard_error / std::sqrt(2.0)), 1e-12);
}

TEST(Comparison, RefusesOtherRequests) {
  const json documents{{"t", {{"acc", "10"}}}};
  EXPECT_THROW(compare_results(results_with(documents), "a", results_with(documents, "other"), "b"), DataError);
  EXPECT_THROW(compare_results(results_with(documents), "a", results_with({{"u", {{"acc", "10"}}}}), "b"), DataError);
  EXPECT_THROW(compare_results(results_with(documents), "a", results_with({{"t", {{"acc", "101"}}}}), "b"), DataError);
}

class LikelihoodLogTest : public ::testing::Test {
 protected:
  void TearDown() override { fs::remove(path_); }

  fs::path path_ = fs::temp_directory_path() / ("stableqat_log_test_" + std::to_string(::getpid()) + ".jsonl");
  json subject_{{"weights", "abc"}, {"max_length", 2048}};
};

TEST_F(LikelihoodLogTest, GivesBackTheSameBitsAndDropsATornLine) {
  const std::vector<Likelihood> likelihoods{{-1.0 / 3.0, true}, {-1e-17, false}};
  {
    LikelihoodLog log(path_, subject_, false);
    log.append("piqa", 7, likelihoods);
    log.append("piqa", 8, likelihoods);
    log.flush();
  }
  const std::string text = read_text_file(path_);
  write_text_file(path_, text.substr(0, text.size() - 9));
  LikelihoodLog log(path_, subject_, true);
  ASSERT_NE(log.find("piqa", 7), nullptr);
  EXPECT_EQ((*log.find("piqa", 7))[0].log_likelihood, -1.0 / 3.0);
  EXPECT_EQ((*log.find("piqa", 7))[1].log_likelihood, -1e-17);
  EXPECT_TRUE((*log.find("piqa", 7))[0].is_greedy);
  EXPECT_FALSE((*log.find("piqa", 7))[1].is_greedy);
  EXPECT_EQ(log.find("piqa", 8), nullptr);
  log.append("piqa", 8, likelihoods);
  log.flush();
  EXPECT_EQ(read_text_file(path_), text);
}

TEST_F(LikelihoodLogTest, RefusesAnotherModelAndDamage) {
  LikelihoodLog(path_, subject_, false).append("piqa", 7, {});
  json other = subject_;
  other["weights"] = "def";
  try {
    LikelihoodLog(path_, other, true);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_EQ(error.text().found, "weights \"abc\"");
    EXPECT_EQ(error.text().expected, "\"def\"");
  }
  json more = subject_;
  more["add_bos"] = "on";
  EXPECT_THROW(LikelihoodLog(path_, more, true), DataError) << "written before that was a setting";
  write_text_file(path_, subject_.dump() + "\nnonsense\n");
  EXPECT_THROW(LikelihoodLog(path_, subject_, true), DataError);
}

}  // namespace
}  // namespace stableqat::tasks
