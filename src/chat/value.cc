#include "chat/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>

#include "tokenizer/utf8.h"

namespace stableqat::chat {

namespace {

constexpr int kMaxValueDepth = 64;

std::string number_text(double value) {
  char buffer[32];
  const auto end = std::to_chars(std::begin(buffer), std::end(buffer), value).ptr;
  std::string text(std::begin(buffer), end);
  return std::isfinite(value) && text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

constexpr char kHex[] = "0123456789abcdef";

// Python's repr() of a string: single quotes unless only those are inside.
std::string quoted(const std::string& text) {
  const char quote = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  std::string result(1, quote);
  for (const char c : text) {
    if (c == quote || c == '\\') {
      result += '\\';
      result += c;
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\r') {
      result += "\\r";
    } else if (c == '\t') {
      result += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      result += "\\x";
      result += kHex[c >> 4];
      result += kHex[c & 15];
    } else {
      result += c;
    }
  }
  return result + quote;
}

void write_json_string(std::string& out, const std::string& text) {
  constexpr std::string_view kEscaped = "\"\\\n\r\t\b\f";
  constexpr std::string_view kLetters = "\"\\nrtbf";
  out += '"';
  for (const char c : text) {
    if (const std::size_t at = kEscaped.find(c); at != std::string_view::npos) {
      out += '\\';
      out += kLetters[at];
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += "\\u00";
      out += kHex[c >> 4];
      out += kHex[c & 15];
    } else {
      out += c;
    }
  }
  out += '"';
}

}  // namespace

void Budget::step(std::size_t count) {
  if (count > steps_) throw TemplateProblem{"more than a million steps", "a template that ends"};
  steps_ -= count;
}

void Budget::text(std::size_t bytes) {
  if (bytes > bytes_) throw TemplateProblem{"more than 64 MB of text", "less"};
  bytes_ -= bytes;
}

int Value::depth() const {
  if (const auto* list = std::get_if<ListPointer>(&data_)) return (*list)->depth;
  if (const auto* dict = std::get_if<DictPointer>(&data_)) return (*dict)->depth;
  return is<std::shared_ptr<Namespace>>() ? kMaxValueDepth : 0;  // none within a list: no cycles
}

Value Value::list(List values) {
  ListData data;
  for (const Value& value : values) data.depth = std::max(data.depth, value.depth() + 1);
  if (data.depth > kMaxValueDepth) throw TemplateProblem{"lists nested too deeply", "at most 64 levels, and no namespace in a list"};
  data.values = std::move(values);
  return Value(ListPointer(std::make_shared<const ListData>(std::move(data))));
}

Value Value::dict(Members members) {
  DictData data;
  for (const auto& [name, value] : members) data.depth = std::max(data.depth, value.depth() + 1);
  if (data.depth > kMaxValueDepth) throw TemplateProblem{"dictionaries nested too deeply", "at most 64 levels, and no namespace in one"};
  data.members = std::move(members);
  return Value(DictPointer(std::make_shared<const DictData>(std::move(data))));
}

void Value::wrong_kind(std::string_view use, std::string_view expected) const {
  throw TemplateProblem{kind() + " for " + std::string(use), std::string(expected)};
}

std::int64_t Value::as_integer(std::string_view use) const {
  if (is_boolean()) return std::get<bool>(data_) ? 1 : 0;
  if (!is_integer()) wrong_kind(use, "an integer");
  return std::get<std::int64_t>(data_);
}

double Value::as_number(std::string_view use) const {
  if (is_float()) return std::get<double>(data_);
  if (!is_integral()) wrong_kind(use, "a number");
  return static_cast<double>(as_integer(use));
}

const std::string& Value::as_string(std::string_view use) const {
  if (!is_string()) wrong_kind(use, "a string");
  return *std::get<StringPointer>(data_);
}

const List& Value::as_list(std::string_view use) const {
  if (!is_list()) wrong_kind(use, "a list");
  return std::get<ListPointer>(data_)->values;
}

const Members& Value::as_dict(std::string_view use) const {
  if (!is_dict()) wrong_kind(use, "a dictionary");
  return std::get<DictPointer>(data_)->members;
}

Namespace* Value::as_namespace() const {
  const auto* found = std::get_if<std::shared_ptr<Namespace>>(&data_);
  return found == nullptr ? nullptr : found->get();
}

const Value* Value::find(std::string_view name) const {
  const Namespace* space = as_namespace();
  if (space == nullptr && !is_dict()) return nullptr;
  const Members& members = space != nullptr ? space->members : as_dict("");
  const auto found = std::ranges::find(members, name, &std::pair<std::string, Value>::first);
  return found == members.end() ? nullptr : &found->second;
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return as_number("") != 0;
  if (is_string()) return !as_string("").empty();
  if (is_list()) return !as_list("").empty();
  return !is_dict() || !as_dict("").empty();
}

std::string Value::kind() const {
  if (const auto* undefined = std::get_if<Undefined>(&data_)) {
    return undefined->name.empty() ? "an undefined value" : "'" + undefined->name + "' (undefined)";
  }
  if (is_none()) return "none";
  if (is_boolean()) return "a boolean";
  if (is_integer()) return "an integer";
  if (is_float()) return "a number with a fraction";
  if (is_string()) return "a string";
  if (is_list()) return "a list";
  return is_dict() ? "a dictionary" : "a namespace";
}

std::string Value::text(Budget& budget) const {
  if (!is_string()) return is_undefined() ? "" : repr(budget);
  budget.text(as_string("").size());
  return as_string("");
}

std::string Value::repr(Budget& budget) const {
  budget.step();
  std::string result;
  if (is_undefined()) {
    result = "Undefined";
  } else if (is_none()) {
    result = "None";
  } else if (is_boolean()) {
    result = as_integer("") != 0 ? "True" : "False";
  } else if (is_integer()) {
    result = std::to_string(as_integer(""));
  } else if (is_float()) {
    result = number_text(as_number(""));
  } else if (is_string()) {
    result = quoted(as_string(""));
  } else if (is_list()) {
    for (const Value& value : as_list("")) result += (result.empty() ? "" : ", ") + value.repr(budget);
    result = "[" + result + "]";
  } else if (is_dict()) {
    for (const auto& [name, value] : as_dict("")) result += (result.empty() ? "" : ", ") + quoted(name) + ": " + value.repr(budget);
    result = "{" + result + "}";
  } else {
    throw TemplateProblem{"a namespace as text", "its members"};
  }
  budget.text(result.size());
  return result;
}

std::string Value::json(Budget& budget, int indent) const {
  std::string result;
  write_json(result, budget, indent, 0);
  return result;
}

void Value::write_json(std::string& out, Budget& budget, int indent, int level) const {
  budget.step();
  const std::size_t before = out.size();
  const auto new_line = [&](int depth) {
    if (indent >= 0) out += "\n" + std::string(static_cast<std::size_t>(indent * depth), ' ');
  };
  const auto sequence = [&](char open, char close, const auto& items, const auto& write_item) {
    out += open;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += indent >= 0 ? "," : ", ";
      new_line(level + 1);
      write_item(items[i]);
    }
    if (!items.empty()) new_line(level);
    out += close;
  };
  if (is_none()) {
    out += "null";
  } else if (is_boolean()) {
    out += as_integer("") != 0 ? "true" : "false";
  } else if (is_string()) {
    write_json_string(out, as_string(""));
  } else if (is_list()) {
    sequence('[', ']', as_list(""), [&](const Value& value) { value.write_json(out, budget, indent, level + 1); });
  } else if (is_dict()) {
    sequence('{', '}', as_dict(""), [&](const auto& member) {
      write_json_string(out, member.first);
      out += ": ";
      member.second.write_json(out, budget, indent, level + 1);
    });
  } else if (is_number()) {
    out += repr(budget);
  } else {
    wrong_kind("tojson", "a value that JSON has");
  }
  budget.text(out.size() - before);
}

List Value::elements(Budget& budget) const {
  List result;
  if (is_list()) {
    result = as_list("");
  } else if (is_dict()) {
    for (const auto& [name, value] : as_dict("")) result.push_back(string(name));
  } else if (is_string()) {
    const std::string& text = as_string("");
    const std::vector<std::size_t> offsets = character_offsets(text);
    budget.step(offsets.size());
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i) result.push_back(string(text.substr(offsets[i], offsets[i + 1] - offsets[i])));
  } else if (!is_undefined()) {
    wrong_kind("a loop or filter", "a list, dictionary or string");
  }
  budget.step(result.size());
  return result;
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_number() && b.is_number()) return a.as_number("") == b.as_number("");
  if (a.data_.index() != b.data_.index()) return false;
  if (a.is_string()) return a.as_string("") == b.as_string("");
  if (a.is_list()) {
    return std::ranges::equal(a.as_list(""), b.as_list(""), [&budget](const Value& x, const Value& y) { return equal(x, y, budget); });
  }
  if (a.is_dict()) {
    const Members& members = a.as_dict("");
    return members.size() == b.as_dict("").size() && std::ranges::all_of(members, [&](const auto& member) {
             const Value* other = b.find(member.first);
             return other != nullptr && equal(member.second, *other, budget);
           });
  }
  return a.as_namespace() == b.as_namespace();  // both null for undefined and none
}

bool contains(const Value& b, const Value& a, Budget& budget) {
  if (b.is_string()) {
    budget.step(1 + b.as_string("").size() / 64);
    return b.as_string("").find(a.as_string("a search in a string")) != std::string::npos;
  }
  if (b.is_dict()) {
    budget.step(1 + b.as_dict("").size());
    return a.is_string() && b.find(a.as_string("")) != nullptr;
  }
  return std::ranges::any_of(b.elements(budget), [&](const Value& value) { return equal(a, value, budget); });
}

std::vector<std::size_t> character_offsets(std::string_view text) {
  std::vector<std::size_t> offsets{0};
  const char* const end = text.data() + text.size();
  while (offsets.back() < text.size()) offsets.push_back(offsets.back() + read_utf8(text.data() + offsets.back(), end).length);
  return offsets;
}

}  // namespace stableqat::chat
