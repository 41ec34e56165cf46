#include "stableqat/data/tokenize.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <csignal>

#include "data_fixtures.h"
#include "golden/test_model.h"
#include "io_fixtures.h"
#include "stableqat/io/gguf.h"
#include "stableqat/tokenizer/tokenizer.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

class Tokenize : public DataTest {
 protected:
  TokenizeOptions options_for(std::vector<fs::path> inputs, const std::string& prefix = "out") const {
    TokenizeOptions options;
    options.inputs = std::move(inputs);
    options.prefix = folder_ / prefix;
    return options;
  }

  Ids ids_of(const std::string& prefix) const {
    const TokenFile file(folder_ / prefix);
    Ids ids(file.size());
    file.read(0, ids);
    return ids;
  }

  std::string bytes_of(const std::string& name) const { return read_text_file(folder_ / name); }

  // 6 MB, so that each of several workers gets several batches; documents of very different length.
  fs::path big_input() const {
    std::string lines;
    for (int i = 0; lines.size() < 6'000'000; ++i) {
      const std::string text(static_cast<std::size_t>(i * 7919 % 20011), static_cast<char>('a' + i % 26));
      lines += "{\"text\": \"" + std::to_string(i) + text + "\"}\n";
    }
    return write("big.jsonl.zst", zstd(lines));
  }
};

TEST_F(Tokenize, WritesIdsAndEndOfText) {
  const auto info = tokenize_files(
      byte_encoder(), options_for({write("a.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"\"}\n{\"text\": \"c\"}\n"), write("b.txt", "d\n")}));
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(ids_of("out"), (Ids{'a', 'b', 256, 'c', 256, 'd', '\n', 256}));
  EXPECT_EQ(info->documents, 3u);
  EXPECT_EQ(info->tokens, 8u);
  EXPECT_EQ(info->text_bytes, 5u);
  EXPECT_EQ(info->empty_documents, 1u);
  EXPECT_EQ(info->vocabulary_size, 257);
  EXPECT_EQ(info->end_of_text, 256);
  EXPECT_EQ(info->tokenizer_hash, "bytes");
  ASSERT_EQ(info->sources.size(), 2u);
  EXPECT_EQ(info->sources[1].hash, file_content_hash(folder_ / "b.txt"));
  EXPECT_EQ(tokenize_text(byte_encoder(), folder_ / "a.jsonl"), (Ids{'a', 'b', 256, 'c', 256}));
  EXPECT_EQ(tokenize_text(byte_encoder(), folder_ / "a.jsonl", {}, 4), (Ids{'a', 'b', 256, 'c'}));
}

TEST_F(Tokenize, DoesNotDoubleTheEndOfTextOfTheTemplate) {
  TokenEncoder encoder = byte_encoder();
  encoder.append = [](std::string_view, std::vector<std::int32_t>& ids) { ids.insert(ids.end(), {1, 2, 256}); };
  EXPECT_EQ(tokenize_text(encoder, write("a.txt", "x")), (Ids{1, 2, 256}));
}

TEST_F(Tokenize, AnyNumberOfWorkersWritesTheSameFiles) {
  TokenizeOptions one = options_for({big_input(), write("b.txt", "tail")}, "one");
  one.workers = 1;
  TokenizeOptions four = one;
  four.prefix = folder_ / "four";
  four.workers = 4;
  ASSERT_TRUE(tokenize_files(byte_encoder(), one).has_value());
  ASSERT_TRUE(tokenize_files(byte_encoder(), four).has_value());
  for (const std::string suffix : {".bin", ".idx", ".json"}) EXPECT_EQ(bytes_of("one" + suffix), bytes_of("four" + suffix)) << suffix;

  Ids expected = tokenize_text(byte_encoder(), folder_ / "big.jsonl.zst");
  for (const std::int32_t id : Ids{'t', 'a', 'i', 'l', 256}) expected.push_back(id);
  EXPECT_EQ(ids_of("four"), expected);
}

TEST_F(Tokenize, ShardsPartTheDocuments) {
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += "{\"text\": \"" + std::string(1, static_cast<char>('a' + i % 26)) + "\"}\n";
  const fs::path input = write("a.jsonl", lines);
  std::vector<Ids> parts;
  for (std::uint64_t i = 0; i < 3; ++i) {
    TokenizeOptions options = options_for({input});
    options.shard_index = i;
    options.shard_count = 3;
    ASSERT_TRUE(tokenize_files(byte_encoder(), options).has_value());
    parts.push_back(ids_of("out"));
  }
  Ids joined;
  for (std::size_t i = 0; i < 100; ++i) {
    joined.push_back(parts[i % 3].at(i / 3 * 2));
    joined.push_back(parts[i % 3].at(i / 3 * 2 + 1));
  }
  EXPECT_EQ(joined, tokenize_text(byte_encoder(), input));
}

TEST_F(Tokenize, NothingIsThereUntilAllIsThere) {
  bool seen = false;
  std::uint64_t last = 0;
  const auto progress = [&](const Progress& state) {
    for (const char* name : {"out.bin", "out.idx", "out.json"}) EXPECT_FALSE(fs::exists(folder_ / name));
    seen = true;
    EXPECT_GE(state.done, last);
    EXPECT_LE(state.done, state.total);
    last = state.done;
  };
  const fs::path input = big_input();
  ASSERT_TRUE(tokenize_files(byte_encoder(), options_for({input}), {}, progress).has_value());
  EXPECT_TRUE(seen);
  EXPECT_EQ(last, fs::file_size(input));
  EXPECT_EQ(names(), (std::set<std::string>{"big.jsonl.zst", "out.bin", "out.idx", "out.json"}));
}

TEST_F(Tokenize, StopsOnRequestAndGoesOnFromThere) {
  const TokenizeOptions options = options_for({big_input()});
  std::atomic<int> asked{0};
  EXPECT_FALSE(tokenize_files(byte_encoder(), options, {}, {}, [&asked] { return ++asked > 3; }).has_value());
  EXPECT_EQ(names(), (std::set<std::string>{"big.jsonl.zst", "out.bin.partial", "out.idx.partial", "out.json.partial"}));
  std::string first_line;
  ASSERT_TRUE(tokenize_files(byte_encoder(), options, [&](LogLevel, std::string_view line) { first_line = line; }).has_value());
  EXPECT_TRUE(first_line.starts_with("going on after ")) << first_line;
  EXPECT_EQ(ids_of("out"), tokenize_text(byte_encoder(), options.inputs[0]));
  EXPECT_EQ(names(), (std::set<std::string>{"big.jsonl.zst", "out.bin", "out.idx", "out.json"}));
}

// Killed again and again, wherever it is: a call that goes on writes what one that was never killed writes.
TEST_F(Tokenize, KillsLoseAndDoubleNothing) {
  std::string lines;
  for (int i = 0; i < 400; ++i)
    lines += i % 97 == 5 ? "{broken\n" : "{\"text\": \"" + std::to_string(i) + std::string(5000, 'x') + "\"}\n\n";
  const fs::path whole = write("a.jsonl", lines);
  const fs::path damaged = write("b.jsonl.xz", xz(lines).substr(0, 600));
  TokenizeOptions options = options_for({whole, damaged, write("c.txt", "middle"), write("d.jsonl.gz", gzip(lines))});
  options.text.skip_bad_lines = true;
  options.shard_count = 2;
  options.save_seconds = 0.0;
  ASSERT_TRUE(tokenize_files(byte_encoder(), options).has_value());
  std::vector<std::string> expected;
  for (const char* suffix : {".bin", ".idx", ".json"}) {
    expected.push_back(bytes_of(std::string("out") + suffix));
    fs::remove(folder_ / (std::string("out") + suffix));
  }
  int kills = 0;
  for (bool killed = true; killed && kills < 100;) {
    const pid_t child = ::fork();
    if (child == 0) {
      int batches = 0;
      tokenize_files(byte_encoder(), options, {}, [&](const Progress&) {
        if (++batches == 2) ::raise(SIGKILL);  // after the first batch was saved, before the second one is
      });
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    killed = WIFSIGNALED(status);
    kills += killed;
  }
  EXPECT_GT(kills, 2);
  std::size_t i = 0;
  for (const char* suffix : {".bin", ".idx", ".json"}) EXPECT_EQ(bytes_of(std::string("out") + suffix), expected[i++]) << suffix;
}

// What was saved before the error is not written twice.
TEST_F(Tokenize, AfterAnErrorTheSameInputsMayGoOnWithoutTheBadLines) {
  std::string lines;
  for (int i = 0; i < 400; ++i)
    lines += i == 350 ? "{broken\n" : i == 390 ? "\xff\n" : "{\"text\": \"" + std::to_string(i) + std::string(5000, 'x') + "\"}\n";
  const std::string packed = xz(lines);
  for (const fs::path& input : {write("a.jsonl", lines), write("b.jsonl.xz", packed.substr(0, packed.size() - 20))}) {
    TokenizeOptions options = options_for({input, write("c.txt", "tail")});
    options.save_seconds = 0.0;
    expect_error<DataError>({input.filename().string()}, [&] { tokenize_files(byte_encoder(), options); });
    options.text.skip_bad_lines = true;
    ASSERT_TRUE(tokenize_files(byte_encoder(), options).has_value());
    const std::vector<std::string> found{bytes_of("out.bin"), bytes_of("out.idx"), bytes_of("out.json")};
    ASSERT_TRUE(tokenize_files(byte_encoder(), options).has_value());
    EXPECT_EQ(found, (std::vector<std::string>{bytes_of("out.bin"), bytes_of("out.idx"), bytes_of("out.json")})) << input;
  }
}

TEST_F(Tokenize, ChangedInputsStartAnew) {
  TokenizeOptions options = options_for({big_input()});
  options.save_seconds = 0.0;
  std::atomic<int> asked{0};
  EXPECT_FALSE(tokenize_files(byte_encoder(), options, {}, {}, [&asked] { return ++asked > 3; }).has_value());
  options.inputs = {write("other.txt", "other")};
  ASSERT_TRUE(tokenize_files(byte_encoder(), options).has_value());
  EXPECT_EQ(ids_of("out"), tokenize_text(byte_encoder(), options.inputs[0]));
}

TEST_F(Tokenize, TwoWritersOfOnePrefixAreRefused) {
  const TokenFileWriter first(folder_ / "out", 257);
  expect_error<EnvironmentError>({"out.bin", "another process"},
                                 [&] { tokenize_files(byte_encoder(), options_for({write("a.txt", "a")})); });
}

TEST_F(Tokenize, AKillLeavesNoFileUnderItsName) {
  const TokenizeOptions options = options_for({big_input()});
  const pid_t child = ::fork();
  if (child == 0) {
    int batches = 0;
    tokenize_files(byte_encoder(), options, {}, [&batches](const Progress&) {
      if (++batches == 5) ::raise(SIGKILL);
    });
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  for (const char* name : {"out.bin", "out.idx", "out.json"}) EXPECT_FALSE(fs::exists(folder_ / name));
  ASSERT_TRUE(tokenize_files(byte_encoder(), options).has_value());
  EXPECT_EQ(ids_of("out"), tokenize_text(byte_encoder(), options.inputs[0]));
}

// A limit on the size of files stands in for a full disk.
TEST_F(Tokenize, AFullDiskIsAnEnvironmentErrorAndLeavesNothing) {
  const TokenizeOptions options = options_for({big_input()});
  const auto default_action = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  rlimit small = limit;
  small.rlim_cur = 3'000'000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  expect_error<EnvironmentError>({"out.bin"}, [&options] { tokenize_files(byte_encoder(), options); });
  EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, default_action);
  EXPECT_EQ(names(), std::set<std::string>{"big.jsonl.zst"});
}

TEST_F(Tokenize, AnErrorLeavesNothingAndTheFirstOneIsReported) {
  std::string lines;
  for (int i = 0; i < 3000; ++i)
    lines += i == 1500 ? "{\"txt\": 1}\n" : i == 2999 ? "\xff\n" : "{\"text\": \"" + std::string(1000, 'x') + "\"}\n";
  const fs::path input = write("a.jsonl.xz", xz(lines).substr(0, 1'000'000));
  for (const int workers : {1, 4}) {
    TokenizeOptions options = options_for({input});
    options.workers = workers;
    expect_error<DataError>({"a.jsonl.xz:1501", "txt"}, [&options] { tokenize_files(byte_encoder(), options); });
    EXPECT_EQ(names(), std::set<std::string>{"a.jsonl.xz"});
  }
}

// The bad JSON stands before the damage, in the same batch.
TEST_F(Tokenize, ADamagedStreamDoesNotHideAnEarlierError) {
  const std::string whole = xz("{}\n") + xz("{\"text\": \"a\"}\n");
  const fs::path input = write("a.jsonl.xz", whole.substr(0, whole.size() - 10));
  expect_error<DataError>({"a.jsonl.xz:1", "the keys none"}, [&] { tokenize_files(byte_encoder(), options_for({input})); });
}

TEST_F(Tokenize, CountsBadLinesOnRequest) {
  TokenizeOptions options = options_for({write("a.jsonl", "{\"text\": \"a\"}\n{\n[]\n{\"text\": \"b\"}\n"), write("b.txt", "\xff")});
  options.text.skip_bad_lines = true;
  std::vector<std::string> warnings;
  const auto info = tokenize_files(byte_encoder(), options, [&warnings](LogLevel, std::string_view line) { warnings.emplace_back(line); });
  EXPECT_EQ(ids_of("out"), (Ids{'a', 256, 'b', 256}));
  EXPECT_EQ(info->bad_lines, 3u);
  ASSERT_EQ(warnings.size(), 3u);
  EXPECT_NE(warnings[0].find("a.jsonl:2"), std::string::npos);
  EXPECT_NE(warnings[2].find("b.txt:1"), std::string::npos);
}

TEST_F(Tokenize, RefusesWhatCannotWork) {
  const fs::path input = write("a.txt", "text");
  expect_error<DataError>({"absent"}, [&] { tokenize_files(byte_encoder(), options_for({folder_ / "absent"})); });
  expect_error<DataError>({"empty.jsonl", "no document"},
                          [&] { tokenize_files(byte_encoder(), options_for({write("empty.jsonl", "\n")})); });
  expect_error<EnvironmentError>({"no/such/folder"}, [&] { tokenize_files(byte_encoder(), options_for({input}, "no/such/folder/out")); });
  TokenizeOptions options = options_for({input});
  options.workers = -1;
  EXPECT_THROW(tokenize_files(byte_encoder(), options), ConfigError);
  options = options_for({input});
  options.shard_index = 1;
  EXPECT_THROW(tokenize_files(byte_encoder(), options), ConfigError);
  EXPECT_THROW(tokenize_files(byte_encoder(), options_for({input}, "folder/")), ConfigError);
  EXPECT_EQ(names(), (std::set<std::string>{"a.txt", "empty.jsonl"}));
}

TEST_F(Tokenize, TakesARealTokenizer) {
  const auto model = golden::test_model();
  if (!model) GTEST_SKIP() << "no model on this machine";
  const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile(*model));
  const TokenEncoder encoder = make_token_encoder(tokenizer);
  EXPECT_EQ(encoder.end_of_text, 0);
  EXPECT_EQ(encoder.hash, tokenizer.hash());
  const std::string text = "Rounding is <|endoftext|> discontinuous.";
  Ids expected = tokenizer.encode(text, {.add_special_tokens = true, .parse_special_tokens = false});
  EXPECT_EQ(std::count(expected.begin(), expected.end(), 0), 0);
  expected.push_back(0);
  EXPECT_EQ(tokenize_text(encoder, write("a.txt", text)), expected);
}

// The corpus in the repository: whole, in the promised mixture, and its held-out part apart from the rest.
TEST(Corpus, ValidationTextIsNotInTheTrainingText) {
  std::set<std::string> paragraphs;
  const fs::path folder = fs::path(STABLEQAT_SOURCE_DIR) / "data" / "text";
  const auto each_paragraph = [&folder](const char* name, const auto& visit) {
    DocumentReader reader({folder / name});
    Document document;
    while (reader.next(document)) {
      for (std::size_t begin = 0; begin < document.text.size();) {
        const std::size_t end = std::min(document.text.find('\n', begin), document.text.size());
        if (end - begin >= 80) visit(document.text.substr(begin, end - begin));
        begin = end + 1;
      }
    }
  };
  each_paragraph("train.jsonl.xz", [&](std::string paragraph) { paragraphs.insert(std::move(paragraph)); });
  EXPECT_GT(paragraphs.size(), 10000u);
  int held_out = 0;
  each_paragraph("valid.jsonl.xz", [&](const std::string& paragraph) {
    ++held_out;
    EXPECT_EQ(paragraphs.count(paragraph), 0u) << paragraph;
  });
  EXPECT_GT(held_out, 500);
}

}  // namespace
}  // namespace stableqat
