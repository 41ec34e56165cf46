// Work in processes of its own. A program of its own: a fork needs a process without threads.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/memory.h"
#include "stableqat/bench/isolated.h"

namespace stableqat::bench {
namespace {

using Json = nlohmann::json;

Isolated adder(int start) {
  return Isolated([start] { return [sum = start](const Json& request) mutable -> Json { return sum += request.get<int>(); }; });
}

TEST(Isolated, KeepsItsStateAndTakesTurnsWithOthers) {
  Isolated a = adder(0);
  Isolated b = adder(100);
  EXPECT_EQ(a.ask(1), 1);
  EXPECT_EQ(b.ask(1), 101);
  EXPECT_EQ(a.ask(2), 3);
  Isolated moved = std::move(a);
  EXPECT_EQ(moved.ask(4), 7);
  a = adder(50);
  EXPECT_EQ(a.ask(1), 51);
  EXPECT_EQ(b.ask(1), 102);
}

TEST(Isolated, ErrorsComeBackAsTheyWereThrown) {
  Isolated numeric([]() -> Isolated::Service { throw NumericError({"here", "NaN", "a number", "do that"}); });
  try {
    numeric.ask({});
    FAIL();
  } catch (const NumericError& error) {
    EXPECT_STREQ(error.what(), NumericError({"here", "NaN", "a number", "do that"}).what());
  }
  const Isolated::Service config = [](const Json&) -> Json { throw ConfigError({"a", "b", "c", "d"}); };
  const Isolated::Service data = [](const Json&) -> Json { throw DataError({"a", "b", "c", "d"}); };
  const Isolated::Service other = [](const Json&) -> Json { throw std::runtime_error("something"); };
  EXPECT_THROW(Isolated([&] { return config; }).ask({}), ConfigError);
  EXPECT_THROW(Isolated([&] { return data; }).ask({}), DataError);
  EXPECT_THROW(Isolated([&] { return other; }).ask({}), std::runtime_error);
}

TEST(Isolated, ADeadProcessIsAnEnvironmentError) {
  Isolated process([]() -> Isolated::Service {
    return [](const Json&) -> Json {
      ::raise(SIGKILL);
      return {};
    };
  });
  EXPECT_THROW(process.ask({}), EnvironmentError);
  EXPECT_THROW(process.ask({}), EnvironmentError);
}

TEST(Isolated, PeakMemoryIsItsOwn) {
  constexpr std::size_t kBytes = 64 << 20;
  Isolated process([]() -> Isolated::Service {
    return [](const Json& request) -> Json {
      if (request == "allocate") {
        std::vector<char> block(kBytes, 'x');
        return block[kBytes / 2] == 'x';
      }
      return {{"peak", peak_memory()}, {"was_reset", request == "reset" && reset_peak_memory()}};
    };
  });
  const std::uint64_t own = peak_memory();
  ASSERT_GT(own, 0U);
  process.ask("allocate");
  EXPECT_GT(process.ask("peak").at("peak").get<std::uint64_t>(), kBytes);
  EXPECT_LT(peak_memory(), own + kBytes / 2);
  if (process.ask("reset").at("was_reset").get<bool>()) {
    EXPECT_LT(process.ask("peak").at("peak").get<std::uint64_t>(), own + kBytes / 2);
  }
}

TEST(Isolated, RefusesToForkAProcessWithThreads) {
  std::thread waiting([] { ::usleep(200000); });
  EXPECT_THROW(adder(0), std::logic_error);
  waiting.join();
}

}  // namespace
}  // namespace stableqat::bench
