// Exchanges between ranks that are threads of this process, against sums done by hand.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>

#include "stableqat/dist/process_group.h"

namespace stableqat {
namespace {

using namespace std::chrono_literals;

constexpr auto kTimeout = 20s;

TEST(Communicator, EachRankGetsWhatTheOthersHaveForIt) {
  for (const int ranks : {1, 2, 3, 5}) {
    run_as_threads(ranks, kTimeout, [ranks](Communicator& self) {
      const auto other = [&](int i) { return i < self.rank() ? i : i + 1; };
      // Element i of what rank r has for rank t is 1000 r + 10 t + i.
      const at::Tensor to = at::empty({ranks - 1, 4});
      for (int t = 0; t + 1 < ranks; ++t) {
        for (int i = 0; i < 4; ++i) to.mutable_data_ptr<float>()[4 * t + i] = static_cast<float>(1000 * self.rank() + 10 * other(t) + i);
      }
      const at::Tensor from = at::full({ranks - 1, 4}, -1.0F);
      self.start_all_to_all(to, from)->wait();
      for (int r = 0; r + 1 < ranks; ++r) {
        for (int i = 0; i < 4; ++i) {
          EXPECT_EQ(from.const_data_ptr<float>()[4 * r + i], static_cast<float>(1000 * other(r) + 10 * self.rank() + i))
              << ranks << " ranks";
        }
      }
      EXPECT_EQ(self.traffic().gradients, static_cast<std::uint64_t>(4 * 4 * (ranks - 1)));
    });
  }
}

TEST(Communicator, TensorsOfAnExchangeAreTheCallersAloneOnceItIsOver) {
  run_as_threads(2, kTimeout, [](Communicator& self) {
    for (int i = 0; i < 200; ++i) {
      const at::Tensor to = at::full({1, 1 << 16}, i, at::kBFloat16);
      const at::Tensor from = at::empty_like(to);
      self.start_all_to_all(to, from)->wait();
      ASSERT_EQ(to.use_count(), 1U) << i;
      ASSERT_EQ(from.use_count(), 1U) << i;
      ASSERT_TRUE(from.equal(to));
    }
    EXPECT_EQ(self.traffic().gradients, 200U * 2 * (1 << 16));
  });
}

TEST(Communicator, SeveralExchangesAtATimeKeepTheirOrder) {
  run_as_threads(2, kTimeout, [](Communicator& self) {
    std::vector<at::Tensor> all;
    std::vector<std::unique_ptr<Transfer>> transfers;
    for (int i = 0; i < 8; ++i) {
      all.push_back(at::full({2, 1000 * (i + 1)}, 10 * i + self.rank(), at::kInt));
      transfers.push_back(self.start_all_gather(all.back()));
    }
    for (int i = 0; i < 8; ++i) {
      transfers[static_cast<std::size_t>(i)]->wait();
      for (int r = 0; r < 2; ++r) EXPECT_TRUE(all[static_cast<std::size_t>(i)][r].eq(10 * i + r).all().item<bool>()) << i;
    }
  });
}

TEST(Communicator, ALineOfItsOwnKeepsItsOwnOrder) {
  run_as_threads(2, kTimeout, [](Communicator& self) {
    const std::unique_ptr<Communicator> first = self.duplicate();
    const std::unique_ptr<Communicator> second = self.duplicate();
    // Another thread exchanges by the second line while this one is at the others, on the ranks in another order.
    std::vector<std::string> from_second;
    std::thread thread([&] {
      if (self.rank() == 0) std::this_thread::sleep_for(300ms);
      for (int i = 0; i < 20; ++i) from_second = second->all_gather_text("second of " + std::to_string(self.rank()));
    });
    if (self.rank() == 1) std::this_thread::sleep_for(300ms);
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(sum_over_ranks(self, {1.0}), std::vector<double>{2.0});
      EXPECT_EQ(first->all_gather_text("first of " + std::to_string(self.rank())), (std::vector<std::string>{"first of 0", "first of 1"}));
    }
    thread.join();
    EXPECT_EQ(from_second, (std::vector<std::string>{"second of 0", "second of 1"}));
    EXPECT_EQ(self.traffic().control, 20U * sizeof(double)) << "lines count on their own";
  });
}

TEST(Communicator, TextsAndNumbersComeInTheOrderOfTheRanks) {
  run_as_threads(3, kTimeout, [](Communicator& self) {
    const std::string own(static_cast<std::size_t>(self.rank()) * 5, static_cast<char>('a' + self.rank()));
    EXPECT_EQ(self.all_gather_text(own), (std::vector<std::string>{"", "bbbbb", "cccccccccc"}));
    EXPECT_EQ(sum_over_ranks(self, {0.5 * self.rank(), 1.0}), (std::vector<double>{1.5, 3.0}));
    EXPECT_EQ(text_from_main(self, [] { return std::string("from rank 0"); }), "from rank 0");
    self.barrier();
  });
}

TEST(Communicator, ValuesThatDifferAreNamed) {
  std::atomic<int> refused = 0;
  run_as_threads(3, kTimeout, [&](Communicator& self) {
    require_same(self, "a.key", "same");
    try {
      require_same(self, "a.key", self.rank() == 2 ? "other" : "same");
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find("a.key: found 'other' on rank 2"), std::string::npos) << error.what();
      ++refused;
    }
  });
  EXPECT_EQ(refused, 3);
}

TEST(Communicator, AnErrorOfOneRankIsThrownByAll) {
  std::atomic<int> thrown = 0;
  run_as_threads(3, kTimeout, [&](Communicator& self) {
    try {
      together(self, [&] {
        if (self.rank() == 1) throw DataError({"file", "nothing", "something", ""});
      });
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::kBadData);
      EXPECT_NE(std::string(error.what()).find("file: found nothing"), std::string::npos) << error.what();
      ++thrown;
    }
  });
  EXPECT_EQ(thrown, 3);
}

TEST(Communicator, ARankThatLeavesIsNamedByTheOthers) {
  std::atomic<int> named = 0;
  const auto start = std::chrono::steady_clock::now();
  run_as_threads(3, kTimeout, [&](Communicator& self) {
    self.barrier();
    if (self.rank() == 1) return;
    self.set_activity("step 7");
    if (self.rank() == 2) std::this_thread::sleep_for(1s);  // busy, but there
    try {
      self.barrier();
    } catch (const LostRankError& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("no answer from rank 1,"), std::string::npos) << text;
      EXPECT_NE(text.find("step 7"), std::string::npos) << text;
      ++named;
    }
  });
  EXPECT_EQ(named, 2);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 15s);
}

TEST(Communicator, AnErrorOnRankZeroEndsTheWaitingOfTheOthers) {
  std::atomic<int> lost = 0;
  run_as_threads(2, kTimeout, [&](Communicator& self) {
    try {
      self.main_only([] { throw DataError({"file", "nothing", "something", ""}); });
    } catch (const DataError&) {
      EXPECT_TRUE(self.is_main());
    } catch (const LostRankError&) {
      ++lost;
    }
  });
  EXPECT_EQ(lost, 1);
}

TEST(Communicator, ASilentRankIsLostAfterTheTimeLimit) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(run_as_threads(2, 2s,
                              [](Communicator& self) {
                                self.barrier();
                                if (self.rank() == 1) std::this_thread::sleep_for(8s);
                                self.barrier();
                              }),
               LostRankError);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 15s);
}

}  // namespace
}  // namespace stableqat
