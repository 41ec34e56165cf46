// Every combination of quantizer, bits and surrogate that a QuantizerSpec allows.
#pragma once

#include <string>
#include <vector>

#include "stableqat/quant/quantizer_spec.h"

namespace stableqat::testing {

struct QuantSetting {
  QuantizerKind kind;
  int bits;
  Surrogate surrogate;
};

inline std::vector<QuantSetting> all_quant_settings() {
  std::vector<QuantSetting> settings;
  for (const Surrogate& surrogate : {Surrogate(), Surrogate::fourier(0.21), Surrogate::fourier(0.21, 2)}) {
    for (const int bits : {0, 1, 2, 3, 4, 8}) settings.push_back({QuantizerKind::kLsq, bits, surrogate});
    for (const int bits : {0, 1, 2, 3, 4}) settings.push_back({QuantizerKind::kSeq, bits, surrogate});
  }
  for (const int bits : {0, 2, 3, 4, 8}) settings.push_back({QuantizerKind::kDsq, bits, Surrogate()});
  return settings;
}

inline std::string describe(const QuantSetting& setting) {
  return "kind " + std::to_string(static_cast<int>(setting.kind)) + ", " + std::to_string(setting.bits) + " bits, " +
         std::to_string(setting.surrogate.amplitudes().size()) + " amplitudes";
}

}  // namespace stableqat::testing
