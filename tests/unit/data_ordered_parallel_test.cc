#include "data/ordered_parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace stableqat {
namespace {

// Squares 0 .. count - 1; the early ones take longest, so that workers finish out of order.
struct Pipeline {
  int count = 200;
  int workers = 4;
  std::size_t window = 6;
  int produce_throws_at = -1;
  int work_throws_at = -1;
  int consume_throws_at = -1;
  int stop_at = -1;
  std::vector<int> consumed{};
  std::atomic<int> alive{0};
  std::atomic<int> most_alive{0};

  void go() {
    struct Item {
      int number = -1;
      int square = 0;
    };
    int next = 0;
    ordered_parallel<Item>(
        workers, window,
        [&](Item& item) {
          if (next == count) return false;
          if (next == produce_throws_at) throw std::runtime_error("produce");
          item.number = next++;
          const int now = ++alive;
          most_alive = std::max(most_alive.load(), now);
          return true;
        },
        [&](Item& item) {
          if (item.number == work_throws_at) throw std::runtime_error("work");
          if (item.number % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
          item.square = item.number * item.number;
        },
        [&](Item& item) {
          --alive;
          if (item.number == consume_throws_at) throw std::runtime_error("consume");
          if (item.number == stop_at) return false;
          consumed.push_back(item.square);
          return true;
        });
  }

  std::string error() {
    try {
      go();
    } catch (const std::runtime_error& failure) {
      return failure.what();
    }
    return "";
  }
};

std::vector<int> squares(int count) {
  std::vector<int> values;
  for (int i = 0; i < count; ++i) values.push_back(i * i);
  return values;
}

TEST(OrderedParallel, KeepsTheOrderWithAnyNumberOfWorkers) {
  for (const int workers : {1, 2, 4, 8}) {
    Pipeline run;
    run.workers = workers;
    run.go();
    EXPECT_EQ(run.consumed, squares(200)) << workers;
  }
}

TEST(OrderedParallel, NothingToDo) {
  Pipeline run;
  run.count = 0;
  run.go();
  EXPECT_TRUE(run.consumed.empty());
}

// The producer may hold one more item than there is room for.
TEST(OrderedParallel, HoldsNoMoreItemsThanTheWindow) {
  Pipeline run;
  run.go();
  EXPECT_LE(run.most_alive, static_cast<int>(run.window) + 2);
}

TEST(OrderedParallel, RethrowsAfterConsumingWhatCameBefore) {
  for (int Pipeline::*place : {&Pipeline::produce_throws_at, &Pipeline::work_throws_at, &Pipeline::consume_throws_at}) {
    Pipeline run;
    run.*place = 57;
    EXPECT_NE(run.error(), "");
    EXPECT_EQ(run.consumed, squares(57));
  }
}

TEST(OrderedParallel, TheFirstOfSeveralErrorsWins) {
  Pipeline run;
  run.work_throws_at = 40;  // slow
  run.produce_throws_at = 42;
  EXPECT_EQ(run.error(), "work");
  EXPECT_EQ(run.consumed, squares(40));
}

TEST(OrderedParallel, StopsWhenTheConsumerHasEnough) {
  Pipeline run;
  run.stop_at = 33;
  run.go();
  EXPECT_EQ(run.consumed, squares(33));
}

}  // namespace
}  // namespace stableqat
