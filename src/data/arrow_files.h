// Files of Apache Arrow: text columns of Parquet files, and the token blocks of datasets that Hugging Face's `datasets` saved. The only
// place that knows Arrow's headers is arrow_files.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace stableqat {

// The values of one text column, row after row. Memory: one row group.
class ParquetTexts {
 public:
  // Throws DataError for a file that is no Parquet, is truncated, or has no text column of that name (says which it has).
  ParquetTexts(const std::filesystem::path& path, const std::string& column);
  ParquetTexts(const ParquetTexts&) = delete;
  ParquetTexts& operator=(const ParquetTexts&) = delete;
  ~ParquetTexts();

  // False after the last row. A null is an empty text. Throws DataError for damage.
  bool next(std::string& text);

  // Share of the rows read so far, 0 to 1.
  double share_done() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The column "input_ids" of such a dataset, row after row.
class SavedDatasetIds {
 public:
  // Throws DataError for files that are damaged or missing, and for a dataset without that column.
  explicit SavedDatasetIds(const std::filesystem::path& folder);
  SavedDatasetIds(const SavedDatasetIds&) = delete;
  SavedDatasetIds& operator=(const SavedDatasetIds&) = delete;
  ~SavedDatasetIds();

  // False after the last row. Throws DataError for damage and for ids that int32 cannot hold.
  bool next(std::vector<std::int32_t>& ids);

  // The data files, in order.
  const std::vector<std::filesystem::path>& files() const noexcept;
  std::uint64_t total_bytes() const noexcept;
  std::uint64_t bytes_read() const noexcept;  // of the files opened so far

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace stableqat
