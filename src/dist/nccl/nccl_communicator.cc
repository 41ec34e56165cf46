// Exchanges between GPUs by c10d's ProcessGroupNCCL.
#include <ATen/core/Tensor.h>

#include <exception>
#include <string>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>
#include <vector>

#include "dist/all_to_all.h"
#include "dist/nccl/library.h"

namespace stableqat {

namespace {

using WorkPointer = c10::intrusive_ptr<c10d::Work>;
using Group = c10::intrusive_ptr<c10d::ProcessGroupNCCL>;

// c10d's errors here are NCCL's, about connections or a device.
template <class Function>
auto guarded(const Communicator& self, Function&& function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::exception& error) {
    const std::string text = error.what();  // LibTorch puts a stack trace below its first line
    throw LostRankError({"rank " + std::to_string(self.rank()) + ", exchange between GPUs", text.substr(0, text.find('\n')),
                         "all ranks and their GPUs", "see what the others said; NCCL_DEBUG=INFO tells more"});
  }
}

class Exchange final : public Transfer {
 public:
  Exchange(const Communicator& self, WorkPointer work) : self_(self), work_(std::move(work)) {}
  void wait() override {
    guarded(self_, [this] { work_->wait(); });
  }

 private:
  const Communicator& self_;
  WorkPointer work_;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> control, c10::intrusive_ptr<c10d::Store> store, std::chrono::milliseconds timeout)
      : control_(std::move(control)), store_(std::move(store)), timeout_(timeout) {
    const auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    group_ = guarded(*control_,
                     [&] { return c10::make_intrusive<c10d::ProcessGroupNCCL>(store_, control_->rank(), control_->ranks(), options); });
  }

  int rank() const noexcept override { return control_->rank(); }
  int ranks() const noexcept override { return control_->ranks(); }

  std::unique_ptr<Transfer> start_all_to_all(const at::Tensor& to, const at::Tensor& from) override {
    own_.gradients += to.nbytes();
    return std::make_unique<Exchange>(*this, guarded(*this, [&] { return start_all_to_all_of_others(*group_, to, from); }));
  }

  std::unique_ptr<Transfer> start_all_gather(const at::Tensor& all) override {
    at::Tensor input = all[rank()];
    at::Tensor output = all;
    own_.weights += others() * input.nbytes();
    return std::make_unique<Exchange>(*this, guarded(*this, [&] { return group_->_allgather_base(output, input); }));
  }

  std::vector<std::string> all_gather_text(const std::string& own) override { return control_->all_gather_text(own); }
  std::vector<std::vector<double>> all_gather_numbers(const std::vector<double>& own) override { return control_->all_gather_numbers(own); }
  void barrier() override { control_->barrier(); }
  void main_only(const std::function<void()>& work) override { control_->main_only(work); }
  std::unique_ptr<Communicator> duplicate() override {
    const auto store = c10::make_intrusive<c10d::PrefixStore>("line/" + std::to_string(++lines_), store_);
    return std::make_unique<NcclCommunicator>(control_->duplicate(), store, timeout_);
  }
  void set_activity(std::string activity) override { control_->set_activity(std::move(activity)); }

  Traffic traffic() const noexcept override {
    Traffic sum = control_->traffic();
    sum.gradients += own_.gradients;
    sum.weights += own_.weights;
    return sum;
  }

 private:
  std::uint64_t others() const { return static_cast<std::uint64_t>(ranks() - 1); }

  std::unique_ptr<Communicator> control_;
  c10::intrusive_ptr<c10d::Store> store_;
  std::chrono::milliseconds timeout_;
  Group group_;
  Traffic own_;
  int lines_ = 0;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) std::unique_ptr<Communicator> stableqat_connect_nccl(
    std::unique_ptr<Communicator> control, const LaunchEnvironment& environment, std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;  // rank 0 or the launcher has the server: connect() has made or met it
  options.port = environment.port;
  options.waitWorkers = false;
  options.timeout = timeout;
  const auto store = guarded(*control, [&] { return c10::make_intrusive<c10d::TCPStore>(environment.address, options); });
  const std::string prefix = "stableqat/" + environment.attempt + "/nccl";
  return std::make_unique<NcclCommunicator>(std::move(control), c10::make_intrusive<c10d::PrefixStore>(prefix, store), timeout);
}

}  // namespace stableqat
