// Files of Apache Arrow that pyarrow and Hugging Face's `datasets` wrote (tools/make_arrow_fixtures.py).
#include <gtest/gtest.h>

#include <numeric>

#include "data_fixtures.h"
#include "io_fixtures.h"
#include "stableqat/data/saved_dataset.h"
#include "stableqat/data/text_reader.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = fs::path(STABLEQAT_TEST_DATA) / "arrow";
const std::vector<std::string> kTexts{"first", "", "", "zweite \xc3\xbc", "line\nbreak", "last"};

class Arrow : public DataTest {
 protected:
  static std::vector<std::string> texts_of(const fs::path& path, TextOptions options = {}) {
    DocumentReader reader(list_text_files({&path, 1}), options);
    std::vector<std::string> texts;
    for (Document document; reader.next(document);) {
      EXPECT_EQ(document.line, texts.size() + 1);
      texts.push_back(document.text);
    }
    EXPECT_EQ(reader.bytes_read(), reader.total_bytes());
    EXPECT_EQ(reader.sources().at(0).hash, file_content_hash(path));
    return texts;
  }

  // A copy without its last bytes.
  fs::path truncated(const fs::path& path, std::size_t kept) const {
    return write(path.filename().string(), read_text_file(path).substr(0, kept));
  }
};

TEST_F(Arrow, ParquetTextsAreReadRowByRow) {
  EXPECT_EQ(texts_of(kFolder / "texts.parquet"), kTexts);
  TextOptions options;
  options.json_key = "content";
  EXPECT_EQ(texts_of(kFolder / "large.parquet", options), kTexts);
}

TEST_F(Arrow, ParquetFilesThatCannotBeUsedAreNamed) {
  TextOptions options;
  options.json_key = "body";
  expect_error<DataError>({"texts.parquet", "id, text, meta", "\"body\""}, [&] { texts_of(kFolder / "texts.parquet", options); });
  options.json_key = "id";
  expect_error<DataError>({"texts.parquet", "\"id\"", "int64"}, [&] { texts_of(kFolder / "texts.parquet", options); });
  const std::size_t size = fs::file_size(kFolder / "texts.parquet");
  for (const std::size_t kept : {std::size_t{0}, std::size_t{4}, size / 2, size - 1}) {
    expect_error<DataError>({"texts.parquet"}, [&] { texts_of(truncated(kFolder / "texts.parquet", kept)); });
  }
}

TEST_F(Arrow, ADamagedParquetFileCountsAsOneBadRecordWhereThoseAreSkipped) {
  const fs::path damaged = truncated(kFolder / "texts.parquet", 100);
  const std::vector<fs::path> files{damaged, kFolder / "texts.parquet"};
  TextOptions options;
  options.skip_bad_lines = true;
  DocumentReader reader(files, options);
  std::size_t documents = 0;
  for (Document document; reader.next(document);) ++documents;
  EXPECT_EQ(documents, kTexts.size());
  EXPECT_EQ(reader.bad_lines(), 1u);
  EXPECT_EQ(reader.sources().size(), 2u);
}

TEST_F(Arrow, SavedDatasetsBecomeTokenFiles) {
  EXPECT_TRUE(is_saved_dataset(kFolder / "saved" / "train_data"));
  EXPECT_FALSE(is_saved_dataset(kFolder));
  const auto info = import_saved_dataset(kFolder / "saved" / "train_data", byte_encoder(), folder_ / "out");
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->documents, 10u);
  const TokenFile file(folder_ / "out");
  std::vector<std::int32_t> ids(file.size());
  file.read(0, ids);
  std::vector<std::int32_t> expected(80);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(ids, expected);
}

TEST_F(Arrow, SavedDatasetsThatCannotBeUsedAreNamed) {
  TokenEncoder encoder = byte_encoder();
  encoder.vocabulary_size = 70;
  const fs::path source = kFolder / "saved" / "train_data";
  expect_error<DataError>({"train_data", "id 70", "below 70"}, [&] { import_saved_dataset(source, encoder, folder_ / "out"); });
  EXPECT_TRUE(names().empty());
  const fs::path copy = folder_ / "copy";
  fs::copy(source, copy);
  const std::string whole = read_text_file(copy / "data-00001-of-00002.arrow");
  for (const std::size_t kept : {std::size_t{0}, std::size_t{10}, whole.size() / 2}) {
    write_text_file(copy / "data-00001-of-00002.arrow", whole.substr(0, kept));
    expect_error<DataError>({"data-00001-of-00002.arrow"}, [&] { import_saved_dataset(copy, byte_encoder(), folder_ / "out"); });
  }
  fs::remove(copy / "data-00001-of-00002.arrow");
  expect_error<DataError>({"data-00001-of-00002.arrow", "no such file"},
                          [&] { import_saved_dataset(copy, byte_encoder(), folder_ / "out"); });
  write_text_file(copy / "state.json", "{}");
  expect_error<DataError>({"state.json"}, [&] { import_saved_dataset(copy, byte_encoder(), folder_ / "out"); });
}

}  // namespace
}  // namespace stableqat
