// A folder with a cache and repositories, and a Hub on the loopback interface that serves them (tests/support/hub_server.py).
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stableqat/hub/repository.h"

namespace stableqat::hub {

// Deterministic bytes that do not compress.
std::string noise(std::size_t bytes, unsigned seed);

class HubServerTest : public ::testing::Test {
 protected:
  HubServerTest();
  ~HubServerTest() override;

  // Writes a file of a repository of the Hub, KIND/ORG/NAME/PATH.
  void put(const std::string& path, const std::string& content);
  // Starts the Hub, again with other faults when it runs already. The requests so far are forgotten.
  void serve(const nlohmann::json& faults = nlohmann::json::object());
  void stop_server();

  // Towards the Hub, with short waits.
  HubOptions options() const;
  // Callbacks that keep warnings.
  HubCallbacks callbacks();

  // Requests since serve(): all, or those for one path in a repository's revision.
  std::vector<nlohmann::json> requests(const std::string& path_end = "") const;
  int port() const { return port_; }

  std::filesystem::path folder_;
  std::vector<std::string> warnings_;

 private:
  int process_ = -1;
  int input_ = -1;
  int port_ = 0;
};

}  // namespace stableqat::hub
