#include "stableqat/data/text_reader.h"

#include <tuple>

#include "data/utf8.h"
#include "data_fixtures.h"
#include "io_fixtures.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

class TextReader : public DataTest {
 protected:
  struct Outcome {
    std::vector<std::string> texts;
    std::vector<std::uint64_t> lines;
    std::string error;  // of the DataError that ended it
  };

  static Outcome read(const fs::path& path, TextOptions options = {}) {
    Outcome outcome;
    DocumentReader reader({path}, std::move(options));
    Document document;
    try {
      while (reader.next(document)) {
        outcome.texts.push_back(document.text);
        outcome.lines.push_back(document.line);
      }
    } catch (const DataError& error) {
      outcome.error = error.what();
    }
    return outcome;
  }
};

using Texts = std::vector<std::string>;
using Lines = std::vector<std::uint64_t>;

std::string json_line(const std::string& text) { return "{\"text\": \"" + text + "\"}\n"; }

// Lines of about 60 bytes that do not compress to nothing.
std::string many_lines(int count) {
  std::string lines;
  std::uint64_t state = 1;
  for (int i = 0; i < count; ++i) {
    state = state * 6364136223846793005 + 1442695040888963407;
    lines += "{\"id\": " + std::to_string(state >> 20) + ", \"text\": \"document " + std::to_string(i) + "\"}\n";
  }
  return lines;
}

TEST_F(TextReader, TakesTheTextOfEachJsonLine) {
  const auto outcome = read(write("a.jsonl",
                                  "{\"text\": \"one\", \"meta\": {\"text\": \"inner\"}}\n"
                                  "{\"id\": 2, \"text\": \"tw\\u00f6\\n\\ud83d\\ude00\"}\n"
                                  "{\"text\": \"\"}"));
  EXPECT_EQ(outcome.texts, (Texts{"one", "tw\xc3\xb6\n\xf0\x9f\x98\x80", ""}));
  EXPECT_EQ(outcome.lines, (Lines{1, 2, 3}));
  EXPECT_EQ(outcome.error, "");
}

TEST_F(TextReader, PassesOverByteOrderMarkBlankLinesAndCarriageReturns) {
  const auto outcome = read(write("a.jsonl", "\xef\xbb\xbf{\"text\": \"one\"}\r\n\r\n  \t\n\n{\"text\": \"two\\r\\n\"}\r\n\n"));
  EXPECT_EQ(outcome.texts, (Texts{"one", "two\r\n"}));
  EXPECT_EQ(outcome.lines, (Lines{1, 5}));
  EXPECT_TRUE(read(write("b.jsonl", "\xef\xbb\xbf\n\n")).texts.empty());
  EXPECT_TRUE(read(write("c.jsonl", "")).texts.empty());
}

TEST_F(TextReader, ReadsAnotherKey) {
  TextOptions options;
  options.json_key = "content";
  EXPECT_EQ(read(write("a.json", "{\"text\": 1, \"content\": \"here\"}\n"), options).texts, Texts{"here"});
}

TEST_F(TextReader, APlainFileIsOneDocumentWithItsLineEnds) {
  EXPECT_EQ(read(write("a.txt", "\xef\xbb\xbfone\r\n\r\ntwo\n")).texts, Texts{"one\r\n\r\ntwo\n"});
  EXPECT_EQ(read(write("wiki.test.raw", "one")).texts, Texts{"one"});
  EXPECT_EQ(read(write("empty.txt", "")).texts, Texts{""});
}

TEST_F(TextReader, CompressionChangesNothing) {
  const std::string lines = many_lines(40000);  // 2.5 MB: many buffers
  const auto expected = read(write("a.jsonl", lines));
  ASSERT_EQ(expected.texts.size(), 40000u);
  for (const std::string suffix : {".gz", ".xz", ".zst"}) {
    const auto one = read(write("one.jsonl" + suffix, compress(suffix, lines)));
    EXPECT_EQ(one.error, "");
    EXPECT_EQ(one.texts, expected.texts) << suffix;
    const std::size_t cut = lines.size() / 3;  // inside a line
    const auto two = read(write("two.jsonl" + suffix, compress(suffix, lines.substr(0, cut)) + compress(suffix, lines.substr(cut))));
    EXPECT_EQ(two.texts, expected.texts) << suffix;
    EXPECT_EQ(two.lines, expected.lines) << suffix;
    EXPECT_EQ(read(write("text.txt" + suffix, compress(suffix, lines))).texts, Texts{lines});
  }
}

TEST_F(TextReader, EveryTruncatedCompressedFileIsRefused) {
  const std::string lines = json_line("one") + json_line("two") + json_line("three");
  for (const std::string suffix : {".gz", ".xz", ".zst"}) {
    const std::string whole = compress(suffix, lines);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      const auto outcome = read(write("a.jsonl" + suffix, whole.substr(0, size)));
      EXPECT_NE(outcome.error.find("ends early"), std::string::npos) << suffix << " " << size << ": " << outcome.error;
      EXPECT_NE(outcome.error.find("a.jsonl" + suffix + ":" + std::to_string(outcome.texts.size() + 1)), std::string::npos)
          << outcome.error;
    }
  }
}

TEST_F(TextReader, EveryDamagedByteIsFoundOrHarmless) {
  const std::string lines = json_line("one") + json_line("two") + json_line("three");
  for (const std::string suffix : {".gz", ".xz", ".zst"}) {
    const std::string whole = compress(suffix, lines);
    const auto expected = read(write("whole.jsonl" + suffix, whole));
    int found = 0;
    for (std::size_t i = 0; i < whole.size(); ++i) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
      const auto outcome = read(write("a.jsonl" + suffix, damaged));
      if (outcome.error.empty()) {
        EXPECT_EQ(outcome.texts, expected.texts);
      } else {
        ++found;
      }
    }
    EXPECT_GT(found, static_cast<int>(whole.size()) * 8 / 10) << suffix;  // a gzip header has bytes without meaning
  }
}

TEST_F(TextReader, DamageIsReportedWithTheLineWhereReadingEnds) {
  const std::string lines = many_lines(40000);
  for (const std::string suffix : {".gz", ".xz", ".zst"}) {
    std::string damaged = compress(suffix, lines);
    damaged.resize(damaged.size() * 9 / 10);
    const auto outcome = read(write("a.jsonl" + suffix, damaged));
    EXPECT_GT(outcome.texts.size(), 30000u) << suffix;
    EXPECT_NE(outcome.error.find("a.jsonl" + suffix + ":" + std::to_string(outcome.texts.size() + 1) + ": "), std::string::npos)
        << outcome.error;
  }
}

TEST_F(TextReader, BadLinesAreNamedWithTheirReason) {
  const std::vector<std::tuple<std::string, std::string>> cases{
      {"{\"text\": \"one\"", "invalid JSON at byte 15"},
      {"{'text': 'one'}", "invalid JSON at byte 2"},
      {"{\"text\": \"one\"} {}", "invalid JSON at byte 17"},
      {"{\"text\": \"\\ud800\"}", "invalid JSON"},
      {"[\"text\"]", "JSON of type array"},
      {"{\"txt\": \"one\", \"id\": 3}", "the keys id, txt"},
      {"{}", "the keys none"},
      {"{\"text\": 7}", "a number under key \"text\""},
      {"{\"text\": null}", "a null under key \"text\""},
      {"{\"text\": \"on\xff\"}", "invalid UTF-8 at byte 13"},
      {"{\"text\": \"on\xc3\"}", "invalid UTF-8 at byte 13"},
  };
  for (const auto& [line, reason] : cases) {
    const auto outcome = read(write("a.jsonl", json_line("zero") + "\n" + line + "\n" + json_line("two")));
    EXPECT_EQ(outcome.texts, Texts{"zero"});
    EXPECT_NE(outcome.error.find("a.jsonl:3: found " + reason), std::string::npos) << outcome.error;
  }
  EXPECT_NE(read(write("a.txt", "one\ntwo \xf8\n")).error.find("a.txt:2: found invalid UTF-8 at byte 5"), std::string::npos);
}

TEST_F(TextReader, BadLinesAreCountedAndPassedOverOnRequest) {
  TextOptions options;
  options.skip_bad_lines = true;
  options.max_document_bytes = 100;
  const std::string lines = json_line("one") + "{\n" + json_line(std::string(200, 'x')) + json_line("two") + "[]\n" + json_line("three");
  const std::string damaged = xz(json_line("four") + json_line("five")).substr(0, 70);
  std::vector<std::string> warnings;
  DocumentReader reader({write("a.jsonl", lines), write("b.jsonl.xz", damaged), write("c.jsonl", json_line("six"))}, options,
                        [&warnings](LogLevel level, std::string_view line) {
                          EXPECT_EQ(level, LogLevel::kWarning);
                          warnings.emplace_back(line);
                        });
  Texts texts;
  Document document;
  while (reader.next(document)) texts.push_back(document.text);
  EXPECT_EQ(texts.front(), "one");
  EXPECT_EQ(texts.back(), "six");
  EXPECT_EQ(reader.bad_lines(), 4u);
  ASSERT_EQ(warnings.size(), 4u);
  EXPECT_NE(warnings[0].find("a.jsonl:2: found invalid JSON"), std::string::npos);
  EXPECT_NE(warnings[1].find("a.jsonl:3: found a line of more than 100 bytes"), std::string::npos);
  EXPECT_NE(warnings[2].find("a.jsonl:5: found JSON of type array"), std::string::npos);
  EXPECT_NE(warnings[3].find("b.jsonl.xz:"), std::string::npos);
}

TEST_F(TextReader, RefusesADocumentBeyondTheLimitWithoutReadingItAll) {
  TextOptions options;
  options.max_document_bytes = 1000;
  const std::string fits(1000 - json_line("").size() + 1, 'x');  // the line end does not count
  EXPECT_EQ(read(write("a.jsonl", json_line(fits) + json_line("two")), options).texts.size(), 2u);
  const auto outcome = read(write("a.jsonl", json_line("one") + json_line(fits + "x") + json_line("two")), options);
  EXPECT_EQ(outcome.texts, Texts{"one"});
  EXPECT_NE(outcome.error.find("a.jsonl:2: found a line of more than 1000 bytes"), std::string::npos) << outcome.error;
  EXPECT_NE(read(write("bomb.txt.xz", xz(std::string(5'000'000, '0'))), options).error.find("a file of more than"), std::string::npos);
}

TEST_F(TextReader, KnowsWhatItRead) {
  const fs::path a = write("a.jsonl.gz", gzip(many_lines(10)));
  const fs::path b = write("b.txt", "text");
  DocumentReader reader({a, b});
  EXPECT_EQ(reader.total_bytes(), fs::file_size(a) + 4);
  Document document;
  while (reader.next(document)) {
  }
  EXPECT_EQ(document.path, b);
  EXPECT_EQ(reader.bytes_read(), reader.total_bytes());
  ASSERT_EQ(reader.sources().size(), 2u);
  EXPECT_EQ(reader.sources()[0].path, a);
  EXPECT_EQ(reader.sources()[0].bytes, fs::file_size(a));
  EXPECT_EQ(reader.sources()[0].hash, file_content_hash(a));
  EXPECT_EQ(reader.sources()[1].hash, file_content_hash(b));
}

TEST_F(TextReader, AFolderStandsForItsTextFilesInOrder) {
  for (const char* name : {"d/b.jsonl.zst", "d/a.txt", "d/c/x.ndjson", "d/c/y.json.gz", "d/README.md", "d/model.bin", "e/none.bin"})
    write(name, "");
  const fs::path single = write("single.raw", "");
  const auto files = list_text_files(std::vector{single, folder_ / "d"});
  const fs::path d = folder_ / "d";
  EXPECT_EQ(files, (std::vector{single, d / "a.txt", d / "b.jsonl.zst", d / "c" / "x.ndjson", d / "c" / "y.json.gz"}));
  expect_error<DataError>({"no text file"}, [this] { list_text_files(std::vector{folder_ / "e"}); });
  expect_error<DataError>({"absent", "no such file"}, [this] { list_text_files(std::vector{folder_ / "absent"}); });
}

// Counts of well-formed sequences by length: 128 characters of one byte, 1,920 of two, 61,440 of three (without surrogates), 2^20 of four.
TEST(Utf8, AcceptsExactlyTheWellFormedSequences) {
  const auto valid = [](std::initializer_list<int> bytes) {
    std::string text;
    for (const int byte : bytes) text += static_cast<char>(byte);
    return find_invalid_utf8(text) == std::string_view::npos;
  };
  int two = 0, three = 0, four = 0;
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      two += valid({a, b});
      if (a < 0x80) continue;
      for (int c = 0; c < 256; ++c) three += valid({a, b, c});
      if (a < 0xf0) continue;
      for (const int c : {0x7f, 0x80, 0xbf, 0xc0}) {
        for (const int d : {0x7f, 0x80, 0xbf, 0xc0}) four += valid({a, b, c, d});
      }
    }
  }
  EXPECT_EQ(two, 128 * 128 + 1920);
  EXPECT_EQ(three, 1920 * 128 + 61440);
  EXPECT_EQ(four, (1 << 20) / 64 / 64 * 4);
  EXPECT_EQ(find_invalid_utf8(std::string(9, 'x') + "\x80"), 9u);
}

}  // namespace
}  // namespace stableqat
