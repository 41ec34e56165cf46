#include "tasks/document_steps.h"

#include <array>
#include <utility>

#include "stableqat/base/error.h"
#include "tasks/template_functions.h"
#include "tasks/unicode_text.h"

namespace stableqat::tasks {

namespace {

using nlohmann::json;

const json& field(const TaskDocument& document, const char* name) {
  const auto found = document.fields.is_object() ? document.fields.find(name) : document.fields.end();
  if (found == document.fields.end()) throw DataError({document.where, std::string("no field '") + name + "'", "a document with it", ""});
  return *found;
}

const std::string& text_of(const TaskDocument& document, const json& value, const char* name) {
  if (!value.is_string()) throw DataError({document.where, kind_of(value) + " in '" + name + "'", "a string", ""});
  return value.get_ref<const std::string&>();
}

const std::string& text_field(const TaskDocument& document, const char* name) { return text_of(document, field(document, name), name); }

// "[...]" without a line end in it, the shortest from each "[" on, is left out.
std::string without_brackets(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const std::size_t end = text.front() == '[' ? text.find_first_of("]\n") : std::string_view::npos;
    if (end != std::string_view::npos && text[end] == ']') {
      text.remove_prefix(end + 1);
    } else {
      result += text.front();
      text.remove_prefix(1);
    }
  }
  return result;
}

void process_hellaswag(TaskDocument& document) {
  const json& endings = field(document, "endings");
  if (!endings.is_array()) throw DataError({document.where, kind_of(endings) + " in 'endings'", "a list", ""});
  json choices = json::array();
  for (const json& ending : endings) choices.push_back(clean_hellaswag(text_of(document, ending, "endings")));
  const std::string context = text_field(document, "ctx_a") + " " + capitalize(text_field(document, "ctx_b"));
  document.fields["query"] = clean_hellaswag(text_field(document, "activity_label") + ": " + context);
  document.fields["choices"] = std::move(choices);
}

void process_winogrande(TaskDocument& document) {
  const std::string& sentence = text_field(document, "sentence");
  const std::size_t blank = sentence.find('_');
  if (blank == std::string::npos) throw DataError({document.where, "no '_' in 'sentence'", "a blank to fill", ""});
  const std::string& answer = text_field(document, "answer");
  if (answer != "1" && answer != "2") throw DataError({document.where, "answer '" + answer + "'", "1 or 2", "use a labelled split"});
  const std::string before = sentence.substr(0, blank);
  const std::string after(strip(std::string_view(sentence).substr(blank + 1)));
  const json contexts{before + text_field(document, "option1"), before + text_field(document, "option2")};
  document.fields["contexts"] = contexts;
  document.fields["continuation"] = after;
  document.fields["gold"] = answer == "1" ? 0 : 1;
}

bool is_heading(std::string_view line) {
  const std::string joined = replace_all(replace_all(line, "= = =", "==="), "= =", "==");
  const std::string_view title = strip(joined);
  return title.starts_with("= ") && title.ends_with(" =");
}

// Strips what stands between each `open` and the next `close`.
std::string tightened(std::string_view text, char open, char close) {
  std::string result;
  for (;;) {
    const std::size_t begin = text.find(open);
    const std::size_t end = begin == std::string_view::npos ? begin : text.find(close, begin + 1);
    if (end == std::string_view::npos) return result += text;
    result += text.substr(0, begin + 1);
    result += strip(text.substr(begin + 1, end - begin - 1));
    result += close;
    text.remove_prefix(end + 1);
  }
}

std::vector<TaskDocument> process_wikitext(std::vector<TaskDocument> documents) {
  std::vector<TaskDocument> pages;
  for (TaskDocument& document : documents) {
    if (document.fields.contains("page")) {
      pages.push_back(std::move(document));
      continue;
    }
    const std::vector<std::string> articles = split_wikitext(text_field(document, "text"));
    for (std::size_t i = 0; i < articles.size(); ++i) {
      pages.push_back({{{"page", articles[i]}}, document.where + ", article " + std::to_string(i + 1)});
    }
  }
  for (TaskDocument& page : pages) page.fields["text"] = detokenize_wikitext(text_field(page, "page"));
  return pages;
}

}  // namespace

std::string clean_hellaswag(std::string_view text) {
  return replace_all(without_brackets(replace_all(strip(text), " [title]", ". ")), "  ", " ");
}

// The harness's list, in its order, without a pattern with literal slashes that matches nothing in this corpus.
std::string detokenize_wikitext(std::string_view page) {
  using Pair = std::pair<std::string_view, std::string_view>;
  constexpr std::array kSeparators{Pair{"s '", "s'"}, Pair{" @-@ ", "-"}, Pair{" @,@ ", ","}, Pair{" @.@ ", "."}, Pair{" : ", ": "},
                                   Pair{" ; ", "; "}, Pair{" . ", ". "},  Pair{" ! ", "! "},  Pair{" ? ", "? "},  Pair{" , ", ", "}};
  constexpr std::array kBrackets{std::pair{'(', ')'}, std::pair{'[', ']'}, std::pair{'{', '}'}, std::pair{'"', '"'}, std::pair{'\'', '\''}};
  constexpr std::array kRest{Pair{"= = = =", "===="}, Pair{"= = =", "==="}, Pair{"= =", "=="},  Pair{" \xC2\xB0 ", "\xC2\xB0"},
                             Pair{" \n", "\n"},       Pair{"\n ", "\n"},    Pair{" N ", " 1 "}, Pair{" 's", "'s"}};
  std::string text(page);
  for (const auto& [from, to] : kSeparators) text = replace_all(text, from, to);
  for (const auto& [open, close] : kBrackets) text = tightened(text, open, close);
  for (const auto& [from, to] : kRest) text = replace_all(text, from, to);
  return text;
}

std::vector<std::string> split_wikitext(std::string_view text) {
  std::vector<std::string> articles;
  std::string article;
  bool is_first_line = true;
  const auto end_article = [&] {
    if (!strip(article).empty()) articles.push_back(std::move(article));
    article.clear();
    is_first_line = true;
  };
  for (;;) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    if (is_heading(line)) end_article();
    if (!std::exchange(is_first_line, false)) article += '\n';
    article += line;
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  end_article();
  return articles;
}

std::vector<TaskDocument> process_documents(std::vector<TaskDocument> documents, DocumentStep step) {
  if (step == DocumentStep::kWikitext) return process_wikitext(std::move(documents));
  for (TaskDocument& document : documents) {
    if (step == DocumentStep::kHellaswag) process_hellaswag(document);
    if (step == DocumentStep::kWinogrande) process_winogrande(document);
  }
  return documents;
}

}  // namespace stableqat::tasks
