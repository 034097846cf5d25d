#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes seed inputs for the fuzz targets into OUT/NAME/: make_seeds.py OUT

Small whole files and conversations, from which libFuzzer goes on. Nothing is taken from a network.
"""

import json
import pathlib
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BAR, BLOCK = "\uff5c", "\u2581"
MARKS = [f"<{BAR}{n}{BAR}>" for n in ("User", "Assistant", f"begin{BLOCK}of{BLOCK}sentence",
                                       f"end{BLOCK}of{BLOCK}sentence")]


def safetensors(tensors):
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tokenizer():
    vocab = {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz0123456789\u0120\u010a<>")}
    for merged in ["he", "ll", "hell", "hello", "aa", "\u0120a"]:
        vocab[merged] = len(vocab)
    split = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}"}, "behavior": "Isolated", "invert": False}
    return {
        "added_tokens": [{"id": 100, "content": "<think>", "special": False, "normalized": True}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            split, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]},
        "model": {"type": "BPE", "vocab": vocab,
                  "merges": ["h e", "l l", "he ll", "hell o", "a a", "\u0120 a"]}}


def seeds():
    a = safetensors({"w": ("BF16", [2, 3], bytes(12)), "b": ("F32", [], bytes(4))})
    b = safetensors({"v": ("F8_E4M3", [4], bytes(4))})
    index = json.dumps({"metadata": {"total_size": 20}, "weight_map": {
        "w": "a.safetensors", "b": "a.safetensors", "v": "b.safetensors"}}).encode()
    cards = sorted((ROOT / "models").glob("*.json")) + [ROOT / "models/tiny/config.json"]
    corpus = json.loads((ROOT / "tests/data/text/corpus_parts.json").read_text())
    return {
        "safetensors": [a, b, safetensors({})],
        "checkpoint": [index + b"\0" + struct.pack(">H", len(a)) + a + b],
        "config": [path.read_bytes() for path in cards],
        "tokenizer_json": [json.dumps(tokenizer()).encode(), json.dumps(tokenizer(), ensure_ascii=False).encode()],
        "text": [b"\0\4" + " ".join(words).encode() for words in corpus["scripts"].values()]
                + [b"\2\3" + "".join(corpus[k]).encode() for k in ("code", "spaces", "marks", "emoji", "controls")],
        "chat": [bytes([n, n % 3]) + b"\0be brief\0\1hi\0\2<think>a</think>b\0\1" + "".join(MARKS).encode()
                 for n in range(8)] + [b"\0\0\0" + b'[{"name":"f","parameters":{"a":[1]}}]\0\1hi\0'],
        "batch_line": [
            b"\0\0" + b'\xef\xbb\xbf{"custom_id":"a","url":"/v1/chat/completions","body":{"messages":'
            b'[{"role":"user","content":[{"type":"text","text":"hi"}]}],"stop":["a"],"logit_bias":{"5":1}}}\r\n'
            b'{"prompt":[1,2],"n":2,"seed":7,"logprobs":1,"temperature":0.5,"max_tokens":3}\n\n{"prompt":"\\ud83d"}',
            b"\1\0one\n\ntwo\n", b"\2\1one\nstill\n\r\n\ntwo"],
        "chat_session": [json.dumps({
            "deepseek_run_session": 1, "model": {"name": "m", "fingerprint": "f"},
            "chat_format": "deepseek-v3", "settings": ["temp=0.5"], "messages": [
                {"role": "system", "content": "s"}, {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "<think>a</think>b", "finish_reason": "stop", "tags": [0, 8]},
            ]}, indent=2).encode()],
        "pattern": [p.encode() + b"\0a1 \xe4\xbd\xa0\n\xff" for p in (
            r"\p{N}{1,3}", r"\s?[a-z]+", r"\w+|[^\w\s]|\s+$|x*", r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+", "(a+)+$")],
        "command_line": [b"\0".join([file, variable, *line.split()]) for file, variable, line in (
            (b"", b"TEMP=1", b"-m x -p hi -n 5 --temp 0.5 -l 5+1"), (b"temp = x", b"", b"tokenize -m x --jsonl -f y"),
            (b"gpus = 2xH100 # two\n\nraw = on", b"MODEL=x", b"plan --card x --gpus 8xA100-80"),
            (b'system = "a\\n\\x1b\\"" # b\nstop = a\nstop = b', b"RAW=on",
             b"--prompt-ids 1,2,3 -c 32K --seed 7 --stop x --think on"),
            (b"tepm = 1", b"TEPM=1", b"-ngl 99 --trust-remote-code --hlep"))],
    }


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, inputs in seeds().items():
        directory = pathlib.Path(sys.argv[1]) / name
        directory.mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(inputs):
            (directory / f"seed{i}").write_bytes(data)


if __name__ == "__main__":
    main()
