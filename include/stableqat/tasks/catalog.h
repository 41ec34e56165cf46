// The tasks that can be asked for by name: those that come with the program, and the user's own files.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "stableqat/tasks/task.h"

namespace stableqat::tasks {

class TaskCatalog {
 public:
  // The files of eval/tasks, built into the library.
  static TaskCatalog shipped();

  // A task file, or all *.yaml and *.yml of a folder. A task of the same name as one that is there takes its place. Throws ConfigError for
  // a bad file, DataError for a path that cannot be read.
  void add(const std::filesystem::path& path);

  // The tasks of these names, in order, each once. A name is a task, a group, a tag, or the path of a task file. Throws ConfigError for
  // unknown names, with the nearest known one.
  std::vector<TaskDefinition> select(std::span<const std::string> names);

  // One line for each task, group and tag.
  std::string describe() const;

 private:
  void insert(TaskFile file);
  void select_into(const std::string& name, std::vector<TaskDefinition>& selected, int depth) const;
  std::vector<std::string> with_tag(const std::string& tag) const;
  std::vector<std::string> names() const;

  std::map<std::string, TaskDefinition> tasks_;
  std::map<std::string, TaskGroup> groups_;
};

}  // namespace stableqat::tasks
