#include "stableqat/dist/communicator.h"

#include <algorithm>
#include <exception>
#include <utility>

namespace stableqat {

namespace {

class Done final : public Transfer {
 public:
  void wait() override {}
};

class SingleProcess final : public Communicator {
 public:
  int rank() const noexcept override { return 0; }
  int ranks() const noexcept override { return 1; }
  std::unique_ptr<Transfer> start_all_to_all(const at::Tensor& /*to*/, const at::Tensor& /*from*/) override {
    return std::make_unique<Done>();
  }
  std::unique_ptr<Transfer> start_all_gather(const at::Tensor& /*all*/) override { return std::make_unique<Done>(); }
  std::vector<std::string> all_gather_text(const std::string& own) override { return {own}; }
  std::vector<std::vector<double>> all_gather_numbers(const std::vector<double>& own) override { return {own}; }
  void barrier() override {}
  void main_only(const std::function<void()>& work) override { work(); }
  std::unique_ptr<Communicator> duplicate() override { return std::make_unique<SingleProcess>(); }
  void set_activity(std::string) override {}
  Traffic traffic() const noexcept override { return {}; }
};

}  // namespace

std::unique_ptr<Communicator> single_process() { return std::make_unique<SingleProcess>(); }

std::vector<double> sum_over_ranks(Communicator& communicator, const std::vector<double>& own) {
  std::vector<double> sums(own.size());
  for (const std::vector<double>& numbers : communicator.all_gather_numbers(own)) {
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += numbers[i];
  }
  return sums;
}

std::string text_from_main(Communicator& communicator, const std::function<std::string()>& make) {
  std::string text;
  communicator.main_only([&] { text = make(); });
  return communicator.all_gather_text(text).front();
}

void together(Communicator& communicator, const std::function<void()>& work) {
  double failure = 0;  // the error's exit code
  std::string message;
  std::exception_ptr error;
  try {
    work();
  } catch (const LostRankError&) {
    throw;
  } catch (const Error& own) {
    failure = static_cast<double>(own.exit_code());
    message = own.what();
    error = std::current_exception();
  }
  const auto failures = communicator.all_gather_numbers({failure});
  const bool all_well = std::all_of(failures.begin(), failures.end(), [](const auto& code) { return code[0] == 0; });
  if (all_well) return;
  const std::vector<std::string> messages = communicator.all_gather_text(message);
  if (error) std::rethrow_exception(error);
  for (std::size_t rank = 0; rank < failures.size(); ++rank) {
    if (failures[rank][0] != 0)
      throw Error(static_cast<ExitCode>(failures[rank][0]), {"rank " + std::to_string(rank), "", "", messages[rank]});
  }
}

void require_same(Communicator& communicator, const std::string& what, const std::string& value) {
  const std::vector<std::string> all = communicator.all_gather_text(value);
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    throw ConfigError({what, "'" + all[rank] + "' on rank " + std::to_string(rank), "'" + all[0] + "' as on rank 0",
                       "start all ranks with the same configuration and data"});
  }
}

}  // namespace stableqat
