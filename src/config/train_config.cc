#include "stableqat/config/train_config.h"

#include <cmath>

#include "config/field_values.h"
#include "config/train_config_fields.h"
#include "stableqat/base/error.h"

namespace stableqat {

namespace {

using Keys = std::set<std::string_view>;

constexpr double kRoundingOfRatios = 1e-6;

// Method `none` and 16 bits are one thing: who gives one of them in a file or command line need not give the other.
void couple_method_and_bits(TrainConfig::Quantization& quantization, const Keys& given) {
  const bool has_method = given.contains("quantization.method");
  const bool has_bits = given.contains("quantization.bits");
  if (has_bits && !has_method && quantization.bits == TrainConfig::kUnquantizedBits) quantization.method = TrainConfig::Method::kNone;
  if (has_method && !has_bits && quantization.method == TrainConfig::Method::kNone) quantization.bits = TrainConfig::kUnquantizedBits;
}

// What the authors' keys mean here. Whoever names data.train or data.mixture has said it already.
void adopt(const AuthorsData& authors, const Keys& given, TrainConfig::Data& data, std::vector<std::string>& notices) {
  if (authors.truncate) {
    if (authors.truncate_length < 1) throw ConfigError({"truncate.length", "nothing", "the length to cut sequences to", ""});
    data.sequence_length = authors.truncate_length;
    notices.push_back("truncate: sequences of " + std::to_string(authors.truncate_length) +
                      " tokens; what is cut off becomes sequences too");
  }
  std::vector<WeightedPath> mixture;
  for (const WeightedPath& source : {authors.slimpajama, authors.fineweb_edu}) {
    if (source.weight > 0.0 && !source.path.empty()) mixture.push_back(source);
  }
  double sum = 0.0;
  for (const WeightedPath& source : mixture) sum += source.weight;
  if (given.contains("data.train") || given.contains("data.mixture")) {
    if (!mixture.empty()) notices.emplace_back("slimpajama_data, fineweb_edu_data: replaced by data.train or data.mixture");
  } else if (!mixture.empty()) {
    data.mixture = std::move(mixture);
    if (std::abs(sum - 1.0) > kRoundingOfRatios) {
      notices.push_back("mix_ratio: the sum is " + number_text(sum) + ", not 1; the ratios are taken as shares of max_train_tokens");
    }
    if (!authors.tokenized_name.empty()) notices.emplace_back("tokenized_data_name: not used beside the mixture that the file names");
  } else if (given.contains("slimpajama_data.mix_ratio") || given.contains("fineweb_edu_data.mix_ratio")) {
    throw ConfigError({"mix_ratio", "no source with a mix_ratio above 0 and a data_path", "at least one",
                       "correct slimpajama_data and fineweb_edu_data, or name the data by data.train"});
  } else if (!authors.tokenized_name.empty()) {
    data.train = {authors.tokenized_name};
  }
}

void require(bool is_given, const char* key, const char* meaning) {
  if (!is_given) throw ConfigError({key, "nothing", meaning, std::string("give it in the file or by --") + key});
}

void refuse_training_on_validation(const TrainConfig::Data& data) {
  const auto refuse_if_same = [&data](const std::string& path) {
    if (path != data.valid) return;
    throw ConfigError({"data.valid", "'" + path + "', which is training data too", "text that the run does not train on",
                       "name another file, or leave data.valid out"});
  };
  for (const std::string& path : data.train) refuse_if_same(path);
  for (const WeightedPath& item : data.mixture) refuse_if_same(item.path);
}

}  // namespace

TrainConfig load_train_config(const std::filesystem::path& path, std::span<const std::string> arguments,
                              std::vector<std::string>& notices) {
  TrainConfig config;
  AuthorsData authors;
  std::vector<Field> rows = fields(config);
  for (Field& row : fields(authors)) rows.push_back(std::move(row));
  const std::span<const ForeignKey> foreign = train_foreign_keys();

  std::vector<Setting> all_settings;
  Keys all_given;
  const auto apply = [&](std::vector<Setting> settings) {
    const Keys given = apply_settings(settings, rows, foreign);
    couple_method_and_bits(config.quantization, given);
    all_given.insert(given.begin(), given.end());
    all_settings.insert(all_settings.end(), std::move_iterator(settings.begin()), std::move_iterator(settings.end()));
  };
  if (!path.empty()) apply(settings_from_yaml(path, known_names(rows, foreign)));
  apply(settings_from_arguments(arguments));

  check_foreign(all_settings, foreign, notices);
  adopt(authors, all_given, config.data, notices);
  if (config.train.resume.empty() || config.train.resume == "None") config.train.resume = "auto";  // what the authors' --resume_ckpt says
  validate(config);
  return config;
}

void validate(const TrainConfig& config) {
  TrainConfig copy = config;
  check_ranges(fields(copy));

  require(!config.model.path.empty(), "model.path", "the model to start from");
  require(!config.data.train.empty() || !config.data.mixture.empty(), "data.train", "training data");
  require(!config.train.output_dir.empty(), "train.output_dir", "a folder to write to");
  require(config.train.eval_tasks.empty() || !config.train.eval_data_dir.empty(), "train.eval_data_dir",
          "the documents of train.eval_tasks");

  const TrainConfig::Quantization& quantization = config.quantization;
  const bool is_plain = quantization.method == TrainConfig::Method::kNone;
  if (is_plain != (quantization.bits == TrainConfig::kUnquantizedBits)) {
    throw ConfigError({"quantization.bits", is_plain ? "fewer than 16 bits with method none" : "16 bits with a quantizing method",
                       "method none with 16 bits, or another method with fewer", ""});
  }
  if (quantization.amplitude.empty()) throw ConfigError({"quantization.amplitude", "an empty list", "a number or a list of numbers", ""});
  if (quantization.amplitude.size() > 1 && quantization.order != 0) {
    throw ConfigError(
        {"quantization.order", "an order beside a list of amplitudes", "one of the two", "the list's length already says the order"});
  }
  if (!config.data.train.empty() && !config.data.mixture.empty()) {
    throw ConfigError({"data.mixture", "data.train and data.mixture together", "one of them", "put all of it into data.mixture"});
  }
  refuse_training_on_validation(config.data);
  if (config.train.warmup_steps > 0 && config.train.warmup_ratio > 0.0) {
    throw ConfigError({"train.warmup_ratio", "train.warmup_steps and train.warmup_ratio together", "one of them", "set the other to 0"});
  }
}

std::string to_yaml(const TrainConfig& config) {
  TrainConfig copy = config;
  return fields_to_yaml(fields(copy));
}

std::string train_config_help() {
  TrainConfig defaults;
  return fields_to_help(fields(defaults));
}

std::string train_config_reference() {
  TrainConfig defaults;
  std::string text =
      "# Configuration of `stableqat train`\n"
      "\n"
      "<!-- Generated by `stableqat train --reference`; edit src/config/train_config_fields.cc. -->\n"
      "\n"
      "Settings come from a YAML file (`--config FILE`) and from flags, which win: `--train.max_steps 10` or `--train.max_steps=10`.\n"
      "A key `section.name` stands in the file as `name` below `section:`. Lists are written `[a, b]` in both places.\n"
      "Numbers may be written like `1e-4`; a key without a value counts as not given. Unknown keys, and a setting given twice\n"
      "(also under two of its names), are errors. `stableqat train --config FILE --dry-run` prints the resolved file.\n";
  text += fields_to_markdown(fields(defaults));
  text +=
      "\n## Keys of the PyTorch program\n"
      "\n"
      "Its files and its command line (`--train_config_file --train_data_dir --tokenized_data_name --output_dir --resume_ckpt`) work\n"
      "unchanged. These keys become settings of the tables above, where those are not given:\n"
      "\n"
      "| Key | Value | Meaning |\n"
      "| --- | --- | --- |\n";
  AuthorsData authors;
  for (const Field& row : fields(authors)) {
    text += "| `" + std::string(row.key) + "` | " + escaped_bars(type_text(row)) + " | " + std::string(row.help) + " |\n";
  }
  text +=
      "\n"
      "These are read and have no effect; each gives one notice. Where values are listed, any other value would change the result and\n"
      "is an error.\n"
      "\n"
      "| Key | Values | Instead |\n"
      "| --- | --- | --- |\n";
  for (const ForeignKey& key : train_foreign_keys()) {
    std::string accepted = key.remedy.empty() ? "any" : "";
    for (const std::string_view value : key.accepted) accepted += (accepted.empty() ? "`" : ", `") + std::string(value) + "`";
    text += "| `" + std::string(key.key) + "` | " + accepted + " | " + std::string(key.remedy) + " |\n";
  }
  return text;
}

}  // namespace stableqat
