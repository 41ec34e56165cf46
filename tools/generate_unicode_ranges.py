#!/usr/bin/env python3
"""Writes src/tokenizer/unicode_ranges.inc: the character classes of the regular expressions of Hugging Face `tokenizers`.

The classes are asked of the package itself, one code point at a time, so that they follow its Unicode version and not Python's:
    python3 -m pip install tokenizers==0.23.3
    python3 tools/generate_unicode_ranges.py > src/tokenizer/unicode_ranges.inc
"""

import sys

import tokenizers
from tokenizers import Regex
from tokenizers.pre_tokenizers import Digits, Split

CLASSES = {
    "Letter": Split(Regex(r"\p{L}"), "removed"),
    "Number": Split(Regex(r"\p{N}"), "removed"),
    "Space": Split(Regex(r"\s"), "removed"),
}
DIGITS = Digits(individual_digits=True)


def class_of(code_point):
    if 0xD800 <= code_point < 0xE000:
        return "Other"
    text = chr(code_point)
    found = [name for name, splitter in CLASSES.items() if not splitter.pre_tokenize_str(text)]
    if len(found) > 1:
        sys.exit(f"U+{code_point:04X} is in {found}; the table has room for one class")
    name = found[0] if found else "Other"
    # The Digits step uses another Unicode version than the regular expressions.
    if (len(DIGITS.pre_tokenize_str("a" + text)) == 2) != (name == "Number"):
        if name != "Other":
            sys.exit(f"U+{code_point:04X}: Digits and \\p{{N}} differ on a character that is no symbol")
        name = "Digit"
    return name


def main():
    print(
        f"// Made by tools/generate_unicode_ranges.py from tokenizers {tokenizers.__version__}: first code point of a range and its class."
    )
    entries, last = [], None
    for code_point in range(0x110000):
        name = class_of(code_point)
        if name != last:
            entries.append(f"{{0x{code_point:X}, k{name}}},")
            last = name
    line = ""
    for entry in entries:
        if len(line) + len(entry) > 138:
            print(line.rstrip())
            line = ""
        line += entry + " "
    print(line.rstrip())


main()
