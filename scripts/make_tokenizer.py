# SPDX-License-Identifier: MIT
"""Trains the tokenizer of models/tiny: a byte-level BPE in the exact form of DeepSeek-V3's.

Pre-tokenizer, decoder, post-processor and chat template are copied from a DeepSeek-V3 tokenizer;
only the vocabulary is new. Id layout as in V3: BOS, EOS, pad are 0, 1, 2, then the 256 bytes and
the merges, and the other added tokens stand at the end.

    python3 scripts/make_tokenizer.py --out models/tiny
"""

import argparse
import json
import lzma
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tiny_skills import BREAK, Skills, load_words, reply_text

VOCAB_ENTRIES = 2290  # with added tokens; config.json pads to 2304 = 18 * 128
CONTEXT = 2048
SKILL_TURNS = 20_000  # enough for tokens such as "-a" and " carry", a quarter of the text
BOOK_MARK = "<|book|>"

CONTROL_TOKENS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
# (text, special flag) in the order of V3 and R1, whose ids 128798..128814 they are.
CHAT_TOKENS = [
    ("<think>", False), ("</think>", False),
    ("<｜fim▁hole｜>", False), ("<｜fim▁begin｜>", False), ("<｜fim▁end｜>", False),
    ("<｜User｜>", False), ("<｜Assistant｜>", False), ("<|EOT|>", True),
    ("<｜tool▁calls▁begin｜>", False), ("<｜tool▁calls▁end｜>", False),
    ("<｜tool▁call▁begin｜>", False), ("<｜tool▁call▁end｜>", False),
    ("<｜tool▁outputs▁begin｜>", False), ("<｜tool▁outputs▁end｜>", False),
    ("<｜tool▁output▁begin｜>", False), ("<｜tool▁output▁end｜>", False),
    ("<｜tool▁sep｜>", False),
]


def training_texts(corpus: Path, seed: int):
    """Corpus books, then skill turns cut at the places where the tokenizer is made to stop."""
    with lzma.open(corpus, "rt", encoding="utf-8") as f:
        yield from f.read().replace(BOOK_MARK, "").split("\n\n")
    skills, rng = Skills(load_words(corpus)), random.Random(seed)
    for _ in range(SKILL_TURNS):
        turn = skills.draw(rng)
        yield turn.question
        yield from reply_text(turn).replace("<think>", "").replace("</think>", "").split(BREAK)


def train_merges(texts, v3_pre_tokenizer: dict) -> tuple[list[str], list[str]]:
    """Byte alphabet and merges. Digits stand alone here, so that no merge can join two."""
    stages = v3_pre_tokenizer["pretokenizers"]
    splits = [r"\p{N}"] + [stage["pattern"]["Regex"] for stage in stages[1:3]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r), "isolated") for r in splits]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_ENTRIES - len(CONTROL_TOKENS) - len(CHAT_TOKENS), min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    entries = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    assert not any(sum(c.isdigit() for c in entry) > 1 for entry in entries)
    return entries, merges


def added_token(text: str, special: bool, control: bool) -> dict:
    return {"content": text, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": not control, "special": special}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus/stories.txt.xz"))
    parser.add_argument("--v3", type=Path, default=Path("../shared/tokenizers/deepseek-v3"),
                        help="directory with a DeepSeek-V3 tokenizer.json, tokenizer_config.json")
    parser.add_argument("--out", type=Path, default=Path("models/tiny"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    v3 = json.loads((args.v3 / "tokenizer.json").read_text(encoding="utf-8"))
    v3_config = json.loads((args.v3 / "tokenizer_config.json").read_text(encoding="utf-8"))
    entries, merges = train_merges(training_texts(args.corpus, args.seed), v3["pre_tokenizer"])

    vocab = {text: i for i, text in enumerate(CONTROL_TOKENS + entries)}
    added = {i: added_token(text, True, True) for i, text in enumerate(CONTROL_TOKENS)}
    for text, special in CHAT_TOKENS:
        added[len(vocab) + len(added) - len(CONTROL_TOKENS)] = added_token(text, special, False)

    tokenizer = {key: v3[key] for key in ("version", "truncation", "padding")}
    tokenizer["added_tokens"] = [{"id": i, **token} for i, token in added.items()]
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        tokenizer[key] = v3[key]
    tokenizer["model"] = {**v3["model"], "vocab": vocab, "merges": merges}
    config = {**v3_config, "model_max_length": CONTEXT,
              "added_tokens_decoder": {str(i): token for i, token in added.items()}}

    args.out.mkdir(parents=True, exist_ok=True)
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (args.out / name).write_text(text + "\n", encoding="utf-8")
    print(f"{len(vocab)} entries, {len(merges)} merges, {len(added)} added tokens")


if __name__ == "__main__":
    main()
