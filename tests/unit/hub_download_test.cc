// Downloads from a real HTTP server that makes faults.
#include "stableqat/hub/download.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <set>
#include <thread>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/base/memory.h"
#include "support/hub_server.h"

namespace stableqat::hub {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kWeightBytes = 300'000;

class HubDownloadTest : public HubServerTest {
 protected:
  HubDownloadTest() : weights_(noise(kWeightBytes, 1)) {
    put("models/org/model/model.safetensors", weights_);
    put("models/org/model/config.json", "{}");
    put("models/org/model/empty.txt", "");
    put("models/org/model/sub folder/file #1.json", "[1]");
  }

  static Repository repository() { return make_repository(RepositoryType::kModel, "org/model"); }

  Listing listing(const HubOptions& options) { return list_repository(repository(), "main", "", options, callbacks()).value(); }

  // Fetches everything; true unless stopped.
  bool download(const HubOptions& options) {
    const Listing files = listing(options);
    commit_ = files.commit;
    return download_files(repository(), commit_, files.files, options, callbacks());
  }

  std::string fetched(const std::string& path = "model.safetensors") const {
    return read_text_file(snapshot_folder(repository(), commit_, options()) / path);
  }
  fs::path blob() const { return fs::canonical(snapshot_folder(repository(), commit_, options()) / "model.safetensors"); }
  void expect_all_good() const {
    EXPECT_TRUE(fetched() == weights_);
    EXPECT_EQ(fetched("config.json"), "{}");
    EXPECT_EQ(fetched("empty.txt"), "");
    EXPECT_EQ(fetched("sub folder/file #1.json"), "[1]");
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / "cache")) {
      EXPECT_EQ(entry.path().string().find(".incomplete"), std::string::npos) << entry.path();
    }
  }
  // The ranges that were asked for, "" for a whole file.
  std::vector<std::string> ranges() const {
    std::vector<std::string> ranges;
    for (const json& request : requests("model.safetensors")) ranges.push_back(request.at("range").is_null() ? "" : request.at("range"));
    return ranges;
  }

  std::string weights_;
  std::string commit_;
};

json faults(std::vector<json> list) { return {{"model.safetensors", std::move(list)}}; }

TEST_F(HubDownloadTest, MakesTheLayoutOfHuggingFaceHub) {
  serve();
  ASSERT_TRUE(download(options()));
  expect_all_good();
  const fs::path folder = folder_ / "cache" / "models--org--model";
  const fs::path link = fs::read_symlink(folder / "snapshots" / commit_ / "model.safetensors");
  EXPECT_TRUE(link.is_relative()) << link;
  EXPECT_EQ(link.parent_path(), fs::path("../../blobs"));
  EXPECT_EQ(link.filename().string().size(), 64U);
  // `git hash-object` of a file that holds "{}".
  EXPECT_EQ(fs::read_symlink(folder / "snapshots" / commit_ / "config.json").filename(), "9e26dfeeb6e641a33dae4961196235bdb965b21b");
  write_reference(repository(), "main", commit_, options());
  EXPECT_EQ(read_text_file(folder / "refs" / "main"), commit_);
}

TEST_F(HubDownloadTest, WhatIsThereIsNotFetchedAgain) {
  serve();
  ASSERT_TRUE(download(options()));
  serve();
  ASSERT_TRUE(download(options()));
  for (const json& request : requests()) EXPECT_EQ(request.at("path").get<std::string>().find("api/"), 0U) << request;
  // Another process may have removed the snapshot, not the blobs.
  fs::remove_all(snapshot_folder(repository(), commit_, options()));
  ASSERT_TRUE(download(options()));
  EXPECT_TRUE(ranges().empty());
  expect_all_good();
}

TEST_F(HubDownloadTest, DroppedConnectionsAreTakenUpWhereTheyBroke) {
  serve(faults({{{"kind", "drop"}, {"after", 100'000}}, {{"kind", "drop"}, {"after", 50'000}}}));
  ASSERT_TRUE(download(options()));
  expect_all_good();
  EXPECT_EQ(ranges(), (std::vector<std::string>{"", "bytes=100000-", "bytes=150000-"}));
  EXPECT_EQ(warnings_.size(), 2U);
}

TEST_F(HubDownloadTest, MoreDropsThanAttemptsAreFineWhileBytesCome) {
  const json drop{{"kind", "drop"}, {"after", 20'000}};
  serve(faults(std::vector<json>(10, drop)));
  ASSERT_TRUE(download(options()));
  expect_all_good();
}

TEST_F(HubDownloadTest, GivesUpWhenNothingComes) {
  serve(faults(std::vector<json>(10, json{{"kind", "drop"}, {"after", 0}})));
  EXPECT_THROW(download(options()), EnvironmentError);
  EXPECT_EQ(ranges().size(), 4U);  // options().attempts
}

TEST_F(HubDownloadTest, WholeFileInsteadOfTheRangeBeginsAnew) {
  serve(faults({{{"kind", "drop"}, {"after", 100'000}}, {{"kind", "whole"}}}));
  ASSERT_TRUE(download(options()));
  expect_all_good();
}

TEST_F(HubDownloadTest, AnotherRangeThanAskedForIsNotTakenForIt) {
  serve(faults({{{"kind", "drop"}, {"after", 100'000}}, {{"kind", "shifted"}, {"bytes", 10}}}));
  ASSERT_TRUE(download(options()));
  expect_all_good();
  EXPECT_EQ(ranges(), (std::vector<std::string>{"", "bytes=100000-", ""}));
  EXPECT_NE(warnings_.back().find("another range"), std::string::npos) << warnings_.back();
}

TEST_F(HubDownloadTest, ShortLongAndCorruptContentIsNoticed) {
  for (const json& fault : {json{{"kind", "short"}, {"bytes", 1000}}, json{{"kind", "long"}, {"bytes", 1000}}, json{{"kind", "corrupt"}}}) {
    fs::remove_all(folder_ / "cache");
    serve(faults({fault}));
    ASSERT_TRUE(download(options())) << fault;
    expect_all_good();
    EXPECT_EQ(ranges().size(), 2U) << fault;
  }
}

TEST_F(HubDownloadTest, ContentThatStaysWrongIsAnError) {
  for (const json& fault : {json{{"kind", "long"}, {"bytes", 1000}}, json{{"kind", "corrupt"}}}) {
    serve(faults(std::vector<json>(3, fault)));
    try {
      download(options());
      FAIL() << fault;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find("org/model/model.safetensors: found"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("3 times in a row"), std::string::npos) << error.what();
    }
    EXPECT_FALSE(fs::exists(snapshot_folder(repository(), listing(options()).commit, options()) / "model.safetensors"));
  }
}

TEST_F(HubDownloadTest, RetryAfterIsHonoured) {
  serve({{"model.safetensors", {{{"kind", "status"}, {"code", 429}, {"retry_after", 1}}, {{"kind", "status"}, {"code", 503}}}},
         {"api", {{{"kind", "status"}, {"code", 500}}}}});
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(download(options()));
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  expect_all_good();
  EXPECT_EQ(ranges().size(), 3U);

  serve(faults({{{"kind", "status"}, {"code", 429}, {"retry_after", 100'000}}}));
  fs::remove_all(folder_ / "cache");
  try {
    download(options());
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_NE(std::string(error.what()).find("100000 s"), std::string::npos) << error.what();
  }
}

TEST_F(HubDownloadTest, TheTokenDoesNotFollowARedirectToAnotherHost) {
  HubOptions with_token;
  for (const bool drops : {false, true}) {
    std::vector<json> list{{{"kind", "redirect"}}};
    if (drops) list.push_back({{"kind", "drop"}, {"after", 1000}});
    serve(faults(list));
    fs::remove_all(folder_ / "cache");
    with_token = options();
    with_token.token = "hf_secret";
    ASSERT_TRUE(download(with_token));
    expect_all_good();
    std::set<std::string> hosts;
    for (const json& request : requests()) {
      const std::string host = request.at("host");
      hosts.insert(host);
      const bool is_hub = host == "127.0.0.1:" + std::to_string(port());
      EXPECT_EQ(request.at("authorization"), is_hub ? json("Bearer hf_secret") : json()) << request;
    }
    EXPECT_EQ(hosts.size(), 2U);
  }
  for (const std::string& warning : warnings_) EXPECT_EQ(warning.find("hf_secret"), std::string::npos);
}

TEST_F(HubDownloadTest, SlowBodiesArePassedAndStalledOnesTakenUp) {
  HubOptions impatient;
  serve(faults({{{"kind", "slow"}, {"pieces", 5}, {"pause", 0.4}}}));
  impatient = options();
  impatient.stall = std::chrono::seconds(1);
  ASSERT_TRUE(download(impatient));  // 2 s in all, but never 1 s without a byte
  EXPECT_EQ(ranges().size(), 1U);

  fs::remove_all(folder_ / "cache");
  serve(faults({{{"kind", "stall"}, {"after", 5000}, {"pause", 20}}}));
  impatient = options();
  impatient.stall = std::chrono::seconds(1);
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(download(impatient));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_EQ(ranges(), (std::vector<std::string>{"", "bytes=5000-"}));
  expect_all_good();
}

TEST_F(HubDownloadTest, ATruncatedFileInTheCacheIsCompleted) {
  serve();
  ASSERT_TRUE(download(options()));
  fs::resize_file(blob(), 123'456);
  serve();
  ASSERT_TRUE(download(options()));
  expect_all_good();
  EXPECT_EQ(ranges(), std::vector<std::string>{"bytes=123456-"});
  ASSERT_EQ(warnings_.size(), 1U);
  EXPECT_NE(warnings_[0].find("not whole"), std::string::npos);
}

TEST_F(HubDownloadTest, ALongOrDamagedFileInTheCacheIsFetchedAgain) {
  serve();
  ASSERT_TRUE(download(options()));
  std::ofstream(blob(), std::ios::binary | std::ios::app) << "more";
  serve();
  ASSERT_TRUE(download(options()));
  expect_all_good();
  EXPECT_EQ(ranges(), std::vector<std::string>{""});

  std::fstream(blob(), std::ios::binary | std::ios::in | std::ios::out).seekp(1000).put(static_cast<char>(~weights_[1000]));
  serve();
  ASSERT_TRUE(download(options()));  // the size is right
  EXPECT_FALSE(fetched() == weights_);
  HubOptions verifying = options();
  verifying.verify_cached = true;
  ASSERT_TRUE(download(verifying));
  expect_all_good();
}

TEST_F(HubDownloadTest, APartialFileWithABadBeginningIsFetchedFromTheStart) {
  serve();
  ASSERT_TRUE(download(options()));
  const fs::path partial = blob().string() + ".incomplete";
  fs::rename(blob(), partial);
  fs::resize_file(partial, 200'000);
  std::fstream(partial, std::ios::binary | std::ios::in | std::ios::out).seekp(0).put(static_cast<char>(~weights_[0]));
  serve();
  ASSERT_TRUE(download(options()));
  expect_all_good();
  EXPECT_EQ(ranges(), (std::vector<std::string>{"bytes=200000-", ""}));
}

TEST_F(HubDownloadTest, AStopKeepsWhatCame) {
  serve(faults({{{"kind", "slow"}, {"pieces", 50}, {"pause", 0.05}}}));
  const Listing files = listing(options());
  commit_ = files.commit;
  std::atomic<bool> stop = false;
  HubCallbacks stopping = callbacks();
  stopping.progress = [&stop](const Progress& progress) { stop = stop || progress.done > kWeightBytes / 3; };
  stopping.stop = [&stop] { return stop.load(); };
  EXPECT_FALSE(download_files(repository(), commit_, files.files, options(), stopping));

  serve();
  ASSERT_TRUE(download(options()));
  expect_all_good();
  ASSERT_EQ(ranges().size(), 1U);
  EXPECT_GE(std::stoul(ranges()[0].substr(6)), kWeightBytes / 3);
}

TEST_F(HubDownloadTest, ProcessesWaitForEachOther) {
  serve(faults({{{"kind", "slow"}, {"pieces", 4}, {"pause", 0.1}}}));
  const Listing files = listing(options());
  commit_ = files.commit;
  std::atomic<int> done = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&] { done += download_files(repository(), files.commit, files.files, options(), {}) ? 1 : 0; });
    }
  }
  EXPECT_EQ(done, 3);
  EXPECT_EQ(ranges().size(), 1U);
  expect_all_good();
}

TEST_F(HubDownloadTest, ProgressCountsBytesUpToAll) {
  serve(faults({{{"kind", "corrupt"}}, {{"kind", "drop"}, {"after", 1000}}}));
  const Listing files = listing(options());
  std::uint64_t all = 0;
  for (const HubFile& file : files.files) all += file.bytes;
  std::uint64_t last = 0;
  HubCallbacks counting = callbacks();
  std::string detail;
  counting.progress = [&](const Progress& progress) {
    EXPECT_EQ(progress.total, all);
    EXPECT_LE(progress.done, all);
    last = progress.done;
    detail = progress.detail;
  };
  ASSERT_TRUE(download_files(repository(), files.commit, files.files, options(), counting));
  EXPECT_EQ(last, all);
  EXPECT_EQ(detail, "4 of 4 files");
}

TEST_F(HubDownloadTest, MemoryDoesNotGrowWithTheFile) {
  put("models/org/model/model.safetensors", std::string(std::size_t{64} << 20, 'x'));
  serve();
  if (!reset_peak_memory()) GTEST_SKIP() << "no peak of memory here";
  const std::uint64_t before = peak_memory();
  ASSERT_TRUE(download(options()));
  EXPECT_LT(peak_memory() - before, std::uint64_t{16} << 20);
}

TEST_F(HubDownloadTest, RefusalsSayWhatToDo) {
  put("models/org/gated/.gated", "hf_good");
  put("models/org/gated/config.json", "{}");
  put("models/org/secret/.private", "hf_good");
  serve();
  const auto message = [&](const std::string& name, const std::string& revision, const std::string& token, ExitCode code) -> std::string {
    HubOptions asking = options();
    asking.token = token;
    const Repository asked = make_repository(RepositoryType::kModel, name);
    try {
      const auto files = list_repository(asked, revision, "", asking, callbacks());
      download_files(asked, files->commit, files->files, asking, callbacks());
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), code) << error.what();
      EXPECT_EQ(std::string(error.what()).find("hf_"), std::string::npos) << error.what();
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message("org/gated", "main", "", ExitCode::kEnvironment).find("a gated repository"), std::string::npos);
  EXPECT_NE(message("org/gated", "main", "hf_bad", ExitCode::kEnvironment).find("accept the terms"), std::string::npos);
  EXPECT_EQ(message("org/gated", "main", "hf_good", ExitCode::kDone), "");
  EXPECT_NE(message("org/secret", "main", "", ExitCode::kBadData).find("no such repository, or a private one"), std::string::npos);
  EXPECT_NE(message("org/nothing", "main", "", ExitCode::kBadData).find("org/nothing"), std::string::npos);
  EXPECT_NE(message("org/model", "v2", "", ExitCode::kBadData).find("no such revision"), std::string::npos);
  EXPECT_THROW(list_repository(repository(), "main", "folder", options(), {}), DataError);
  EXPECT_TRUE(warnings_.empty()) << warnings_[0];
}

TEST_F(HubDownloadTest, AnUnreachableHubIsAnEnvironmentError) {
  serve();
  const HubOptions gone = options();
  stop_server();
  EXPECT_THROW(list_repository(repository(), "main", "", gone, callbacks()), EnvironmentError);
  EXPECT_EQ(warnings_.size(), 3U);
}

TEST_F(HubDownloadTest, GoesThroughAProxy) {
  serve();
  HubOptions far = options();
  far.endpoint = "http://hub.invalid";
  ::unsetenv("no_proxy");
  ::unsetenv("NO_PROXY");
  ::setenv("http_proxy", ("http://127.0.0.1:" + std::to_string(port())).c_str(), 1);
  const bool done = download(far);
  ::unsetenv("http_proxy");
  ASSERT_TRUE(done);
  expect_all_good();
  for (const json& request : requests()) {
    EXPECT_EQ(request.at("proxied"), true);
    EXPECT_EQ(request.at("host"), "hub.invalid");
  }
}

}  // namespace
}  // namespace stableqat::hub
