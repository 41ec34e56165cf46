// Task files, the catalog, and the data sets' files.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/tasks/catalog.h"
#include "stableqat/tasks/documents.h"

namespace stableqat::tasks {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTask = R"(task: mine
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: label
doc_to_choice: ["no", "yes"]
metric_list:
  - metric: acc
)";

std::string error_of(const std::string& text) {
  try {
    parse_task_file({"my.yaml", text});
    return "no error";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

TEST(TaskFile, ReadsTheHarnessKeys) {
  const auto task = std::get<TaskDefinition>(parse_task_file({"my.yaml", kTask}));
  EXPECT_EQ(task.name, "mine");
  EXPECT_EQ(task.evaluated_split(), "validation");
  EXPECT_EQ(task.target_delimiter, " ");
  EXPECT_EQ(std::get<std::vector<std::string>>(task.doc_to_choice), (std::vector<std::string>{"no", "yes"}));
  EXPECT_EQ(task.metrics, std::vector{Metric::kAcc});
}

TEST(TaskFile, RefusesWithLineAndNearestName) {
  const std::string task = kTask;
  EXPECT_EQ(error_of(replaced(task, "doc_to_choice", "doc_to_choices")),
            "my.yaml:6: found unknown key 'doc_to_choices'; did you mean 'doc_to_choice'?");
  EXPECT_EQ(error_of(replaced(task, "metric: acc", "metric: accc")).find("my.yaml:8: metric: found 'accc'"), 0U);
  EXPECT_EQ(error_of(replaced(task, "multiple_choice", "generate_until")).find("my.yaml:3: output_type"), 0U);
  EXPECT_EQ(error_of(task + "process_docs: !function utils.process_docs\n").find("my.yaml:9: process_docs: found the Python function"), 0U);
  EXPECT_EQ(error_of(task + "task: again\n"), "my.yaml:9: found 'task' again, expected each key once");
  EXPECT_EQ(error_of(replaced(task, "{{question}}", "{{question")).find("my.yaml:4: doc_to_text: found '{{'"), 0U);
  EXPECT_EQ(error_of(replaced(task, "acc", "word_perplexity")).find("my.yaml: found a metric of another output_type"), 0U);
  EXPECT_EQ(error_of("task: [\n").find("my.yaml:2: found malformed YAML"), 0U);
  EXPECT_NE(error_of(replaced(task, "task: mine", "task: ../mine")), "no error");
  EXPECT_NE(error_of("- a\n- b\n"), "no error");
  EXPECT_NE(error_of(""), "no error");
}

TEST(TaskFile, IncludesAreOverriddenAndMayNotRunInCircles) {
  const IncludeReader include = [](const std::string&, const std::string& name) -> std::optional<NamedText> {
    if (name == "base.yaml") return NamedText{"base.yaml", kTask};
    if (name == "circle.yaml") return NamedText{"circle.yaml", "include: circle.yaml\n"};
    return std::nullopt;
  };
  const auto task = std::get<TaskDefinition>(parse_task_file({"my.yaml", "task: other\ninclude: base.yaml\n"}, include));
  EXPECT_EQ(task.name, "other");
  EXPECT_EQ(task.metrics, std::vector{Metric::kAcc});
  EXPECT_THROW(parse_task_file({"my.yaml", "include: circle.yaml\n"}, include), ConfigError);
  EXPECT_THROW(parse_task_file({"my.yaml", "include: none.yaml\n"}, include), ConfigError);
}

class TaskFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stableqat_tasks_test_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const fs::path& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    write_text_file(folder_ / name, text);
  }

  fs::path folder_;
};

std::vector<std::string> names_of(const std::vector<TaskDefinition>& tasks) {
  std::vector<std::string> names;
  for (const TaskDefinition& task : tasks) names.push_back(task.name);
  return names;
}

TEST_F(TaskFolderTest, CatalogKnowsTasksGroupsTagsAndFiles) {
  write("mine.yaml", kTask);
  TaskCatalog catalog = TaskCatalog::shipped();
  const auto select = [&catalog](std::vector<std::string> names) { return names_of(catalog.select(names)); };
  EXPECT_EQ(select({"stableqat"}).size(), 8U);
  EXPECT_EQ(select({"ai2_arc", "arc_easy", "piqa"}), (std::vector<std::string>{"arc_challenge", "arc_easy", "piqa"}));
  EXPECT_EQ(select({(folder_ / "mine.yaml").string()}), std::vector<std::string>{"mine"});
  EXPECT_EQ(select({"arc_challenge", "mine"}), (std::vector<std::string>{"arc_challenge", "mine"}));
  try {
    select({"winogrand"});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.text().remedy, "did you mean 'winogrande'?");
  }
}

TEST_F(TaskFolderTest, FindsOurNamesAndTheHubs) {
  TaskCatalog catalog = TaskCatalog::shipped();
  const TaskDefinition task = catalog.select(std::vector<std::string>{"arc_easy"}).front();
  EXPECT_THROW(find_split(folder_, task, "test"), DataError);
  write("allenai/ai2_arc/ARC-Easy/test-00000-of-00001.jsonl", "{}");
  EXPECT_EQ(find_split(folder_, task, "test").filename(), "test-00000-of-00001.jsonl");
  const TaskDefinition without_name = catalog.select(std::vector<std::string>{"sciq"}).front();
  write("allenai/sciq/data/test-00000-of-00001.parquet", "");
  EXPECT_EQ(find_split(folder_, without_name, "test"), folder_ / "allenai/sciq/data/test-00000-of-00001.parquet");
  write("arc_easy_test.jsonl.xz", "");
  write("arc_easy_test_of_another.jsonl", "");
  EXPECT_EQ(find_split(folder_, task, "test").filename(), "arc_easy_test.jsonl.xz");
  write("arc_easy_test.json", "");
  EXPECT_THROW(find_split(folder_, task, "test"), DataError) << "two files";
}

// Written by pyarrow with the columns that the Hub's file of this data set has (tools/make_arrow_fixtures.py).
TEST_F(TaskFolderTest, ReadsTheHubsParquet) {
  fs::create_directories(folder_ / "ai2_arc/ARC-Easy");
  fs::copy_file(STABLEQAT_TEST_DATA "/arrow/arc_easy_test.parquet", folder_ / "ai2_arc/ARC-Easy/test-00000-of-00001.parquet");
  write("json/arc_easy_test.jsonl", read_text_file(STABLEQAT_SOURCE_DIR "/data/eval/arc_easy_test.jsonl"));
  TaskCatalog catalog = TaskCatalog::shipped();
  const TaskDefinition task = catalog.select(std::vector<std::string>{"arc_easy"}).front();
  const auto from_parquet = read_split(folder_, task, "test");
  const auto from_json = read_split(folder_ / "json", task, "test");
  ASSERT_EQ(from_parquet.size(), 5U);
  for (std::size_t i = 0; i < from_parquet.size(); ++i) EXPECT_EQ(from_parquet[i].fields, from_json[i].fields);
  write("ai2_arc/ARC-Easy/test-00000-of-00001.parquet", "PAR1 but not Parquet");
  EXPECT_THROW(read_split(folder_, task, "test"), DataError);
}

TEST_F(TaskFolderTest, RefusesBadDocumentsWithFileAndLine) {
  const auto task = std::get<TaskDefinition>(parse_task_file({"my.yaml", kTask}));
  const auto error = [&](const std::string& text) -> std::string {
    write("mine_validation.jsonl", text);
    try {
      read_split(folder_, task, "validation");
      return "no error";
    } catch (const DataError& problem) {
      return problem.what();
    }
  };
  const std::string where = (folder_ / "mine_validation.jsonl").string();
  EXPECT_EQ(error("{\"question\": 1}\n{\"question\n").find(where + ":2: "), 0U);
  EXPECT_EQ(error("{}\n[1]\n").find(where + ":2: found JSON of type array"), 0U);
  EXPECT_EQ(error("\n\n").find(where + ": found no documents"), 0U);
  EXPECT_EQ(error("{\"question\": 1}\n"), "no error");
}

}  // namespace
}  // namespace stableqat::tasks
