#include "dist/roll_call.h"

#include <chrono>
#include <exception>
#include <utility>
#include <vector>

namespace stableqat {

namespace {

using namespace std::chrono_literals;

constexpr auto kPollInterval = 500ms;
constexpr auto kPatience = 3s;  // until a rank that does not answer is taken for gone

const std::string kCall = "roll_call";
const std::string kVerdict = "missing_ranks";
std::string presence(int rank) { return "present/" + std::to_string(rank); }

}  // namespace

RollCall::RollCall(c10::intrusive_ptr<c10d::Store> store, int rank, int ranks, bool main_has_store)
    : store_(std::move(store)), rank_(rank), ranks_(ranks), main_has_store_(main_has_store), thread_([this] { answer(); }) {}

RollCall::~RollCall() {
  {
    const std::scoped_lock lock(mutex_);
    end_ = true;
  }
  end_condition_.notify_all();
  thread_.join();
}

bool RollCall::wait_for_end(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  return end_condition_.wait_for(lock, time, [this] { return end_; });
}

void RollCall::answer() {
  try {
    while (!store_->check({kCall})) {
      if (wait_for_end(kPollInterval)) return;
    }
    store_->set(presence(rank_), std::string("1"));
  } catch (const std::exception&) {
    // The store is gone, and with it whoever might call.
  }
}

std::string RollCall::call() {
  store_->set(kCall, std::string("1"));
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  std::vector<int> missing;
  do {
    missing.clear();
    for (int rank = 0; rank < ranks_; ++rank) {
      if (rank != rank_ && !store_->check({presence(rank)})) missing.push_back(rank);
    }
  } while (!missing.empty() && std::chrono::steady_clock::now() < deadline && !wait_for_end(100ms));
  std::string text = missing.empty() ? "a rank" : missing.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < missing.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(missing[i]);
  return store_->compareSet(kVerdict, "", text);  // the first verdict: later ones may miss ranks that have left since
}

std::string RollCall::missing_ranks() noexcept {
  try {
    const std::string verdict = call();
    if (rank_ == 0 && main_has_store_) wait_for_end(kPatience);  // the others read the verdict from this process
    return verdict;
  } catch (const std::exception&) {
    return main_has_store_ ? "rank 0" : "a rank";
  }
}

}  // namespace stableqat
