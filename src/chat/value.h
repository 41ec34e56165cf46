// Values of template expressions, as Python would have them. Copies are cheap: strings, lists and dictionaries are shared and immutable.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace stableqat::chat {

// Why a template cannot be used; becomes a DataError that names the line.
struct TemplateProblem {
  std::string found;
  std::string expected;
  int line = 0;  // 0: that of the statement at work
};

// What rendering may still use up. A template that doubles a text or a list in a loop ends here.
class Budget {
 public:
  void step(std::size_t count = 1);
  void text(std::size_t bytes);

 private:
  std::size_t steps_ = 1'000'000;
  std::size_t bytes_ = std::size_t{64} << 20;
};

class Value;
using List = std::vector<Value>;
using Members = std::vector<std::pair<std::string, Value>>;  // in the order of insertion

// The one thing that changes: what namespace() makes.
struct Namespace {
  Members members;
};

class Value {
 public:
  struct Undefined {
    std::string name;  // for messages
  };
  struct None {};

  Value() : data_(Undefined{}) {}
  static Value undefined(std::string name) { return Value(Undefined{std::move(name)}); }
  static Value none() { return Value(None{}); }
  static Value boolean(bool value) { return Value(value); }
  static Value integer(std::int64_t value) { return Value(value); }
  static Value number(double value) { return Value(value); }
  static Value string(std::string text) { return Value(std::make_shared<const std::string>(std::move(text))); }
  // Throw TemplateProblem for values nested too deeply, or a namespace inside.
  static Value list(List values);
  static Value dict(Members members);
  static Value new_namespace(Members members) { return Value(std::make_shared<Namespace>(Namespace{std::move(members)})); }

  bool is_undefined() const { return is<Undefined>(); }
  bool is_none() const { return is<None>(); }
  bool is_boolean() const { return is<bool>(); }
  bool is_integer() const { return is<std::int64_t>(); }
  bool is_float() const { return is<double>(); }
  bool is_number() const { return is_boolean() || is_integer() || is_float(); }
  bool is_string() const { return is<StringPointer>(); }
  bool is_list() const { return is<ListPointer>(); }
  bool is_dict() const { return is<DictPointer>(); }

  // Python's idea of an integer includes True and False.
  bool is_integral() const { return is_integer() || is_boolean(); }

  // Throw TemplateProblem, naming `use`, for a value of another kind.
  std::int64_t as_integer(std::string_view use) const;
  double as_number(std::string_view use) const;
  const std::string& as_string(std::string_view use) const;
  const List& as_list(std::string_view use) const;
  const Members& as_dict(std::string_view use) const;
  Namespace* as_namespace() const;  // null for a value of another kind

  // The member of a dictionary or namespace, or null.
  const Value* find(std::string_view name) const;

  bool truth() const;
  std::string kind() const;  // "a list"

  // As {{ }} writes it, and as it appears within a list.
  std::string text(Budget& budget) const;
  std::string repr(Budget& budget) const;
  // As Python's json.dumps(ensure_ascii=False) writes it; `indent` below 0: on one line.
  std::string json(Budget& budget, int indent) const;

  // What a loop goes through: the elements, keys or characters. Throws TemplateProblem for other kinds; undefined is empty.
  List elements(Budget& budget) const;

  friend bool equal(const Value& a, const Value& b, Budget& budget);

 private:
  struct Nested {
    int depth = 1;
  };
  struct ListData : Nested {
    List values;
  };
  struct DictData : Nested {
    Members members;
  };
  using StringPointer = std::shared_ptr<const std::string>;
  using ListPointer = std::shared_ptr<const ListData>;
  using DictPointer = std::shared_ptr<const DictData>;
  using Data =
      std::variant<Undefined, None, bool, std::int64_t, double, StringPointer, ListPointer, DictPointer, std::shared_ptr<Namespace>>;

  template <class T>
  explicit Value(T data) : data_(std::move(data)) {}
  template <class T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  int depth() const;
  [[noreturn]] void wrong_kind(std::string_view use, std::string_view expected) const;
  void write_json(std::string& out, Budget& budget, int indent, int level) const;

  Data data_;
};

// Python's ==.
bool equal(const Value& a, const Value& b, Budget& budget);
// Python's `a in b`.
bool contains(const Value& b, const Value& a, Budget& budget);

// Byte offsets of the characters of a text, and its end. A byte that is not UTF-8 is a character of its own.
std::vector<std::size_t> character_offsets(std::string_view text);

}  // namespace stableqat::chat
