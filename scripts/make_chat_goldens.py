#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes tests/data/text/chat_goldens.json: 400 generated conversations and how they are rendered.

    pip install jinja2
    scripts/make_chat_goldens.py TOKENIZERS

deepseek-v3 and -r1: the released Jinja templates, from TOKENIZERS/NAME/tokenizer_config.json,
rendered as transformers does (trim_blocks and lstrip_blocks, with a generation prompt). The other
formats: the lines below, written from the encodings that were published, not from our C++.

A conversation is written "s3 u5 a2 u1": roles and indices into "texts". A rendering is a hash, the
first 16 digits of SHA-256 of the UTF-8 text.
"""

import hashlib
import json
import pathlib
import random
import sys

import jinja2

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/text/chat_goldens.json"
ROLES = {"s": "system", "u": "user", "a": "assistant"}
B, E, U, A = (f"<\uff5c{name}\uff5c>" for name in (
    "begin\u2581of\u2581sentence", "end\u2581of\u2581sentence", "User", "Assistant"))
TEXTS = [
    "Hello!", "", " ", "\n\n", "What is 1+1?", "\u4f60\u597d", "two\nlines\n", "a</think>b",
    "<think>\nhm\n</think>\n\nYes.", "x</think>y</think>z", U, "<think>", "{{ messages }}", "{% if %}",
    "\U0001f642 \\n 'quoted' \"too\"", "</think>", "e\u0301", A + E + B, "User: x\n\nAssistant: y",
    "### Response:\n", "trailing space ", "\ttab", "<|EOT|>", "\u00a0\u3000",
]
CODER = ("You are an AI programming assistant, utilizing the Deepseek Coder model, developed by "
         "Deepseek Company, and you only answer questions related to computer science. For "
         "politically sensitive questions, security and privacy issues, and other non-computer "
         "science questions, you will refuse to answer\n")


def turns(messages):
    """(system texts, [(question, answer or None)])"""
    system = [text for role, text in messages if role == "s"]
    rest = [text for role, text in messages if role != "s"]
    return system, list(zip(rest[0::2], [*rest[1::2], None]))


def joined(messages, start, between, end, asked):
    system, pairs = turns(messages)
    out = start + "\n\n".join(system)
    for question, answer in pairs:
        out += U + question + A + (asked if answer is None else between(answer) + end)
    return out


def v2_5(messages):
    return joined(messages, B, lambda answer: answer, E, "")


def v3_1(mode):
    def answer_only(text):
        return "</think>" + (text.split("</think>", 1)[1] if "</think>" in text else text)
    return lambda messages: joined(messages, B, answer_only, E, mode)


def transcript(messages, bos=B, end=E):
    system, pairs = turns(messages)
    out = bos + "".join(["\n\n".join(system) + "\n\n"] if system else [])
    for question, answer in pairs:
        out += f"User: {question}\n\nAssistant:"
        out += "" if answer is None else f" {answer}{end}"
    return out


def coder(messages):
    system, pairs = turns(messages)
    out = B + ("".join(system) if system else CODER)
    for question, answer in pairs:
        out += f"### Instruction:\n{question}\n### Response:\n"
        out += "" if answer is None else f"{answer}\n<|EOT|>\n"
    return out


OWN = {
    "deepseek-v2.5": v2_5, "deepseek-v3.1": v3_1("</think>"), "deepseek-v3.1 on": v3_1("<think>"),
    "deepseek-v2": transcript, "deepseek-llm": transcript, "deepseek-coder": coder,
    "plain": lambda messages: transcript(messages, bos="", end="\n\n"),
}


def conversation(rng):
    def text():
        return rng.randrange(len(TEXTS))
    messages = [("s", text()) for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))]
    for _ in range(rng.randrange(4)):
        messages += [("u", text()), ("a", text())]
    return messages + [("u", text())]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    formats = dict(OWN)
    for name in ["deepseek-v3", "deepseek-r1"]:
        path = pathlib.Path(sys.argv[1]) / name / "tokenizer_config.json"
        config = json.loads(path.read_text())
        template, bos = environment.from_string(config["chat_template"]), config["bos_token"]
        formats[name] = lambda messages, t=template, b=bos: t.render(
            messages=[{"role": ROLES[r], "content": c} for r, c in messages], bos_token=b,
            add_generation_prompt=True)
    rng = random.Random(13)
    rows = []
    for _ in range(400):
        messages = conversation(rng)
        texts = [(role, TEXTS[i]) for role, i in messages]
        row = {"messages": " ".join(f"{role}{i}" for role, i in messages)}
        for name, render in formats.items():
            row[name] = hashlib.sha256(render(texts).encode()).hexdigest()[:16]
        rows.append(json.dumps(row, separators=(",", ":")))
    OUT.write_text('{"texts":%s,\n"conversations":[\n%s\n]}\n' % (
        json.dumps(TEXTS, separators=(",", ":")), ",\n".join(rows)))


if __name__ == "__main__":
    main()
