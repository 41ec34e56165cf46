#include "stableqat/dist/process_group.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <string_view>
#include <thread>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>

#include "dist/all_to_all.h"
#include "dist/roll_call.h"

namespace stableqat {

namespace {

using namespace std::chrono_literals;
using StorePointer = c10::intrusive_ptr<c10d::Store>;
using WorkPointer = c10::intrusive_ptr<c10d::Work>;

constexpr auto kLeaveTime = 2s;
constexpr auto kReleaseTime = 1s;
constexpr int kLargestTag = 0xffff;  // tags tell exchanges under way from each other

// LibTorch 2.11 notes every exchange in a recorder for post-mortems, one for the process, whose table of process groups is changed without
// its lock: two groups in two threads (ours, and that of checkpoints) can break it. It reads this variable when the first group is made.
void switch_flight_recorder_off() { ::setenv("TORCH_FR_BUFFER_SIZE", "0", 0); }

struct Membership {
  LaunchEnvironment self;
  StorePointer store;
  StorePointer roll_call_store;  // null for a further line
  std::chrono::milliseconds timeout;
};

std::uint64_t size_in_bytes(const at::Tensor& tensor) { return static_cast<std::uint64_t>(tensor.nbytes()); }

class GlooCommunicator final : public Communicator {
 public:
  explicit GlooCommunicator(const Membership& membership)
      : GlooCommunicator(membership, std::make_shared<RollCall>(membership.roll_call_store, membership.self.rank, membership.self.ranks,
                                                                !membership.self.agent_has_store)) {}
  // One more line between the same ranks, whose store has keys of its own.
  GlooCommunicator(const Membership& membership, std::shared_ptr<RollCall> roll_call)
      : self_(membership.self),
        store_(membership.store),
        timeout_(membership.timeout),
        is_line_(membership.roll_call_store == nullptr),
        roll_call_(std::move(roll_call)) {
    auto options = c10d::ProcessGroupGloo::Options::create_default(timeout_);
    if (self_.is_loopback() && !environment_variable("GLOO_SOCKET_IFNAME")) {
      options->devices = {c10d::ProcessGroupGloo::createDeviceForHostname(self_.address)};
    }
    group_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store_, self_.rank, self_.ranks, options);
  }

  ~GlooCommunicator() override {
    if (is_line_ || lost_) return;
    try {
      leave();
    } catch (const std::exception&) {
      // The store has gone already.
    }
  }

  int rank() const noexcept override { return self_.rank; }
  int ranks() const noexcept override { return self_.ranks; }

  std::unique_ptr<Transfer> start_all_to_all(const at::Tensor& to, const at::Tensor& from) override {
    traffic_.gradients += size_in_bytes(to);
    return std::make_unique<Exchange>(*this, guarded([&] { return std::vector{start_all_to_all_of_others(*group_, to, from)}; }));
  }

  std::unique_ptr<Transfer> start_all_gather(const at::Tensor& all) override {
    traffic_.weights += sent(size_in_bytes(all) / static_cast<std::uint64_t>(ranks()));
    return gather(all);
  }

  std::vector<std::string> all_gather_text(const std::string& own) override {
    at::Tensor size = at::empty({1}, at::kLong);
    *size.mutable_data_ptr<std::int64_t>() = static_cast<std::int64_t>(own.size());
    const at::Tensor sizes = gathered(size);
    const std::int64_t* const lengths = sizes.const_data_ptr<std::int64_t>();
    at::Tensor padded = at::zeros({std::max<std::int64_t>(1, *std::max_element(lengths, lengths + ranks()))}, at::kByte);
    std::memcpy(padded.mutable_data_ptr(), own.data(), own.size());
    const at::Tensor all = gathered(padded);
    std::vector<std::string> texts;
    for (int r = 0; r < ranks(); ++r) {
      texts.emplace_back(static_cast<const char*>(all.const_data_ptr()) + r * padded.numel(), static_cast<std::size_t>(lengths[r]));
    }
    return texts;
  }

  std::vector<std::vector<double>> all_gather_numbers(const std::vector<double>& own) override {
    at::Tensor values = at::empty({static_cast<std::int64_t>(own.size())}, at::kDouble);
    std::copy(own.begin(), own.end(), values.mutable_data_ptr<double>());
    const at::Tensor all = gathered(values);
    const double* const numbers = all.const_data_ptr<double>();
    std::vector<std::vector<double>> result;
    for (int r = 0; r < ranks(); ++r) result.emplace_back(numbers + r * values.numel(), numbers + (r + 1) * values.numel());
    return result;
  }

  void barrier() override { gathered(at::zeros({1}, at::kByte)); }

  void main_only(const std::function<void()>& work) override {
    const std::string key = "main_only/" + std::to_string(main_only_count_++);
    if (!is_main()) return wait_for_main(key);
    try {
      work();
    } catch (...) {
      store_->set(key, std::string("failed"));
      throw;
    }
    guarded([&] { store_->set(key, std::string("done")); });
  }

  std::unique_ptr<Communicator> duplicate() override {
    const StorePointer store = c10::make_intrusive<c10d::PrefixStore>("line/" + std::to_string(++lines_), store_);
    return guarded([&] { return std::make_unique<GlooCommunicator>(Membership{self_, store, nullptr, timeout_}, roll_call_); });
  }

  void set_activity(std::string activity) override { activity_ = std::move(activity); }
  Traffic traffic() const noexcept override { return traffic_; }

 private:
  // Waits for c10d's work.
  class Exchange final : public Transfer {
   public:
    Exchange(GlooCommunicator& owner, std::vector<WorkPointer> works) : owner_(owner), works_(std::move(works)) {}
    void wait() override {
      for (const WorkPointer& work : works_) {
        owner_.guarded([&work] { work->wait(); });
        // Gloo's thread holds the work, and its tensors, a moment longer: their memory shall be free when the caller lets go of them.
        const auto deadline = std::chrono::steady_clock::now() + kReleaseTime;
        while (work.use_count() > 1 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
      }
    }

   private:
    GlooCommunicator& owner_;
    std::vector<WorkPointer> works_;
  };

  std::uint64_t sent(std::uint64_t bytes_to_each) const { return bytes_to_each * static_cast<std::uint64_t>(ranks() - 1); }

  // From memory to memory: Gloo's own gather receives all rows in a buffer and copies them from there, which takes three times as long.
  std::unique_ptr<Transfer> gather(const at::Tensor& all) {
    const int tag = gathers_++ & kLargestTag;
    std::vector<WorkPointer> works;
    guarded([&] {
      for (int i = 1; i < ranks(); ++i) {
        const int source = (rank() + ranks() - i) % ranks();
        std::vector<at::Tensor> row{all[source]};
        works.push_back(group_->recv(row, source, tag));
      }
      for (int i = 1; i < ranks(); ++i) {
        std::vector<at::Tensor> row{all[rank()]};
        works.push_back(group_->send(row, (rank() + i) % ranks(), tag));
      }
    });
    return std::make_unique<Exchange>(*this, std::move(works));
  }

  // Row r: what rank r gave.
  at::Tensor gathered(const at::Tensor& own) {
    traffic_.control += sent(size_in_bytes(own));
    const at::Tensor all = at::empty({ranks(), own.numel()}, own.options());
    all[rank()].copy_(own);
    gather(all)->wait();
    return all;
  }

  void wait_for_main(const std::string& key) {
    guarded([&] {
      while (!store_->check({key})) std::this_thread::sleep_for(50ms);
    });
    if (store_->get_to_str(key) != "done") throw_lost("rank 0");
  }

  // c10d's errors are about a rank that is gone or late.
  template <class Function>
  auto guarded(Function&& function) -> decltype(function()) {
    try {
      return function();
    } catch (const std::exception&) {
      throw_lost(roll_call_->missing_ranks());
    }
  }

  // Rank 0, where the store is, goes last, but waits for nobody for long: else LibTorch prints a stack trace on those that still ask it.
  void leave() {
    roll_call_.reset();
    const auto key = [](int rank) { return "left/" + std::to_string(rank); };
    store_->set(key(rank()), std::string("1"));
    if (!is_main() || self_.agent_has_store) return;
    std::vector<std::string> keys;
    for (int r = 1; r < ranks(); ++r) keys.push_back(key(r));
    const auto deadline = std::chrono::steady_clock::now() + kLeaveTime;
    while (!store_->check(keys) && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(10ms);
  }

  [[noreturn]] void throw_lost(const std::string& who) {
    lost_ = true;
    throw LostRankError({"rank " + std::to_string(rank()) + " of " + std::to_string(ranks()) + (activity_.empty() ? "" : ", " + activity_),
                         "no answer from " + who, "all ranks alive",
                         "see what that rank said last; started again, training goes on from its newest checkpoint"});
  }

  LaunchEnvironment self_;
  StorePointer store_;
  std::chrono::milliseconds timeout_;
  bool is_line_;
  bool lost_ = false;
  std::shared_ptr<RollCall> roll_call_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  std::int64_t main_only_count_ = 0;
  int lines_ = 0;
  int gathers_ = 0;
  std::string activity_;
  Traffic traffic_;
};

std::string seconds(std::chrono::milliseconds time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(time).count()) + " s";
}

StorePointer open_store(const LaunchEnvironment& self, std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = self.port;
  options.isServer = self.rank == 0 && !self.agent_has_store;
  options.waitWorkers = false;
  options.timeout = timeout;
  const std::string where = self.address + ":" + std::to_string(self.port);
  try {
    return c10::make_intrusive<c10d::TCPStore>(self.address, options);
  } catch (const std::exception& error) {
    if (std::string_view(error.what()).find("EADDRINUSE") != std::string_view::npos) {
      throw EnvironmentError({"MASTER_PORT", "port " + std::to_string(self.port) + " in use", "a free port of this machine",
                              "choose another MASTER_PORT, or end the program that uses it"});
    }
    throw EnvironmentError({"rank " + std::to_string(self.rank), "no connection to rank 0 at " + where, "one within " + seconds(timeout),
                            "check MASTER_ADDR, MASTER_PORT and that rank 0 runs"});
  }
}

// Returns when all ranks have reached the store.
void meet(c10d::Store& store, const LaunchEnvironment& self, std::chrono::milliseconds timeout) {
  const auto key = [](int rank) { return "here/" + std::to_string(rank); };
  std::vector<std::string> keys;
  for (int rank = 0; rank < self.ranks; ++rank) keys.push_back(key(rank));
  try {
    store.set(key(self.rank), std::string("1"));
    store.wait(keys, timeout);
  } catch (const std::exception&) {
    std::string absent;
    for (int rank = 0; rank < self.ranks; ++rank) {
      try {
        if (store.check({key(rank)})) continue;
      } catch (const std::exception&) {
        // The store has gone with rank 0.
      }
      absent += (absent.empty() ? "" : ", ") + std::to_string(rank);
    }
    throw EnvironmentError({"rank " + std::to_string(self.rank), "no sign of rank " + absent,
                            "all " + std::to_string(self.ranks) + " ranks within " + seconds(timeout),
                            "see whether they were started and what they said"});
  }
}

}  // namespace

std::unique_ptr<Communicator> connect(const LaunchEnvironment& environment, std::chrono::milliseconds timeout) {
  if (environment.ranks == 1) return single_process();
  switch_flight_recorder_off();
  const StorePointer tcp = open_store(environment, timeout);
  const auto prefixed = [&](const StorePointer& store) {
    return c10::make_intrusive<c10d::PrefixStore>("stableqat/" + environment.attempt, store);
  };
  const StorePointer store = prefixed(tcp);
  meet(*store, environment, timeout);
  try {
    return std::make_unique<GlooCommunicator>(Membership{environment, store, prefixed(tcp->clone()), timeout});
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    const std::string text = error.what();  // LibTorch puts a stack trace below its first line
    throw EnvironmentError({"rank " + std::to_string(environment.rank), text.substr(0, text.find('\n')), "connections to all ranks",
                            "check the network; GLOO_SOCKET_IFNAME names the interface to use"});
  }
}

void run_as_threads(int ranks, std::chrono::milliseconds timeout, const std::function<void(Communicator&)>& body) {
  switch_flight_recorder_off();
  const StorePointer store = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        LaunchEnvironment self;
        self.rank = rank;
        self.ranks = ranks;
        const auto communicator =
            ranks == 1 ? single_process() : std::make_unique<GlooCommunicator>(Membership{self, store, store, timeout});
        body(*communicator);
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::exception_ptr lost;
  for (const std::exception_ptr& error : errors) {
    if (!error) continue;
    try {
      std::rethrow_exception(error);
    } catch (const LostRankError&) {
      lost = error;  // a consequence
    }
  }
  if (lost) std::rethrow_exception(lost);
}

}  // namespace stableqat
