#include "stableqat/quant/layer_selection.h"

#include <fnmatch.h>

#include <algorithm>

namespace stableqat {

bool LayerSelection::selects(const std::string& name) const {
  const auto matches = [&name](const std::string& pattern) { return fnmatch(pattern.c_str(), name.c_str(), 0) == 0; };
  return std::ranges::any_of(include, matches) && std::ranges::none_of(exclude, matches);
}

}  // namespace stableqat
