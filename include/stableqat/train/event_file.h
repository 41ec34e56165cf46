// Event files, the logs that TensorBoard opens: records of TensorFlow's TFRecord format (length, masked CRC-32C of the length, data, masked
// CRC-32C of the data), each an Event message of its protocol buffers (tensorboard/compat/proto/event.proto, summary.proto).
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace stableqat {

// One number under a name, such as "train/loss".
struct ScalarValue {
  std::string tag;
  float value = 0.0F;
};

// Counts of whole numbers first, first + 1, ...: what codes are.
struct HistogramValue {
  std::string tag;
  std::int64_t first = 0;
  std::span<const std::uint64_t> counts;
};

// Bytes of one record; apart from the file, for tests. `wall_time` in seconds since 1970.
std::string event_record_of_version(double wall_time);
std::string event_record(double wall_time, std::int64_t step, std::span<const ScalarValue> scalars,
                         std::span<const HistogramValue> histograms);
// Tells TensorBoard that what an earlier file of this folder says of later steps is void.
std::string event_record_of_restart(double wall_time, std::int64_t step);

// Appends records to a file of its own, FOLDER/events.out.tfevents.TIME.HOST.PID; each is on its way to the disk when append() returns. Not
// thread-safe.
class EventFile {
 public:
  // Makes the folder. `first_step` > 0: the run goes on there. Throws EnvironmentError, as the other members do.
  EventFile(const std::filesystem::path& folder, std::int64_t first_step);

  void append(std::int64_t step, std::span<const ScalarValue> scalars, std::span<const HistogramValue> histograms = {});

  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  void write(std::string_view record) const;

  std::filesystem::path path_;
};

}  // namespace stableqat
