# SPDX-License-Identifier: MIT
"""The text that tokenizers are compared on, made from a seed: tests/text/corpus.h is its twin in C++.

blocks() yields (name, texts). tests/data/text/corpus_parts.json holds what the texts are made of:
words of 24 scripts, code, digits, white space, punctuation, emoji, control tokens.
"""

import json
import pathlib

PARTS = pathlib.Path(__file__).resolve().parent.parent / "tests/data/text/corpus_parts.json"
MASK = (1 << 64) - 1
SCALARS_PER_BLOCK = 0x4000
TEXT_BYTES = 2000


class Random:
    """splitmix64 (Steele, Lea, Flood 2014)."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) >> 32) * n >> 32

    def pick(self, choices):
        return choices[self.below(len(choices))]


def is_surrogate(c):
    return 0xD800 <= c < 0xE000


class Corpus:
    def __init__(self):
        self.parts = json.loads(PARTS.read_text())
        self.scripts = list(self.parts["scripts"])
        self.letters = {name: sorted(set("".join(words)))
                        for name, words in self.parts["scripts"].items()}

    def word(self, rng, script):
        """Three of four are real words, the others letters of the script in any order."""
        if rng.below(4) > 0:
            return rng.pick(self.parts["scripts"][script])
        return "".join([rng.pick(self.letters[script]) for _ in range(1 + rng.below(8))])

    def number(self, rng):
        out = "".join([rng.pick(self.parts["digits"]) for _ in range(1 + rng.below(9))])
        return out + rng.pick(self.parts["number_marks"])

    def space(self, rng):
        """A run of one kind, or of all kinds."""
        if rng.below(2) > 0:
            one = rng.pick(self.parts["spaces"])
            return one * (1 + rng.below(40))
        return "".join([rng.pick(self.parts["spaces"]) for _ in range(1 + rng.below(6))])

    def scalar(self, rng):
        c = rng.below(0x110000)
        return "\ufffd" if is_surrogate(c) else chr(c)

    def piece(self, rng):
        kind = rng.below(9)
        if kind < 2:
            return rng.pick(["", " "]) + self.word(rng, rng.pick(self.scripts))
        if kind == 2:
            return self.number(rng)
        if kind == 3:
            return self.space(rng)
        if kind == 4:
            return self.scalar(rng)
        return rng.pick(self.parts[["code", "marks", "emoji", "controls"][kind - 5]])

    def fill(self, rng, n_texts, make):
        texts = []
        for _ in range(n_texts):
            pieces, size = [], 0
            while size < TEXT_BYTES:
                pieces.append(make(rng))
                size += len(pieces[-1].encode())
            texts.append("".join(pieces))
        return texts

    def scalars(self, first):
        texts = []
        for c in range(first, first + SCALARS_PER_BLOCK):
            if not is_surrogate(c):
                texts += [chr(c), chr(c) * 2, f"a{chr(c)}b"]
        return texts

    def blocks(self):
        between = self.parts["between"]
        seed = 0
        for script in self.scripts:
            seed += 1
            yield script, self.fill(Random(seed), 100, lambda rng, s=script: self.word(rng, s) + rng.pick(between))
        for name, make in (("code", lambda rng: rng.pick(self.parts["code"])),
                           ("numbers", self.number), ("spaces", self.space),
                           ("emoji", lambda rng: rng.pick(self.parts["emoji"])),
                           ("mixed", self.piece)):
            seed += 1
            yield name, self.fill(Random(seed), 400, make)
        for i in range(8):
            seed += 1
            rng = Random(seed)
            yield f"mixtures {i}", ["".join([self.piece(rng) for _ in range(1 + rng.below(8))])
                                    for _ in range(10_000)]
        for first in range(0, 0x110000, SCALARS_PER_BLOCK):
            yield f"scalars {first:06x}", self.scalars(first)
