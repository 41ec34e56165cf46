// The steps of DocumentStep.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "stableqat/tasks/task.h"

namespace stableqat::tasks {

// Throws DataError naming the document for fields that are missing or of another kind.
std::vector<TaskDocument> process_documents(std::vector<TaskDocument> documents, DocumentStep step);

// HellaSwag's WikiHow markup turned into plain text.
std::string clean_hellaswag(std::string_view text);

// WikiText without the spaces that its tokenization put around punctuation.
std::string detokenize_wikitext(std::string_view page);

// The articles of a WikiText file: each begins at the line of a heading of the first level.
std::vector<std::string> split_wikitext(std::string_view text);

}  // namespace stableqat::tasks
