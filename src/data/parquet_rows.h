// Whole rows of Parquet files as JSON objects.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>

namespace stableqat {

// Calls `take` for each row, in order, with one member for each column: strings, booleans, integers, floating-point numbers, lists and
// structs of these; a null is null. Memory: one row group. Throws DataError for a file that is no Parquet or damaged, and for other types.
void for_each_parquet_row(const std::filesystem::path& path, const std::function<void(nlohmann::json)>& take);

}  // namespace stableqat
