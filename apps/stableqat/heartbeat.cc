#include "heartbeat.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <ctime>
#include <memory>
#include <string>
#include <utility>

#include "stableqat/dist/launch_environment.h"

namespace stableqat::app {

namespace {

class HeartbeatFile {
 public:
  explicit HeartbeatFile(const std::string& path) : descriptor_(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644)) {}
  HeartbeatFile(const HeartbeatFile&) = delete;
  HeartbeatFile& operator=(const HeartbeatFile&) = delete;
  ~HeartbeatFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  // Lines grow only, so that nobody reads parts of two.
  void write(const Progress& progress) const {
    const std::string line = fmt::format("{} {} {}\n", progress.done, progress.total, std::time(nullptr));
    (void)!::pwrite(descriptor_, line.data(), line.size(), 0);
  }

 private:
  int descriptor_;
};

}  // namespace

ProgressCallback with_heartbeat(ProgressCallback next) {
  const auto path = environment_variable("STABLEQAT_HEARTBEAT");
  if (!path) return next;
  return [file = std::make_shared<HeartbeatFile>(*path), next = std::move(next)](const Progress& progress) {
    if (progress.stage == "training") file->write(progress);
    if (next) next(progress);
  };
}

}  // namespace stableqat::app
