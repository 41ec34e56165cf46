// Addresses of the Hub.
#pragma once

#include <string>
#include <string_view>

#include "stableqat/hub/repository.h"

namespace stableqat::hub {

std::string percent_encoded(std::string_view path);                                // '/' stays
std::string page_name(const Repository& repository);                               // "ORG/NAME", "datasets/ORG/NAME"
std::string folder_name(const Repository& repository);                             // "models--ORG--NAME"
std::string api_address(const Repository& repository, const HubOptions& options);  // ENDPOINT/api/TYPEs/ORG/NAME
std::string file_address(const Repository& repository, const std::string& commit, const std::string& path, const HubOptions& options);

}  // namespace stableqat::hub
