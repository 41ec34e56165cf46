// The YAML of a task file.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/tasks/task.h"

namespace stableqat::tasks {

namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;
constexpr int kMaxIncludes = 8;

template <class T>
struct Named {
  std::string_view name;
  T value;
};

constexpr std::array kMetrics{
    Named<Metric>{"acc", Metric::kAcc},
    Named<Metric>{"acc_norm", Metric::kAccNorm},
    Named<Metric>{"acc_bytes", Metric::kAccBytes},
    Named<Metric>{"word_perplexity", Metric::kWordPerplexity},
    Named<Metric>{"byte_perplexity", Metric::kBytePerplexity},
    Named<Metric>{"bits_per_byte", Metric::kBitsPerByte},
};
constexpr std::array kOutputTypes{
    Named<OutputType>{"multiple_choice", OutputType::kMultipleChoice},
    Named<OutputType>{"loglikelihood_rolling", OutputType::kLoglikelihoodRolling},
};
constexpr std::array kDocumentSteps{
    Named<DocumentStep>{"hellaswag", DocumentStep::kHellaswag},
    Named<DocumentStep>{"winogrande", DocumentStep::kWinogrande},
    Named<DocumentStep>{"wikitext", DocumentStep::kWikitext},
};
constexpr std::array kSamplers{Named<Sampler>{"default", Sampler::kDefault}, Named<Sampler>{"first_n", Sampler::kFirstN}};

// A value and where its key stands.
struct Entry {
  YAML::Node value;
  std::string file;
  std::string where;  // FILE:LINE: KEY

  [[noreturn]] void refuse(const std::string& found, const std::string& expected, const std::string& remedy = "") const {
    throw ConfigError({where, found, expected, remedy});
  }

  std::string scalar() const {
    if (value.IsNull()) return "";
    if (value.Tag() == "!function") {
      refuse("the Python function " + value.Scalar(), "a template, or one of the steps of process_docs built in here",
             "see docs/evaluation.md");
    }
    if (!value.IsScalar()) refuse(value.IsMap() ? "a map" : "a list", "one value");
    return value.Scalar();
  }

  std::vector<std::string> list() const {
    if (value.IsNull()) return {};
    if (value.IsScalar()) return {scalar()};
    std::vector<std::string> items;
    if (!value.IsSequence()) refuse("a map", "a list");
    for (const YAML::Node& item : value) items.push_back(Entry{item, file, where}.scalar());
    return items;
  }

  std::int64_t count() const {
    const std::string text = scalar();
    if (text.empty()) return 0;
    if (text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos) refuse("'" + text + "'", "a number from 0 on");
    return std::stoll(text);
  }

  template <class T, std::size_t n>
  T one_of(const std::array<Named<T>, n>& choices) const {
    const std::string text = scalar();
    std::vector<std::string_view> names;
    std::string list;
    for (const Named<T>& choice : choices) {
      if (choice.name == text) return choice.value;
      names.push_back(choice.name);
      list += (list.empty() ? "" : "|") + std::string(choice.name);
    }
    const std::string near = nearest_name(text, names);
    refuse("'" + text + "'", list, near.empty() ? "" : "did you mean '" + near + "'?");
  }

  TextTemplate text_template() const { return TextTemplate(scalar(), where); }
};

void read_choices(TaskDefinition& task, const Entry& entry) {
  task.has_choices = !entry.value.IsNull();
  if (entry.value.IsSequence()) {
    task.doc_to_choice = entry.list();
  } else {
    task.doc_to_choice = entry.text_template();
  }
}

void read_metrics(TaskDefinition& task, const Entry& entry);
void read_fewshot_config(TaskDefinition& task, const Entry& entry);
void read_metadata(TaskDefinition& task, const Entry& entry);

using ReadEntry = void (*)(TaskDefinition&, const Entry&);

// Without an action: keys of the harness that change nothing here.
using Keys = std::map<std::string_view, ReadEntry>;

const Keys& task_keys() {
  static const Keys keys{
      {"task", [](TaskDefinition& t, const Entry& e) { t.name = e.scalar(); }},
      {"tag", [](TaskDefinition& t, const Entry& e) { t.tags = e.list(); }},
      {"dataset_path", [](TaskDefinition& t, const Entry& e) { t.dataset_path = e.scalar(); }},
      {"dataset_name", [](TaskDefinition& t, const Entry& e) { t.dataset_name = e.scalar(); }},
      {"training_split", [](TaskDefinition& t, const Entry& e) { t.training_split = e.scalar(); }},
      {"validation_split", [](TaskDefinition& t, const Entry& e) { t.validation_split = e.scalar(); }},
      {"test_split", [](TaskDefinition& t, const Entry& e) { t.test_split = e.scalar(); }},
      {"fewshot_split", [](TaskDefinition& t, const Entry& e) { t.fewshot_split = e.scalar(); }},
      {"output_type", [](TaskDefinition& t, const Entry& e) { t.output_type = e.one_of(kOutputTypes); }},
      {"process_docs", [](TaskDefinition& t, const Entry& e) { t.process_docs = e.one_of(kDocumentSteps); }},
      {"doc_to_text", [](TaskDefinition& t, const Entry& e) { t.doc_to_text = e.text_template(); }},
      {"doc_to_target", [](TaskDefinition& t, const Entry& e) { t.doc_to_target = e.text_template(); }},
      {"doc_to_choice", read_choices},
      {"description", [](TaskDefinition& t, const Entry& e) { t.description = e.scalar(); }},
      {"target_delimiter", [](TaskDefinition& t, const Entry& e) { t.target_delimiter = e.scalar(); }},
      {"fewshot_delimiter", [](TaskDefinition& t, const Entry& e) { t.fewshot_delimiter = e.scalar(); }},
      {"fewshot_config", read_fewshot_config},
      {"num_fewshot", [](TaskDefinition& t, const Entry& e) { t.num_fewshot = e.count(); }},
      {"metric_list", read_metrics},
      {"metadata", read_metadata},
      {"task_alias", nullptr},
      {"dataset_kwargs", nullptr},
      {"repeats", nullptr},
      {"should_decontaminate", nullptr},
      {"doc_to_decontamination_query", nullptr},
  };
  return keys;
}

const Keys& group_keys() {
  static const Keys keys{{"group", nullptr}, {"task", nullptr},    {"group_alias", nullptr}, {"aggregate_metric_list", nullptr},
                         {"tag", nullptr},   {"metadata", nullptr}};
  return keys;
}

// Calls f(key, entry) for each key of a map. Keys are looked up in `known`.
template <class F>
void for_each_entry(const YAML::Node& map, const std::string& file, const Keys& known, F&& f) {
  std::vector<std::string> seen;
  for (const auto& item : map) {
    const std::string line = file + ":" + std::to_string(item.first.Mark().line + 1);
    if (!item.first.IsScalar()) throw ConfigError({line, "a key that is a list or a map", "a name", ""});
    const std::string key = item.first.Scalar();
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) throw ConfigError({line, "'" + key + "' again", "each key once", ""});
    seen.push_back(key);
    const Entry entry{item.second, file, line + ": " + key};
    if (key == "include") {
      f(key, entry, nullptr);
      continue;
    }
    const auto row = known.find(key);
    if (row == known.end()) {
      std::vector<std::string_view> names;
      for (const auto& [name, read] : known) names.push_back(name);
      const std::string near = nearest_name(key, names);
      throw ConfigError({line, "unknown key '" + key + "'", "",
                         near.empty() ? "see docs/evaluation.md for the keys of task files" : "did you mean '" + near + "'?"});
    }
    f(key, entry, row->second);
  }
}

void read_metrics(TaskDefinition& task, const Entry& entry) {
  static const Keys keys{{"metric", nullptr}, {"aggregation", nullptr}, {"higher_is_better", nullptr}};
  task.metrics.clear();
  if (!entry.value.IsSequence()) entry.refuse("no list", "a list of `metric: NAME`");
  for (const YAML::Node& item : entry.value) {
    if (!item.IsMap()) entry.refuse("an item without a key", "metric: NAME");
    for_each_entry(item, entry.file, keys, [&task](const std::string& key, const Entry& field, ReadEntry) {
      if (key == "metric") task.metrics.push_back(field.one_of(kMetrics));
    });
  }
}

void read_fewshot_config(TaskDefinition& task, const Entry& entry) {
  static const Keys keys{{"sampler", nullptr}, {"split", nullptr}};
  if (entry.value.IsNull()) return;
  if (!entry.value.IsMap()) entry.refuse("no keys", "sampler and split");
  for_each_entry(entry.value, entry.file, keys, [&task](const std::string& key, const Entry& field, ReadEntry) {
    if (key == "sampler") task.fewshot_sampler = field.one_of(kSamplers);
    if (key == "split") task.fewshot_split = field.scalar();
  });
}

// Any keys; `version` is the one that counts.
void read_metadata(TaskDefinition& task, const Entry& entry) {
  if (!entry.value.IsMap()) return;
  if (const YAML::Node version = entry.value["version"]; version && version.IsScalar()) task.version = version.Scalar();
}

YAML::Node parse_yaml(const NamedText& source) {
  if (source.text.size() > kMaxFileBytes) throw ConfigError({source.file, "a task file of more than 1 MB", "a few lines", ""});
  try {
    const YAML::Node root = YAML::Load(source.text);
    if (!root.IsMap()) throw ConfigError({source.file, "no keys", "lines of the form `key: value`", "see docs/evaluation.md"});
    return root;
  } catch (const YAML::Exception& error) {
    const std::string line = error.mark.is_null() ? "" : ":" + std::to_string(error.mark.line + 1);
    throw ConfigError({source.file + line, "malformed YAML: " + error.msg, "", ""});
  }
}

void read_task(TaskDefinition& task, const NamedText& source, const YAML::Node& root, const IncludeReader& include, int depth) {
  // What is included comes first, wherever the key stands: the including file overrides it.
  if (const YAML::Node included = root["include"]) {
    const Entry entry{included, source.file, source.file + ":" + std::to_string(included.Mark().line + 1) + ": include"};
    if (depth == kMaxIncludes) entry.refuse("more than 8 includes in a row", "fewer", "a file may not include itself");
    const auto base = include ? include(source.file, entry.scalar()) : std::nullopt;
    if (!base) entry.refuse("'" + entry.scalar() + "'", "a task file beside this one", "");
    read_task(task, *base, parse_yaml(*base), include, depth + 1);
  }
  for_each_entry(root, source.file, task_keys(), [&task](const std::string&, const Entry& entry, ReadEntry read) {
    if (read != nullptr) read(task, entry);
  });
}

bool is_rolling_metric(Metric metric) {
  return metric == Metric::kWordPerplexity || metric == Metric::kBytePerplexity || metric == Metric::kBitsPerByte;
}

void check(const TaskDefinition& task) {
  const auto require = [&task](bool holds, const char* found, const char* expected) {
    if (!holds) throw ConfigError({task.file, found, expected, "see docs/evaluation.md"});
  };
  const bool is_choice = task.output_type == OutputType::kMultipleChoice;
  require(!task.name.empty(), "no task", "task: NAME");
  require(task.name.find_first_of("/\\") == std::string::npos && task.name.front() != '.', "a task's name that is no file name",
          "letters, digits and _");
  require(!task.evaluated_split().empty(), "neither test_split nor validation_split", "one of them");
  require(!task.doc_to_target.source().empty(), "no doc_to_target", "a template");
  require(!is_choice || !task.doc_to_text.source().empty(), "no doc_to_text", "a template");
  require(!is_choice || task.has_choices, "no doc_to_choice", "a template or a list");
  require(!task.metrics.empty(), "no metric_list", "at least one metric");
  for (const Metric metric : task.metrics) {
    require(is_rolling_metric(metric) != is_choice, "a metric of another output_type",
            "acc, acc_norm, acc_bytes for multiple_choice; word_perplexity, byte_perplexity, bits_per_byte for loglikelihood_rolling");
  }
}

}  // namespace

std::string_view metric_name(Metric metric) {
  return std::find_if(kMetrics.begin(), kMetrics.end(), [metric](const auto& row) { return row.value == metric; })->name;
}

bool higher_is_better(Metric metric) { return !is_rolling_metric(metric); }

const std::string& TaskDefinition::example_split() const noexcept {
  if (!fewshot_split.empty()) return fewshot_split;
  if (!training_split.empty()) return training_split;
  return validation_split.empty() ? test_split : validation_split;
}

TaskFile parse_task_file(const NamedText& source, const IncludeReader& include) {
  const YAML::Node root = parse_yaml(source);
  if (root["group"]) {
    TaskGroup group{.name = {}, .file = source.file, .members = {}};
    for_each_entry(root, source.file, group_keys(), [&group](const std::string& key, const Entry& entry, ReadEntry) {
      if (key == "group") group.name = entry.scalar();
      if (key == "task") group.members = entry.list();
    });
    if (group.members.empty()) throw ConfigError({source.file, "a group without tasks", "task: [NAME, ...]", ""});
    return group;
  }
  TaskDefinition task;
  read_task(task, source, root, include, 0);
  task.file = source.file;
  check(task);
  return task;
}

}  // namespace stableqat::tasks
