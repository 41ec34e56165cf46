#include <map>

#include "chat/functions.h"

namespace stableqat::chat {

namespace {

std::int64_t remainder_of(const Value& value, std::int64_t divisor, std::string_view test) {
  if (divisor == 0) throw TemplateProblem{"a division by zero", "another divisor"};
  return divisor == -1 ? 0 : value.as_integer(test) % divisor;
}

using Test = bool (*)(const Value& self, const Value& other, Budget& budget);

const std::map<std::string_view, Test>& tests() {
  const auto is_less = [](const Value& a, const Value& b, Budget&) { return less(a, b); };
  const auto is_greater = [](const Value& a, const Value& b, Budget&) { return less(b, a); };
  const auto at_least = [](const Value& a, const Value& b, Budget&) { return !less(a, b); };
  const auto at_most = [](const Value& a, const Value& b, Budget&) { return !less(b, a); };
  const auto is_equal = [](const Value& a, const Value& b, Budget& budget) { return equal(a, b, budget); };
  const auto is_sequence = [](const Value& a, const Value&, Budget&) { return a.is_list() || a.is_dict() || a.is_string(); };
  static const std::map<std::string_view, Test> table{
      {"boolean", [](const Value& a, const Value&, Budget&) { return a.is_boolean(); }},
      {"defined", [](const Value& a, const Value&, Budget&) { return !a.is_undefined(); }},
      {"divisibleby",
       [](const Value& a, const Value& b, Budget&) { return remainder_of(a, b.as_integer("divisibleby"), "divisibleby") == 0; }},
      {"eq", is_equal},
      {"equalto", is_equal},
      {"==", is_equal},
      {"even", [](const Value& a, const Value&, Budget&) { return remainder_of(a, 2, "even") == 0; }},
      {"false", [](const Value& a, const Value&, Budget&) { return a.is_boolean() && !a.truth(); }},
      {"float", [](const Value& a, const Value&, Budget&) { return a.is_float(); }},
      {"ge", at_least},
      {">=", at_least},
      {"gt", is_greater},
      {">", is_greater},
      {"in", [](const Value& a, const Value& b, Budget& budget) { return contains(b, a, budget); }},
      {"integer", [](const Value& a, const Value&, Budget&) { return a.is_integer(); }},
      {"iterable", [](const Value& a, const Value&, Budget&) { return a.is_list() || a.is_dict() || a.is_string() || a.is_undefined(); }},
      {"le", at_most},
      {"<=", at_most},
      {"lt", is_less},
      {"<", is_less},
      {"mapping", [](const Value& a, const Value&, Budget&) { return a.is_dict(); }},
      {"ne", [](const Value& a, const Value& b, Budget& budget) { return !equal(a, b, budget); }},
      {"!=", [](const Value& a, const Value& b, Budget& budget) { return !equal(a, b, budget); }},
      {"none", [](const Value& a, const Value&, Budget&) { return a.is_none(); }},
      {"number", [](const Value& a, const Value&, Budget&) { return a.is_number(); }},
      {"odd", [](const Value& a, const Value&, Budget&) { return remainder_of(a, 2, "odd") != 0; }},
      {"sequence", is_sequence},
      {"string", [](const Value& a, const Value&, Budget&) { return a.is_string(); }},
      {"true", [](const Value& a, const Value&, Budget&) { return a.is_boolean() && a.truth(); }},
      {"undefined", [](const Value& a, const Value&, Budget&) { return a.is_undefined(); }}};
  return table;
}

}  // namespace

bool apply_test(std::string_view name, const Value& value, const Arguments& arguments, Budget& budget) {
  budget.step();
  const auto found = tests().find(name);
  if (found == tests().end()) {
    std::string known;
    for (const auto& [other, test] : tests()) known += (known.empty() ? "" : ", ") + std::string(other);
    throw TemplateProblem{"test '" + std::string(name) + "'", "one of " + known};
  }
  arguments.expect(0, 1);
  return found->second(value, arguments.get(0, "other"), budget);
}

}  // namespace stableqat::chat
