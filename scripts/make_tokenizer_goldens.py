#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes tests/data/text/tokenizer_goldens.json: what Hugging Face `tokenizers` makes of 32 MB.

For every block of texts of tokenizer_corpus.py, a hash (the first 16 digits of SHA-256) of
 - the texts themselves, each with a byte 0xff behind it, so that a test knows it has the same ones,
 - the ids that each tokenizer gives: 32 bits each, little-endian, 0xffffffff after every text,
 - the lengths in bytes of the pieces that each pre-tokenizer cuts, written in the same way,
 - the texts in NFC, written as the texts are,
and for random ids, added tokens among them, of what the tokenizer decodes them to.

    pip install tokenizers
    scripts/make_tokenizer_goldens.py TOKENIZERS

TOKENIZERS holds deepseek-v3, -r1, -llm and -coder with a tokenizer.json each. Of Qwen2 and Llama 3
it needs nothing: their pre-tokenizers are one published pattern.
"""

import array
import hashlib
import json
import pathlib
import sys

from tokenizers import Tokenizer, normalizers

from tokenizer_corpus import Corpus, Random

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/text/tokenizer_goldens.json"
RELEASED = ["deepseek-v3", "deepseek-r1", "deepseek-llm", "deepseek-coder"]
END_OF_TEXT = 0xFFFFFFFF
N_DECODED = 20_000
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Patterns that deepseek-run leaves to PCRE2, whose Unicode may be older: only for texts of
# characters that have been in Unicode for long.
OTHERS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
             r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
             r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
             r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "words": r"\w+|[^\w\s]|\s+$|x*",
}


def one_stage(pattern):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                  "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


def pre_tokenizer(shape):
    """The library has no other way from an object to a pre-tokenizer than a whole tokenizer."""
    model = {"type": "BPE", "vocab": {}, "merges": []}
    return Tokenizer.from_str(json.dumps(
        {"version": "1.0", "added_tokens": [], "pre_tokenizer": shape, "model": model})).pre_tokenizer


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def digest_of_numbers(rows):
    numbers = array.array("I")
    for row in rows:
        numbers.extend(row)
        numbers.append(END_OF_TEXT)
    if sys.byteorder == "big":
        numbers.byteswap()
    return digest(numbers.tobytes())


def digest_of_texts(texts):
    return digest(b"".join(t.encode() + b"\xff" for t in texts))


def decoded(tokenizer, vocabulary_only):
    """Ids of which some do not exist, in sequences of 1 to 12. `vocabulary_only` keeps to the ids of
    the base vocabulary: the thirteen letters that DeepSeek LLM and Coder have as added tokens are
    lone bytes to this library's decoder, so that what it decodes is not what it encoded."""
    rng = Random(7)
    limit = tokenizer.get_vocab_size(with_added_tokens=not vocabulary_only)
    rows = [[rng.below(limit) for _ in range(1 + rng.below(12))] for _ in range(N_DECODED)]
    return {"limit": limit, "hash": digest_of_texts(
        tokenizer.decode_batch(rows, skip_special_tokens=False))}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    tokenizers, shapes = {}, {}
    for name in RELEASED:
        path = pathlib.Path(sys.argv[1]) / name / "tokenizer.json"
        tokenizers[name] = Tokenizer.from_file(str(path))
        if name != "deepseek-r1":  # its pre-tokenizer is that of V3
            shapes[name] = json.loads(path.read_text())["pre_tokenizer"]
    shapes["qwen2"] = one_stage(QWEN2 % "")
    shapes["llama3"] = one_stage(QWEN2 % "{1,3}")
    shapes |= {name: one_stage(pattern) for name, pattern in OTHERS.items()}
    splitters = {name: pre_tokenizer(shape) for name, shape in shapes.items()}
    nfc = normalizers.NFC()

    blocks = []
    for name, texts in Corpus().blocks():
        ids, pieces = {}, {}
        for t, tokenizer in tokenizers.items():
            rows = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            ids[t] = digest_of_numbers(row.ids for row in rows)
        for s, splitter in splitters.items():
            if s in OTHERS and name.startswith(("scalars", "mix")):
                continue
            # ByteLevel, the last stage, writes one character per byte.
            pieces[s] = digest_of_numbers(
                [len(piece) for piece, _ in splitter.pre_tokenize_str(text)] for text in texts)
        blocks.append({"name": name, "n_texts": len(texts), "texts": digest_of_texts(texts),
                       "ids": ids, "pieces": pieces,
                       "nfc": digest_of_texts(nfc.normalize_str(t) for t in texts)})
        print(name, file=sys.stderr)
    decode = {name: decoded(t, vocabulary_only=name in {"deepseek-llm", "deepseek-coder"})
              for name, t in tokenizers.items()}
    lines = ",\n".join(json.dumps(block, separators=(",", ":")) for block in blocks)
    OUT.write_text('{"pre_tokenizers":%s,\n"decoded":%s,\n"blocks":[\n%s\n]}\n' % (
        json.dumps(shapes, separators=(",", ":")), json.dumps(decode, separators=(",", ":")), lines))


if __name__ == "__main__":
    main()
