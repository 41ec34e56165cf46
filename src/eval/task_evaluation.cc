#include "stableqat/eval/task_evaluation.h"

#include <ATen/Parallel.h>

#include <exception>
#include <mutex>
#include <utility>

#include "stableqat/base/file.h"
#include "stableqat/tasks/documents.h"

namespace stableqat {

namespace {

using tasks::Likelihood;
using tasks::TaskDefinition;
using tasks::TaskItem;
using tasks::TaskResult;

TaskResult read_task(const TaskDefinition& task, const std::filesystem::path& data_dir, const tasks::RequestOptions& options) {
  TaskResult result;
  result.task = task;
  result.num_fewshot = tasks::example_count(task, options);
  const std::vector<tasks::TaskDocument> documents = tasks::read_split(data_dir, task, task.evaluated_split());
  std::vector<tasks::TaskDocument> examples;
  if (result.num_fewshot > 0) examples = tasks::read_split(data_dir, task, task.example_split());
  result.documents_in_split = documents.size();
  result.items = tasks::build_items(task, documents, examples, options);
  result.requests_hash = tasks::hash_requests(result.items);
  return result;
}

// The groups of one item: its choices together, or each window of a rolling text alone.
std::vector<RequestGroup> groups_of(const TaskItem& item, bool is_rolling, const tasks::RequestEncoder& encoder) {
  std::vector<RequestGroup> groups;
  if (is_rolling) {
    for (tasks::ScoredTokens& window : encoder.rolling(item.requests.front().continuation)) groups.push_back({{std::move(window)}});
    return groups;
  }
  groups.emplace_back();
  for (const tasks::TextRequest& request : item.requests) groups.front().requests.push_back(encoder.pair(request, item.document.where));
  return groups;
}

// at::parallel_for whose first exception reaches the caller.
template <class F>
void for_each_in_parallel(std::size_t count, F&& f) {
  std::mutex mutex;
  std::exception_ptr error;
  at::parallel_for(0, static_cast<std::int64_t>(count), 16, [&](std::int64_t begin, std::int64_t end) {
    try {
      for (std::int64_t i = begin; i < end; ++i) f(static_cast<std::size_t>(i));
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace

TaskSet::TaskSet(std::span<const TaskDefinition> tasks, const std::filesystem::path& data_dir, const Tokenizer& tokenizer,
                 const TaskSetOptions& options) {
  const tasks::RequestEncoder encoder(tokenizer, options.bos, options.max_length);
  for (const TaskDefinition& task : tasks) {
    tasks_.push_back(read_task(task, data_dir, options.requests));
    encode(tasks_.size() - 1, encoder);
  }
}

void TaskSet::encode(std::size_t task, const tasks::RequestEncoder& encoder) {
  TaskResult& result = tasks_[task];
  const bool is_rolling = result.task.output_type == tasks::OutputType::kLoglikelihoodRolling;
  std::vector<std::vector<RequestGroup>> groups(result.items.size());
  for_each_in_parallel(groups.size(), [&](std::size_t i) { groups[i] = groups_of(result.items[i], is_rolling, encoder); });
  for (std::size_t i = 0; i < groups.size(); ++i) {
    for (RequestGroup& group : groups[i]) {
      for (const tasks::ScoredTokens& request : group.requests) result.truncated += request.truncated ? 1 : 0;
      units_.push_back({task, i, false});
      groups_.push_back(std::move(group));
    }
    if (!groups[i].empty()) units_.back().is_last = true;
  }
}

std::vector<TaskResult> TaskSet::without_answers() const {
  std::vector<TaskResult> results = tasks_;
  for (TaskResult& result : results) {
    result.documents.resize(result.items.size());
    if (result.task.output_type != tasks::OutputType::kLoglikelihoodRolling) continue;
    for (tasks::DocumentResult& document : result.documents) document.likelihoods.assign(1, {0.0, true});  // windows add to it
  }
  return results;
}

void TaskSet::take(TaskResult& result, const Unit& unit, const std::vector<Likelihood>& likelihoods) {
  std::vector<Likelihood>& answers = result.documents[unit.item].likelihoods;
  if (result.task.output_type == tasks::OutputType::kLoglikelihoodRolling) {
    answers.front().log_likelihood += likelihoods.front().log_likelihood;
    answers.front().is_greedy = answers.front().is_greedy && likelihoods.front().is_greedy;
  } else {
    answers = likelihoods;
  }
}

std::optional<std::vector<TaskResult>> TaskSet::evaluate(const CausalLm& model, const LikelihoodOptions& options, tasks::LikelihoodLog* log,
                                                         const ProgressCallback& progress, const StopRequested& stop) const {
  std::vector<TaskResult> results = without_answers();
  std::vector<std::size_t> open;  // units to score
  for (std::size_t i = 0; i < units_.size(); ++i) {
    TaskResult& result = results[units_[i].task];
    const auto* known = log == nullptr ? nullptr : log->find(result.task.name, result.items[units_[i].item].doc_id);
    if (known == nullptr) {
      open.push_back(i);
    } else {
      result.documents[units_[i].item].likelihoods = *known;
    }
  }
  const auto sink = [&](std::size_t index, const std::vector<Likelihood>& likelihoods) {
    const Unit& unit = units_[open[index]];
    TaskResult& result = results[unit.task];
    take(result, unit, likelihoods);
    if (log == nullptr || !unit.is_last) return;
    log->append(result.task.name, result.items[unit.item].doc_id, result.documents[unit.item].likelihoods);
    log->flush();
  };
  std::vector<RequestGroup> rest;  // copies only where an interrupted evaluation goes on
  if (open.size() < units_.size()) {
    for (const std::size_t i : open) rest.push_back(groups_[i]);
  }
  const std::span<const RequestGroup> groups = open.size() < units_.size() ? std::span<const RequestGroup>(rest) : groups_;
  if (!score_likelihoods(model, groups, options, sink, progress, stop)) return std::nullopt;
  for (TaskResult& result : results) {
    for (std::size_t i = 0; i < result.items.size(); ++i) {
      result.documents[i].metrics = tasks::item_metrics(result.task, result.items[i], result.documents[i].likelihoods);
    }
    tasks::aggregate(result);
  }
  return results;
}

std::string weights_hash(CausalLm& model) {
  std::string all;
  const auto add = [&all](const std::string& name, const at::Tensor& value) {
    const at::Tensor dense = value.detach().contiguous();
    const std::span bytes(static_cast<const std::byte*>(dense.const_data_ptr()), dense.nbytes());
    all += name + " " + content_hash(bytes) + "\n";
  };
  model.visit_parameters([&add](const std::string& name, ParameterRole role, at::Tensor& value) {
    if (role != ParameterRole::kProjection) add(name, value);
  });
  model.visit_linears([&add](const std::string& name, Linear& layer) {
    add(name, layer.codes.defined() ? layer.codes : layer.weight);
    if (layer.codes.defined()) add(name + " step", layer.step);
  });
  return content_hash(std::as_bytes(std::span(all)));
}

}  // namespace stableqat
