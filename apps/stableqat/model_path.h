// Where a model lies that a user names.
#pragma once

#include <string>

namespace stableqat::app {

// `model` itself where a file or folder of that name exists; for ORG/NAME the folder of that model in huggingface_hub's cache. Everything
// else is returned as it is, for the reader to complain about. Throws DataError for an ORG/NAME that is neither.
std::string local_model(const std::string& model);

}  // namespace stableqat::app
