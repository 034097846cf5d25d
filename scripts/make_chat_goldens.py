#!/usr/bin/env python3
"""Writes tests/data/text/chat_goldens.json: conversations as the released Jinja templates render them.

    pip install jinja2
    scripts/make_chat_goldens.py TOKENIZERS

TOKENIZERS holds deepseek-v3/tokenizer_config.json and deepseek-r1/tokenizer_config.json. Rendered
as transformers does: trim_blocks and lstrip_blocks, with a generation prompt.
"""

import json
import pathlib
import random
import sys

import jinja2

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/text/chat_goldens.json"
TEXTS = [
    "Hello!", "", " ", "\n\n", "What is 1+1?", "\u4f60\u597d", "two\nlines\n", "a</think>b", "<think>\nhm\n</think>\n\nYes.",
    "x</think>y</think>z", "<\uff5cUser\uff5c>", "<think>", "{{ messages }}", "{% if %}", "\U0001f642 \\n 'quoted' \"too\"",
    "</think>",
]


def conversation(rng):
    messages = [["system", rng.choice(TEXTS)] for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))]
    for _ in range(rng.randrange(4)):
        messages += [["user", rng.choice(TEXTS)], ["assistant", rng.choice(TEXTS)]]
    return messages + [["user", rng.choice(TEXTS)]]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    formats = {}
    for name in ["deepseek-v3", "deepseek-r1"]:
        path = pathlib.Path(sys.argv[1]) / name / "tokenizer_config.json"
        config = json.loads(path.read_text())
        formats[name] = (environment.from_string(config["chat_template"]), config["bos_token"])
    rng = random.Random(13)
    rows = []
    for _ in range(200):
        messages = conversation(rng)
        row = {"messages": messages}
        for name, (template, bos) in formats.items():
            row[name] = template.render(
                messages=[{"role": r, "content": c} for r, c in messages],
                bos_token=bos, add_generation_prompt=True)
        rows.append(row)
    OUT.write_text("[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]\n")


if __name__ == "__main__":
    main()
