// Exchanges between ranks that are threads of this process, against sums done by hand.
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
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

TEST(Communicator, ReduceScatterAddsPieces) {
  for (const int ranks : {1, 2, 3, 5}) {
    run_as_threads(ranks, kTimeout, [ranks](Communicator& self) {
      // Element i of piece p on rank r is 1000 r + 10 p + i.
      const at::Tensor pieces = at::empty({ranks, 4});
      for (int p = 0; p < ranks; ++p) {
        for (int i = 0; i < 4; ++i) pieces.mutable_data_ptr<float>()[4 * p + i] = static_cast<float>(1000 * self.rank() + 10 * p + i);
      }
      const at::Tensor sum = at::full({4}, -1.0F);
      self.start_reduce_scatter(pieces, sum)->wait();
      for (int i = 0; i < 4; ++i) {
        const int expected = 1000 * ranks * (ranks - 1) / 2 + ranks * (10 * self.rank() + i);
        EXPECT_EQ(sum.const_data_ptr<float>()[i], static_cast<float>(expected)) << ranks << " ranks, element " << i;
      }
      EXPECT_EQ(self.traffic().gradients, static_cast<std::uint64_t>(4 * 4 * (ranks - 1)));
    });
  }
}

TEST(Communicator, Bf16PiecesAreAddedInFloat) {
  run_as_threads(3, kTimeout, [](Communicator& self) {
    const at::Tensor pieces = at::full({3, 2}, 1.0F + 0x1p-7F).to(at::kBFloat16);  // on the bf16 grid; three times it is not
    const at::Tensor sum = at::empty({2});
    self.start_reduce_scatter(pieces, sum)->wait();
    EXPECT_EQ(sum.const_data_ptr<float>()[1], 3 * (1.0F + 0x1p-7F));
    EXPECT_EQ(self.traffic().gradients, 2U * 2 * 2);
  });
}

TEST(Communicator, SeveralExchangesAtATimeKeepTheirOrder) {
  run_as_threads(2, kTimeout, [](Communicator& self) {
    std::vector<at::Tensor> own, all;
    std::vector<std::unique_ptr<Transfer>> transfers;
    for (int i = 0; i < 8; ++i) {
      own.push_back(at::full({1000 * (i + 1)}, 10 * i + self.rank(), at::kInt));
      all.push_back(at::empty({2, 1000 * (i + 1)}, at::kInt));
      transfers.push_back(self.start_all_gather(own.back(), all.back()));
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
