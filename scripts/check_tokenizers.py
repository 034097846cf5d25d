#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares `deepseek-run tokenize` with Hugging Face `tokenizers`, text by text.

    pip install tokenizers
    scripts/check_tokenizers.py [--binary build/release/deepseek-run] [--tokenizers DIR] [NAME...]

Feeds the generated corpus of tokenizer_corpus.py (24 scripts, code, numbers, white space, emoji,
random mixtures, every Unicode scalar value alone, doubled and between letters), the books of
../shared/corpus and the .inp files beside the tokenizers through both programs. Ids must be equal,
what the ids decode to must be the text, and what random ids decode to must be what the library
says. Prints a line per tokenizer; exit 1 if anything differs.
"""

import argparse
import json
import lzma
import pathlib
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

from tokenizer_corpus import Corpus, Random

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
RELEASED = ["deepseek-v3", "deepseek-r1", "deepseek-llm", "deepseek-coder"]
BOOK_BYTES = 20_000
N_DECODED = 100_000
BATCH = 50_000
SHOWN = 5


def books():
    path = SHARED / "corpus/stories.txt.xz"
    if not path.exists():
        print(f"note: no {path}: no books", file=sys.stderr)
        return []
    with lzma.open(path, "rt", encoding="utf-8") as f:
        text = f.read()
    return [text[i:i + BOOK_BYTES] for i in range(0, len(text), BOOK_BYTES)]


def published(directory):
    """The cases of the .inp files, whoever's they are."""
    return [case for path in sorted(directory.glob("*/*.inp"))
            for case in path.read_text().split("\n__ggml_vocab_test__\n")]


def lines_of(binary, model, rows):
    """One JSON line per row from `tokenize --jsonl`."""
    with tempfile.NamedTemporaryFile("w", encoding="ascii") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
        file.flush()
        run = subprocess.run([binary, "tokenize", "-m", model, "--jsonl", "-f", file.name],
                             stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


def compare(what, rows, got, expected, differences):
    if len(got) != len(expected):
        sys.exit(f"{what}: {len(got)} lines for {len(expected)} texts")
    for row, g, e in zip(rows, got, expected):
        if g == e:
            continue
        differences.append(row)
        if len(differences) <= SHOWN:
            print(f"  {what} {row!r}\n    ours {g}\n    expected {e}")


def check(name, binary, directory, texts):
    model = directory / name
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    differences, n_ids = [], 0
    for first in range(0, len(texts), BATCH):
        part = texts[first:first + BATCH]
        expected = [e.ids for e in tokenizer.encode_batch_fast(part, add_special_tokens=False)]
        got = [row.get("ids") for row in lines_of(binary, model, [{"text": t} for t in part])]
        compare("ids of", part, got, expected, differences)
        back = [row.get("text") for row in lines_of(binary, model, [{"ids": e} for e in expected])]
        compare("decoded", expected, back, part, differences)
        n_ids += sum(map(len, expected))
    # DeepSeek LLM and Coder have thirteen letters among their added tokens that the library decodes
    # to lone bytes, so that its own texts do not come back: of these two, the base vocabulary.
    limit = tokenizer.get_vocab_size(
        with_added_tokens=name not in {"deepseek-llm", "deepseek-coder"})
    rng = Random(11)
    rows = [[rng.below(limit) for _ in range(1 + rng.below(12))] for _ in range(N_DECODED)]
    expected = tokenizer.decode_batch(rows, skip_special_tokens=False)
    got = [row.get("text") for row in lines_of(binary, model, [{"ids": r} for r in rows])]
    compare("decoded", rows, got, expected, differences)
    size = sum(len(t.encode()) for t in texts)
    print(f"{name}: {len(texts):,} texts, {size:,} bytes, {n_ids:,} ids, {N_DECODED:,} random id "
          f"sequences: {len(differences):,} differences", flush=True)
    return not differences


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "build/release/deepseek-run")
    parser.add_argument("--tokenizers", type=pathlib.Path, default=SHARED / "tokenizers")
    parser.add_argument("names", nargs="*", default=RELEASED, metavar="NAME")
    args = parser.parse_args()
    texts = [t for _, block in Corpus().blocks() for t in block]
    texts += books() + published(args.tokenizers)
    equal = [check(name, args.binary, args.tokenizers, texts) for name in args.names]
    sys.exit(0 if all(equal) else 1)


if __name__ == "__main__":
    main()
