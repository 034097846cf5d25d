#!/usr/bin/env python3
"""Writes tests/data/text/pre_tokenizer_goldens.json: how Hugging Face `tokenizers` cuts texts.

A few hundred generated texts (scripts, white space, punctuation, contractions, emoji, digits of
many kinds, everything mixed) go through every pre-tokenizer that deepseek-run has a matcher for;
the fixture holds the "pre_tokenizer" objects, the texts and the lengths of the pieces in bytes.

    pip install tokenizers
    scripts/make_tokenizer_goldens.py TOKENIZERS

TOKENIZERS holds deepseek-v3/tokenizer.json, deepseek-llm/... and deepseek-coder/..., of which only
the "pre_tokenizer" objects are read.
"""

import json
import pathlib
import random
import sys

from tokenizers import Regex, pre_tokenizers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/text/pre_tokenizer_goldens.json"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SCRIPTS = [  # code point ranges, inclusive
    (0x41, 0x7A), (0xA0, 0x17F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x530, 0x58F),
    (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x10A0, 0x10FF),
    (0x13A0, 0x13FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2100, 0x218F), (0x3000, 0x30FF),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7FF), (0xFF00, 0xFFEF), (0x10400, 0x104FF), (0x1D7CE, 0x1D7FF),
    (0x1F300, 0x1FAFF),
]
SPACES = " \t\n\r\v\f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff\u180e"
ASCII_MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
FIXED = ["'s", "'T", "'re", "'VE", "'m", "'Ll", "'d", "'\u017f", "'x", "\u2019s", "\r\n", "\n\n",
         "  \n", " \n ", "\u2764\ufe0f", "1\ufe0f\u20e3", "\U0001f468\u200d\U0001f469", "\U0001f1e9\U0001f1ea",
         "\u00b2\u00b3", "\u216b", "\u0661\u0662\u0663\u0664", "e\u0301\u0302", "\x00", "\x7f", "\u0378"]


def piece_of_text(rng):
    kind = rng.randrange(8)
    if kind == 0:
        first, last = rng.choice(SCRIPTS)
        return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 5)))
    if kind == 1:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 4)))
    if kind == 2:
        return " " * rng.randint(1, 4)
    if kind == 3:
        return "".join(rng.choice(ASCII_MARKS) for _ in range(rng.randint(1, 3)))
    if kind == 4:
        return str(rng.randrange(10 ** rng.randint(1, 8)))
    if kind == 5:
        return rng.choice(FIXED)
    if kind == 6:
        return rng.choice([" ", "\n"])
    return rng.choice(["", " "]) + "".join(rng.choice("abcXYZ") for _ in range(rng.randint(1, 6)))


def texts():
    rng = random.Random(20)
    out = ["", " ", "\n", "a", "  ", " \n", "\n ", "a  ", "a  b", "a \n b", "1234567", "don't STOP'S"]
    while len(out) < 1600:
        out.append("".join(piece_of_text(rng) for _ in range(rng.randint(2, 8))))
    return out


def compiled(objects):
    parts = []
    for o in objects["pretokenizers"]:
        if o["type"] == "Split":
            parts.append(pre_tokenizers.Split(Regex(o["pattern"]["Regex"]), "isolated"))
        elif o["type"] == "Digits":
            parts.append(pre_tokenizers.Digits(individual_digits=o["individual_digits"]))
    return pre_tokenizers.Sequence(parts)  # without ByteLevel, which only rewrites the pieces


def one_stage(pattern):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                  "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    shapes = {}
    for name in ["deepseek-v3", "deepseek-llm", "deepseek-coder"]:
        path = pathlib.Path(sys.argv[1]) / name / "tokenizer.json"
        shapes[name] = json.loads(path.read_text())["pre_tokenizer"]
    shapes["qwen2"] = one_stage(QWEN2 % "")
    shapes["llama3"] = one_stage(QWEN2 % "{1,3}")
    samples = texts()
    cuts = {}
    for name, objects in shapes.items():
        split = compiled(objects)
        cuts[name] = [" ".join(str(len(piece.encode())) for piece, _ in split.pre_tokenize_str(t))
                      for t in samples]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    lines = {"pre_tokenizers": shapes, "texts": samples, "piece_bytes": cuts}
    OUT.write_text(json.dumps(lines, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
