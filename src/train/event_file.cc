#include "stableqat/train/event_file.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <system_error>

#include "stableqat/base/error.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

static_assert(std::endian::native == std::endian::little, "records are little-endian");

// CRC-32C (Castagnoli), reflected.
constexpr std::array<std::uint32_t, 256> kCrcTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < table.size(); ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82F63B78U : 0U);
    table[i] = value;
  }
  return table;
}();

std::uint32_t masked_crc(std::string_view bytes) {
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char c : bytes) crc = kCrcTable[(crc ^ static_cast<std::uint8_t>(c)) & 0xFFU] ^ (crc >> 8);
  crc = ~crc;
  return std::rotr(crc, 15) + 0xA282EAD8U;
}

template <class T>
void append_value(std::string& bytes, T value) {
  std::array<char, sizeof value> raw;
  std::memcpy(raw.data(), &value, sizeof value);
  bytes.append(raw.data(), raw.size());
}

// A protocol buffer message under construction. Fields are numbered as in the .proto files.
class Message {
 public:
  void add_varint(int field, std::uint64_t value) {
    tag(field, 0);
    varint(value);
  }
  void add_double(int field, double value) {
    tag(field, 1);
    append_value(bytes_, value);
  }
  void add_float(int field, float value) {
    tag(field, 5);
    append_value(bytes_, value);
  }
  void add_bytes(int field, std::string_view value) {
    tag(field, 2);
    varint(value.size());
    bytes_ += value;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void tag(int field, unsigned wire_type) { varint(static_cast<std::uint64_t>(field) << 3 | wire_type); }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

std::string record_of(const Message& event) {
  std::string record;
  append_value(record, static_cast<std::uint64_t>(event.bytes().size()));
  append_value(record, masked_crc(record));
  record += event.bytes();
  append_value(record, masked_crc(event.bytes()));
  return record;
}

Message event_at(double wall_time, std::int64_t step) {
  Message event;
  event.add_double(1, wall_time);
  if (step != 0) event.add_varint(2, static_cast<std::uint64_t>(step));
  return event;
}

// HistogramProto: a bucket ends at its limit; each whole number is the middle of one.
std::string histogram(const HistogramValue& value) {
  double count = 0.0, sum = 0.0, squares = 0.0, least = 0.0, most = 0.0;
  std::string limits, buckets;
  for (std::size_t i = 0; i < value.counts.size(); ++i) {
    const double number = static_cast<double>(value.first + static_cast<std::int64_t>(i));
    const double times = static_cast<double>(value.counts[i]);
    if (times > 0.0) {
      if (count == 0.0) least = number;
      most = number;
    }
    count += times;
    sum += times * number;
    squares += times * number * number;
    append_value(limits, number + 0.5);
    append_value(buckets, times);
  }
  Message message;
  message.add_double(1, least);
  message.add_double(2, most);
  message.add_double(3, count);
  message.add_double(4, sum);
  message.add_double(5, squares);
  message.add_bytes(6, limits);
  message.add_bytes(7, buckets);
  return message.bytes();
}

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

fs::path file_name() {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host = {"localhost"};
  return "events.out.tfevents." + std::to_string(static_cast<std::int64_t>(now())) + "." + host.data() + "." + std::to_string(::getpid());
}

}  // namespace

std::string event_record_of_version(double wall_time) {
  Message event = event_at(wall_time, 0);
  event.add_bytes(3, "brain.Event:2");
  return record_of(event);
}

std::string event_record(double wall_time, std::int64_t step, std::span<const ScalarValue> scalars,
                         std::span<const HistogramValue> histograms) {
  Message summary;
  for (const ScalarValue& scalar : scalars) {
    Message value;
    value.add_bytes(1, scalar.tag);
    value.add_float(2, scalar.value);
    summary.add_bytes(1, value.bytes());
  }
  for (const HistogramValue& entry : histograms) {
    Message value;
    value.add_bytes(1, entry.tag);
    value.add_bytes(5, histogram(entry));
    summary.add_bytes(1, value.bytes());
  }
  Message event = event_at(wall_time, step);
  event.add_bytes(5, summary.bytes());
  return record_of(event);
}

std::string event_record_of_restart(double wall_time, std::int64_t step) {
  constexpr std::uint64_t kStart = 1;  // SessionLog.SessionStatus
  Message session;
  session.add_varint(1, kStart);
  Message event = event_at(wall_time, step);
  event.add_bytes(7, session.bytes());
  return record_of(event);
}

EventFile::EventFile(const fs::path& folder, std::int64_t first_step) : path_(folder / file_name()) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw EnvironmentError({folder.string(), error.message(), "a folder that can be made", "choose another train.logging_dir"});
  write(event_record_of_version(now()));
  if (first_step > 0) write(event_record_of_restart(now(), first_step + 1));
}

void EventFile::append(std::int64_t step, std::span<const ScalarValue> scalars, std::span<const HistogramValue> histograms) {
  write(event_record(now(), step, scalars, histograms));
}

void EventFile::write(std::string_view record) const {
  std::ofstream file(path_, std::ios::app | std::ios::binary);
  file.write(record.data(), static_cast<std::streamsize>(record.size())).flush();
  if (!file) throw EnvironmentError({path_.string(), std::generic_category().message(errno), "a writable file", "free space on that disk"});
}

}  // namespace stableqat
