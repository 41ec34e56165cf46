// The proof that packed weights multiply as the weights they were made of.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "stableqat/models/quantized_model.h"

namespace stableqat::bench {

// A product of `packed` with a row of random activations against sums in double of w [N, M], float32. Returns the largest difference, as a
// share of what rounding the row to 15 bits and adding up in float32 may make of it. Throws NumericError above 1, naming `name`.
double checked_packed_product(const std::string& name, const PackedMatrix& packed, const at::Tensor& w);

// All packed layers of the model and its head. Returns the largest share.
double check_packed_products(QuantizedModel& model);

}  // namespace stableqat::bench
