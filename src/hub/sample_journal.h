// files.jsonl of a sample: what is done, one JSON object a line, so that an interrupted run goes on behind it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "hub/extract.h"

namespace stableqat::hub {

class SampleJournal {
 public:
  // Reads what is there. A last line that was cut off is removed; throws DataError for any other that is damaged.
  explicit SampleJournal(std::filesystem::path path);

  // The entry of a file that is done, or null.
  const Extracted* find(const std::string& path) const;
  // Adds an entry, on disk when this returns. `output` is relative to the sample's folder. Throws EnvironmentError.
  void add(const std::string& path, const std::string& output, const Extracted& extracted);

 private:
  std::filesystem::path path_;
  std::map<std::string, Extracted> entries_;
};

}  // namespace stableqat::hub
