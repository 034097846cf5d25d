#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What computing in bf16 costs models/tiny, ours beside transformers'.

    python3 scripts/measure_kl.py build/release/deepseek-run

KL(f32 || x) over held-out text, every position, where x is

    prompt   deepseek-run on the GPU, a prompt in chunks
    decode   the same one token at a time
    hf       transformers in bf16 on the dequantised weights

and f32 is `--device reference`, which has to agree with transformers in float32. Prints means and,
for each of ours, the ratio to transformers' with a 95 % interval: a paired bootstrap over blocks of
64 positions, because neighbours in a text err together. Exit status 1 if a ratio is above 1.1.
Needs torch, transformers, tokenizers and numpy.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
MAX_RATIO = 1.1
MAX_NMSE = 1e-9  # of the reference backend against transformers, both float32
BLOCK = 64  # positions that are drawn together
DRAWS = 10_000
GPU_JOBS = 3  # rows at a time on the device: most of a row is the program's start, or its launches


def held_out_rows(model: Path, corpus: Path, rows: int, length: int) -> list[list[int]]:
    """Rows of BOS and `length` - 1 tokens of text that the model was not trained on."""
    from tiny_data import Encoder, load_books, raw_text
    encoder = Encoder(model)
    stream = raw_text(load_books(corpus)[1], encoder)[0].tolist()
    body = length - 1
    if len(stream) < rows * body:
        raise SystemExit(f"{corpus}: {len(stream)} held-out tokens, {rows * body} are wanted")
    return [[encoder.bos, *stream[r * body:(r + 1) * body]] for r in range(rows)]


class Binary:
    """deepseek-run logits."""

    def __init__(self, binary: str, model: Path, scratch: Path):
        self.binary, self.model, self.scratch = binary, model, scratch
        self.calls = itertools.count()  # rows are computed side by side

    def row(self, row: list[int], flags: tuple[str, ...]) -> np.ndarray:
        call = next(self.calls)
        ids, out = (self.scratch / f"{call}{suffix}" for suffix in (".ids", ".npy"))
        ids.write_text(",".join(map(str, row)))
        subprocess.run([self.binary, "logits", "-m", str(self.model), "--prompt-ids", f"@{ids}", "-o",
                        str(out), "-q", "-c", str(len(row)), *flags], check=True)
        logits = np.load(out)
        out.unlink()
        return logits

    def logits(self, rows: list[list[int]], *flags: str, jobs: int = 1) -> np.ndarray:
        """[positions, vocabulary] of all rows."""
        with ThreadPoolExecutor(jobs) as pool:
            return np.concatenate(list(pool.map(lambda row: self.row(row, flags), rows)))


def transformers_logits(model: Path, rows: list[list[int]], device: str,
                        experts: str) -> tuple[np.ndarray, np.ndarray]:
    """In float32 and in bf16."""
    import torch
    from golden_models import in_bf16
    from make_tiny_goldens import Reference
    torch.set_float32_matmul_precision("highest")
    reference = Reference(model)
    exact = reference.model  # with the MTP layer as one more: it goes
    exact.model.layers = exact.model.layers[:reference.layers]
    exact.config.num_hidden_layers = exact.model.config.num_hidden_layers = reference.layers
    exact.config._experts_implementation = exact.model.config._experts_implementation = experts
    exact = exact.to(device).eval()
    rounded = in_bf16(exact)

    @torch.no_grad()
    def logits(m) -> np.ndarray:
        return np.concatenate([m(input_ids=torch.tensor([row], device=device), use_cache=False)
                               .logits[0].float().cpu().numpy() for row in rows])

    return logits(exact), logits(rounded)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def kl(exact: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(exact || other) of every position, in nats."""
    p, q = log_softmax(exact), log_softmax(other)
    return (np.exp(p) * (p - q)).sum(-1)


def ratio_interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Of the means, and the 95 % interval of their paired block bootstrap."""
    n = len(ours) // BLOCK
    sums = [x[:n * BLOCK].reshape(n, BLOCK).sum(-1) for x in (ours, theirs)]
    drawn = np.random.default_rng(1).integers(n, size=(DRAWS, n))
    ratios = sums[0][drawn].sum(-1) / sums[1][drawn].sum(-1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(ours.mean() / theirs.mean()), float(low), float(high)


def describe(name: str, k: np.ndarray, exact: np.ndarray, other: np.ndarray) -> None:
    same = (exact.argmax(-1) == other.argmax(-1)).mean()
    print(f"{name:7} KL mean {k.mean():.3e}  median {np.median(k):.3e}  "
          f"99 % {np.quantile(k, 0.99):.3e}  largest {k.max():.3e}  "
          f"same first choice {100 * same:.2f} %")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "tiny")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--rows", type=int, default=9)
    parser.add_argument("--length", type=int, default=1024, help="tokens of a row")
    parser.add_argument("--device", default="cuda", help="of ours; and of torch, where it is cuda")
    parser.add_argument("--experts", default="eager", help="how transformers computes them: eager adds "
                        "them up in bf16, grouped_mm does not")
    parser.add_argument("--jobs", type=int, default=9, help="rows of the reference at a time")
    parser.add_argument("--arg", action="append", default=[], metavar="ARG",
                        help="one more argument for ours, as --arg=--cuda-arch --arg=80")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    places = [ROOT / "shared", ROOT.parent / "shared"]
    corpus = args.corpus or next((p / "corpus" / "stories.txt.xz" for p in places
                                  if (p / "corpus" / "stories.txt.xz").exists()), None)
    if corpus is None:
        raise SystemExit("no corpus/stories.txt.xz in shared/ or ../shared/: --corpus")
    rows = held_out_rows(args.model, corpus, args.rows, args.length)
    with tempfile.TemporaryDirectory(prefix="dsr-kl-") as scratch:
        binary = Binary(args.binary, args.model, Path(scratch))
        exact = binary.logits(rows, "--device", "reference", jobs=args.jobs)
        on_device = ("--device", args.device, *args.arg)
        ours = {"prompt": binary.logits(rows, *on_device, jobs=GPU_JOBS),
                "decode": binary.logits(rows, *on_device, "--chunk", "1", jobs=GPU_JOBS)}
    their_exact, theirs = transformers_logits(args.model, rows, args.device.split(":")[0],
                                             args.experts)

    difference = (exact - their_exact).astype(np.float64)
    error = (difference**2).sum() / (their_exact.astype(np.float64)**2).sum()
    print(f"{len(exact)} positions of held-out text; reference against transformers in float32: "
          f"NMSE {error:.1e}")
    good = error <= MAX_NMSE
    their_kl = kl(exact, theirs)
    describe("hf", their_kl, exact, theirs)
    figures = {"positions": len(exact), "reference_nmse": float(error), "hf": float(their_kl.mean())}
    for name, logits in ours.items():
        k = kl(exact, logits)
        describe(name, k, exact, logits)
        ratio, low, high = ratio_interval(k, their_kl)
        print(f"{name:7} KL ratio to transformers in bf16 {ratio:.3f}, 95 % interval {low:.3f} to {high:.3f}"
              f"{'' if ratio <= MAX_RATIO else f'   above {MAX_RATIO}'}")
        good &= ratio <= MAX_RATIO
        figures[name] = {"kl": float(k.mean()), "ratio": ratio, "low": low, "high": high}
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
