#include <utility>

#include "io/strict_json.h"
#include "stableqat/base/error.h"
#include "stableqat/io/safetensors.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

[[noreturn]] void fail(const std::string& where, std::string found, std::string expected) {
  throw DataError({where, std::move(found), std::move(expected), "download the model folder again"});
}

// A shard lies in the folder itself: an index must not reach other files of the machine.
fs::path shard_path(const fs::path& index_path, const std::string& tensor, const nlohmann::json& shard) {
  const std::string where = index_path.string() + ", tensor " + tensor;
  if (!shard.is_string()) fail(where, shard.type_name(), "the name of a shard");
  const fs::path name = shard.get<std::string>();
  if (name.empty() || name != name.filename() || name == "." || name == "..") {
    fail(where, "shard " + name.string(), "a file name without folders");
  }
  return index_path.parent_path() / name;
}

}  // namespace

SafetensorsModel::SafetensorsModel(const fs::path& folder) : folder_(folder) {
  if (fs::exists(folder / kSingleFile)) {
    files_.emplace_back(folder / kSingleFile);
    for (const SafetensorsTensor& tensor : files_.front().tensors()) shard_of_.emplace(tensor.name, 0);
  } else if (fs::exists(folder / kIndexFile)) {
    open_shards(folder / kIndexFile);
  } else if (fs::exists(folder / "pytorch_model.bin") || fs::exists(folder / "pytorch_model.bin.index.json")) {
    throw DataError({folder.string(), "weights as Python pickles (pytorch_model.bin)", "safetensors",
                     "load the model in transformers once and save it again by save_pretrained()"});
  } else {
    throw DataError({folder.string(), fs::is_directory(folder) ? "a folder without weights" : "no such folder",
                     std::string(kSingleFile) + " or " + kIndexFile, "check the path"});
  }
}

void SafetensorsModel::open_shards(const fs::path& index_path) {
  constexpr int kIndexDepth = 8;  // "metadata" may hold anything
  const nlohmann::json index = io::parse_strict_json(read_text_file(index_path), index_path.string(), kIndexDepth);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    fail(index_path.string(), "no table \"weight_map\"", "the shard of each tensor");
  }
  std::map<fs::path, std::size_t> opened;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    const fs::path path = shard_path(index_path, tensor, shard);
    const auto [position, is_new] = opened.emplace(path, files_.size());
    if (is_new) files_.emplace_back(path);
    if (files_[position->second].find_tensor(tensor) == nullptr) {
      fail(path.string(), "no tensor " + tensor, "what " + index_path.filename().string() + " lists");
    }
    shard_of_.emplace(tensor, position->second);
  }
}

std::vector<std::string> SafetensorsModel::names() const {
  std::vector<std::string> names;
  names.reserve(shard_of_.size());
  for (const auto& [name, shard] : shard_of_) names.push_back(name);
  return names;
}

const SafetensorsTensor* SafetensorsModel::find_tensor(std::string_view name) const noexcept {
  const auto shard = shard_of_.find(name);
  return shard == shard_of_.end() ? nullptr : files_[shard->second].find_tensor(name);
}

const SafetensorsFile& SafetensorsModel::file_of(std::string_view name) const {
  const auto shard = shard_of_.find(name);
  if (shard == shard_of_.end()) {
    throw DataError({folder_.string(), "no tensor " + std::string(name), "that tensor", "check that the folder holds the whole model"});
  }
  return files_[shard->second];
}

}  // namespace stableqat
