#include "data/arrow_files.h"

#include <arrow/array.h>
#include <arrow/io/file.h>
#include <arrow/ipc/reader.h>
#include <arrow/record_batch.h>
#include <arrow/table.h>
#include <parquet/arrow/reader.h>
#include <parquet/exception.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void refuse(const fs::path& path, const std::string& found, const std::string& expected) {
  throw DataError({path.string(), found, expected, "fetch or make the file again"});
}

void check(const arrow::Status& status, const fs::path& path) {
  if (!status.ok()) refuse(path, status.message(), "a whole file");
}

template <class T>
T value_of(arrow::Result<T> result, const fs::path& path) {
  check(result.status(), path);
  return std::move(result).ValueUnsafe();
}

std::string names_of(const arrow::Schema& schema) {
  std::string names;
  for (const std::string& name : schema.field_names()) names += (names.empty() ? "" : ", ") + name;
  return names.empty() ? "no columns" : "the columns " + names;
}

std::string_view text_at(const arrow::Array& array, std::int64_t row) {
  if (array.IsNull(row)) return {};
  if (array.type_id() == arrow::Type::LARGE_STRING) return static_cast<const arrow::LargeStringArray&>(array).GetView(row);
  return static_cast<const arrow::StringArray&>(array).GetView(row);
}

// Integers of any width as ids.
template <class Array>
void append_ids(const arrow::Array& values, std::int64_t begin, std::int64_t end, const fs::path& path, std::vector<std::int32_t>& ids) {
  const auto& typed = static_cast<const Array&>(values);
  for (std::int64_t i = begin; i < end; ++i) {
    const auto value = static_cast<std::int64_t>(typed.Value(i));
    if (typed.IsNull(i) || value < 0 || value > std::numeric_limits<std::int32_t>::max()) {
      refuse(path, "an id that is missing, negative or huge", "token ids");
    }
    ids.push_back(static_cast<std::int32_t>(value));
  }
}

void append_ids(const arrow::Array& values, std::int64_t begin, std::int64_t end, const fs::path& path, std::vector<std::int32_t>& ids) {
  switch (values.type_id()) {
    case arrow::Type::INT32:
      return append_ids<arrow::Int32Array>(values, begin, end, path, ids);
    case arrow::Type::INT64:
      return append_ids<arrow::Int64Array>(values, begin, end, path, ids);
    case arrow::Type::UINT16:
      return append_ids<arrow::UInt16Array>(values, begin, end, path, ids);
    case arrow::Type::UINT32:
      return append_ids<arrow::UInt32Array>(values, begin, end, path, ids);
    default:
      refuse(path, "input_ids of type " + values.type()->ToString(), "lists of integers");
  }
}

template <class List>
void append_row(const List& list, std::int64_t row, const fs::path& path, std::vector<std::int32_t>& ids) {
  append_ids(*list.values(), list.value_offset(row), list.value_offset(row) + list.value_length(row), path, ids);
}

std::vector<fs::path> data_files(const fs::path& folder) {
  const fs::path state = folder / "state.json";
  try {
    std::vector<fs::path> files;
    const nlohmann::json json = nlohmann::json::parse(read_text_file(state));
    for (const nlohmann::json& file : json.at("_data_files")) files.push_back(folder / file.at("filename").get<std::string>());
    return files;
  } catch (const nlohmann::json::exception&) {
    refuse(state, "no list of data files", "what save_to_disk() writes");
  }
}

}  // namespace

struct ParquetTexts::State {
  fs::path path;
  std::unique_ptr<parquet::arrow::FileReader> reader;
  int column = 0;
  int next_group = 0;
  std::shared_ptr<arrow::ChunkedArray> group;
  int chunk = 0;
  std::int64_t row = 0;  // in the chunk
  std::int64_t rows_done = 0;

  // Parquet's own layer reports damage by exceptions.
  template <class Read>
  auto guarded(Read read) const {
    try {
      return read();
    } catch (const parquet::ParquetException& error) {
      refuse(path, error.what(), "a whole Parquet file");
    }
  }
};

ParquetTexts::ParquetTexts(const fs::path& path, const std::string& column) : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->guarded([&] {
    auto file = value_of(arrow::io::ReadableFile::Open(path.string()), path);
    state_->reader = value_of(parquet::arrow::OpenFile(std::move(file), arrow::default_memory_pool()), path);
    std::shared_ptr<arrow::Schema> schema;
    check(state_->reader->GetSchema(&schema), path);
    const int index = schema->GetFieldIndex(column);
    if (index < 0) {
      throw DataError({path.string(), names_of(*schema), "a column \"" + column + "\"", "choose the column that holds the text"});
    }
    const arrow::Type::type type = schema->field(index)->type()->id();
    if (type != arrow::Type::STRING && type != arrow::Type::LARGE_STRING) {
      refuse(path, "column \"" + column + "\" of type " + schema->field(index)->type()->ToString(), "a column of text");
    }
    state_->column = index;
  });
}

ParquetTexts::~ParquetTexts() = default;

bool ParquetTexts::next(std::string& text) {
  State& s = *state_;
  while (true) {
    if (s.group == nullptr) {
      if (s.next_group == s.reader->num_row_groups()) return false;
      s.guarded([&] { check(s.reader->RowGroup(s.next_group)->Column(s.column)->Read(&s.group), s.path); });
      ++s.next_group;
      s.chunk = 0;
      s.row = 0;
    }
    while (s.chunk < s.group->num_chunks()) {
      const arrow::Array& array = *s.group->chunk(s.chunk);
      if (s.row < array.length()) {
        text = text_at(array, s.row++);
        ++s.rows_done;
        return true;
      }
      ++s.chunk;
      s.row = 0;
    }
    s.group = nullptr;
  }
}

double ParquetTexts::share_done() const noexcept {
  const std::int64_t rows = state_->reader->parquet_reader()->metadata()->num_rows();
  return rows == 0 ? 1.0 : static_cast<double>(state_->rows_done) / static_cast<double>(rows);
}

struct SavedDatasetIds::State {
  std::vector<fs::path> files;
  std::size_t next_file = 0;
  std::shared_ptr<arrow::ipc::RecordBatchStreamReader> reader;
  std::shared_ptr<arrow::Array> column;
  std::int64_t row = 0;
  std::uint64_t total_bytes = 0;
  std::uint64_t bytes_read = 0;

  const fs::path& path() const { return files[next_file - 1]; }

  void open_next_file() {
    const fs::path& file = files[next_file++];
    bytes_read += fs::file_size(file);
    auto input = value_of(arrow::io::MemoryMappedFile::Open(file.string(), arrow::io::FileMode::READ), file);
    reader = value_of(arrow::ipc::RecordBatchStreamReader::Open(std::move(input)), file);
    if (reader->schema()->GetFieldIndex("input_ids") < 0) refuse(file, names_of(*reader->schema()), "a column \"input_ids\"");
  }

  // False after the last batch of the last file.
  bool read_batch() {
    while (true) {
      if (reader == nullptr) {
        if (next_file == files.size()) return false;
        open_next_file();
      }
      std::shared_ptr<arrow::RecordBatch> batch;
      check(reader->ReadNext(&batch), path());
      if (batch == nullptr) {
        reader = nullptr;
        continue;
      }
      check(batch->Validate(), path());
      column = batch->GetColumnByName("input_ids");
      row = 0;
      return true;
    }
  }
};

SavedDatasetIds::SavedDatasetIds(const fs::path& folder) : state_(std::make_unique<State>()) {
  state_->files = data_files(folder);
  for (const fs::path& file : state_->files) {
    if (!fs::exists(file)) refuse(file, "no such file", "every file that state.json names");
    state_->total_bytes += fs::file_size(file);
  }
}
SavedDatasetIds::~SavedDatasetIds() = default;

const std::vector<fs::path>& SavedDatasetIds::files() const noexcept { return state_->files; }

std::uint64_t SavedDatasetIds::total_bytes() const noexcept { return state_->total_bytes; }
std::uint64_t SavedDatasetIds::bytes_read() const noexcept { return state_->bytes_read; }

bool SavedDatasetIds::next(std::vector<std::int32_t>& ids) {
  State& s = *state_;
  while (s.column == nullptr || s.row == s.column->length()) {
    if (!s.read_batch()) return false;
  }
  ids.clear();
  const std::int64_t row = s.row++;
  if (s.column->type_id() == arrow::Type::LIST) {
    append_row(static_cast<const arrow::ListArray&>(*s.column), row, s.path(), ids);
  } else if (s.column->type_id() == arrow::Type::LARGE_LIST) {
    append_row(static_cast<const arrow::LargeListArray&>(*s.column), row, s.path(), ids);
  } else if (s.column->type_id() == arrow::Type::FIXED_SIZE_LIST) {
    append_row(static_cast<const arrow::FixedSizeListArray&>(*s.column), row, s.path(), ids);
  } else {
    refuse(s.path(), "input_ids of type " + s.column->type()->ToString(), "lists of integers");
  }
  return true;
}

}  // namespace stableqat
