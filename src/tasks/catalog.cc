#include "stableqat/tasks/catalog.h"

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "tasks/shipped_task_files.h"

namespace stableqat::tasks {

namespace fs = std::filesystem;

namespace {

constexpr int kMaxGroupDepth = 8;

std::optional<NamedText> read_shipped(const std::string& name) {
  for (const ShippedFile& file : shipped_task_files()) {
    if (file.name == name) return NamedText{"eval/tasks/" + name, std::string(file.text)};
  }
  return std::nullopt;
}

// Beside the file that includes it, else among those that come with the program.
std::optional<NamedText> read_included(const std::string& file, const std::string& included) {
  const fs::path path = fs::path(file).parent_path() / included;
  std::error_code error;
  if (fs::is_regular_file(path, error)) return NamedText{path.string(), read_text_file(path)};
  return read_shipped(included);
}

bool is_yaml(const fs::path& path) { return path.extension() == ".yaml" || path.extension() == ".yml"; }

}  // namespace

TaskCatalog TaskCatalog::shipped() {
  TaskCatalog catalog;
  const IncludeReader include = [](const std::string&, const std::string& name) { return read_shipped(name); };
  for (const ShippedFile& file : shipped_task_files()) {
    catalog.insert(parse_task_file({"eval/tasks/" + std::string(file.name), std::string(file.text)}, include));
  }
  return catalog;
}

void TaskCatalog::add(const fs::path& path) {
  std::error_code error;
  std::vector<fs::path> files;
  if (fs::is_directory(path, error)) {
    for (const auto& entry : fs::directory_iterator(path)) {
      if (is_yaml(entry.path())) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    if (files.empty()) throw DataError({path.string(), "no task file", "*.yaml", ""});
  } else {
    files.push_back(path);
  }
  for (const fs::path& file : files) insert(parse_task_file({file.string(), read_text_file(file)}, read_included));
}

void TaskCatalog::insert(TaskFile file) {
  if (auto* task = std::get_if<TaskDefinition>(&file)) {
    tasks_.insert_or_assign(task->name, std::move(*task));
  } else {
    auto& group = std::get<TaskGroup>(file);
    groups_.insert_or_assign(group.name, std::move(group));
  }
}

std::vector<TaskDefinition> TaskCatalog::select(std::span<const std::string> names) {
  std::vector<TaskDefinition> selected;
  for (const std::string& name : names) {
    if (!is_yaml(name)) {
      select_into(name, selected, 0);
      continue;
    }
    TaskFile file = parse_task_file({name, read_text_file(name)}, read_included);
    const auto* group = std::get_if<TaskGroup>(&file);
    const std::string own_name = group != nullptr ? group->name : std::get<TaskDefinition>(file).name;
    insert(std::move(file));
    select_into(own_name, selected, 0);
  }
  return selected;
}

void TaskCatalog::select_into(const std::string& name, std::vector<TaskDefinition>& selected, int depth) const {
  if (const auto task = tasks_.find(name); task != tasks_.end()) {
    const auto is_same = [&name](const TaskDefinition& other) { return other.name == name; };
    if (std::none_of(selected.begin(), selected.end(), is_same)) selected.push_back(task->second);
    return;
  }
  const auto group = groups_.find(name);
  const std::vector<std::string> members = group != groups_.end() ? group->second.members : with_tag(name);
  if (members.empty()) {
    const std::string near = nearest_name(name, this->names());
    throw ConfigError({"--tasks", "no task, group or tag '" + name + "'", "a known name, or the path of a task file (.yaml)",
                       near.empty() ? "--tasks list names them" : "did you mean '" + near + "'?"});
  }
  if (depth == kMaxGroupDepth) throw ConfigError({group->second.file, "groups of groups without an end", "tasks", ""});
  for (const std::string& member : members) select_into(member, selected, depth + 1);
}

std::vector<std::string> TaskCatalog::with_tag(const std::string& tag) const {
  std::vector<std::string> found;
  for (const auto& [name, task] : tasks_) {
    if (std::find(task.tags.begin(), task.tags.end(), tag) != task.tags.end()) found.push_back(name);
  }
  return found;
}

std::vector<std::string> TaskCatalog::names() const {
  std::set<std::string> all;
  for (const auto& [name, task] : tasks_) {
    all.insert(name);
    all.insert(task.tags.begin(), task.tags.end());
  }
  for (const auto& [name, group] : groups_) all.insert(name);
  return {all.begin(), all.end()};
}

std::string TaskCatalog::describe() const {
  std::string text;
  std::set<std::string> tags;
  for (const auto& [name, task] : tasks_) {
    std::string metrics;
    for (const Metric metric : task.metrics) metrics += " " + std::string(metric_name(metric));
    text += name + ":" + metrics + " (" + task.dataset_path + ", " + task.evaluated_split() + ")\n";
    tags.insert(task.tags.begin(), task.tags.end());
  }
  const auto add_several = [&text](const std::string& name, const std::vector<std::string>& members) {
    text += name + ":";
    for (const std::string& member : members) text += " " + member;
    text += "\n";
  };
  for (const auto& [name, group] : groups_) add_several(name, group.members);
  for (const std::string& tag : tags) add_several(tag, with_tag(tag));
  return text;
}

}  // namespace stableqat::tasks
