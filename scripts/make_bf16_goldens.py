# SPDX-License-Identifier: MIT
"""What bf16 costs transformers on the tiny checkpoints: tests/data/bf16_goldens.json.

    python3 scripts/make_bf16_goldens.py

The ids of every golden, cut into windows of 16 that are computed apart, run in float32 and in bf16 on
the dequantised weights. For each position the file has the NMSE of the bf16 logits against the
float32 ones; which positions went to other experts in some layer (`flipped`); and for each MoE layer
by how much the scores that choose experts differ, root mean square over the positions up to a window's
first flip (`deviation`).

Why windows: a token that went to another expert errs by a hundred times what rounding costs, and every
later token attends to it. Two implementations of bf16 flip at different places, so errors over a
long sequence compare luck. In a short window most positions stand before the first flip of either.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

from golden_models import Routes, hf_state, in_bf16, load_model
from golden_weights import Spec, generate

ROOT = Path(__file__).resolve().parent.parent
GOLDENS = ROOT / "tests" / "data" / "goldens"
WINDOW = 16


@torch.no_grad()
def run(model, config: dict, ids: torch.Tensor) -> tuple[torch.Tensor, list]:
    """Logits [T, V] and the routes of every MoE layer."""
    routes = Routes(config)
    routes.watch(model, config)
    logits = [model(input_ids=window[None], use_cache=False).logits[0].float().cpu()
              for window in ids.split(WINDOW)]
    return torch.cat(logits), routes.of_layers()


def measure(spec: Spec, device: str) -> dict:
    weights, _ = generate(spec)
    state = hf_state(spec.config, weights)
    ids = load_file(GOLDENS / f"{spec.name}.safetensors")["input_ids"].long().to(device)
    exact = load_model(spec, state, attention="sdpa").to(device)
    rounded = in_bf16(exact)  # before hooks are on it
    want, want_routes = run(exact, spec.config, ids)
    got, got_routes = run(rounded, spec.config, ids)
    nmse = ((got - want).double().square().sum(-1) / want.double().square().sum(-1)).tolist()
    flipped = torch.zeros(len(ids), dtype=torch.bool)
    for (_, a), (_, b) in zip(want_routes, got_routes, strict=True):
        flipped |= (a != b).any(-1)
    clean = torch.cat([w.cumsum(0) == 0 for w in flipped.int().split(WINDOW)])
    deviation = [float((b - a)[clean].double().square().mean().sqrt())
                 for (a, _), (b, _) in zip(want_routes, got_routes)]
    mean = sum(e for e, c in zip(nmse, clean.tolist()) if c) / int(clean.sum())
    print(f"{spec.name}: {int(flipped.sum())} of {len(ids)} flipped; NMSE before the first flip "
          f"{mean:.2e}; deviation {', '.join(f'{d:.1e}' for d in deviation)}")
    return {"nmse": [float(f"{e:.6g}") for e in nmse],
            "flipped": flipped.nonzero()[:, 0].tolist(),
            "deviation": [float(f"{d:.6g}") for d in deviation]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="on an H100, V2's routers choose in a way of "
                        "their own under transformers 5.17, and every position counts as flipped")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "data" / "bf16_goldens.json")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("highest")
    checkpoints = {path.stem: measure(Spec.load(path), args.device)
                   for path in sorted(GOLDENS.glob("*.json"))}
    made_with = f"torch {torch.__version__}, transformers {transformers.__version__}, {args.device}"
    lines = [f' "{name}": {json.dumps(figures)}' for name, figures in checkpoints.items()]
    args.out.write_text("{\n" + f' "made_with": {json.dumps(made_with)},\n "window": {WINDOW},\n'
                        + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
