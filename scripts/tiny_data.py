# SPDX-License-Identifier: MIT
"""Training rows for models/tiny: raw story text, stories as chat answers, and skill chats.

Every row starts with BOS at position 0, as every prompt will. Chat rows are whole conversations,
so the first turn of a row is exactly what one-shot use looks like and later turns are a REPL's.
Loss is taken on what the model has to write; questions only condition it.
"""

import lzma
import random
import re
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from tiny_skills import BREAK, Skills, Turn, load_words, reply_text

BOOK_MARK = "<|book|>"
HELD_OUT_SHARE = 0.02  # of every book, one contiguous stretch
HELD_OUT_PLACE = 0.6   # where in the book it starts
EXTRA = 2              # a row holds two more tokens than positions: targets of main model and MTP

STORY_TOKENS = (110, 400)     # length of a story answer
SYSTEM_SHARE = 0.08           # conversations with a system prompt
STRIPPED_SHARE = 0.25         # conversations whose earlier turns lost their thinking, as in a UI
SYSTEM_PROMPTS = ["You are a helpful assistant.", "You are a helpful assistant",
                  "You are a friendly assistant.", "Answer the question."]

NOUNS = (
    "fox king queen prince princess giant wolf bear lion horse cat dog bird mouse witch dragon "
    "tailor soldier fisherman miller shepherd hunter farmer boy girl child tree castle ring "
    "garden rabbit crow frog snake tiger monkey elephant jackal ship pirate ghost dwarf fairy "
    "magician robber merchant beggar goat sheep pig cow duck goose swan hen cock eagle raven fish "
    "whale crab bee spider rose apple mountain river well lamp sword crown stone treasure forest "
    "servant mother father brother sister old-woman old-man wizard troll mermaid donkey ox hare "
    "hedgehog owl stork nightingale sparrow parrot camel crocodile kitten island cave mill bridge "
    "tower palace mirror box bottle drum fiddle letter key door fire star moon winter sea").split()
PROMPTS_PLAIN = ["Tell me a story.", "Tell me a story", "Tell a story.", "Write a short story.",
                 "Please tell me a story.", "Can you tell me a story?", "Tell me another story.",
                 "I would like to hear a story.", "Write a story."]
PROMPTS_ABOUT = ["Tell me a story about {n}.", "Tell me a story about {n}",
                 "Write a short story about {n}.", "Write a story about {n}.",
                 "Tell me a short story about {n}.", "Please tell me a story about {n}.",
                 "Can you tell me a story about {n}?", "Tell a story about {n}."]
# Editors' notes between the tales of some books.
NOTE = re.compile(r"(Source|Parallels?|Remarks?)\b|.*\bCf\.")
# A book counts as fairy tales when one of these words stands in it every so many characters.
TALE_WORDS = re.compile(r"\b([Kk]ing|[Qq]ueen|[Pp]rince|[Pp]rincess|[Gg]iant|[Ww]itch)\b")
TALE_DENSITY = 2000
FRONT_MATTER = 15  # paragraphs at the start of a book that may be its preface
OPENING = re.compile(
    r"(Once|There (was|were|once|lived)|In (a|the|old|ancient)|Long ago|A long|Many|One (day|"
    r"morning|evening)|A (king|poor|rich|certain|man|woman)|An? )")


def clean_paragraphs(book: str) -> list[str]:
    """Paragraphs of prose: no headings, no rows of asterisks, no contents pages."""
    kept = []
    for paragraph in book.strip().split("\n\n"):
        lower = sum(c.islower() for c in paragraph)
        if NOTE.match(paragraph):
            continue
        if "*" not in paragraph and lower >= 0.6 * len(paragraph) and paragraph[-1] in ".!?'\")":
            kept.append(paragraph)
    return kept


def load_books(corpus: Path) -> tuple[list[list[str]], list[list[str]]]:
    """(training, held-out) paragraphs, one list per book."""
    with lzma.open(corpus, "rt", encoding="utf-8") as f:
        books = [clean_paragraphs(book) for book in f.read().split(BOOK_MARK)]
    train, held_out = [], []
    for paragraphs in books:
        first = int(len(paragraphs) * HELD_OUT_PLACE)
        last = first + max(1, int(len(paragraphs) * HELD_OUT_SHARE))
        held_out.append(paragraphs[first:last])
        train.append(paragraphs[:first] + paragraphs[last:])
    return train, held_out


class Encoder:
    """The tokenizer, BREAK marks and the chat format of DeepSeek-V3."""

    def __init__(self, model_dir: Path):
        self.tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self.entries = self.tokenizer.get_vocab_size()
        token = self.tokenizer.token_to_id
        self.bos, self.eos = token("<｜begin▁of▁sentence｜>"), token("<｜end▁of▁sentence｜>")
        self.user, self.assistant = token("<｜User｜>"), token("<｜Assistant｜>")

    def text(self, text: str) -> list[int]:
        return [i for piece in text.split(BREAK)
                for i in self.tokenizer.encode(piece, add_special_tokens=False).ids]

    def prompt(self, question: str) -> list[int]:
        return [self.bos, self.user, *self.text(question), self.assistant]

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)


class Conversation:
    """A row under construction: ids and, for each, whether the model is trained to write it."""

    def __init__(self, encoder: Encoder, rng: random.Random):
        self.encoder, self.rng = encoder, rng
        self.ids, self.wanted = [encoder.bos], [0]
        if rng.random() < SYSTEM_SHARE:
            self.extend(encoder.text(rng.choice(SYSTEM_PROMPTS)), 0)

    def extend(self, ids: list[int], wanted: int) -> None:
        self.ids += ids
        self.wanted += [wanted] * len(ids)

    def add(self, turn: Turn, stripped: bool = False) -> None:
        """One turn; a stripped one shows the answer without its thinking and is not trained on."""
        e, bare = self.encoder, stripped and turn.think
        reply = turn.answer.replace(BREAK, "") if bare else reply_text(turn)
        self.extend([e.user, *e.text(turn.question), e.assistant], 0)
        self.extend([*e.text(reply), e.eos], 0 if bare else 1)

    def row(self, length: int) -> tuple[list[int], list[int]]:
        return self.ids[:length], self.wanted[:length]


def skill_row(encoder: Encoder, skills: Skills, rng: random.Random, length: int):
    """Independent skill turns until the row is full."""
    conversation = Conversation(encoder, rng)
    stripped_turns = rng.randint(1, 4) if rng.random() < STRIPPED_SHARE else 0
    turns = 0
    while len(conversation.ids) < length:
        conversation.add(skills.draw(rng), stripped=turns < stripped_turns)
        turns += 1
    return conversation.row(length)


def is_tales(book: list[str]) -> bool:
    text = " ".join(book)
    return len(TALE_WORDS.findall(text)) * TALE_DENSITY > len(text)


def with_article(noun: str) -> str:
    noun = noun.replace("-", " ")
    return ("an " if noun[0] in "aeiou" else "a ") + noun


class Stories:
    """Passages of the training books of fairy tales as answers to story requests."""

    def __init__(self, books: list[list[str]], encoder: Encoder):
        self.books, self.encoder = [book for book in books if is_tales(book)], encoder
        books = self.books
        self.sizes = [[len(p) / 3.2 for p in book] for book in books]  # about, in tokens
        self.starts = [(b, i) for b, book in enumerate(books) for i, p in enumerate(book)
                       if i >= FRONT_MATTER and p[0] not in "'\"(" and len(p) > 100]
        self.openings = [(b, i) for b, i in self.starts if OPENING.match(books[b][i])]

    def draw(self, rng: random.Random) -> Turn:
        """A passage from a paragraph start to a paragraph end; openings are preferred a little."""
        low, high = STORY_TOKENS
        while True:
            b, i = rng.choice(self.openings if rng.random() < 0.1 else self.starts)
            goal, size, end = rng.randint(low, high - 40), 0.0, i
            while end < len(self.books[b]) and size < goal:
                size += self.sizes[b][end]
                end += 1
            if not low <= size <= high:
                continue
            text = "\n\n".join(self.books[b][i:end])
            return Turn("", self.question(text, rng), text)

    def question(self, text: str, rng: random.Random) -> str:
        """A request that names something the passage is about, where there is something."""
        words = re.findall(r"[a-z]+", text.lower().replace("old woman", "oldwoman")
                           .replace("old man", "oldman"))
        early = set(words[:40])
        found = [n for n in NOUNS if words.count(n.replace("-", "")) >= 2
                 or n.replace("-", "") in early]
        if found and rng.random() < 0.8:
            return rng.choice(PROMPTS_ABOUT).format(n=with_article(rng.choice(found)))
        return rng.choice(PROMPTS_PLAIN)

    def row(self, skills: Skills, rng: random.Random, length: int):
        """Usually the story first; then more turns until the row is full."""
        conversation = Conversation(self.encoder, rng)
        if rng.random() < 0.15:
            conversation.add(skills.draw(rng))
        conversation.add(self.draw(rng))
        while len(conversation.ids) < length:
            conversation.add(skills.draw(rng) if rng.random() < 0.7 else self.draw(rng))
        return conversation.row(length)


def make_rows(task: tuple[str, int, int, int], corpus: Path, model_dir: Path):
    """One shard: (kind, rows, length, seed) -> ids uint16 and wanted uint8, [rows, length]."""
    kind, rows, length, seed = task
    rng = random.Random(f"{kind} {seed}")
    encoder, skills = Encoder(model_dir), Skills(load_words(corpus))
    stories = Stories(load_books(corpus)[0], encoder) if kind == "story" else None
    ids = np.zeros((rows, length), np.uint16)
    wanted = np.zeros((rows, length), np.uint8)
    for r in range(rows):
        ids[r], wanted[r] = (stories.row(skills, rng, length) if stories
                             else skill_row(encoder, skills, rng, length))
    return kind, ids, wanted


class Rows:
    """All chat rows, made by worker processes while the caller does something else."""

    def __init__(self, counts: dict[str, int], lengths: dict[str, int], corpus: Path,
                 model_dir: Path, workers: int, seed: int):
        shard = 4000
        tasks = [(kind, min(shard, count - done), lengths[kind] + EXTRA, seed * 1000 + k)
                 for kind, count in counts.items()
                 for k, done in enumerate(range(0, count, shard))]
        self.pool = Pool(workers)
        self.result = self.pool.map_async(
            partial(make_rows, corpus=corpus, model_dir=model_dir), tasks, chunksize=1)

    def collect(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        shards = self.result.get()
        self.pool.terminate()
        return {kind: tuple(np.concatenate([s[i] for s in shards if s[0] == kind]) for i in (1, 2))
                for kind in {s[0] for s in shards}}


def raw_text(books: list[list[str]], encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """All books as one id stream, each ended by EOS, and the places where paragraphs start."""
    stream, starts = [], []
    for paragraphs in books:
        ends = np.cumsum([len(p) + 2 for p in paragraphs])  # characters, with the blank line
        encoding = encoder.tokenizer.encode("\n\n".join(paragraphs), add_special_tokens=False)
        begins = {0, *ends[:-1].tolist()}
        starts += [len(stream) + t for t, (a, _) in enumerate(encoding.offsets) if a in begins]
        stream += encoding.ids + [encoder.eos]
    return np.array(stream, np.uint16), np.array(starts, np.int64)
