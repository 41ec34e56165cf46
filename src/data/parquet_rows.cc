#include "data/parquet_rows.h"

#include <arrow/array.h>
#include <arrow/io/file.h>
#include <arrow/table.h>
#include <parquet/arrow/reader.h>
#include <parquet/exception.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "stableqat/base/error.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

using nlohmann::json;

[[noreturn]] void refuse(const fs::path& path, const std::string& found) {
  throw DataError(
      {path.string(), found, "a whole Parquet file of texts, numbers, lists and structs", "fetch it again, or convert it to JSON lines"});
}

void check(const arrow::Status& status, const fs::path& path) {
  if (!status.ok()) refuse(path, status.message());
}

template <class T>
T value_of(arrow::Result<T> result, const fs::path& path) {
  check(result.status(), path);
  return std::move(result).ValueUnsafe();
}

json json_at(const arrow::Array& array, std::int64_t row, const fs::path& path);

template <class Array>
json value_at(const arrow::Array& array, std::int64_t row) {
  return static_cast<const Array&>(array).Value(row);
}

template <class Array>
json text_at(const arrow::Array& array, std::int64_t row) {
  return std::string(static_cast<const Array&>(array).GetView(row));
}

template <class Array>
json list_at(const arrow::Array& array, std::int64_t row, const fs::path& path) {
  const auto& list = static_cast<const Array&>(array);
  json items = json::array();
  for (std::int64_t i = 0; i < list.value_length(row); ++i) items.push_back(json_at(*list.values(), list.value_offset(row) + i, path));
  return items;
}

json struct_at(const arrow::StructArray& array, std::int64_t row, const fs::path& path) {
  json object = json::object();
  for (int i = 0; i < array.num_fields(); ++i) object[array.struct_type()->field(i)->name()] = json_at(*array.field(i), row, path);
  return object;
}

json json_at(const arrow::Array& array, std::int64_t row, const fs::path& path) {
  if (array.IsNull(row)) return nullptr;
  switch (array.type_id()) {
    case arrow::Type::STRING:
      return text_at<arrow::StringArray>(array, row);
    case arrow::Type::LARGE_STRING:
      return text_at<arrow::LargeStringArray>(array, row);
    case arrow::Type::BOOL:
      return value_at<arrow::BooleanArray>(array, row);
    case arrow::Type::INT8:
      return value_at<arrow::Int8Array>(array, row);
    case arrow::Type::INT16:
      return value_at<arrow::Int16Array>(array, row);
    case arrow::Type::INT32:
      return value_at<arrow::Int32Array>(array, row);
    case arrow::Type::INT64:
      return value_at<arrow::Int64Array>(array, row);
    case arrow::Type::UINT8:
      return value_at<arrow::UInt8Array>(array, row);
    case arrow::Type::FLOAT:
      return value_at<arrow::FloatArray>(array, row);
    case arrow::Type::DOUBLE:
      return value_at<arrow::DoubleArray>(array, row);
    case arrow::Type::LIST:
      return list_at<arrow::ListArray>(array, row, path);
    case arrow::Type::LARGE_LIST:
      return list_at<arrow::LargeListArray>(array, row, path);
    case arrow::Type::STRUCT:
      return struct_at(static_cast<const arrow::StructArray&>(array), row, path);
    default:
      refuse(path, "a column of type " + array.type()->ToString());
  }
}

void take_group(const arrow::Table& table, const fs::path& path, const std::function<void(json)>& take) {
  arrow::TableBatchReader reader(table);
  std::shared_ptr<arrow::RecordBatch> batch;
  for (check(reader.ReadNext(&batch), path); batch != nullptr; check(reader.ReadNext(&batch), path)) {
    for (std::int64_t row = 0; row < batch->num_rows(); ++row) {
      json object = json::object();
      for (int i = 0; i < batch->num_columns(); ++i) object[batch->column_name(i)] = json_at(*batch->column(i), row, path);
      take(std::move(object));
    }
  }
}

}  // namespace

void for_each_parquet_row(const fs::path& path, const std::function<void(json)>& take) {
  try {
    auto file = value_of(arrow::io::ReadableFile::Open(path.string()), path);
    const auto reader = value_of(parquet::arrow::OpenFile(std::move(file), arrow::default_memory_pool()), path);
    for (int group = 0; group < reader->num_row_groups(); ++group) {
      take_group(*value_of(reader->ReadRowGroup(group), path), path, take);
    }
  } catch (const parquet::ParquetException& error) {  // Parquet's own layer reports damage so
    refuse(path, error.what());
  }
}

}  // namespace stableqat
