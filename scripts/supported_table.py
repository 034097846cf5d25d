#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The README's table of supported checkpoints: what `deepseek-run plan` says of the cards in models/.

usage: scripts/supported_table.py build/release/deepseek-run [--check README.md]

Prints the table. With --check, exit 1 if README.md has another one. Columns: the checkpoint, its
architecture, weights as released, bytes of them that are loaded (1e9), and the fewest GPUs of each
kind that hold it with one sequence of 8,192 tokens (or the model's context) in a bf16 cache.
"""
import itertools
import json
import pathlib
import subprocess
import sys

CONTEXT = 8192
COUNTS = (1, 2, 4, 8)
GPUS = {"A100-40": 40, "A100-80": 80, "H200": 140}  # GiB


def plan(binary, card, gpus, count):
    context = min(CONTEXT, json.loads(pathlib.Path(card).read_text())["max_position_embeddings"])
    done = subprocess.run(
        [binary, "plan", "-q", "--card", card, "--gpus", f"{count}x{gpus}", "-c", str(context),
         "--format", "json"],
        capture_output=True, text=True, check=False)
    if done.returncode not in (0, 4):
        sys.exit(f"{card}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def fewest(binary, card, gpus, size):
    for count in COUNTS:
        # No need to plan what does not even hold the weights.
        if size < count * GPUS[gpus] << 30 and plan(binary, card, gpus, count)["fits"]:
            return f"{count}x"
    return "-"


def rows(binary, models):
    yield "| checkpoint | architecture | weights | GB | A100 40 GB | A100 80 GB | H200 141 GB |"
    yield "|---|---|---|---:|---:|---:|---:|"
    found = []
    for card in sorted(models.glob("*.json")):
        about = json.loads(card.read_text())["_card"]
        p = plan(binary, str(card), "A100-80", 1)
        size = sum(part["model_bytes"] for part in p["parts"].values())
        found.append((p["architecture"], size, about["checkpoint"], p["weights"],
                      " | ".join(fewest(binary, str(card), gpu, size) for gpu in GPUS)))
    for architecture, size, name, weights, gpus in sorted(found):
        yield (f"| {name.split('/')[-1]} | {architecture.removesuffix('ForCausalLM')} | {weights} | "
               f"{size / 1e9:,.1f} | {gpus} |")


def main():
    binary = sys.argv[1]
    models = pathlib.Path(__file__).resolve().parent.parent / "models"
    table = list(rows(binary, models))
    if sys.argv[2:3] != ["--check"]:
        print("\n".join(table))
        return
    readme = pathlib.Path(sys.argv[3]).read_text().splitlines()
    start = readme.index(table[0]) if table[0] in readme else len(readme)
    found = list(itertools.takewhile(lambda line: line.startswith("|"), readme[start:]))
    if found != table:
        sys.exit("README.md should have this table:\n" + "\n".join(table))


if __name__ == "__main__":
    main()
