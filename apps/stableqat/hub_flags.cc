#include "hub_flags.h"

#include <charconv>
#include <cmath>
#include <string_view>

#include "stableqat/base/error.h"

namespace stableqat::app {

void add_hub_flags(CLI::App& command, HubFlags& flags) {
  command.add_option("--revision", flags.revision, "Branch, tag or commit")->type_name("NAME")->capture_default_str();
  command.add_option("--cache-dir", flags.cache, "Where files are kept, shared with huggingface_hub [HF_HUB_CACHE, HF_HOME/hub]")
      ->type_name("DIR");
  command.add_option("--parallel", flags.parallel, "Files fetched at the same time")
      ->type_name("N")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command.add_flag("--verify", flags.verify, "Hash files that are already in the cache, instead of looking at their size only");
}

hub::HubOptions hub_options(const HubFlags& flags) {
  hub::HubOptions options = hub::hub_options_from_environment();
  if (!flags.cache.empty()) options.cache = flags.cache;
  options.parallel_downloads = flags.parallel;
  options.verify_cached = flags.verify;
  return options;
}

std::uint64_t parse_count(const std::string& flag, const std::string& text) {
  constexpr double kMost = 1e13;
  double number = 0.0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view suffix(parsed.ptr, static_cast<std::size_t>(text.data() + text.size() - parsed.ptr));
  double factor = suffix.empty() ? 1.0 : 0.0;
  if (suffix == "k") factor = 1e3;
  if (suffix == "M") factor = 1e6;
  if (suffix == "B") factor = 1e9;
  if (suffix == "T") factor = 1e12;
  const double count = std::round(number * factor);
  if (parsed.ec != std::errc{} || factor == 0.0 || !(count >= 1.0 && count <= kMost)) {
    throw ConfigError({flag, "'" + text + "'", "a number from 1 to 10T, such as 500M, 20B or 20e9", ""});
  }
  return static_cast<std::uint64_t>(count);
}

}  // namespace stableqat::app
