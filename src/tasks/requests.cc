#include "stableqat/tasks/requests.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "base/python_random.h"
#include "stableqat/base/error.h"
#include "tasks/template_functions.h"
#include "tasks/unicode_text.h"

namespace stableqat::tasks {

namespace {

using nlohmann::json;

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == std::string::npos;
}

// A field keeps its type; what a template makes is a number if it looks like one.
json number_or_text(const TextTemplate& text, const TaskDocument& document) {
  json value = text.value(document);
  const bool is_field = document.fields.contains(text.source());
  if (!is_field && value.is_string() && is_number(value.get<std::string>())) return std::stoll(value.get<std::string>());
  return value;
}

std::vector<std::string> choices_of(const TaskDefinition& task, const TaskDocument& document) {
  if (const auto* list = std::get_if<std::vector<std::string>>(&task.doc_to_choice)) return *list;
  const auto& text = std::get<TextTemplate>(task.doc_to_choice);
  const auto refuse = [&](const std::string& found) {
    throw DataError({text.where() + ", for " + document.where, found, "a list of texts", ""});
  };
  const json value = text.value(document);
  if (!value.is_array() || value.empty()) refuse(value.is_array() ? "an empty list" : kind_of(value));
  std::vector<std::string> choices;
  for (const json& choice : value) {
    if (choice.is_structured()) refuse("a list with " + kind_of(choice));
    choices.push_back(python_text(choice));
  }
  return choices;
}

// The parts of one document; as an example it is shown with its answer.
struct Question {
  std::string text;  // before the answer
  std::vector<std::string> choices;
  bool is_partial = false;  // choices are contexts, and `answer` continues each of them
  std::size_t gold = 0;
  json target;
  std::string answer;  // the right continuation
};

std::size_t gold_of(const json& label, const std::vector<std::string>& choices, const std::string& where) {
  const std::string range = "0 to " + std::to_string(choices.size() - 1);
  if (label.is_number_integer()) {
    const auto number = label.get<std::int64_t>();
    if (number >= 0 && number < static_cast<std::int64_t>(choices.size())) return static_cast<std::size_t>(number);
    throw DataError({where, "label " + std::to_string(number), range, "use a split with labels"});
  }
  if (!label.is_string()) throw DataError({where, kind_of(label) + " as label", range + ", or one of the choices", ""});
  const auto found = std::find(choices.begin(), choices.end(), label.get<std::string>());
  if (found == choices.end()) throw DataError({where, "label '" + label.get<std::string>() + "'", "one of the choices", ""});
  return static_cast<std::size_t>(found - choices.begin());
}

Question question_of(const TaskDefinition& task, const TaskDocument& document) {
  Question question;
  question.choices = choices_of(task, document);
  const json text = number_or_text(task.doc_to_text, document);
  question.is_partial = text.is_number_integer();
  if (question.is_partial) {
    question.gold = gold_of(text, question.choices, task.doc_to_text.where() + ", for " + document.where);
    question.answer = task.doc_to_target.text(document);
    question.target = question.answer;
    question.text = question.choices[question.gold];
    return question;
  }
  question.target = number_or_text(task.doc_to_target, document);
  question.gold = gold_of(question.target, question.choices, task.doc_to_target.where() + ", for " + document.where);
  question.answer = question.choices[question.gold];
  question.text = task.doc_to_text.text(document);
  return question;
}

// Chooses the documents that are shown before a question.
class ExampleSampler {
 public:
  ExampleSampler(const TaskDefinition& task, const std::vector<TaskDocument>& examples, std::uint64_t seed)
      : task_(task), examples_(examples), random_(seed), may_hold_the_question_(task.fewshot_split == task.test_split) {}

  // Call for each document in order: the random numbers go on from one to the next.
  std::vector<const TaskDocument*> sample(std::size_t count, const TaskDocument& question) {
    if (count == 0) return {};
    const auto is_other = [&](const TaskDocument* example) { return !may_hold_the_question_ || example->fields != question.fields; };
    std::vector<const TaskDocument*> chosen = task_.fewshot_sampler == Sampler::kFirstN ? all() : draw(all(), count + spare());
    chosen.erase(std::remove_if(chosen.begin(), chosen.end(), std::not_fn(is_other)), chosen.end());
    if (chosen.size() < count) {  // the question stands there more than once
      chosen = all();
      chosen.erase(std::remove_if(chosen.begin(), chosen.end(), std::not_fn(is_other)), chosen.end());
      chosen = draw(chosen, count);
    }
    chosen.resize(count);
    return chosen;
  }

 private:
  // One more than needed where the question itself might be drawn.
  std::size_t spare() const { return may_hold_the_question_ ? 1 : 0; }

  std::vector<const TaskDocument*> all() const {
    std::vector<const TaskDocument*> pointers;
    for (const TaskDocument& example : examples_) pointers.push_back(&example);
    return pointers;
  }

  std::vector<const TaskDocument*> draw(const std::vector<const TaskDocument*>& pool, std::size_t count) {
    if (pool.size() < count) {
      throw DataError({task_.name + ", split '" + task_.example_split() + "'", std::to_string(pool.size()) + " examples",
                       "at least " + std::to_string(count), "lower --num-fewshot"});
    }
    std::vector<const TaskDocument*> drawn;
    for (const std::uint64_t i : random_.sample(pool.size(), count)) drawn.push_back(pool[i]);
    return drawn;
  }

  const TaskDefinition& task_;
  const std::vector<TaskDocument>& examples_;
  PythonRandom random_;
  bool may_hold_the_question_;
};

std::string shown(const TaskDefinition& task, const TaskDocument& example) {
  const Question question = question_of(task, example);
  if (question.answer.empty()) return question.text;
  return question.text + task.target_delimiter + question.answer + task.fewshot_delimiter;
}

TaskItem choice_item(const TaskDefinition& task, const TaskDocument& document, const std::string& before) {
  TaskItem item;
  Question question = question_of(task, document);
  for (const std::string& choice : question.choices) {
    if (question.is_partial) {
      item.requests.push_back({before + choice, task.target_delimiter + question.answer});
    } else {
      item.requests.push_back({before + question.text, task.target_delimiter + choice});
    }
  }
  item.choices = std::move(question.choices);
  item.gold = question.gold;
  item.target = std::move(question.target);
  return item;
}

TaskItem rolling_item(const TaskDefinition& task, const TaskDocument& document) {
  TaskItem item;
  const std::string text = task.doc_to_target.text(document);
  const bool has_page = task.process_docs == DocumentStep::kWikitext;
  const std::string original = has_page ? document.fields.at("page").get<std::string>() : text;
  item.words = count_words(original);
  item.bytes = original.size();
  item.target = text;
  item.requests.push_back({"", text});
  return item;
}

}  // namespace

std::int64_t example_count(const TaskDefinition& task, const RequestOptions& options) {
  if (task.output_type == OutputType::kLoglikelihoodRolling) return 0;
  return options.num_fewshot < 0 ? task.num_fewshot : options.num_fewshot;
}

std::vector<TaskItem> build_items(const TaskDefinition& task, const std::vector<TaskDocument>& documents,
                                  const std::vector<TaskDocument>& examples, const RequestOptions& options) {
  const auto count = static_cast<std::size_t>(example_count(task, options));
  const std::size_t total = options.limit == 0 ? documents.size() : std::min<std::size_t>(options.limit, documents.size());
  ExampleSampler sampler(task, examples, options.fewshot_seed);
  std::vector<TaskItem> items;
  items.reserve(total);
  for (std::size_t i = 0; i < total; ++i) {
    const TaskDocument& document = documents[i];
    if (task.output_type == OutputType::kLoglikelihoodRolling) {
      items.push_back(rolling_item(task, document));
    } else {
      std::string before = task.description;
      for (const TaskDocument* example : sampler.sample(count, document)) before += shown(task, *example);
      items.push_back(choice_item(task, document, before));
    }
    items.back().doc_id = i;
    items.back().document = document;
  }
  return items;
}

}  // namespace stableqat::tasks
