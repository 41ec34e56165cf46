// AdamW (Loshchilov and Hutter 2019) for one element, in the order of operations of PyTorch's implementation. Shared by all back ends.
#pragma once

#include <cmath>

#include "stableqat/base/isa_namespace.h"
#include "stableqat/kernels/host_device.h"

namespace stableqat::kernels {

// Constants of one step, the same for all elements of a tensor. Made by train's AdamW.
struct AdamWRule {
  double gradient_factor = 1;  // clipping
  double decay_factor = 1;     // 1 - learning rate * weight decay
  double beta1 = 0.9;
  double beta2 = 0.999;
  double root_correction2 = 1;  // sqrt(1 - beta2^step)
  double epsilon = 1e-8;
  double step_size = 0;  // learning rate / (1 - beta1^step)
};

inline namespace STABLEQAT_ISA {

// In arithmetic type T (float or double). Pass it by value: loops keep its members in registers.
template <class T>
class AdamWElement {
 public:
  STABLEQAT_HOST_DEVICE explicit AdamWElement(const AdamWRule& rule)
      : gradient_factor_(T(rule.gradient_factor)),
        decay_factor_(T(rule.decay_factor)),
        beta1_complement_(T(1 - rule.beta1)),
        beta2_(T(rule.beta2)),
        beta2_complement_(T(1 - rule.beta2)),
        root_correction2_(T(rule.root_correction2)),
        epsilon_(T(rule.epsilon)),
        step_size_(T(rule.step_size)) {}

  // Moves the moments `first` and `second`; returns the new value.
  STABLEQAT_HOST_DEVICE T step(T value, T gradient, T& first, T& second) const {
    const T g = gradient * gradient_factor_;
    first += beta1_complement_ * (g - first);
    second = second * beta2_ + beta2_complement_ * g * g;
    return value * decay_factor_ - step_size_ * (first / (std::sqrt(second) / root_correction2_ + epsilon_));
  }

 private:
  T gradient_factor_;
  T decay_factor_;
  T beta1_complement_;
  T beta2_, beta2_complement_;
  T root_correction2_;
  T epsilon_;
  T step_size_;
};

}  // namespace STABLEQAT_ISA
}  // namespace stableqat::kernels
