// What is drawn from a data set, and what is refused of what the network or an edited file says.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/python_random.h"
#include "hub/digest.h"
#include "hub/tree.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/hub/sample.h"

namespace stableqat::hub {
namespace {

using nlohmann::json;

const std::string kDigest(64, 'a');

Listing slimpajama_like(std::uint64_t files_per_chunk) {
  Listing listing{std::string(40, 'c'), {}};
  for (const char* chunk : {"chunk1", "chunk10", "chunk2"}) {
    for (std::uint64_t i = 0; i < files_per_chunk; ++i) {
      listing.files.push_back({std::string("train/") + chunk + "/example_" + std::to_string(100 + i) + ".jsonl.zst", 1000 + i, kDigest});
    }
  }
  listing.files.push_back({"README.md", 5, kDigest});
  return listing;
}

TEST(HubPlanTest, DrawsAsPythonDoes) {
  const json golden = json::parse(read_text_file(STABLEQAT_TEST_DATA "/hub_samples.json"));
  for (const json& one : golden.at("cases")) {
    PythonRandom random(one.at("seed").get<std::uint64_t>());
    for (const json& draw : one.at("draws")) {
      const auto drawn = random.sample(draw.at("population").get<std::uint64_t>(), draw.at("count").get<std::uint64_t>());
      EXPECT_EQ(drawn, draw.at("drawn").get<std::vector<std::uint64_t>>()) << one.at("seed") << " " << draw.at("population");
    }
  }
}

TEST(HubPlanTest, TakesOfEveryChunkItsShare) {
  SampleRequest request = slimpajama_request();
  request.budget_tokens = 94'000'000'000;  // 0.1501... of 626e9: 15.02 of 100 files
  const SamplePlan plan = make_sample_plan(request, slimpajama_like(100));
  ASSERT_EQ(plan.chunks.size(), 3U);
  PythonRandom random(42);
  const std::vector<std::string> names{"train/chunk1", "train/chunk2", "train/chunk10"};
  for (std::size_t i = 0; i < names.size(); ++i) {
    const PlannedChunk& chunk = plan.chunks[i];
    EXPECT_EQ(chunk.name, names[i]);
    EXPECT_EQ(chunk.files, 100U);
    ASSERT_EQ(chunk.drawn.size(), 16U);
    const auto expected = random.sample(100, 16);
    double files = 0.0;
    for (std::size_t k = 0; k < 16; ++k) {
      EXPECT_EQ(chunk.drawn[k].file.path, names[i] + "/example_" + std::to_string(100 + expected[k]) + ".jsonl.zst");
      files += chunk.drawn[k].share;
    }
    EXPECT_NEAR(files, 100.0 * 94.0 / 626.0, 1e-12);
  }
}

TEST(HubPlanTest, AWholeNumberOfFilesIsNotRoundedUp) {
  SampleRequest request = slimpajama_request();
  request.budget_tokens = request.total_tokens / 2;
  const SamplePlan plan = make_sample_plan(request, slimpajama_like(10));
  EXPECT_EQ(plan.chunks[0].drawn.size(), 5U);
  EXPECT_EQ(plan.chunks[0].drawn.back().share, 1.0);
}

TEST(HubPlanTest, WithoutABudgetEverythingInOrder) {
  SampleRequest request = data_set_request("org/data");
  const Listing listing = slimpajama_like(7);
  for (const std::uint64_t budget : {0, 1000}) {
    request.budget_tokens = budget;
    request.total_tokens = budget;
    const SamplePlan plan = make_sample_plan(request, listing);
    ASSERT_EQ(plan.chunks[1].drawn.size(), 7U);
    EXPECT_EQ(plan.chunks[1].drawn[6].file.path, "train/chunk2/example_106.jsonl.zst");
  }
}

TEST(HubPlanTest, RefusesWhatCannotBeDrawn) {
  SampleRequest request = data_set_request("org/data");
  request.budget_tokens = 1000;
  EXPECT_THROW(make_sample_plan(request, slimpajama_like(1)), ConfigError);  // no total
  request.total_tokens = std::uint64_t{1} << 50;
  EXPECT_THROW(make_sample_plan(request, slimpajama_like(1)), ConfigError);
  request.total_tokens = 2000;
  request.include = {"*.parquet"};
  EXPECT_THROW(make_sample_plan(request, slimpajama_like(1)), DataError);
}

TEST(HubPlanTest, JsonGoesAndComes) {
  SampleRequest request = slimpajama_request();
  request.budget_tokens = 94'000'000'000;
  const std::string text = to_json(make_sample_plan(request, slimpajama_like(100)));
  EXPECT_EQ(to_json(parse_sample_plan(text, "plan.json")), text);

  const auto refused = [&text](const std::function<void(json&)>& change) {
    json plan = json::parse(text);
    change(plan);
    EXPECT_THROW(parse_sample_plan(plan.dump(), "plan.json"), DataError) << plan.dump().substr(0, 300);
  };
  const auto file = [](json& plan) -> json& { return plan["chunks"][0]["drawn"][0]; };
  refused([](json& plan) { plan = json::array(); });
  refused([](json& plan) { plan.erase("commit"); });
  refused([](json& plan) { plan["version"] = 2; });
  refused([](json& plan) { plan["seed"] = "42"; });
  refused([&](json& plan) { file(plan)["path"] = "../../etc/passwd"; });
  refused([&](json& plan) { file(plan)["digest"] = "../x"; });
  refused([&](json& plan) { file(plan)["share"] = 1.5; });
  refused([&](json& plan) { file(plan)["bytes"] = -1; });
  EXPECT_THROW(parse_sample_plan("{", "plan.json"), DataError);
}

TEST(HubTreeTest, PathsStayInsideTheRepository) {
  for (const char* path : {"a", "a/b.c", ".gitattributes", "a b/#1", "..a/b.."}) EXPECT_TRUE(is_safe_path(path)) << path;
  for (const char* path : {"", "/a", "a/", "a//b", "..", "a/../b", ".", "./a", "a\\b", "a\nb", "a\x7f"})
    EXPECT_FALSE(is_safe_path(path)) << path;
}

TEST(HubTreeTest, ReadsFilesAndRefusesTheRest) {
  const std::string oid(40, '1');
  std::vector<HubFile> files;
  parse_tree_page(R"([{"type":"directory","oid":")" + oid + R"(","path":"d"},{"type":"file","oid":")" + oid + R"(","size":3,"path":"d/x"},
                      {"type":"file","oid":")" +
                      oid + R"(","size":130,"path":"y","lfs":{"oid":")" + kDigest + R"(","size":9}}])",
                  "org/name", files);
  ASSERT_EQ(files.size(), 2U);
  EXPECT_EQ(files[0].path, "d/x");
  EXPECT_EQ(files[0].digest, oid);
  EXPECT_EQ(files[1].bytes, 9U);
  EXPECT_EQ(files[1].digest, kDigest);

  const json good{{"type", "file"}, {"oid", oid}, {"size", 3}, {"path", "x"}};
  const auto refused = [&](const char* key, const json& value) {
    json entry = good;
    entry[key] = value;
    EXPECT_THROW(parse_tree_page(json::array({entry}).dump(), "org/name", files), DataError) << entry;
  };
  refused("path", "../x");
  refused("path", 1);
  refused("oid", "../../x");
  refused("oid", oid.substr(1));
  refused("size", -1);
  refused("size", "3");
  refused("lfs", json::object());
  for (const char* text : {"{}", "[1]", "[{}]", "", "<html>"}) EXPECT_THROW(parse_tree_page(text, "org/name", files), DataError) << text;
  for (const char* text : {"{}", "[]", R"({"sha":"main"})", R"({"sha":5})"})
    EXPECT_THROW(parse_commit(text, "org/name"), DataError) << text;
}

TEST(HubTreeTest, FollowsTheQueryOfTheNextPageOnly) {
  EXPECT_EQ(next_page_query(R"(<https://hub.invalid/api/x?recursive=true&cursor=abc>; rel="next")"), "?recursive=true&cursor=abc");
  EXPECT_EQ(next_page_query(R"(<https://a/?p=0>; rel="prev", <https://a/?p=2>; rel="next")"), "?p=2");
  for (const char* header : {"", "x", "<", "<>", R"(<https://a/>; rel="next")", R"(<https://a/?p=0>; rel="prev")"}) {
    EXPECT_EQ(next_page_query(header), "") << header;
  }
}

TEST(HubDigestTest, KnownDigests) {
  const std::string abc = "abc";
  ContentDigest sha256(std::string(64, '0'), 3);  // FIPS 180-4, the example of one block
  sha256.update(std::as_bytes(std::span(abc)));
  EXPECT_EQ(sha256.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  ContentDigest empty(std::string(40, '0'), 0);  // `git hash-object` of an empty file
  EXPECT_EQ(empty.hex(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
}

TEST(HubNamesTest, RepositoryNames) {
  for (const char* name : {"gpt2", "org/name", "HuggingFaceTB/SmolLM2-135M", "a_b/c.d"}) {
    EXPECT_EQ(make_repository(RepositoryType::kModel, name).name, name);
  }
  for (const char* name : {"", "/", "a/", "/a", "a/b/c", "../x", "a..b", "a--b/c", "-a", "a b", "a/b?x", "https://a/b"}) {
    EXPECT_THROW(make_repository(RepositoryType::kModel, name), ConfigError) << name;
  }
}

TEST(HubNamesTest, PatternsMatchWholePaths) {
  const std::vector<HubFile> files{{"a.json", 1, kDigest}, {"sub/b.json", 1, kDigest}, {"c.txt", 1, kDigest}};
  const auto paths = [&](const std::vector<std::string>& include, const std::vector<std::string>& exclude) {
    std::string text;
    for (const HubFile& file : select_files(files, include, exclude)) text += file.path + " ";
    return text;
  };
  EXPECT_EQ(paths({}, {}), "a.json sub/b.json c.txt ");
  EXPECT_EQ(paths({"*.json"}, {}), "a.json sub/b.json ");
  EXPECT_EQ(paths({"*.json", "c*"}, {"sub/*"}), "a.json c.txt ");
}

TEST(HubNamesTest, EnvironmentAsHuggingFaceHubReadsIt) {
  const auto with = [](std::initializer_list<std::pair<const char*, const char*>> values) {
    for (const char* name :
         {"HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT"}) {
      ::unsetenv(name);
    }
    ::setenv("HOME", "/nowhere", 1);
    ::setenv("XDG_CACHE_HOME", "/xdg", 1);
    for (const auto& [name, value] : values) ::setenv(name, value, 1);
    return hub_options_from_environment();
  };
  const HubOptions plain = with({});
  EXPECT_EQ(plain.cache, "/xdg/huggingface/hub");
  EXPECT_EQ(plain.endpoint, "https://huggingface.co");
  EXPECT_EQ(plain.token, "");
  EXPECT_EQ(with({{"HF_HOME", "/hf"}}).cache, "/hf/hub");
  EXPECT_EQ(with({{"HF_HOME", "/hf"}, {"HF_HUB_CACHE", "/c"}}).cache, "/c");
  EXPECT_EQ(with({{"HF_TOKEN", " hf_x\n"}}).token, "hf_x");
  EXPECT_EQ(with({{"HF_ENDPOINT", "https://mirror.invalid/"}}).endpoint, "https://mirror.invalid");
  EXPECT_THROW(with({{"HF_ENDPOINT", "mirror.invalid"}}), ConfigError);
  EXPECT_THROW(with({{"HF_TOKEN", "hf_\x01"}}), ConfigError);
  with({});
}

}  // namespace
}  // namespace stableqat::hub
