#!/usr/bin/env python3
"""Writes src/text/unicode_tables.inc: the character classes that pre-tokenizers ask about.

Which characters are letters, marks, numbers, punctuation, symbols or white space depends on the
Unicode version of whoever is asked. The reference is Hugging Face `tokenizers`, so it is asked
itself: one text that holds every scalar value goes through a Split pre-tokenizer with the regular
expression of one class, and what the split removed is the class. `Digits` is asked too, because it
is answered by another library (Rust's char::is_numeric) than the regular expressions.

    pip install tokenizers
    scripts/make_unicode_tables.py [--check]      # --check: only compare with the committed table
"""

import argparse
import pathlib
import sys

import tokenizers
from tokenizers import Regex, pre_tokenizers

TABLE = pathlib.Path(__file__).resolve().parent.parent / "src/text/unicode_tables.inc"
# In the order of the bits of dsr::CharClass (src/text/unicode_classes.h).
CLASSES = [r"\p{L}", r"\p{M}", r"\p{N}", r"\p{P}", r"\p{S}", r"\s"]
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
# What (?i:...) in the contractions of Qwen2 and Llama 3 matches beside the ASCII letters.
FOLDS = {"s": [0x53, 0x73, 0x17F]}


def members_of_regex(text, pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    found = bytearray(b"\1") * len(text)
    for _, (begin, end) in split.pre_tokenize_str(text):
        found[begin:end] = bytes(end - begin)
    return found


def members_of_digits(text):
    # Runs of digits and of other characters alternate; the first character, NUL, is no digit.
    found = bytearray(len(text))
    runs = pre_tokenizers.Digits(individual_digits=False).pre_tokenize_str(text)
    for _, (begin, end) in runs[1::2]:
        found[begin:end] = b"\1" * (end - begin)
    return found


def check_folds():
    """unicode_classes.h knows the folds by heart; make sure that they are still these."""
    for letter in "strevmld":
        text = "".join("'" + chr(c) + "\n" for c in SCALARS)
        split = pre_tokenizers.Split(Regex("(?i:'%s)" % letter), "isolated")
        found = [ord(piece[1]) for piece, _ in split.pre_tokenize_str(text) if len(piece) == 2]
        expected = FOLDS.get(letter, [ord(letter.upper()), ord(letter)])
        if found != expected:
            sys.exit("(?i:%s) now matches %s" % (letter, [hex(c) for c in found]))


def ranges():
    text = "".join(map(chr, SCALARS))
    masks = bytearray(0x110000)
    columns = [members_of_regex(text, p) for p in CLASSES] + [members_of_digits(text)]
    for bit, found in enumerate(columns):
        for i, c in enumerate(SCALARS):
            masks[c] |= found[i] << bit
    starts = [c for c in range(0x110000) if c == 0 or masks[c] != masks[c - 1]]
    return [(c, masks[c]) for c in starts]


def table_text():
    words = ["0x%x," % (start << 8 | mask) for start, mask in ranges()]
    lines = [
        "// Made by scripts/make_unicode_tables.py from tokenizers %s; do not edit." % tokenizers.__version__,
        "// Each word starts a range: code point << 8 | class bits (CharClass).",
    ]
    line = ""
    for word in words:
        if len(line) + len(word) + 1 > 100:
            lines.append(line)
            line = ""
        line += (" " if line else "") + word
    lines.append(line)
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed table")
    args = parser.parse_args()
    check_folds()
    text = table_text()
    if args.check:
        strip = lambda t: t.split("\n", 1)[1]  # the library's version may differ, the classes not
        if strip(TABLE.read_text()) != strip(text):
            sys.exit("%s differs from what tokenizers %s says" % (TABLE, tokenizers.__version__))
        return
    TABLE.write_text(text)


if __name__ == "__main__":
    main()
