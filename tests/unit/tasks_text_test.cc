// Templates and text steps against what the LM evaluation harness made of the same input (tools/make_task_fixtures.py).
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/tasks/text_template.h"
#include "tasks/document_steps.h"
#include "tasks/unicode_text.h"

namespace stableqat::tasks {
namespace {

using nlohmann::json;

const json& text_cases() {
  static const json golden = json::parse(read_text_file(STABLEQAT_TEST_DATA "/tasks.json"));
  return golden;
}

std::string template_error_of(const std::string& source, const json& fields) {
  try {
    return TextTemplate(source, "my.yaml:3: doc_to_text").text({fields, "data.jsonl:7"});
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(TextTemplate, RendersLikeTheHarness) {
  for (const json& example : text_cases().at("templates")) {
    const TextTemplate text(example[0].get<std::string>(), "text_cases");
    EXPECT_EQ(text.text({example[1], "text_cases"}), example[2].get<std::string>()) << example[0];
  }
}

TEST(TextTemplate, KeepsTheTypeOfAFieldAndOfALoneExpression) {
  const TaskDocument document{{{"label", 2}, {"sol1", "a"}, {"sol2", "b"}}, "data.jsonl:1"};
  EXPECT_EQ(TextTemplate("label", "").value(document), json(2));
  EXPECT_EQ(TextTemplate("{{[sol1, sol2]}}", "").value(document), json({"a", "b"}));
  EXPECT_EQ(TextTemplate("{{label}}.", "").value(document), json("2."));
  EXPECT_EQ(TextTemplate("words that are no field", "").value(document), json("words that are no field"));
}

TEST(TextTemplate, NamesTemplateDocumentAndNearestField) {
  EXPECT_EQ(
      template_error_of("{{questoin}}", {{"question", "q"}, {"answer", "a"}}),
      "my.yaml:3: doc_to_text, for data.jsonl:7: found no field 'questoin', expected one of answer, question; did you mean 'question'?");
  EXPECT_NE(template_error_of("{{choices.text[4]}}", {{"choices", {{"text", {"a"}}}}}).find("found item 4"), std::string::npos);
  EXPECT_NE(template_error_of("{{choices}}", {{"choices", {1}}}).find("found a list"), std::string::npos);
  EXPECT_NE(template_error_of("{{l.index('C')}}", {{"l", {"A", "B"}}}).find("\"C\""), std::string::npos);
  EXPECT_NE(template_error_of("{{a|int}}", {{"a", "x"}}).find("expected an integer"), std::string::npos);
  EXPECT_NE(template_error_of("{{a + 9223372036854775807}}", {{"a", 1}}).find("64 bits"), std::string::npos);
  EXPECT_NE(template_error_of("{{a.replace('x', 'yyyyyyyyyyyyyyyyyyyy')}}", {{"a", std::string(2000000, 'x')}}).find("too long"),
            std::string::npos);
}

TEST(TextTemplate, RefusesWhatItDoesNotKnow) {
  for (const char* source :
       {"{% if a %}x{% endif %}", "{# comment #}", "{{- a }}", "{{a", "{{}}", "{{a b}}", "{{a|nosuch}}", "{{a.strip(1)}}",
        "{{a.__class__()}}", "{{'a}}", "{{[a}}", "{{a[}}", "{{range(9)}}", "{{a if b else c}}", "{{'\\x'}}"}) {
    EXPECT_THROW(TextTemplate(source, "my.yaml:3"), ConfigError) << source;
  }
  EXPECT_THROW(TextTemplate("{{" + std::string(100, '[') + "}}", ""), ConfigError);
  EXPECT_THROW(TextTemplate("{{a" + std::string(3000, '.') + "}}", ""), ConfigError);
}

TEST(DocumentSteps, CleanHellaswagLikeTheHarness) {
  for (const json& example : text_cases().at("hellaswag"))
    EXPECT_EQ(clean_hellaswag(example[0].get<std::string>()), example[1].get<std::string>()) << example[0];
}

TEST(DocumentSteps, PrepareHellaswagLikeTheHarness) {
  for (const json& example : fixture().at("hellaswag_documents")) {
    const auto documents = process_documents({{example.at("document"), "h:1"}}, DocumentStep::kHellaswag);
    EXPECT_EQ(documents[0].fields["query"], example.at("query"));
    EXPECT_EQ(documents[0].fields["choices"], example.at("choices"));
  }
}

TEST(DocumentSteps, PrepareWinograndeLikeTheHarness) {
  for (const json& example : fixture().at("winogrande_documents")) {
    const auto documents = process_documents({{example.at("document"), "w:1"}}, DocumentStep::kWinogrande);
    for (const char* field : {"contexts", "continuation", "gold"}) EXPECT_EQ(documents[0].fields[field], example.at(field));
  }
}

TEST(DocumentSteps, DetokenizeAndCountWikitextLikeTheHarness) {
  for (const json& example : text_cases().at("wikitext")) {
    const auto page = example[0].get<std::string>();
    EXPECT_EQ(detokenize_wikitext(page), example[1].get<std::string>());
    EXPECT_EQ(count_words(page), example[2]) << page;
    EXPECT_EQ(page.size(), example[3]);
  }
}

TEST(DocumentSteps, CutWikitextAtHeadingsOfTheFirstLevel) {
  const std::string text = read_text_file(STABLEQAT_SOURCE_DIR "/data/eval/wikitext_test.txt");
  const std::vector<std::string> articles = split_wikitext(text);
  ASSERT_EQ(articles.size(), 2U);
  EXPECT_TRUE(articles[0].starts_with(" = Robert Boulter = \n"));
  EXPECT_TRUE(articles[1].starts_with(" = Kiss You ( One Direction song ) = \n"));
  EXPECT_NE(articles[1].find("\n = = "), std::string::npos) << "headings of other levels stay inside";
  const std::string unheaded = " = A = \n x = = 1 \n = y , and more \n y = \n = B = \n z";
  EXPECT_EQ(split_wikitext(unheaded).size(), 2U) << "a heading begins and ends with the mark";
}

TEST(DocumentSteps, PrepareWinograndeForPartialEvaluation) {
  const json fields{{"sentence", "Ann met Eve and _  waved. "}, {"option1", "Ann"}, {"option2", "Eve"}, {"answer", "2"}};
  const auto documents = process_documents({{fields, "w:1"}}, DocumentStep::kWinogrande);
  EXPECT_EQ(documents[0].fields["contexts"], json({"Ann met Eve and Ann", "Ann met Eve and Eve"}));
  EXPECT_EQ(documents[0].fields["continuation"], "waved.");
  EXPECT_EQ(documents[0].fields["gold"], 1);
  json unlabelled = fields;
  unlabelled["answer"] = "";
  EXPECT_THROW(process_documents({{unlabelled, "w:1"}}, DocumentStep::kWinogrande), DataError);
}

TEST(UnicodeText, SpacesAreThoseOfPython) {
  std::vector<char32_t> found;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (is_space(c)) found.push_back(c);
  }
  EXPECT_EQ(json(found), fixture().at("spaces"));
}

TEST(UnicodeText, CasesAreThoseOfPython) {
  for (const json& pair : fixture().at("lower_case")) {
    EXPECT_EQ(lower(pair[0].get<std::string>()), pair[1].get<std::string>());
    EXPECT_EQ(upper(pair[1].get<std::string>()), pair[0].get<std::string>());
    EXPECT_EQ(lower(pair[1].get<std::string>()), pair[1].get<std::string>());
    EXPECT_EQ(upper(pair[0].get<std::string>()), pair[0].get<std::string>());
  }
}

TEST(UnicodeText, LettersAndLengthsAreThoseOfPython) {
  for (const json& example : text_cases().at("capitalize")) EXPECT_EQ(capitalize(example[0].get<std::string>()), example[1].get<std::string>());
  EXPECT_EQ(count_code_points("na\xC3\xAFve \xF0\x9F\x98\x80"), 7U);
  EXPECT_EQ(strip("\xE2\x80\x83 x\xC2\xA0"), "x");
}

}  // namespace
}  // namespace stableqat::tasks
