// tokenizer_speed --model M --text FILE... [--repeats n] [--ids OUT]
// Encodes the documents of the files one by one on one thread and prints, as JSON, how long that took. With --ids the ids go to OUT as
// little-endian int32, each document closed by -1, so that another tokenizer's can be compared.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stableqat/base/file.h"
#include "stableqat/data/text_reader.h"
#include "stableqat/tokenizer/tokenizer.h"

namespace {

using namespace stableqat;

int run(int argc, char** argv) {
  CLI::App app("Times the tokenizer on one thread");
  std::string model;
  std::string ids_path;
  std::vector<std::string> paths;
  int repeats = 5;
  app.add_option("--model", model, "model folder, tokenizer.json or GGUF file")->required();
  app.add_option("--text", paths, "JSON lines or text")->required();
  app.add_option("--repeats", repeats, "the fastest counts")->check(CLI::PositiveNumber);
  app.add_option("--ids", ids_path, "write the ids here");
  CLI11_PARSE(app, argc, argv);

  DocumentReader reader(list_text_files(std::vector<std::filesystem::path>(paths.begin(), paths.end())));
  std::vector<std::string> documents;
  std::size_t bytes = 0;
  for (Document document; reader.next(document);) {
    bytes += document.text.size();
    documents.push_back(std::move(document.text));
  }

  const Tokenizer tokenizer = Tokenizer::open(model);
  std::vector<std::int32_t> ids;
  double best = 1e30;
  double first = 0.0;
  for (int i = 0; i < repeats; ++i) {
    ids.clear();
    const auto start = std::chrono::steady_clock::now();
    for (const std::string& document : documents) {
      tokenizer.encode(document, ids, {.add_special_tokens = false, .parse_special_tokens = true});
      ids.push_back(-1);
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (i == 0) first = seconds;
    best = std::min(best, seconds);
  }
  if (!ids_path.empty()) {
    AtomicFile file(ids_path);
    file.write(std::as_bytes(std::span(ids)));
    file.commit();
  }
  const nlohmann::ordered_json result{{"documents", documents.size()},
                                      {"bytes", bytes},
                                      {"ids", ids.size() - documents.size()},
                                      {"seconds", best},
                                      {"first_seconds", first},
                                      {"megabytes_per_second", static_cast<double>(bytes) / best / 1e6}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tokenizer_speed: error: %s\n", error.what());
    return 2;
  }
}
