#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures models/tiny through the deepseek-run binary. Needs nothing but Python's own library.

    python3 scripts/measure_tiny.py build/deepseek-run                      everything
    python3 scripts/measure_tiny.py build/deepseek-run --only sums --limit 20 --jobs 4
    python3 scripts/measure_tiny.py build/deepseek-run --only skills --skill reverse

sums      the 200 two-digit sums kept out of training, in three wordings, temperature 0
skills    tests/data/tiny/skills.json, temperature 0, exact answers
stories   20 stories at temperature 0.7, seeds 0..19: no sequence of 8 words three times in all of
          them together, no copy of more than 30 tokens from the corpus

Prints a table. Exit status 1 when a bar is missed, 2 when the binary fails.
"""

import argparse
import json
import lzma
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SUM_WORDINGS = ["What is {a} + {b}?", "Calculate {a} + {b}.", "{a} + {b} = ?"]
SUM_BAR = 0.95
SKILL_BAR = 0.90  # each skill
STORY_PROMPTS = ["Tell me a story.", "Tell me a story about a fox.",
                 "Write a short story about a king.", "Tell me a story about a princess.",
                 "Write a story about a wolf.", "Please tell me a story about a fisherman.",
                 "Tell me a story about a witch.", "Write a short story about a bird.",
                 "Tell me a story about a ship.", "Tell me a story about a little girl."]
STORIES = 20
TEMPERATURE = 0.7
NGRAM, NGRAM_LIMIT = 8, 3
COPY_LIMIT = 30
BOOK_MARK = "<|book|>"
CHUNK = 40  # paragraphs of the corpus tokenized as one text


class Runner:
    """The command line of the binary, in one place."""

    def __init__(self, args: argparse.Namespace):
        self.binary, self.model, self.extra = args.binary, str(args.model), args.arg
        self.pool = ThreadPoolExecutor(args.jobs)

    def run(self, arguments: list[str], stdin: str = "") -> str:
        done = subprocess.run([self.binary, *arguments], input=stdin, capture_output=True,
                              text=True, encoding="utf-8")
        if done.returncode != 0:
            print(f"{' '.join([self.binary, *arguments])}\nexit {done.returncode}: {done.stderr}",
                  file=sys.stderr)
            sys.exit(2)
        return done.stdout

    def answer(self, prompt: str, options: tuple[str, ...] = ("--temp", "0")) -> str:
        return self.run(["-m", self.model, "-p", prompt, "--reasoning", "hide", "-q", *options,
                         *self.extra]).strip()

    def answers(self, prompts: list[str]) -> list[str]:
        return list(self.pool.map(self.answer, prompts))

    def stories(self) -> list[str]:
        def story(seed: int) -> str:
            prompt = STORY_PROMPTS[seed % len(STORY_PROMPTS)]
            return self.answer(prompt, ("--temp", str(TEMPERATURE), "--seed", str(seed)))
        return list(self.pool.map(story, range(STORIES)))

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        out = self.run(["tokenize", "-m", self.model, "--jsonl"], stdin=lines)
        return [json.loads(line)["ids"] for line in out.splitlines()]


def ask(runner: Runner, questions: list[dict], show_wrong: bool) -> dict[str, tuple[int, int]]:
    """skill -> (right, asked)."""
    asked, right = Counter(), Counter()
    for question, answer in zip(questions, runner.answers([q["prompt"] for q in questions])):
        asked[question["skill"]] += 1
        if answer == question["expect"]:
            right[question["skill"]] += 1
        elif show_wrong:
            print(f"  wrong: {question['prompt']!r} -> {answer!r}, not {question['expect']!r}")
    return {skill: (right[skill], n) for skill, n in asked.items()}


def report(accuracy: dict[str, tuple[int, int]], bar: float) -> bool:
    """Prints the table; true when every line reaches the bar."""
    good = True
    for skill, (right, asked) in accuracy.items():
        reached = right >= bar * asked
        good &= reached
        print(f"{skill:34} {right:4} / {asked:<4} {100 * right / asked:5.1f} %"
              f"{'' if reached else f'   below {100 * bar:.0f} %'}")
    return good


def measure_sums(runner: Runner, args: argparse.Namespace) -> bool:
    pairs = json.loads((args.tests / "heldout_sums.json").read_text(encoding="utf-8"))
    questions = [{"skill": wording, "prompt": wording.format(a=a, b=b),
                  "expect": f"{a} + {b} = {a + b}"}
                 for wording in SUM_WORDINGS for a, b in pairs[:args.limit]]
    return report(ask(runner, questions, args.show_wrong), SUM_BAR)


def measure_skills(runner: Runner, args: argparse.Namespace) -> bool:
    questions = json.loads((args.tests / "skills.json").read_text(encoding="utf-8"))
    if args.skill:
        questions = [q for q in questions if q["skill"] in args.skill]
    if args.limit:
        taken: Counter = Counter()
        limited = []
        for question in questions:
            taken[question["skill"]] += 1
            if taken[question["skill"]] <= args.limit:
                limited.append(question)
        questions = limited
    return report(ask(runner, questions, args.show_wrong), SKILL_BAR)


def most_repeated(texts: list[str]) -> tuple[str, int]:
    """The most frequent sequence of NGRAM words in all texts together."""
    counts = Counter(" ".join(words[i:i + NGRAM]) for words in (text.split() for text in texts)
                     for i in range(len(words) - NGRAM + 1))
    return counts.most_common(1)[0] if counts else ("", 0)


def as_characters(ids: list[int]) -> str:
    """One character per token, so that string search finds token sequences."""
    return "".join(chr(256 + i) for i in ids)


def longest_copy(text: str, corpus: str) -> int:
    best = 0
    for start in range(len(text)):
        while start + best < len(text) and text[start:start + best + 1] in corpus:
            best += 1
    return best


def measure_stories(runner: Runner, args: argparse.Namespace) -> bool:
    stories = runner.stories()
    if args.show_stories:
        for seed, story in enumerate(stories):
            print(f"--- seed {seed}: {STORY_PROMPTS[seed % len(STORY_PROMPTS)]}\n{story}\n")
    ngram, count = most_repeated(stories)
    good = count < NGRAM_LIMIT
    words = sum(len(story.split()) for story in stories)
    print(f"{len(stories)} stories, {words / len(stories):.0f} words each; "
          f"most repeated {NGRAM} words: {count} times ({ngram!r})")
    if not args.corpus.exists():
        print(f"{args.corpus} is not there: copies not checked", file=sys.stderr)
        return good
    with lzma.open(args.corpus, "rt", encoding="utf-8") as f:
        paragraphs = f.read().replace(BOOK_MARK, "").split("\n\n")
    chunks = ["\n\n".join(paragraphs[i:i + CHUNK]) for i in range(0, len(paragraphs), CHUNK)]
    # A text that stands in no chunk separates them: U+FFFF is no token.
    corpus = "\uffff".join(map(as_characters, runner.tokenize(chunks)))
    copies = [longest_copy(as_characters(ids), corpus) for ids in runner.tokenize(stories)]
    print(f"longest copy from the corpus: {max(copies)} tokens; each: {sorted(copies)}")
    return good and max(copies) <= COPY_LIMIT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", help="path of deepseek-run")
    parser.add_argument("-m", "--model", type=Path, default=Path("models/tiny"))
    parser.add_argument("--tests", type=Path, default=Path("tests/data/tiny"))
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus/stories.txt.xz"))
    parser.add_argument("--only", choices=["sums", "skills", "stories"], action="append",
                        help="repeatable; default all three")
    parser.add_argument("--skill", action="append", help="only this skill; repeatable")
    parser.add_argument("--limit", type=int, help="that many sums, and questions of each skill")
    parser.add_argument("--jobs", type=int, default=2, help="processes of the binary at a time")
    parser.add_argument("--arg", action="append", default=[], metavar="ARG",
                        help="one more argument for the binary, as --arg=--device --arg=cpu")
    parser.add_argument("--show-wrong", action="store_true")
    parser.add_argument("--show-stories", action="store_true")
    args = parser.parse_args()

    runner, good = Runner(args), True
    parts = {"sums": measure_sums, "skills": measure_skills, "stories": measure_stories}
    for name, part in parts.items():
        if not args.only or name in args.only:
            good &= part(runner, args)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
