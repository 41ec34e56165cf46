// What the Hub's API answers, checked: names from the network become paths of this machine.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "stableqat/hub/repository.h"

namespace stableqat::hub {

// A relative path with '/' whose parts are not empty, "." or "..", without control characters and backslashes.
bool is_safe_path(std::string_view path);

// "commit" of a revision's description. Throws DataError, as the next one does, for what the Hub would not send.
std::string parse_commit(std::string_view json, const std::string& where);

// Adds the files of one page of a tree to `files`; folders are passed over. Returns the entries of the page.
std::size_t parse_tree_page(std::string_view json, const std::string& where, std::vector<HubFile>& files);

// The query ("?...") of the next page in a Link header (RFC 8288), "" when there is none. Host and path of the link are not taken over:
// the token goes to the endpoint and nowhere else.
std::string next_page_query(std::string_view link_header);

}  // namespace stableqat::hub
