#include "dist/roll_call.h"

#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace stableqat {

namespace {

using namespace std::chrono_literals;

constexpr auto kPollInterval = 500ms;
constexpr auto kPatience = 3s;       // until a rank that does not answer is taken for gone
constexpr auto kStorePatience = 5s;  // until the store itself is: a call that takes longer than its answers
constexpr auto kEndPatience = 1s;    // for a thread to end

const std::string kCall = "roll_call";
const std::string kVerdict = "missing_ranks";
std::string presence(int rank) { return "present/" + std::to_string(rank); }

}  // namespace

struct RollCall::State {
  State(c10::intrusive_ptr<c10d::Store> its_store, int its_rank, int its_ranks, bool has_store)
      : store(std::move(its_store)), rank(its_rank), ranks(its_ranks), main_has_store(has_store) {}

  bool wait_for_end(std::chrono::milliseconds time) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, time, [this] { return end; });
  }

  void answer() {
    try {
      while (!store->check({kCall})) {
        if (wait_for_end(kPollInterval)) return;
      }
      store->set(presence(rank), std::string("1"));
    } catch (const std::exception&) {
      // The store is gone, and with it whoever might call.
    }
  }

  std::string call() {
    store->set(kCall, std::string("1"));
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    std::vector<int> missing;
    do {
      missing.clear();
      for (int other = 0; other < ranks; ++other) {
        if (other != rank && !store->check({presence(other)})) missing.push_back(other);
      }
    } while (!missing.empty() && std::chrono::steady_clock::now() < deadline && !wait_for_end(100ms));
    std::string text = missing.empty() ? "a rank" : missing.size() == 1 ? "rank " : "ranks ";
    for (std::size_t i = 0; i < missing.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(missing[i]);
    return store->compareSet(kVerdict, "", text);  // the first verdict: later ones may miss ranks that have left since
  }

  std::string without_store() const { return main_has_store && rank != 0 ? "rank 0" : "a rank"; }

  const c10::intrusive_ptr<c10d::Store> store;
  const int rank;
  const int ranks;
  const bool main_has_store;
  std::mutex mutex;  // of the following
  std::condition_variable changed;
  bool end = false;
  bool has_ended = false;  // the answering thread
};

RollCall::RollCall(c10::intrusive_ptr<c10d::Store> store, int rank, int ranks, bool main_has_store)
    : state_(std::make_shared<State>(std::move(store), rank, ranks, main_has_store)), thread_([state = state_] {
        state->answer();
        {
          const std::scoped_lock lock(state->mutex);
          state->has_ended = true;
        }
        state->changed.notify_all();
      }) {}

RollCall::~RollCall() {
  bool has_ended = false;
  {
    std::unique_lock lock(state_->mutex);
    state_->end = true;
    state_->changed.notify_all();
    has_ended = state_->changed.wait_for(lock, kEndPatience, [this] { return state_->has_ended; });
  }
  if (has_ended) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

std::string RollCall::missing_ranks() noexcept {
  struct Verdict {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<std::string> text;
  };
  try {
    const auto verdict = std::make_shared<Verdict>();
    std::thread([verdict, state = state_] {
      std::string text;
      try {
        text = state->call();
      } catch (const std::exception&) {
        text = state->without_store();
      }
      const std::scoped_lock lock(verdict->mutex);
      verdict->text = std::move(text);
      verdict->changed.notify_all();
    }).detach();
    std::unique_lock lock(verdict->mutex);
    if (!verdict->changed.wait_for(lock, kStorePatience, [&] { return verdict->text.has_value(); })) return state_->without_store();
    if (state_->rank == 0 && state_->main_has_store) state_->wait_for_end(kPatience);  // the others read the verdict from this process
    return *verdict->text;
  } catch (const std::exception&) {
    return state_->without_store();
  }
}

}  // namespace stableqat
