// Produce -> work -> consume with many workers and the order kept.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace stableqat {
namespace detail {

// Items in the order of their production: workers take the first one that nobody took, the consumer the first one if it is done.
template <class Item>
class OrderedQueue {
 public:
  struct Slot {
    Item item;
    std::exception_ptr error;
    bool done = false;
  };

  explicit OrderedQueue(std::size_t capacity) : capacity_(capacity) {}

  // Waits for room; false when cancelled.
  bool push(std::unique_ptr<Slot> slot) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return cancelled_ || slots_.size() < capacity_; });
    if (cancelled_) return false;
    slots_.push_back(std::move(slot));
    changed_.notify_all();
    return true;
  }

  // Nothing will be pushed any more.
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

  void cancel() {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    changed_.notify_all();
  }

  // Null when there is no more work.
  Slot* take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return cancelled_ || closed_ || taken_ < slots_.size(); });
    if (cancelled_ || taken_ == slots_.size()) return nullptr;
    return slots_[taken_++].get();
  }

  void finish(Slot& slot) {
    const std::lock_guard lock(mutex_);
    slot.done = true;
    changed_.notify_all();
  }

  // Null after the last one.
  std::unique_ptr<Slot> pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return slots_.empty() ? closed_ : slots_.front()->done; });
    if (slots_.empty()) return nullptr;
    std::unique_ptr<Slot> slot = std::move(slots_.front());
    slots_.pop_front();
    --taken_;
    changed_.notify_all();
    return slot;
  }

 private:
  const std::size_t capacity_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Slot>> slots_;
  std::size_t taken_ = 0;
  bool closed_ = false;
  bool cancelled_ = false;
};

}  // namespace detail

// Calls produce(item) on one thread until it returns false, work(item) on `workers` threads, and consume(item) on the calling thread, in
// the order of production, until it returns false. At most `window` items exist at a time. The first exception in that order is rethrown;
// what came before it has been consumed. All threads have ended when this returns.
template <class Item>
void ordered_parallel(int workers, std::size_t window, const std::function<bool(Item&)>& produce, const std::function<void(Item&)>& work,
                      const std::function<bool(Item&)>& consume) {
  using Queue = detail::OrderedQueue<Item>;
  using Slot = typename Queue::Slot;
  Queue queue(window);

  const auto run_producer = [&] {
    for (bool more = true; more;) {
      auto slot = std::make_unique<Slot>();
      try {
        more = produce(slot->item);
        if (!more) break;
      } catch (...) {
        slot->error = std::current_exception();
        more = false;
      }
      if (!queue.push(std::move(slot))) break;
    }
    queue.close();
  };
  const auto run_worker = [&] {
    while (Slot* slot = queue.take()) {
      try {
        if (!slot->error) work(slot->item);
      } catch (...) {
        slot->error = std::current_exception();
      }
      queue.finish(*slot);
    }
  };

  struct CancelOnExit {
    Queue& queue;
    ~CancelOnExit() { queue.cancel(); }
  };
  std::vector<std::jthread> threads;
  const CancelOnExit cancel{queue};  // after `threads`: it runs before they are joined
  threads.emplace_back(run_producer);
  for (int i = 0; i < workers; ++i) threads.emplace_back(run_worker);

  while (const std::unique_ptr<Slot> slot = queue.pop()) {
    if (slot->error) std::rethrow_exception(slot->error);
    if (!consume(slot->item)) return;
  }
}

}  // namespace stableqat
