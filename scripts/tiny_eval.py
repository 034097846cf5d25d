# SPDX-License-Identifier: MIT
"""Measures the released files of models/tiny in float32 PyTorch: sums, skills, stories, perplexity.

    python3 scripts/tiny_eval.py --model models/tiny

scripts/measure_tiny.py asks the same questions through the deepseek-run binary.
"""

import argparse
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tiny_data import Encoder, load_books, raw_text
from tiny_format import load
from tiny_model import Segments, TinyModel
from tiny_phrases import TESTED_SUM_WORDINGS

STORY_PROMPTS = ["Tell me a story.", "Tell me a story about a fox.",
                 "Write a short story about a king.", "Tell me a story about a princess.",
                 "Write a story about a wolf.", "Please tell me a story about a fisherman.", "Tell me a story about a witch.",
                 "Write a short story about a bird.", "Tell me a story about a ship.",
                 "Tell me a story about a little girl."]
STORIES = 20  # printed and checked; SAMPLES are kept in the report for a closer look
SAMPLES = 100
TEMPERATURE, TOP_P = 0.7, 0.95
ANSWER_TOKENS, STORY_TOKENS = 200, 480


@torch.no_grad()
def raw_loss(model: TinyModel, rows: Tensor, device: str) -> float:
    """Mean cross entropy (nats per token) of rows [R, T]; the first token is only context."""
    tokens, following = rows[:, :-1].flatten(), rows[:, 1:].flatten()
    segments = Segments([(rows.shape[0], rows.shape[1] - 1)], device)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=model.training):
        h, _, _ = model(tokens, following, segments)
        return F.cross_entropy(model.lm_head(h).float(), following).item()


@torch.no_grad()
def draft_agreement(model: TinyModel, rows: Tensor, device: str) -> float:
    """Share of positions where the MTP layer's first choice is the main model's, one token on."""
    count, length = rows.shape[0], rows.shape[1] - 1
    segments = Segments([(count, length)], device)
    h, v, _ = model(rows[:, :-1].flatten(), rows[:, 1:].flatten(), segments)
    main, draft = (model.lm_head(x).argmax(-1).view(count, length) for x in (h, v))
    return (draft[:, :-1] == main[:, 1:]).float().mean().item()


@torch.no_grad()
def generate(model: TinyModel, encoder: Encoder, prompts: list[list[int]], max_tokens: int,
             temperature: float, device: str, seed: int = 0) -> list[list[int]]:
    """Answers (ids without EOS) to all prompts at once.

    Every row starts at position 0 and all move together: a row reads its prompt, then its own
    output, so nothing is padded on the left.
    """
    generator = torch.Generator(device).manual_seed(seed)
    lengths = [len(p) for p in prompts]
    total = max(lengths) + max_tokens
    ids = torch.full((len(prompts), total + 1), encoder.eos, device=device)
    for r, prompt in enumerate(prompts):
        ids[r, :len(prompt)] = torch.tensor(prompt, device=device)
    ends = torch.tensor(lengths, device=device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    cache = model.new_cache(len(prompts), total)
    for t in range(total):
        logits = model.decode(ids[:, t], cache, t)[:, :encoder.entries]  # padded ids are masked
        pick = sample(logits, temperature, generator) if temperature > 0 else logits.argmax(-1)
        free = t + 1 >= ends  # rows whose next token is theirs to choose
        ids[:, t + 1] = torch.where(free & ~done, pick, ids[:, t + 1])
        done |= free & (ids[:, t + 1] == encoder.eos)
        if t % 16 == 0 and done.all():
            break
    answers = [row[n:] for row, n in zip(ids.tolist(), lengths)]
    return [a[:a.index(encoder.eos)] if encoder.eos in a else a for a in answers]


def sample(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    p, order = torch.softmax(logits / temperature, -1).sort(-1, descending=True)
    p = torch.where(p.cumsum(-1) - p < TOP_P, p, 0)
    return order.gather(-1, torch.multinomial(p, 1, generator=generator))[:, 0]


def final_answer(text: str) -> str:
    return text.split("</think>")[-1].strip()


def longest_copy(sample_ids: list[int], corpus: str) -> int:
    """Tokens of the longest stretch of the sample that stands in the corpus (ids as characters)."""
    text = "".join(map(chr, (i + 256 for i in sample_ids)))
    best = 0
    for start in range(len(text)):
        while start + best < len(text) and text[start:start + best + 1] in corpus:
            best += 1
    return best


def most_repeated_ngram(texts: list[str], n: int = 8) -> tuple[int, str]:
    """How often the most frequent sequence of n words occurs in all texts together."""
    counts = Counter(" ".join(words[i:i + n]) for words in (t.split() for t in texts)
                     for i in range(len(words) - n + 1))
    if not counts:
        return 0, ""
    text, count = counts.most_common(1)[0]
    return count, text


def measure(model_dir: Path, tests: Path, train_stream: np.ndarray, held_out: Tensor,
            device: str) -> dict:
    """All figures as a dictionary; prints them, the wrong answers and some stories."""
    model, encoder = load(model_dir).to(device), Encoder(model_dir)
    pairs = json.loads((tests / "heldout_sums.json").read_text(encoding="utf-8"))
    questions = [{"skill": f"held-out sum: {wording}", "prompt": wording.format(a=a, b=b),
                  "expect": f"{a} + {b} = {a + b}"}
                 for wording in TESTED_SUM_WORDINGS for a, b in pairs]
    questions += json.loads((tests / "skills.json").read_text(encoding="utf-8"))
    answers = generate(model, encoder, [encoder.prompt(q["prompt"]) for q in questions],
                       ANSWER_TOKENS, 0.0, device)
    asked, right, wrong = Counter(), Counter(), []
    for q, ids in zip(questions, answers):
        asked[q["skill"]] += 1
        if final_answer(encoder.decode(ids)) == q["expect"]:
            right[q["skill"]] += 1
        else:
            wrong.append((q["prompt"], encoder.decode(ids)))
    for prompt, answer in wrong[:40]:
        print(f"WRONG {prompt!r} -> {answer!r}")
    for skill, n in asked.items():
        print(f"{skill}: {right[skill]}/{n}")
    print("mean tokens of an answer", sum(map(len, answers)) / len(answers))

    loss = raw_loss(model, held_out, device)
    prompts = [STORY_PROMPTS[i % len(STORY_PROMPTS)] for i in range(SAMPLES)]
    samples = generate(model, encoder, [encoder.prompt(p) for p in prompts], STORY_TOKENS,
                       TEMPERATURE, device)
    stories = samples[:STORIES]
    texts = [encoder.decode(ids) for ids in stories]
    corpus = "".join(map(chr, (train_stream.astype(np.int64) + 256).tolist()))
    copies = [longest_copy(ids, corpus) for ids in stories]
    for prompt, text, copy in zip(prompts, texts, copies):
        print(f"--- {prompt} (longest copy {copy} tokens)\n{text}")
    ngram = most_repeated_ngram(texts)
    report = {"accuracy": {s: [right[s], n] for s, n in asked.items()},
              "held_out_perplexity": math.exp(loss),
              "held_out_draft_agreement": draft_agreement(model, held_out, device),
              "longest_copy": max(copies),
              "most_repeated_8gram": ngram, "samples": samples}
    print(json.dumps({k: v for k, v in report.items() if k not in ("accuracy", "samples")}))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/tiny"))
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus/stories.txt.xz"))
    parser.add_argument("--tests", type=Path, default=Path("tests/data/tiny"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    encoder = Encoder(args.model)
    train_books, held_out_books = load_books(args.corpus)
    stream, held_out = raw_text(train_books, encoder)[0], raw_text(held_out_books, encoder)[0]
    count = len(held_out) // 1024
    rows = torch.from_numpy(held_out[:count * 1024].astype(np.int64)).view(count, 1024)
    measure(args.model, args.tests, stream, F.pad(rows, (1, 0), value=encoder.bos).to(args.device),
            args.device)


if __name__ == "__main__":
    main()
