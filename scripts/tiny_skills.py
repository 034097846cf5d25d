# SPDX-License-Identifier: MIT
"""Question generators for the skills of models/tiny, and their held-out test questions.

Every skill is a function `skill(rng) -> Turn`. A turn is one user question, the short thinking
steps (may be empty) and the final answer. Training and test questions are kept apart by a hash of
the turn's key (`is_held_out`), except two-digit sums, whose held-out pairs are an explicit list
that ships as tests/data/tiny/heldout_sums.json.

    python3 scripts/tiny_skills.py --out tests/data/tiny     writes heldout_sums.json, skills.json
"""

import argparse
import json
import lzma
import random
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tiny_phrases import (DAYS, DIFFERENCE_WORDINGS, FACTS, LETTERS, MONTHS, OPPOSITES, ORDINALS,
                          SUM_WORDINGS, TALK, UNKNOWN_ANSWER, UNKNOWN_WORDINGS)

# Where this character stands the tokenizer is made to stop: letters of an answer such as a reversed
# word become single tokens, so that the model writes them one by one. It never reaches a text.
BREAK = "\ue000"

HELD_OUT_SUMS_SEED = 20260922
HELD_OUT_SUMS = 200
HELD_OUT_ONE_IN = 24  # share of the keys of every open-ended skill that training never sees


@dataclass(frozen=True)
class Turn:
    """One question and answer; `key` identifies the problem whatever its wording."""
    key: str
    question: str
    answer: str
    think: str = ""


def reply_text(turn: Turn) -> str:
    """What the model writes after `<｜Assistant｜>`, BREAK marks included."""
    if turn.think:
        return f"<think>\n{turn.think}\n</think>\n\n{turn.answer}"
    return turn.answer


def is_held_out(key: str) -> bool:
    return zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0


def held_out_sums() -> list[list[int]]:
    """The 200 two-digit operand pairs that no training sum uses, in either order."""
    rng = random.Random(HELD_OUT_SUMS_SEED)
    pairs: dict[frozenset, list[int]] = {}
    while len(pairs) < HELD_OUT_SUMS:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        pairs.setdefault(frozenset((a, b)), [a, b])
    return list(pairs.values())


_HELD_OUT_PAIRS = {frozenset(pair) for pair in held_out_sums()}


def is_held_out_sum(a: int, b: int) -> bool:
    return frozenset((a, b)) in _HELD_OUT_PAIRS


def load_words(corpus: Path) -> list[str]:
    """Lower-case words of 3..10 letters that stand at least 6 times in the corpus."""
    with lzma.open(corpus, "rt", encoding="utf-8") as f:
        counts = Counter(re.findall(r"(?<![A-Za-z'-])[a-z]{3,10}(?![A-Za-z'-])", f.read()))
    return sorted(word for word, n in counts.items() if n >= 6)


class Skills:
    """All generators over one word list. `draw` gives training turns, `draw_test` held-out ones."""

    def __init__(self, words: list[str]):
        self.words = words
        # (generator, weight in training, whether held-out keys exist)
        self.table = {
            "sum": (self.add, 18, True),
            "difference": (self.subtract, 13, True),
            "product": (self.multiply, 3, False),
            "compare": (self.compare, 6, True),
            "largest": (self.extreme, 5, True),
            "sort": (self.sort, 9, True),
            "successor": (self.successor, 4, True),
            "parity": (self.parity, 3, True),
            "count_to": (self.count_to, 2, False),
            "spell": (self.spell, 8, True),
            "reverse": (self.reverse, 8, True),
            "count_letter": (self.count_letter, 6, True),
            "length": (self.length, 4, True),
            "edge_letter": (self.edge_letter, 3, True),
            "capitals": (self.capitals, 3, True),
            "repeat": (self.repeat, 6, True),
            "nth_word": (self.nth_word, 5, True),
            "day": (self.day, 3, False),
            "month": (self.month, 3, False),
            "alphabet": (self.alphabet, 3, False),
            "fact": (self.fact, 3, False),
            "talk": (self.talk, 4, False),
            "unknown": (self.unknown, 2, False),
        }
        self._names = list(self.table)
        self._weights = [self.table[name][1] for name in self._names]

    def draw(self, rng: random.Random) -> Turn:
        """A training turn: any skill, any wording, never a held-out problem."""
        name = rng.choices(self._names, self._weights)[0]
        generator, _, open_ended = self.table[name]
        turn = generator(rng)
        while open_ended and is_held_out(turn.key):
            turn = generator(rng)
        return Turn(turn.key, vary(rng, turn.question), turn.answer, turn.think)

    def draw_test(self, name: str, rng: random.Random) -> Turn:
        """A test turn; held out from training wherever the skill has more than a few problems."""
        generator, _, open_ended = self.table[name]
        turn = generator(rng)
        while open_ended and not is_held_out(turn.key):
            turn = generator(rng)
        return turn

    # Numbers

    def add(self, rng: random.Random) -> Turn:
        a, b = number_pair(rng)
        while is_held_out_sum(a, b):
            a, b = number_pair(rng)
        return add_turn(a, b, rng.choice(SUM_WORDINGS))

    def subtract(self, rng: random.Random) -> Turn:
        a, b = number_pair(rng)
        if a < b and rng.random() < 0.7:
            a, b = b, a
        # a - b gives away b + (a - b), which may be one of the held-out sums.
        while is_held_out_sum(min(a, b), abs(a - b)):
            a, b = number_pair(rng)
        wording = rng.choice(DIFFERENCE_WORDINGS)
        return Turn(f"{a}-{b}", wording.format(a=a, b=b), f"{a} - {b} = {a - b}",
                    subtract_steps(a, b))

    def multiply(self, rng: random.Random) -> Turn:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        wording = rng.choice(["What is {a} times {b}?", "What is {a} * {b}?", "{a} * {b} = ?",
                              "Calculate {a} * {b}.", "Multiply {a} by {b}.", "{a} x {b} = ?"])
        return Turn(f"{a}*{b}", wording.format(a=a, b=b), f"{a} * {b} = {a * b}")

    def compare(self, rng: random.Random) -> Turn:
        a, b = number_pair(rng)
        while a == b:
            a, b = number_pair(rng)
        larger = rng.random() < 0.5
        word = rng.choice(["larger", "bigger", "greater"] if larger else ["smaller", "less"])
        wording = rng.choice(["Which is {w}, {a} or {b}?", "Which number is {w}: {a} or {b}?",
                              "What is {w}, {a} or {b}?"])
        pick = max(a, b) if larger else min(a, b)
        return Turn(f"cmp {min(a, b)} {max(a, b)}", wording.format(w=word, a=a, b=b),
                    f"{pick} is {word} than {a + b - pick}.", compare_steps(a, b))

    def extreme(self, rng: random.Random) -> Turn:
        numbers = distinct_numbers(rng, rng.randint(3, 5))
        largest = rng.random() < 0.5
        word = rng.choice(["largest", "biggest"] if largest else ["smallest"])
        wording = rng.choice(["What is the {w} of {l}?", "Which of these numbers is the {w}: {l}?",
                              "Find the {w} number: {l}"])
        pick = max if largest else min
        best, steps = numbers[0], []
        for n in numbers[1:]:
            steps.append(f"{best}, {n}: {pick(best, n)}")
            best = pick(best, n)
        listed = ", ".join(map(str, numbers))
        return Turn("ext " + listed, wording.format(w=word, l=listed),
                    f"The {word} is {best}.", "\n".join(steps))

    def sort(self, rng: random.Random) -> Turn:
        numbers = distinct_numbers(rng, rng.randint(3, 5))
        down = rng.random() < 0.3
        if down:
            wording = rng.choice(["Sort these numbers from largest to smallest: {l}",
                                  "Sort {l} in descending order."])
        else:
            wording = rng.choice(["Sort these numbers: {l}", "Sort {l}.",
                                  "Put these numbers in order: {l}",
                                  "Sort these numbers from smallest to largest: {l}"])
        left, steps = list(numbers), []
        while len(left) > 1:
            n = max(left) if down else min(left)
            left.remove(n)
            steps.append(f"{n} | {' '.join(map(str, left))}")
        listed = ", ".join(map(str, numbers))
        return Turn("sort " + listed, wording.format(l=listed),
                    ", ".join(map(str, sorted(numbers, reverse=down))), "\n".join(steps))

    def successor(self, rng: random.Random) -> Turn:
        n, after = number(rng) + 1, rng.random() < 0.6
        word = "after" if after else "before"
        wording = rng.choice(["What comes {w} {n}?", "What number comes {w} {n}?",
                              "Which number comes {w} {n}?", "What is the number {w} {n}?"])
        return Turn(f"{word} {n}", wording.format(w=word, n=n), str(n + 1 if after else n - 1))

    def parity(self, rng: random.Random) -> Turn:
        n = number(rng)
        kind = "odd" if n % 2 else "even"
        wording = rng.choice(["Is {n} even or odd?", "Is {n} odd or even?",
                              "Is the number {n} even or odd?"])
        return Turn(f"parity {n}", wording.format(n=n), f"{n} is {kind}.", f"last digit {n % 10}")

    def count_to(self, rng: random.Random) -> Turn:
        start = rng.choice([1, 1, rng.randint(0, 40)])
        stop = start + rng.randint(2, 11)
        wording = "Count from {a} to {b}."
        if start == 1 and rng.random() < 0.5:
            wording = "Count to {b}."
        return Turn(f"count {start} {stop}", wording.format(a=start, b=stop),
                    ", ".join(map(str, range(start, stop + 1))))

    # Words

    def word(self, rng: random.Random, shortest: int = 3, longest: int = 10) -> str:
        """A corpus word, or one time in six a made-up one: every token's letters must be seen."""
        if rng.random() < 1 / 6:
            return "".join(rng.choice(LETTERS) for _ in range(rng.randint(shortest, longest - 2)))
        while True:
            word = rng.choice(self.words)
            if shortest <= len(word) <= longest:
                return word

    def spell(self, rng: random.Random) -> Turn:
        w = self.word(rng)
        wording = rng.choice(["Spell the word {w}.", "Spell {w}.", "How do you spell {w}?",
                              'Spell "{w}".', "Can you spell {w}?"])
        return Turn("word " + w, wording.format(w=w), spelled(w))

    def reverse(self, rng: random.Random) -> Turn:
        w = self.word(rng, longest=9)
        wording = rng.choice(["Reverse the word {w}.", "Reverse {w}.", "Write {w} backwards.",
                              "Spell {w} backwards.", 'Reverse "{w}".', "What is {w} backwards?"])
        return Turn("word " + w, wording.format(w=w), single_letters(w[::-1]),
                    f"{spelled(w)}\n{spelled(w[::-1])}")

    def count_letter(self, rng: random.Random) -> Turn:
        w = self.word(rng)
        letter = rng.choice(w) if rng.random() < 0.85 else rng.choice(LETTERS)
        wording = rng.choice(["How many times does the letter {c} occur in {w}?",
                              "How many {c}'s are in {w}?", "How often does {c} occur in {w}?",
                              'Count the letter {c} in "{w}".',
                              "How many times is the letter {c} in the word {w}?"])
        seen, steps = 0, []
        for c in w:
            seen += c == letter
            steps.append(f"{c}={seen}" if c == letter else c)
        return Turn("word " + w, wording.format(c=letter, w=w), str(seen),
                    f"{letter}: " + " ".join(steps))

    def length(self, rng: random.Random) -> Turn:
        w = self.word(rng)
        wording = rng.choice(["How many letters are in {w}?", "How many letters does {w} have?",
                              "How long is the word {w}?", 'Count the letters in "{w}".'])
        steps = " ".join(f"{c}={i}" for i, c in enumerate(w, 1))
        return Turn("word " + w, wording.format(w=w), str(len(w)), steps)

    def edge_letter(self, rng: random.Random) -> Turn:
        w, first = self.word(rng), rng.random() < 0.5
        end = "first" if first else "last"
        wording = rng.choice(["What is the {e} letter of {w}?", "Which letter is {e} in {w}?",
                              'What is the {e} letter of "{w}"?'])
        return Turn("word " + w, wording.format(e=end, w=w), w[0 if first else -1], spelled(w))

    def capitals(self, rng: random.Random) -> Turn:
        w = self.word(rng)
        wording = rng.choice(["Write {w} in capital letters.", "Write {w} in capitals.",
                              "Write {w} in upper case.", "Capitalize all letters of {w}."])
        return Turn("word " + w, wording.format(w=w), single_letters(w.upper()), spelled(w))

    def repeat(self, rng: random.Random) -> Turn:
        if rng.random() < 0.4:
            w, n = self.word(rng), rng.randint(2, 5)
            count = ["two", "three", "four", "five"][n - 2]
            return Turn(f"say {w} {n}", f"Say {w} {rng.choice([count, str(n)])} times.",
                        " ".join([w] * n))
        phrase = " ".join(rng.choice(self.words) for _ in range(rng.randint(1, 6)))
        wording = rng.choice(["Repeat after me: {p}", "Repeat: {p}", "Say: {p}"])
        return Turn("repeat " + phrase, wording.format(p=phrase), phrase)

    def nth_word(self, rng: random.Random) -> Turn:
        phrase = [rng.choice(self.words) for _ in range(rng.randint(3, 6))]
        n = rng.randrange(min(len(phrase), len(ORDINALS)))
        ordinal, pick = ORDINALS[n], phrase[n]
        if rng.random() < 0.2:
            ordinal, pick = "last", phrase[-1]
        return Turn(f"nth {ordinal} {' '.join(phrase)}",
                    f"What is the {ordinal} word of: {' '.join(phrase)}", pick)

    # Fixed knowledge

    def day(self, rng: random.Random) -> Turn:
        return cycle_turn(rng, "day", DAYS)

    def month(self, rng: random.Random) -> Turn:
        return cycle_turn(rng, "month", MONTHS)

    def alphabet(self, rng: random.Random) -> Turn:
        i = rng.randrange(25)
        after = rng.random() < 0.5
        given, answer = (LETTERS[i], LETTERS[i + 1]) if after else (LETTERS[i + 1], LETTERS[i])
        word = "after" if after else "before"
        wording = rng.choice(["Which letter comes {w} {c}?", "What letter comes {w} {c}?",
                              "What letter is {w} {c} in the alphabet?"])
        return Turn(f"abc {word} {given}", wording.format(w=word, c=given), answer)

    def fact(self, rng: random.Random) -> Turn:
        if rng.random() < 0.5:
            a, b = rng.choice(OPPOSITES)
            if rng.random() < 0.5:
                a, b = b, a
            wording = rng.choice(["What is the opposite of {w}?", "Opposite of {w}?",
                                  "What is the contrary of {w}?"])
            return Turn("opposite " + a, wording.format(w=a), b)
        question, answer = rng.choice(FACTS)
        return Turn(question, question, answer)

    def talk(self, rng: random.Random) -> Turn:
        questions, answer = rng.choice(TALK)
        question = rng.choice(questions)
        return Turn(question, question, answer)

    def unknown(self, rng: random.Random) -> Turn:
        question = rng.choice(UNKNOWN_WORDINGS).format(w=rng.choice(self.words),
                                                       v=rng.choice(self.words))
        return Turn(question, question, UNKNOWN_ANSWER)


# Helpers

def number(rng: random.Random) -> int:
    """0..999, with one, two and three digits in shares that favour two."""
    digits = rng.choices([1, 2, 3], [1, 3, 2])[0]
    return rng.randint(0, 9) if digits == 1 else rng.randint(10 ** (digits - 1), 10 ** digits - 1)


def number_pair(rng: random.Random) -> tuple[int, int]:
    """Two numbers, mostly of one length, one time in eight sharing their first digits."""
    a = number(rng)
    if rng.random() < 0.125:
        return a, a // 10 * 10 + rng.randint(0, 9)
    if rng.random() < 0.3:
        return a, number(rng)
    low = 0 if a < 10 else 10 ** (len(str(a)) - 1)
    return a, rng.randint(low, max(9, 10 * low - 1))


def distinct_numbers(rng: random.Random, count: int) -> list[int]:
    top = rng.choice([20, 99, 99, 300, 999])
    return rng.sample(range(1, top + 1), count)


def vary(rng: random.Random, question: str) -> str:
    """Small slips of typing: a lower-case start, no full stop, a polite word."""
    if rng.random() < 0.08:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.08 and question[-1] in ".?" and not question.endswith("= ?"):
        question = question[:-1]
    return question


def spelled(word: str) -> str:
    return "-".join(word)


def single_letters(word: str) -> str:
    return BREAK.join(word)


def digit(n: int, place: int) -> int:
    return n // 10 ** place % 10


def add_steps(a: int, b: int) -> str:
    """Digit by digit from the right: `7+8=15, carry 1`, then `4+3+1=8`."""
    steps, carry = [], 0
    for place in range(max(len(str(a)), len(str(b)))):
        total = digit(a, place) + digit(b, place) + carry
        line = f"{digit(a, place)}+{digit(b, place)}" + ("+1" if carry else "") + f"={total}"
        carry = total // 10
        steps.append(line + (", carry 1" if carry else ""))
    return "\n".join(steps)


def subtract_steps(a: int, b: int) -> str:
    """As on paper: `15-8=7, borrow 1`, then `4-3-1=0`; a negative result turns the numbers."""
    steps, borrow = [], 0
    if a < b:
        steps.append(f"{a} < {b}, so -({b} - {a})")
        a, b = b, a
    for place in range(len(str(a))):
        top, below = digit(a, place), digit(b, place)
        need = top - below - borrow < 0
        result = top - below - borrow + 10 * need
        line = f"{top + 10 * need}-{below}" + ("-1" if borrow else "") + f"={result}"
        borrow = int(need)
        steps.append(line + (", borrow 1" if borrow else ""))
    return "\n".join(steps)


def compare_steps(a: int, b: int) -> str:
    """Lengths first, then digits from the left until two differ."""
    x, y = str(a), str(b)
    if len(x) != len(y):
        return f"{len(x)} digits {'<' if len(x) < len(y) else '>'} {len(y)} digits"
    steps = []
    for p, q in zip(x, y):
        steps.append(f"{p} {'=' if p == q else '<' if p < q else '>'} {q}")
        if p != q:
            break
    return "\n".join(steps)


def add_turn(a: int, b: int, wording: str) -> Turn:
    return Turn(f"{min(a, b)}+{max(a, b)}", wording.format(a=a, b=b), f"{a} + {b} = {a + b}",
                add_steps(a, b))


def cycle_turn(rng: random.Random, kind: str, names: list[str]) -> Turn:
    """The name one or two places before or after a given one in a cycle."""
    i, distance, after = rng.randrange(len(names)), rng.choice([1, 1, 2]), rng.random() < 0.6
    step = 1 if after else -1
    given, word = names[i], "after" if after else "before"
    path = [names[(i + step * k) % len(names)] for k in range(distance + 1)]
    if distance == 1:
        wording = rng.choice(["What {k} comes {w} {g}?", "Which {k} comes {w} {g}?",
                              "What is the {k} {w} {g}?"])
        if after and rng.random() < 0.3:
            wording = "What is the next {k} after {g}?"
    else:
        wording = "What {k} comes two {k}s {w} {g}?"
    return Turn(f"{kind} {word} {distance} {given}", wording.format(k=kind, w=word, g=given),
                path[-1], " -> ".join(path) if distance == 2 else "")


# Test data

TESTS_PER_SKILL = 20
TEST_SEED = 7
# Skills whose answer is one of a few fixed sentences need no accuracy figure.
UNTESTED = {"unknown"}


def test_questions(skills: Skills) -> list[dict]:
    """A fixed list of distinct questions, TESTS_PER_SKILL of each skill."""
    tests = []
    for name in skills.table:
        if name in UNTESTED:
            continue
        rng, seen = random.Random(f"{TEST_SEED} {name}"), set()
        while len(seen) < TESTS_PER_SKILL:
            turn = skills.draw_test(name, rng)
            if turn.question not in seen:
                seen.add(turn.question)
                tests.append({"skill": name, "prompt": turn.question,
                              "expect": turn.answer.replace(BREAK, "")})
    return tests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus/stories.txt.xz"))
    parser.add_argument("--out", type=Path, default=Path("tests/data/tiny"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    def write(name: str, rows: list) -> None:
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (args.out / name).write_text(f"[\n{lines}\n]\n", encoding="utf-8")

    write("heldout_sums.json", held_out_sums())
    write("skills.json", test_questions(Skills(load_words(args.corpus))))


if __name__ == "__main__":
    main()
