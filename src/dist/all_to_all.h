// c10d's all-to-all between the others: a rank sends itself nothing.
#pragma once

#include <ATen/core/Tensor.h>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

namespace stableqat {

// As Communicator::start_all_to_all().
inline c10::intrusive_ptr<c10d::Work> start_all_to_all_of_others(c10d::Backend& group, const at::Tensor& to, const at::Tensor& from) {
  std::vector<std::int64_t> parts_sent(static_cast<std::size_t>(group.getSize()), to.size(1));
  parts_sent[static_cast<std::size_t>(group.getRank())] = 0;
  std::vector<std::int64_t> parts_received = parts_sent;  // of its own: the group takes the contents of both
  at::Tensor sent = to.view({-1});
  at::Tensor received = from.view({-1});
  return group.alltoall_base(received, sent, parts_received, parts_sent);
}

}  // namespace stableqat
