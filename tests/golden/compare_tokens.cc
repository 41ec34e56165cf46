// compare_tokens FILE --text F --model M: does our tokenizer give the ids that FILE holds for the sections of F? Exit 0 if all of them.
// --save DIR writes the tokenizer as a Hugging Face folder first, for other programs to read.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "golden/token_golden.h"
#include "stableqat/base/error.h"

int main(int argc, char** argv) {
  CLI::App app("Compares token ids with those of another program");
  std::string golden_file;
  std::string text_file;
  std::string model;
  app.add_option("FILE", golden_file, "JSON: count, SHA-256 and first ids of each section")->required();
  app.add_option("--text", text_file, "the text, plain or .xz, in sections under lines \"===== name =====\"")->required();
  app.add_option("--model", model, "GGUF file, Hugging Face folder or tokenizer.json")->required();
  std::string folder;
  app.add_option("--save", folder, "also write the tokenizer to this Hugging Face folder");
  CLI11_PARSE(app, argc, argv);
  try {
    const stableqat::Tokenizer tokenizer = stableqat::golden::open_tokenizer(model);
    if (!folder.empty()) tokenizer.save_huggingface(folder);
    const auto result = stableqat::golden::compare_tokens(tokenizer, golden_file, text_file);
    for (const std::string& line : result.mismatches) std::printf("%s\n", line.c_str());
    std::printf("%zu sections, %zu mismatches\n", result.sections, result.mismatches.size());
    return result.mismatches.empty() && result.sections > 0 ? 0 : 1;
  } catch (const stableqat::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.exit_code());
  }
}
