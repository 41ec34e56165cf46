// Chat templates against Python's Jinja (tools/make_chat_fixtures.py), and templates that would do harm.
#include "stableqat/chat/chat_template.h"

#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat {
namespace {

using Json = nlohmann::json;

ChatSettings settings() {
  using namespace std::chrono;
  return {.add_generation_prompt = true,
          .bos_token = "<s>",
          .eos_token = "</s>",
          .pad_token = "",
          .now = sys_days(year(2026) / 1 / 2) + hours(3) + minutes(4) + seconds(5)};
}

std::vector<ChatMessage> messages_of(const Json& json) {
  std::vector<ChatMessage> messages;
  for (const Json& message : json) messages.push_back({message.at("role"), message.at("content")});
  return messages;
}

std::string render(const std::string& source) {
  const std::vector<ChatMessage> messages{{"user", "Hello."}};
  return ChatTemplate(source, "model").render(messages, settings());
}

// The message of the error, or "" where there was none.
std::string refusal(const std::string& source) {
  try {
    render(source);
  } catch (const DataError& error) {
    return error.what();
  }
  return "";
}

TEST(ChatTemplate, RendersWhatJinjaRenders) {
  const Json cases = Json::parse(read_text_file(STABLEQAT_TEST_DATA "/chat_templates.json"));
  ASSERT_GT(cases.size(), 190U);
  for (const Json& test : cases) {
    SCOPED_TRACE(test.at("name").get<std::string>());
    ChatSettings chosen = settings();
    chosen.add_generation_prompt = test.at("add_generation_prompt");
    const auto found = [&] {
      return ChatTemplate(test.at("template").get<std::string>(), "model").render(messages_of(test.at("messages")), chosen);
    };
    if (test.at("expected").is_null()) {
      EXPECT_THROW(found(), DataError);
    } else {
      EXPECT_EQ(found(), test.at("expected").get<std::string>());
    }
  }
}

TEST(ChatTemplate, NamesTheLine) {
  EXPECT_EQ(refusal("a\n{% if true %}\n{{ 1 + }}\n{% endif %}"), "model, chat template, line 3: found '}}', expected an expression");
  EXPECT_EQ(refusal("a\n\n{{ nothing.x }}"),
            "model, chat template, line 3: found member 'x' of 'nothing' (undefined), expected a dictionary");
  EXPECT_NE(refusal("{% macro f() %}{% endmacro %}").find("'macro'"), std::string::npos);
  EXPECT_NE(refusal("{% include 'x' %}").find("'include'"), std::string::npos);
}

// Loops without end, texts and lists that double, values and expressions that nest: refused in well under a second.
TEST(ChatTemplate, BombsEnd) {
  const std::string deep(100'000, '(');
  const std::string minus(100'000, '-');
  std::string blocks;
  for (int i = 0; i < 10'000; ++i) blocks += "{% if true %}";
  std::string sum = "1";
  for (int i = 0; i < 10'000; ++i) sum += "+1";
  std::string comparisons = "1";
  for (int i = 0; i < 30; ++i) comparisons = "1 < (" + comparisons + ") < 1";
  const std::string doubled = "{% set n = namespace(x='0123456789') %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor %}";
  for (const std::string& source :
       {std::string("{% for i in range(1000000000) %}{% endfor %}"),
        std::string("{% for i in range(2000) %}{% for j in range(2000) %}{% endfor %}{% endfor %}"), doubled,
        std::string("{% set n = namespace(x=[1]) %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor %}"),
        std::string("{% set n = namespace(x=[1]) %}{% for i in range(1000) %}{% set n.x = [n.x, n.x] %}{% endfor %}"),
        std::string("{% set n = namespace(x=1) %}{% set n.x = n %}"), std::string("{{ 'x' * 1000000000 }}"),
        std::string("{{ 10 ** 1000 }}"), std::string("{{ 9223372036854775807 + 1 }}"), std::string("{{ [] | tojson(indent=1000000000) }}"),
        std::string("{% for i in range(1000) %}{{ 'x' * 100000 }}{% endfor %}"), "{{ " + deep + " }}", "{{ " + minus + "1 }}", blocks,
        "{{ " + sum + " }}", std::string((1 << 20) + 1, 'x')}) {
    EXPECT_NE(refusal(source), "") << source.substr(0, 100);
  }
  EXPECT_EQ(render("{{ " + comparisons + " }}").size(), 5U);  // True or False
}

TEST(ChatTemplate, MessagesAreNoTemplates) {
  const std::vector<ChatMessage> messages{{"user", "{{ 1 + 1 }}{% if %}"}};
  EXPECT_EQ(ChatTemplate("{{ messages[0].content }}", "model").render(messages, settings()), "{{ 1 + 1 }}{% if %}");
}

}  // namespace
}  // namespace stableqat
