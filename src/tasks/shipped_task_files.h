// The files of eval/tasks as text; the source is written by CMake.
#pragma once

#include <span>
#include <string_view>

namespace stableqat::tasks {

struct ShippedFile {
  std::string_view name;  // without a folder
  std::string_view text;
};
std::span<const ShippedFile> shipped_task_files();

}  // namespace stableqat::tasks
