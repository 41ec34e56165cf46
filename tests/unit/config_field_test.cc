// The table's mechanism, on a struct of its own.
#include "stableqat/config/field.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat {
namespace {

enum class Colour { kRed, kDarkBlue };

struct Sample {
  bool flag = false;
  std::int64_t count = 3;
  double rate = 0.5;
  std::string name = "x";
  std::vector<std::string> paths;
  std::vector<double> numbers = {1.0};
  Colour colour = Colour::kRed;
};

std::vector<Field> fields(Sample& s) {
  return {
      {.key = "a.flag", .target = &s.flag, .help = "A flag."},
      {.key = "a.count", .target = &s.count, .help = "A count.", .range = kAtLeastOne, .aliases = {"old.count", "n"}},
      {.key = "a.rate", .target = &s.rate, .help = "A rate.", .range = {.min = 0.0, .max = 1.0, .above_min = true, .below_max = true}},
      {.key = "b.name", .target = &s.name, .help = "A name."},
      {.key = "b.paths", .target = &s.paths, .help = "Paths."},
      {.key = "b.numbers", .target = &s.numbers, .help = "Numbers.", .range = kShare},
      {.key = "b.colour",
       .target = one_of(s.colour, {{"red", Colour::kRed}, {"dark-blue", Colour::kDarkBlue}, {"navy", Colour::kDarkBlue}}),
       .help = "A colour.",
       .switches = {{"is_blue", "dark-blue", "red"}, {"is_navy", "navy"}}},
  };
}

const std::vector<ForeignKey> kForeign = {{.key = "old.cache"},
                                          {.key = "old.samples", .remedy = "use a.count", .accepted = {"-1", "none"}}};

class FieldTest : public testing::Test {
 protected:
  FieldTest() : path_(std::filesystem::temp_directory_path() / ("stableqat_field_test_" + std::to_string(::getpid()) + ".yaml")) {}
  ~FieldTest() override { std::filesystem::remove(path_); }

  // Applies a file.
  std::set<std::string_view> file(const std::string& yaml) {
    write_text_file(path_, yaml);
    rows_ = fields(sample_);
    settings_ = settings_from_yaml(path_, known_names(rows_, kForeign));
    return apply_settings(settings_, rows_, kForeign);
  }

  // Applies flags.
  std::set<std::string_view> flags(const std::vector<std::string>& arguments) {
    rows_ = fields(sample_);
    settings_ = settings_from_arguments(arguments);
    return apply_settings(settings_, rows_, kForeign);
  }

  // The message of the ConfigError that the file gives, with the file's folder and name replaced by F.
  std::string file_error(const std::string& yaml) {
    try {
      std::vector<std::string> notices;
      file(yaml);
      check_foreign(settings_, kForeign, notices);
    } catch (const ConfigError& error) {
      std::string text = error.what();
      const std::size_t at = text.find(path_.string());
      return at == std::string::npos ? text : text.replace(at, path_.string().size(), "F");
    }
    return "no error";
  }

  std::string flag_error(const std::vector<std::string>& arguments) {
    try {
      flags(arguments);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "no error";
  }

  std::filesystem::path path_;
  Sample sample_;
  std::vector<Field> rows_;
  std::vector<Setting> settings_;
};

TEST_F(FieldTest, FileFillsEveryType) {
  const auto given = file(
      "a:\n  flag: yes\n  count: 7\n  rate: 1e-4\n"
      "b: {name: 'two words', paths: [p, \"q r\"], numbers: [0.25, 1], colour: navy}\n");
  EXPECT_TRUE(sample_.flag);
  EXPECT_EQ(sample_.count, 7);
  EXPECT_EQ(sample_.rate, 1e-4);
  EXPECT_EQ(sample_.name, "two words");
  EXPECT_EQ(sample_.paths, (std::vector<std::string>{"p", "q r"}));
  EXPECT_EQ(sample_.numbers, (std::vector<double>{0.25, 1.0}));
  EXPECT_EQ(sample_.colour, Colour::kDarkBlue);
  EXPECT_EQ(given.size(), 7U);
}

TEST_F(FieldTest, FlagsFillEveryType) {
  flags({"--a.flag", "true", "--a.count=7", "--a.rate", "1e-4", "--b.name=two = words", "--b.paths", "[p, q]", "--b.numbers", "0.25",
         "--b.colour", "dark-blue"});
  EXPECT_TRUE(sample_.flag);
  EXPECT_EQ(sample_.count, 7);
  EXPECT_EQ(sample_.rate, 1e-4);
  EXPECT_EQ(sample_.name, "two = words");
  EXPECT_EQ(sample_.paths, (std::vector<std::string>{"p", "q"}));
  EXPECT_EQ(sample_.numbers, std::vector<double>{0.25});
  EXPECT_EQ(sample_.colour, Colour::kDarkBlue);
}

TEST_F(FieldTest, OneValueIsAListOfOne) {
  file("b:\n  paths: p\n  numbers: 0.5\n");
  EXPECT_EQ(sample_.paths, std::vector<std::string>{"p"});
  EXPECT_EQ(sample_.numbers, std::vector<double>{0.5});
}

TEST_F(FieldTest, EmptyFilesAndEmptyValuesGiveNothing) {
  for (const char* yaml : {"", "# only a comment\n", "a:\n", "a:\n  count:\n  rate: ~\nb: null\nold:\n  samples: null\n"}) {
    EXPECT_TRUE(file(yaml).empty()) << yaml;
  }
  EXPECT_EQ(sample_.count, 3);
}

TEST_F(FieldTest, IntegersMayBeWrittenWithAnExponent) {
  flags({"--a.count", "20e9"});
  EXPECT_EQ(sample_.count, 20'000'000'000);
  flags({"--a.count", "9223372036854775807"});
  EXPECT_EQ(sample_.count, 9'223'372'036'854'775'807);
  for (const char* text : {"1.5", "1e-1", "1e300", "9223372036854775808", "0x10", "7 ", "", "nan", "1,000"}) {
    EXPECT_EQ(flag_error({"--a.count", text}), "--a.count: found '" + std::string(text) + "', expected integer >= 1");
  }
}

TEST_F(FieldTest, BooleansAreStrict) {
  for (const char* text : {"true", "True", "TRUE", "yes"}) {
    sample_.flag = false;
    flags({"--a.flag", text});
    EXPECT_TRUE(sample_.flag) << text;
  }
  for (const char* text : {"1", "on", "t", "tRUE", "false "}) {
    EXPECT_EQ(flag_error({"--a.flag", text}), "--a.flag: found '" + std::string(text) + "', expected true|false");
  }
}

TEST_F(FieldTest, RangesAreChecked) {
  EXPECT_EQ(file_error("a: {count: 0}\n"), "F:1: a.count: found 0, expected integer >= 1");
  EXPECT_EQ(file_error("a:\n  rate: 1\n"), "F:2: a.rate: found 1, expected number > 0 and < 1");
  EXPECT_EQ(file_error("a:\n  rate: 0\n"), "F:2: a.rate: found 0, expected number > 0 and < 1");
  EXPECT_EQ(file_error("a:\n  rate: inf\n"), "F:2: a.rate: found 'inf', expected number > 0 and < 1");
  EXPECT_EQ(file_error("b:\n  numbers: [0, 2]\n"), "F:2: b.numbers: found 2, expected number or list of numbers >= 0 and <= 1");
}

TEST_F(FieldTest, WrongTypesAreNamed) {
  EXPECT_EQ(file_error("a:\n  count: [1, 2]\n"), "F:2: a.count: found a list, expected integer >= 1");
  EXPECT_EQ(file_error("a:\n  count: {x: 1}\n"), "F:2: found keys below 'a.count', expected a value");
  EXPECT_EQ(file_error("b:\n  paths: [[p]]\n"), "F:2: b.paths: found a list with nested or empty items, expected a list of plain values");
  EXPECT_EQ(flag_error({"--b.paths", "[{}]"}),
            "--b.paths: found a list with nested or empty items, expected a list of plain values, or of {path: P, weight: W} in a mixture");
  EXPECT_EQ(file_error("a: 5\n"), "F:1: found a plain value for the section 'a', expected keys below it, indented");
  EXPECT_EQ(file_error("- 5\n"), "F:1: found no keys, expected lines of the form `key: value`");
  EXPECT_EQ(file_error("b:\n  colour: dark-blu\n"),
            "F:2: b.colour: found 'dark-blu', expected red|dark-blue|navy; did you mean 'dark-blue'?");
}

TEST_F(FieldTest, UnknownNamesGetTheNearest) {
  EXPECT_EQ(file_error("a:\n  flag: true\n  cuont: 5\n"), "F:3: found unknown key 'a.cuont'; did you mean 'a.count'?");
  EXPECT_EQ(file_error("rate: 0.1\n"), "F:1: found unknown key 'rate'; did you mean 'a.rate'?");
  EXPECT_EQ(file_error("a:\n  zzzzzz: {x: 5}\n"), "F:2: found unknown key 'a.zzzzzz'; see docs/configuration.md for all keys");
  EXPECT_EQ(file_error("a:\n  cuont:\n"), "F:2: found unknown key 'a.cuont'; did you mean 'a.count'?");
  EXPECT_EQ(flag_error({"--a.ratee", "1"}), "--a.ratee: found an unknown flag; did you mean 'a.rate'?");
}

TEST_F(FieldTest, NothingMayBeGivenTwice) {
  EXPECT_EQ(file_error("a:\n  count: 1\n  count: 2\n"), "F:3: a.count: found a second value, after 'a.count'; keep one of them");
  EXPECT_EQ(file_error("a:\n  count: 1\nn: 2\n"), "F:3: n: found a second value for 'a.count', after 'a.count'; keep one of them");
  EXPECT_EQ(file_error("is_blue: true\nis_navy: true\n"),
            "F:2: is_navy: found a second value for 'b.colour', after 'is_blue'; keep one of them");
  EXPECT_EQ(file_error("a:\n  count: 1\nb:\n  name: x\na:\n  rate: 0.1\n"), "F:5: found section 'a' for the second time; merge the two");
  EXPECT_EQ(file_error("old:\n  cache: 1\n  cache: 2\n"), "F:3: old.cache: found a second value, after 'old.cache'; keep one of them");
  EXPECT_EQ(flag_error({"--n", "1", "--n", "2"}), "--n: found a second value for 'a.count', after 'n'; keep one of them");
}

TEST_F(FieldTest, AliasesAndDottedKeysMeanTheField) {
  EXPECT_TRUE(file("old:\n  count: 5\n").contains("a.count"));
  EXPECT_EQ(sample_.count, 5);
  file("a.count: 6\n");
  EXPECT_EQ(sample_.count, 6);
  flags({"--n", "8"});
  EXPECT_EQ(sample_.count, 8);
}

TEST_F(FieldTest, SwitchesGiveWayToAnExplicitValue) {
  EXPECT_TRUE(file("is_blue: true\n").contains("b.colour"));
  EXPECT_EQ(sample_.colour, Colour::kDarkBlue);
  EXPECT_FALSE(file("is_blue: false\n").contains("b.colour"));
  EXPECT_EQ(sample_.colour, Colour::kRed);
  file("b:\n  colour: navy\nis_blue: false\n");
  EXPECT_EQ(sample_.colour, Colour::kDarkBlue);
  file("is_blue: false\nis_navy: true\n");
  EXPECT_EQ(sample_.colour, Colour::kDarkBlue);
  file("is_navy: false\n");
  EXPECT_EQ(sample_.colour, Colour::kDarkBlue) << "a switch without a false value says nothing";
  EXPECT_EQ(file_error("is_blue: 1\n"), "F:1: is_blue: found '1', expected true|false");
}

TEST_F(FieldTest, MalformedYamlNamesTheLine) {
  EXPECT_EQ(file_error("a:\n  flag: [1, 2\nb: 3\n").substr(0, 22), "F:3: found malformed Y");
  EXPECT_EQ(file_error("a: 1\n---\nb: 2\n"), "F: found 2 YAML documents, expected one; remove the lines `---`");
  EXPECT_EQ(file_error("? [x]\n: 1\n"), "F:1: found a key that is a list or a map, expected a name");
  EXPECT_NE(file_error(std::string(100'000, '[')).find("malformed YAML"), std::string::npos);
  EXPECT_EQ(flag_error({"--b.paths", "[a, {]"}).find("--b.paths: found '[a, {]', expected a list like [a, b]; "), 0U);
  EXPECT_THROW(settings_from_yaml("no/such/file.yaml", {}), DataError);
}

TEST_F(FieldTest, FlagsNeedAValue) {
  EXPECT_EQ(flag_error({"--a.count"}), "--a.count: found no value, expected --a.count VALUE");
  EXPECT_EQ(flag_error({"--a.count", "--a.rate", "1"}), "--a.count: found no value, expected --a.count VALUE");
  EXPECT_EQ(flag_error({"a.count", "1"}), "a.count: found a stray argument, expected --some.key value");
  EXPECT_EQ(flag_error({"--a.count", "-1"}), "--a.count: found -1, expected integer >= 1");
}

TEST_F(FieldTest, ForeignKeysAreNoticedOrRefused) {
  std::vector<std::string> notices;
  file("old:\n  cache: x\n  samples: None\n");
  check_foreign(settings_, kForeign, notices);
  EXPECT_EQ(notices, std::vector<std::string>{path_.string() + ":2: old.cache: not used here"});

  EXPECT_EQ(file_error("old: {samples: 5}\n"), "F:1: old.samples: found '5'; use a.count");
  EXPECT_EQ(file_error("old: {samples: []}\n"), "F:1: old.samples: found a list; use a.count");
}

TEST_F(FieldTest, MixturesAreReadInEverySpelling) {
  std::vector<WeightedPath> mixture;
  rows_ = {{.key = "data.mixture", .target = &mixture, .help = "A mixture.", .range = kPositive}};
  const std::vector<WeightedPath> expected{{"a=b/c", 2.0}, {"d", 0.5}};
  for (const char* yaml : {"data: {mixture: [{path: a=b/c, weight: 2}, {weight: 0.5, path: d}]}\n", "data: {mixture: [a=b/c=2, d=0.5]}\n",
                           "data:\n- path: a=b/c\n  weight: 2\n- d=0.5\n"}) {
    write_text_file(path_, yaml);
    mixture.clear();
    apply_settings(settings_from_yaml(path_, known_names(rows_, kForeign)), rows_, kForeign);
    EXPECT_EQ(mixture, expected) << yaml;
  }
  const std::string yaml = fields_to_yaml(rows_);
  mixture.clear();
  apply_settings(settings_from_arguments(std::vector<std::string>{"--data.mixture", "[a=b/c=2, d=0.5]"}), rows_, kForeign);
  EXPECT_EQ(fields_to_yaml(rows_), yaml);
  for (const char* bad : {"[d]", "[d=0]", "[d=-1]", "[=1]", "[d=x]", "[{path: d}]"}) {
    const auto apply = [&] { apply_settings(settings_from_arguments(std::vector<std::string>{"--data.mixture", bad}), rows_, kForeign); };
    EXPECT_THROW(apply(), ConfigError) << bad;
  }
}

TEST_F(FieldTest, YamlReadsBack) {
  sample_ = {
      true, 1'000'000'007, 0.1 + 0.2 - 0.05, "a: b #\n\"c\" \xc3\xa9", {"null", "", "[x]", "1e3"}, {1e-300, 1.0 / 3.0}, Colour::kDarkBlue};
  const std::string yaml = fields_to_yaml(fields(sample_));
  const Sample written = sample_;
  sample_ = {};
  file(yaml);
  EXPECT_EQ(sample_.flag, written.flag);
  EXPECT_EQ(sample_.count, written.count);
  EXPECT_EQ(sample_.rate, written.rate);
  EXPECT_EQ(sample_.name, written.name);
  EXPECT_EQ(sample_.paths, written.paths);
  EXPECT_EQ(sample_.numbers, written.numbers);
  EXPECT_EQ(sample_.colour, written.colour);
  EXPECT_EQ(fields_to_yaml(fields(sample_)), yaml);
}

TEST_F(FieldTest, PagesShowTypeRangeDefaultAndOtherNames) {
  const std::string help = fields_to_help(fields(sample_));
  EXPECT_NE(help.find("  --a.count  integer >= 1  [3]\n      A count.\n"), std::string::npos) << help;
  const std::string page = fields_to_markdown(fields(sample_));
  EXPECT_NE(page.find("\n## a\n"), std::string::npos);
  EXPECT_NE(page.find("| `a.count` | integer >= 1 | `3` | A count. | `old.count`, `n` |\n"), std::string::npos) << page;
  EXPECT_NE(
      page.find("| `b.colour` | red\\|dark-blue\\|navy | `red` | A colour. | `is_blue: true` = `dark-blue`, `is_navy: true` = `navy` |\n"),
      std::string::npos)
      << page;
}

TEST_F(FieldTest, RangesOfStructsFilledByCodeAreChecked) {
  EXPECT_NO_THROW(check_ranges(fields(sample_)));
  sample_.count = 0;
  EXPECT_THROW(check_ranges(fields(sample_)), ConfigError);
  sample_ = {};
  sample_.colour = static_cast<Colour>(7);
  EXPECT_THROW(check_ranges(fields(sample_)), ConfigError);
}

}  // namespace
}  // namespace stableqat
