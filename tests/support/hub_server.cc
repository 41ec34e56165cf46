#include "support/hub_server.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <mutex>
#include <random>

namespace stableqat::hub {

namespace fs = std::filesystem;

namespace {

struct Pipe {
  std::array<int, 2> ends{};
  Pipe() {
    if (::pipe(ends.data()) != 0) throw std::runtime_error("pipe");
  }
};

}  // namespace

std::string noise(std::size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random() & 0xffU);
  return text;
}

HubServerTest::HubServerTest() {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  folder_ = fs::temp_directory_path() / ("stableqat_hub_" + std::string(test->name()) + "_" + std::to_string(::getpid()));
  fs::create_directories(folder_);
}

HubServerTest::~HubServerTest() {
  stop_server();
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

void HubServerTest::put(const std::string& path, const std::string& content) {
  const fs::path file = folder_ / "hub" / path;
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << content;
}

void HubServerTest::serve(const nlohmann::json& faults) {
  stop_server();
  fs::remove(folder_ / "log");
  const std::string hub = folder_ / "hub";
  const std::string log = folder_ / "log";
  const std::string text = faults.dump();
  Pipe to_server;
  Pipe from_server;
  process_ = ::fork();
  if (process_ == 0) {
    ::dup2(to_server.ends[0], STDIN_FILENO);
    ::dup2(from_server.ends[1], STDOUT_FILENO);
    for (const int end : {to_server.ends[0], to_server.ends[1], from_server.ends[0], from_server.ends[1]}) ::close(end);
    ::execlp("python3", "python3", STABLEQAT_SOURCE_DIR "/tests/support/hub_server.py", hub.c_str(), log.c_str(), text.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(to_server.ends[0]);
  ::close(from_server.ends[1]);
  input_ = to_server.ends[1];
  std::string answer;
  for (char c = 0; ::read(from_server.ends[0], &c, 1) == 1 && c != '\n';) answer += c;
  ::close(from_server.ends[0]);
  port_ = answer.empty() ? 0 : std::stoi(answer);
  ASSERT_GT(port_, 0) << "python3 could not run tests/support/hub_server.py";
}

void HubServerTest::stop_server() {
  if (process_ < 0) return;
  ::close(input_);
  ::waitpid(process_, nullptr, 0);
  process_ = -1;
}

HubOptions HubServerTest::options() const {
  HubOptions options;
  options.endpoint = "http://127.0.0.1:" + std::to_string(port_);
  options.cache = folder_ / "cache";
  options.attempts = 4;
  options.first_wait = std::chrono::milliseconds(10);
  options.longest_wait = std::chrono::milliseconds(40);
  return options;
}

HubCallbacks HubServerTest::callbacks() {
  static std::mutex mutex;
  HubCallbacks callbacks;
  callbacks.log = [this](LogLevel level, std::string_view line) {
    const std::lock_guard lock(mutex);
    if (level == LogLevel::kWarning) warnings_.emplace_back(line);
  };
  return callbacks;
}

std::vector<nlohmann::json> HubServerTest::requests(const std::string& path_end) const {
  std::vector<nlohmann::json> found;
  std::ifstream log(folder_ / "log");
  for (std::string line; std::getline(log, line);) {
    auto entry = nlohmann::json::parse(line);
    if (entry.at("path").get<std::string>().ends_with(path_end)) found.push_back(std::move(entry));
  }
  return found;
}

}  // namespace stableqat::hub
