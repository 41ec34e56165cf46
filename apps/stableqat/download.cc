// stableqat download: a model from the Hub.
#include <fmt/format.h>

#include "commands.h"
#include "hub_flags.h"
#include "stableqat/hub/download.h"
#include "stop_signal.h"

namespace stableqat::app {

namespace {

struct DownloadFlags {
  std::string model;
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  HubFlags hub;
};

bool ends_with(const hub::HubFile& file, std::string_view suffix) { return file.path.ends_with(suffix); }

// What a model is read from: weights as safetensors, configuration and tokenizer, from the repository's top folder.
std::vector<hub::HubFile> default_files(std::span<const hub::HubFile> files, const std::string& model) {
  const std::vector<std::string> patterns{"*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE*", "README.md"};
  std::vector<hub::HubFile> selected = hub::select_files(files, patterns, std::vector<std::string>{"*/*"});
  const auto is_weights = [](const hub::HubFile& file) { return ends_with(file, ".safetensors"); };
  if (std::any_of(selected.begin(), selected.end(), is_weights)) return selected;

  std::string others;
  for (const hub::HubFile& file : files) {
    if (ends_with(file, ".gguf") || is_weights(file)) others += (others.empty() ? "" : ", ") + file.path;
  }
  throw DataError({model, others.empty() ? "neither safetensors nor GGUF files" : "no safetensors in the top folder, but " + others,
                   "a model that can be read",
                   others.empty() ? "see its page for a repository with safetensors" : "choose by --include FILE"});
}

std::vector<hub::HubFile> wanted_files(const hub::Listing& listing, const DownloadFlags& options) {
  if (options.include.empty()) return hub::select_files(default_files(listing.files, options.model), {}, options.exclude);
  std::vector<hub::HubFile> selected = hub::select_files(listing.files, options.include, options.exclude);
  if (selected.empty()) {
    throw DataError({options.model, "no file of " + std::to_string(listing.files.size()) + " that matches --include", "at least one", ""});
  }
  return selected;
}

ExitCode run(const DownloadFlags& options, Console& console) {
  const hub::HubOptions hub = hub_options(options.hub);
  const hub::HubCallbacks callbacks{console.log_callback(), console.progress_callback(), stop_on_signals()};
  const hub::Repository repository = hub::make_repository(hub::RepositoryType::kModel, options.model);
  const auto listing = hub::list_repository(repository, options.hub.revision, "", hub, callbacks);
  if (!listing) return ExitCode::kInterrupted;
  if (!hub::download_files(repository, listing->commit, wanted_files(*listing, options), hub, callbacks)) return ExitCode::kInterrupted;
  hub::write_reference(repository, options.hub.revision, listing->commit, hub);
  console.finish();
  fmt::print("{}\n", hub::snapshot_folder(repository, listing->commit, hub).string());
  return ExitCode::kDone;
}

}  // namespace

void register_download(CLI::App& app, Program& program) {
  CLI::App& command = add_command(app, program, "download", "A model from the Hugging Face Hub; prints its folder",
                                  "stableqat download HuggingFaceTB/SmolLM2-135M");
  const auto options = std::make_shared<DownloadFlags>();
  command.add_option("model", options->model, "Repository")->type_name("ORG/NAME")->required();
  command
      .add_option("--include", options->include,
                  "Files to fetch, by pattern on the path; without it safetensors, configuration and tokenizer of the top folder")
      ->type_name("PATTERN");
  command.add_option("--exclude", options->exclude, "Files to leave out")->type_name("PATTERN");
  add_hub_flags(command, options->hub);
  command.callback([&program, options] { program.selected = [&program, options] { return run(*options, program.console); }; });
}

}  // namespace stableqat::app
