#include "train/run_identity.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <sstream>
#include <utility>

#include "stableqat/base/file.h"

namespace stableqat {

namespace {

constexpr std::uint64_t kBlocks = 64;
constexpr std::uint64_t kBlockTokens = 1024;

std::string fingerprint(const WeightedStream& part) {
  const TokenStream& stream = *part.stream;
  std::string hashes;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(std::min(stream.size(), kBlockTokens)));
  for (std::uint64_t block = 0; block < kBlocks; ++block) {
    stream.read((stream.size() - ids.size()) / kBlocks * block, ids);
    hashes += content_hash(std::as_bytes(std::span(ids)));
  }
  return std::to_string(stream.size()) + " tokens, fingerprint " + content_hash(std::as_bytes(std::span(hashes)));
}

std::string hash_of(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.detach().contiguous();
  return content_hash({static_cast<const std::byte*>(dense.const_data_ptr()), static_cast<std::size_t>(dense.nbytes())});
}

// "section.key" and its text, for each line of a resolved configuration.
std::vector<std::pair<std::string, std::string>> keys_and_values(const std::string& yaml) {
  std::vector<std::pair<std::string, std::string>> result;
  std::istringstream lines(yaml);
  std::string section;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(':');
    const std::size_t start = line.find_first_not_of(' ');
    if (colon == std::string::npos) continue;
    const std::string name = line.substr(start, colon - start);
    if (start == 0) {
      section = name;
    } else {
      result.emplace_back(section + "." + name, line.substr(std::min(line.size(), colon + 2)));
    }
  }
  return result;
}

}  // namespace

void require_same_config(Communicator& communicator, const TrainConfig& config) {
  TrainConfig compared = config;
  compared.train.threads = 0;
  const std::string yaml = to_yaml(compared);
  const std::vector<std::string> all = communicator.all_gather_text(yaml);
  if (std::all_of(all.begin(), all.end(), [&](const std::string& other) { return other == all[0]; })) return;
  for (const auto& [key, value] : keys_and_values(yaml)) require_same(communicator, key, value);
}

void require_same_data(Communicator& communicator, const std::vector<WeightedStream>& streams) {
  if (communicator.ranks() == 1) return;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const std::string what = streams.size() == 1 ? "data.train" : "data.mixture, item " + std::to_string(i + 1);
    require_same(communicator, what, fingerprint(streams[i]));
  }
}

void require_same_model(Communicator& communicator, QuantizedModel& model) {
  if (communicator.ranks() == 1) return;
  std::string hashes;
  for (const QuantizedWeight& weight : model.weights()) hashes += hash_of(weight.codes()) + hash_of(weight.step());
  std::size_t next = 0;
  model.model().visit_parameters([&](const std::string&, ParameterRole, at::Tensor& value) {
    if (next < model.weights().size() && model.weights()[next].dequantized().is_same(value)) {
      ++next;
    } else {
      hashes += hash_of(value);
    }
  });
  require_same(communicator, "model.path", "a model with fingerprint " + content_hash(std::as_bytes(std::span(hashes))));
}

}  // namespace stableqat
