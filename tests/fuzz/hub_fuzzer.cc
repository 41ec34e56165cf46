// Whatever the Hub's API answers, or a plan on disk holds, is refused with DataError or gives paths and digests that are safe file names.
// Input: one character that says what the rest is: t(ree page), c(ommit), p(lan), l(ink header).
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <vector>

#include "hub/digest.h"
#include "hub/tree.h"
#include "stableqat/base/error.h"
#include "stableqat/hub/sample.h"

namespace hub = stableqat::hub;

namespace {

void require_safe(const hub::HubFile& file) {
  const std::filesystem::path path(file.path);
  if (path.is_absolute() || path.lexically_normal() != path || *path.begin() == ".." || !hub::is_digest(file.digest)) std::abort();
}

void check(char kind, std::string_view text) {
  if (kind == 't') {
    std::vector<hub::HubFile> files;
    hub::parse_tree_page(text, "fuzzed", files);
    for (const hub::HubFile& file : files) require_safe(file);
  } else if (kind == 'c') {
    if (!hub::is_digest(hub::parse_commit(text, "fuzzed"))) std::abort();
  } else if (kind == 'p') {
    const hub::SamplePlan plan = hub::parse_sample_plan(text, "fuzzed");
    for (const hub::PlannedChunk& chunk : plan.chunks) {
      for (const hub::PlannedFile& planned : chunk.drawn) require_safe(planned.file);
    }
    const std::string json = hub::to_json(plan);
    if (hub::to_json(hub::parse_sample_plan(json, "again")) != json) std::abort();
  } else {
    const std::string query = hub::next_page_query(text);
    if (!query.empty() && query.front() != '?') std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    check(text.front(), text.substr(1));
  } catch (const stableqat::DataError&) {
  }
  return 0;
}
