#include "chat/functions.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "chat/text.h"

namespace stableqat::chat {

namespace {

using Call = Value (*)(const Value& self, const Arguments& arguments, Budget& budget);
using CallTable = std::map<std::string_view, Call>;

Value string_of(std::string text, Budget& budget) {
  budget.text(text.size());
  return Value::string(std::move(text));
}

// A function of a string's text alone, or with the characters that are meant.
template <auto function>
Value on_text(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 0);
  return string_of(std::string(function(self.as_string(arguments.function))), budget);
}

template <bool left, bool right>
Value strip(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 1);
  std::string_view text = self.as_string(arguments.function);
  const Value characters = arguments.get(0, "chars");
  if (characters.is_undefined() || characters.is_none()) {
    if constexpr (left) text = strip_left(text);
    if constexpr (right) text = strip_right(text);
  } else {
    const std::string& which = characters.as_string(arguments.function);
    budget.step(1 + which.size() * text.size() / 64);
    if constexpr (left) text = strip_left(text, which);
    if constexpr (right) text = strip_right(text, which);
  }
  return string_of(std::string(text), budget);
}

Value length(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 0);
  if (self.is_list()) return Value::integer(static_cast<std::int64_t>(self.as_list("").size()));
  if (self.is_dict()) return Value::integer(static_cast<std::int64_t>(self.as_dict("").size()));
  if (self.is_undefined()) return Value::integer(0);
  const std::string& text = self.as_string(arguments.function);
  budget.step(1 + text.size() / 64);
  return Value::integer(static_cast<std::int64_t>(character_offsets(text).size()) - 1);
}

Value replace(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(2, 3);
  const std::string& text = self.as_string(arguments.function);
  const std::string& from = arguments.get(0, "old").as_string(arguments.function);
  const std::string& to = arguments.get(1, "new").as_string(arguments.function);
  const Value limit = arguments.get(2, "count");
  std::int64_t left = limit.is_undefined() || limit.is_none() ? -1 : limit.as_integer(arguments.function);
  if (from.empty()) throw TemplateProblem{"replace() of an empty text", "at least one character"};
  budget.step(1 + text.size() / 64);
  std::string result;
  std::size_t at = 0;
  for (std::size_t found = text.find(from); found != std::string::npos && left != 0; found = text.find(from, at), --left) {
    budget.text(to.size());
    result.append(text, at, found - at).append(to);
    at = found + from.size();
  }
  return string_of(result.append(text, at), budget);
}

Value join(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 2);
  const Value separator = arguments.get(0, "d");
  const Value attribute = arguments.get(1, "attribute");
  std::string result;
  bool first = true;
  for (const Value& value : self.elements(budget)) {
    if (!first && !separator.is_undefined()) result += separator.text(budget);
    first = false;
    result += (attribute.is_undefined() ? value : item_of(value, attribute, budget)).text(budget);
  }
  return string_of(std::move(result), budget);
}

Value default_value(const Value& self, const Arguments& arguments, Budget&) {
  arguments.expect(0, 2);
  const bool replaces = self.is_undefined() || (arguments.get(1, "boolean").truth() && !self.truth());
  if (!replaces) return self;
  const Value other = arguments.get(0, "default_value");
  return other.is_undefined() ? Value::string("") : other;
}

Value to_json(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 4);
  const Value indent = arguments.get(0, "indent");
  const std::int64_t width = indent.is_undefined() || indent.is_none() ? -1 : indent.as_integer("tojson");
  if (width > 16) throw TemplateProblem{"an indent of " + std::to_string(width), "at most 16"};
  for (const auto& [name, value] : arguments.keywords) {
    if (name != "indent" && !(name == "ensure_ascii" && !value.truth())) throw TemplateProblem{"tojson(" + name + ")", "indent"};
  }
  return Value::string(self.json(budget, static_cast<int>(width)));
}

Value to_integer(const Value& self, const Arguments& arguments, Budget&) {
  arguments.expect(0, 1);
  const Value otherwise = arguments.get(0, "default");
  const auto fallback = [&] { return otherwise.is_undefined() ? Value::integer(0) : otherwise; };
  if (self.is_float()) {
    const double value = std::trunc(self.as_number(""));
    return std::fabs(value) < 0x1p62 ? Value::integer(static_cast<std::int64_t>(value)) : fallback();
  }
  if (self.is_integral()) return Value::integer(self.as_integer(""));
  if (!self.is_string()) return fallback();
  std::string_view digits = strip_left(strip_right(self.as_string("")));
  if (digits.starts_with('+')) digits.remove_prefix(1);
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return !digits.empty() && error == std::errc{} && end == digits.data() + digits.size() ? Value::integer(number) : fallback();
}

Value to_list(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 0);
  return Value::list(self.elements(budget));
}

Value to_text(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 0);
  return Value::string(self.text(budget));
}

Value unchanged(const Value& self, const Arguments& arguments, Budget&) {
  arguments.expect(0, 0);
  return self;
}

template <bool is_last>
Value end_of(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 0);
  const List values = self.elements(budget);
  if (values.empty()) return Value::undefined(std::string(arguments.function) + " of nothing");
  return is_last ? values.back() : values.front();
}

Value reverse(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 0);
  List values = self.elements(budget);
  std::ranges::reverse(values);
  if (!self.is_string()) return Value::list(std::move(values));
  std::string text;
  for (const Value& value : values) text += value.as_string("");
  return string_of(std::move(text), budget);
}

Value pair_of(const std::string& name, const Value& value) { return Value::list({Value::string(name), value}); }

Value items(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 0);
  if (self.is_undefined()) return Value::list({});
  List result;
  for (const auto& [name, value] : self.as_dict(arguments.function)) result.push_back(pair_of(name, value));
  budget.step(result.size());
  return Value::list(std::move(result));
}

// The arguments behind the first `count`.
Arguments rest_of(const Arguments& arguments, std::size_t count, std::string_view function) {
  Arguments rest{function, {}, {}};
  for (std::size_t i = count; i < arguments.values.size(); ++i) rest.values.push_back(arguments.values[i]);
  return rest;
}

// "a.b" of a value.
Value member_at(Value value, std::string_view path, Budget& budget) {
  while (!path.empty()) {
    const std::size_t dot = std::min(path.find('.'), path.size());
    value = item_of(value, Value::string(std::string(path.substr(0, dot))), budget);
    path.remove_prefix(std::min(dot + 1, path.size()));
  }
  return value;
}

// map(attribute="a") or map("filter", ...).
Value map_values(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(1, 8);
  const Value attribute = arguments.get(8, "attribute");
  List result;
  for (const Value& value : self.elements(budget)) {
    if (!attribute.is_undefined()) {
      const Value found = member_at(value, attribute.as_string("map"), budget);
      const Value otherwise = arguments.get(8, "default");
      result.push_back(found.is_undefined() && !otherwise.is_undefined() ? otherwise : found);
    } else {
      const std::string& name = arguments.get(0, "").as_string("map");
      if (name == "map") throw TemplateProblem{"map() within map()", "another filter"};
      result.push_back(apply_filter(name, value, rest_of(arguments, 1, name), budget));
    }
  }
  return Value::list(std::move(result));
}

// select("test", ...) and selectattr("member", "test", ...); the values for which the test has this outcome.
template <bool of_member, bool outcome>
Value filtered(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(of_member ? 1 : 0, 4);
  const std::size_t first = of_member ? 1 : 0;
  List result;
  for (const Value& value : self.elements(budget)) {
    const Value tested = of_member ? member_at(value, arguments.values.at(0).as_string(arguments.function), budget) : value;
    bool holds = tested.truth();
    if (arguments.values.size() > first) {
      const std::string& name = arguments.values[first].as_string(arguments.function);
      holds = apply_test(name, tested, rest_of(arguments, first + 1, name), budget);
    }
    if (holds == outcome) result.push_back(value);
  }
  return Value::list(std::move(result));
}

const CallTable& filters() {
  static const CallTable table{{"capitalize", on_text<capitalize>},
                               {"count", length},
                               {"d", default_value},
                               {"default", default_value},
                               {"first", end_of<false>},
                               {"int", to_integer},
                               {"items", items},
                               {"join", join},
                               {"last", end_of<true>},
                               {"length", length},
                               {"list", to_list},
                               {"lower", on_text<lower>},
                               {"map", map_values},
                               {"reject", filtered<false, false>},
                               {"rejectattr", filtered<true, false>},
                               {"replace", replace},
                               {"reverse", reverse},
                               {"safe", unchanged},
                               {"select", filtered<false, true>},
                               {"selectattr", filtered<true, true>},
                               {"string", to_text},
                               {"title", on_text<title>},
                               {"tojson", to_json},
                               {"trim", strip<true, true>},
                               {"upper", on_text<upper>}};
  return table;
}

// ---- Methods

// A prefix or suffix, or one of several.
template <class Test>
Value has_end(const Value& self, const Arguments& arguments, Budget& budget, Test test) {
  arguments.expect(1, 1);
  const std::string& text = self.as_string(arguments.function);
  const Value wanted = arguments.get(0, "");
  const List several = wanted.is_list() ? wanted.as_list("") : List{wanted};
  budget.step(1 + several.size());
  return Value::boolean(std::ranges::any_of(several, [&](const Value& end) { return test(text, end.as_string(arguments.function)); }));
}

Value starts_with(const Value& self, const Arguments& arguments, Budget& budget) {
  return has_end(self, arguments, budget, [](const std::string& text, const std::string& end) { return text.starts_with(end); });
}
Value ends_with(const Value& self, const Arguments& arguments, Budget& budget) {
  return has_end(self, arguments, budget, [](const std::string& text, const std::string& end) { return text.ends_with(end); });
}

Value split(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 2);
  std::string_view text = self.as_string(arguments.function);
  const Value separator = arguments.get(0, "sep");
  const Value limit = arguments.get(1, "maxsplit");
  std::int64_t left = limit.is_undefined() ? -1 : limit.as_integer(arguments.function);
  const bool at_blanks = separator.is_undefined() || separator.is_none();
  const std::string by = at_blanks ? "" : separator.as_string(arguments.function);
  if (!at_blanks && by.empty()) throw TemplateProblem{"split() at an empty text", "at least one character"};
  List parts;
  const auto add = [&](std::string_view part) {
    budget.step();
    parts.push_back(string_of(std::string(part), budget));
  };
  const auto find_end = [&](std::string_view rest) {
    if (!at_blanks) return rest.find(by);
    for (std::size_t i = 0; i < rest.size(); ++i) {
      if (strip_left(rest.substr(i)).size() < rest.size() - i) return i;
    }
    return std::string_view::npos;
  };
  if (at_blanks) text = strip_left(text);
  while (!(at_blanks && text.empty())) {
    const std::size_t end = left == 0 ? std::string_view::npos : find_end(text);
    if (end == std::string_view::npos) {
      add(at_blanks && left == 0 ? text : text);
      break;
    }
    add(text.substr(0, end));
    text = at_blanks ? strip_left(text.substr(end)) : text.substr(end + by.size());
    --left;
  }
  return Value::list(std::move(parts));
}

template <bool from_end>
Value find_text(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(1, 1);
  const std::string& text = self.as_string(arguments.function);
  const std::string& part = arguments.get(0, "").as_string(arguments.function);
  budget.step(1 + text.size() / 64);
  const std::size_t at = from_end ? text.rfind(part) : text.find(part);
  if (at == std::string::npos) return Value::integer(-1);
  return Value::integer(static_cast<std::int64_t>(character_offsets(std::string_view(text).substr(0, at)).size()) - 1);
}

template <bool prefix>
Value remove_end(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(1, 1);
  std::string_view text = self.as_string(arguments.function);
  const std::string& end = arguments.get(0, "").as_string(arguments.function);
  if (prefix && text.starts_with(end)) text.remove_prefix(end.size());
  if (!prefix && text.ends_with(end)) text.remove_suffix(end.size());
  return string_of(std::string(text), budget);
}

Value join_method(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(1, 1);
  self.as_string(arguments.function);
  for (const Value& value : arguments.get(0, "").elements(budget)) value.as_string(arguments.function);
  return join(arguments.get(0, ""), {arguments.function, {self}, {}}, budget);
}

Value is_digits(const Value& self, const Arguments& arguments, Budget&) {
  arguments.expect(0, 0);
  const std::string& text = self.as_string(arguments.function);
  return Value::boolean(!text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; }));
}

const CallTable& string_methods() {
  static const CallTable table{{"capitalize", on_text<capitalize>},
                               {"endswith", ends_with},
                               {"find", find_text<false>},
                               {"isdigit", is_digits},
                               {"join", join_method},
                               {"lower", on_text<lower>},
                               {"lstrip", strip<true, false>},
                               {"removeprefix", remove_end<true>},
                               {"removesuffix", remove_end<false>},
                               {"replace", replace},
                               {"rfind", find_text<true>},
                               {"rstrip", strip<false, true>},
                               {"split", split},
                               {"startswith", starts_with},
                               {"strip", strip<true, true>},
                               {"title", on_text<title>},
                               {"upper", on_text<upper>}};
  return table;
}

Value keys(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 0);
  return Value::list(self.elements(budget));
}

Value values(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(0, 0);
  List result;
  for (const auto& [name, value] : self.as_dict(arguments.function)) result.push_back(value);
  budget.step(result.size());
  return Value::list(std::move(result));
}

Value get(const Value& self, const Arguments& arguments, Budget& budget) {
  arguments.expect(1, 2);
  const Value found = item_of(self, arguments.get(0, ""), budget);
  if (!found.is_undefined()) return found;
  const Value otherwise = arguments.get(1, "");
  return otherwise.is_undefined() ? Value::none() : otherwise;
}

const CallTable& dict_methods() {
  static const CallTable table{{"get", get}, {"items", items}, {"keys", keys}, {"values", values}};
  return table;
}

Value call_in(const CallTable& table, std::string_view name, const char* what, const Value& value, const Arguments& arguments,
              Budget& budget) {
  budget.step();
  const auto found = table.find(name);
  if (found != table.end()) return found->second(value, arguments, budget);
  std::string known;
  for (const auto& [other, call] : table) known += (known.empty() ? "" : ", ") + std::string(other);
  throw TemplateProblem{std::string(what) + " '" + std::string(name) + "'", "one of " + known};
}

}  // namespace

Value Arguments::get(std::size_t index, std::string_view keyword) const {
  if (index < values.size()) return values[index];
  const auto found = std::ranges::find(keywords, keyword, &std::pair<std::string, Value>::first);
  return found == keywords.end() ? Value() : found->second;
}

void Arguments::expect(std::size_t least, std::size_t most) const {
  const std::size_t count = values.size() + keywords.size();
  if (count >= least && count <= most) return;
  throw TemplateProblem{std::to_string(count) + " arguments of " + std::string(function) + "()",
                        least == most ? std::to_string(least) : std::to_string(least) + " to " + std::to_string(most)};
}

Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments, Budget& budget) {
  return call_in(filters(), name, "filter", value, arguments, budget);
}

Value call_method(std::string_view name, const Value& value, const Arguments& arguments, Budget& budget) {
  if (!value.is_string() && !value.is_dict())
    throw TemplateProblem{"method '" + std::string(name) + "' of " + value.kind(), "a string or dictionary"};
  return call_in(value.is_dict() ? dict_methods() : string_methods(), name, "method", value, arguments, budget);
}

}  // namespace stableqat::chat
