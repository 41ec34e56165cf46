// Flags and messages that the commands of the Hub share.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "stableqat/hub/repository.h"

namespace stableqat::app {

struct HubFlags {
  std::string revision = "main";
  std::string cache;  // "" = as the environment says
  int parallel = 8;
  bool verify = false;
};

void add_hub_flags(CLI::App& command, HubFlags& flags);

// The environment's options with the flags on top.
hub::HubOptions hub_options(const HubFlags& flags);

// "20000000000", "20e9" or "20B" (k, M, B, T). Throws ConfigError, naming `flag`, for anything else.
std::uint64_t parse_count(const std::string& flag, const std::string& text);

}  // namespace stableqat::app
