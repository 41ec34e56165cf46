// AdamW (Loshchilov and Hutter 2019) for one element, in the order of operations of PyTorch's implementation. Shared by all back ends.
//
// Moments may be kept in bfloat16. They are then rounded up or down at random, with the odds that keep their mean: a second moment that
// moves by a thousandth of itself in a step would not move at all if it were rounded to the nearest of eight bits. What is drawn depends on
// the step, the tensor and the place in it alone, not on threads or ranks.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

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
  double step_size = 0;            // learning rate / (1 - beta1^step)
  std::uint32_t seed = 0;          // of the step and tensor, for moments in bfloat16
  std::int64_t first_element = 0;  // place in the whole tensor of the first element that is given, likewise
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
        step_size_(T(rule.step_size)),
        seed_(rule.seed),
        first_element_(static_cast<std::uint32_t>(rule.first_element)) {}

  STABLEQAT_HOST_DEVICE void set_gradient_factor(double factor) { gradient_factor_ = T(factor); }

  // Moves the moments `first` and `second`; returns the new value.
  STABLEQAT_HOST_DEVICE T step(T value, T gradient, T& first, T& second) const {
    const T g = gradient * gradient_factor_;
    first += beta1_complement_ * (g - first);
    second = second * beta2_ + beta2_complement_ * g * g;
    return value * decay_factor_ - step_size_ * (first / (std::sqrt(second) / root_correction2_ + epsilon_));
  }

  // The same with moments in bfloat16, for element i of those that are given.
  STABLEQAT_HOST_DEVICE T step(T value, T gradient, std::uint16_t& first, std::uint16_t& second, std::uint32_t i) const {
    T first_moment = widened(first);
    T second_moment = widened(second);
    const T moved = step(value, gradient, first_moment, second_moment);
    const std::uint32_t bits = drawn(i);
    first = rounded(first_moment, bits & 0xffffU);
    second = rounded(second_moment, bits >> 16);
    return moved;
  }

 private:
  STABLEQAT_HOST_DEVICE static T widened(std::uint16_t moment) { return T(std::bit_cast<float>(static_cast<std::uint32_t>(moment) << 16)); }
  // The bits that are cut off carry as often as they are large.
  STABLEQAT_HOST_DEVICE static std::uint16_t rounded(T moment, std::uint32_t bits) {
    return static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(static_cast<float>(moment)) + bits) >> 16);
  }
  // Wellons' lowbias32: every bit of the number changes about half of those that come out.
  STABLEQAT_HOST_DEVICE std::uint32_t drawn(std::uint32_t i) const {
    std::uint32_t bits = (first_element_ + i) ^ seed_;
    bits = (bits ^ (bits >> 16)) * 0x7feb352dU;
    bits = (bits ^ (bits >> 15)) * 0x846ca68bU;
    return bits ^ (bits >> 16);
  }

  T gradient_factor_;
  T decay_factor_;
  T beta1_complement_;
  T beta2_, beta2_complement_;
  T root_correction2_;
  T epsilon_;
  T step_size_;
  std::uint32_t seed_;
  std::uint32_t first_element_;
};

}  // namespace STABLEQAT_ISA
}  // namespace stableqat::kernels
