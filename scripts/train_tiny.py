# SPDX-License-Identifier: MIT
"""Trains models/tiny, a small model in the DeepSeek-V3 architecture, on one GPU in minutes.

Needs models/tiny/tokenizer.json (scripts/make_tokenizer.py) and the story corpus. Writes config,
generation_config and FP8 weights into --out, then reloads them and measures them in float32.

    python3 scripts/train_tiny.py --corpus stories.txt.xz --out models/tiny

The last quarter of the run computes with the weights as they will be released (FP8 blocks, BF16),
gradients passing straight through to float32 masters, so that the release loses nothing.
Seeds are fixed; the schedule follows the clock, or the step number with --steps.
"""

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tiny_data import EXTRA, Encoder, Rows, load_books, raw_text
from tiny_eval import measure, raw_loss
from tiny_format import CONFIG, as_released, export, load
from tiny_model import MoeMlp, Segments, TinyModel, check_yarn

# kind -> (rows per step, positions per row). Raw rows are as long as the context.
# 210 s on an H200 are some 6,000 steps: about 20 passes over the stories. At 54 passes held-out
# loss had stopped falling and whole paragraphs came out by heart; at 7 stories ran in circles.
LAYOUT = {"skill": (320, 256), "story": (8, 512), "raw": (3, 2048)}
POOL = {"skill": 300_000, "story": 30_000}  # chat rows made in advance; each is seen a few times
STORY_DROPOUT = 0.2  # skill turns hardly repeat and need none
ADAM_LR = 2e-3       # embeddings, head, norms, router
MUON_LR = 1.5e-3     # root mean square of one update of a matrix at full rate
WEIGHT_DECAY = 0.5
WARM_UP_STEPS = 60
FINAL_LR = 0.01      # of the peak
QUANTIZED_FROM = 0.75      # share of the run after which released weights are used
BIAS_SPEED = 1e-3          # of the routing correction bias, 0 in the quantised part, as in V3
MTP_WEIGHT = (0.3, 0.1)    # before and in the quantised part, as in V3
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic iteration of the Muon optimizer


def initialize(model: TinyModel) -> None:
    """Normal weights of variance 1/fan_in; layers that write to the residual stream start small."""
    depth = 2 * len(model.layers)
    for name, p in model.named_parameters():
        if p.dim() < 2:
            continue
        std = p.shape[-1] ** -0.5
        if "o_proj" in name or "down" in name:
            std /= math.sqrt(depth)
        if name in ("embed_tokens.weight", "lm_head.weight"):
            std = 0.02
        torch.nn.init.normal_(p, std=std)


def orthogonalize(g: Tensor) -> Tensor:
    """g [k, m, n], m <= n: singular values brought near 1, in bf16."""
    a, b, c = NEWTON_SCHULZ
    x = g.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.float()


class Optimizer:
    """Muon for the matrices inside the layers, AdamW for the rest, on float32 masters.

    The model's own parameters are what the forward pass uses: the masters, or their released form.
    """

    def __init__(self, model: TinyModel):
        self.params = dict(model.named_parameters())
        self.masters = {name: p.detach().clone() for name, p in self.params.items()}
        outside = ("embed_tokens", "lm_head", "router")
        adam = [n for n, p in self.params.items() if p.dim() < 2 or any(o in n for o in outside)]
        self.adam = torch.optim.AdamW(
            [{"params": [self.masters[n] for n in adam if self.params[n].dim() < 2],
              "weight_decay": 0.0},
             {"params": [self.masters[n] for n in adam if self.params[n].dim() >= 2],
              "weight_decay": WEIGHT_DECAY}], lr=ADAM_LR, betas=(0.9, 0.95), fused=True)
        self.adam_names = adam
        self.groups: dict[tuple[int, int], list[str]] = {}  # by shape, wide side last
        for name in self.params.keys() - set(adam):
            m, n = sorted(self.params[name].shape[-2:])
            self.groups.setdefault((m, n), []).append(name)
        for names in self.groups.values():
            names.sort()  # set order is not stable from run to run
        self.momentum = {shape: torch.zeros_like(self.stack(shape, self.masters))
                         for shape in self.groups}

    def stack(self, shape: tuple[int, int], tensors: dict[str, Tensor]) -> Tensor:
        """All matrices of one group as [k, m, n], m <= n."""
        parts = []
        for name in self.groups[shape]:
            w = tensors[name].reshape(-1, *tensors[name].shape[-2:])
            parts.append(w if w.shape[-2] <= w.shape[-1] else w.mT)
        return torch.cat(parts)

    @torch.no_grad()
    def step(self, rate: float, quantized: bool) -> None:
        """rate: share of the peak learning rates."""
        for group in self.adam.param_groups:
            group["lr"] = ADAM_LR * rate
        for name in self.adam_names:
            self.masters[name].grad = self.params[name].grad
        self.adam.step()
        grads = {n: p.grad for n, p in self.params.items()}
        for shape, names in self.groups.items():
            g, momentum = self.stack(shape, grads), self.momentum[shape]
            momentum.lerp_(g, 0.05)
            update = orthogonalize(g.lerp(momentum, 0.95)) * math.sqrt(shape[1])
            done = 0
            for name in names:
                w = self.masters[name]
                flat = w.view(-1, *w.shape[-2:])
                part = update[done:done + len(flat)]
                done += len(flat)
                flat.mul_(1 - MUON_LR * rate * WEIGHT_DECAY)
                flat.sub_(part if flat.shape[-2] <= flat.shape[-1] else part.mT,
                          alpha=MUON_LR * rate)
        for name, p in self.params.items():
            p.copy_(as_released(name, self.masters[name]) if quantized else self.masters[name])
            p.grad = None


class Batches:
    """Draws the rows of a step from pools that live on the device."""

    def __init__(self, chats: dict, raw: tuple[np.ndarray, np.ndarray], bos: int, device):
        self.chats = {kind: tuple(torch.from_numpy(a.astype(np.int16 if a.dtype == np.uint16
                                                            else a.dtype)).to(device)
                                  for a in arrays) for kind, arrays in chats.items()}
        stream, starts = raw
        length = LAYOUT["raw"][1] + EXTRA - 1
        self.stream = torch.from_numpy(stream.astype(np.int64)).to(device)
        self.starts = torch.from_numpy(starts[starts + length <= len(stream)]).to(device)
        self.bos, self.window = bos, torch.arange(length, device=device)

    def draw(self) -> tuple[list[Tensor], list[Tensor]]:
        """ids and wanted, one [rows, length + EXTRA] tensor per kind of LAYOUT."""
        ids, wanted = [], []
        for kind, (rows, _) in LAYOUT.items():
            if kind == "raw":
                pick = torch.randint(len(self.starts), (rows,), device=self.window.device)
                text = self.stream[self.starts[pick][:, None] + self.window]
                ids.append(F.pad(text, (1, 0), value=self.bos))
                wanted.append(torch.ones_like(ids[-1], dtype=torch.uint8))
            else:
                pool_ids, pool_wanted = self.chats[kind]
                pick = torch.randint(len(pool_ids), (rows,), device=pool_ids.device)
                ids.append(pool_ids[pick].long())
                wanted.append(pool_wanted[pick])
        return ids, wanted


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights).sum() / weights.sum()


def balance_loss(routing, segments: Segments, model: TinyModel) -> Tensor:
    """Sequence-wise balance loss of the V3 paper: chosen share times mean affinity."""
    c, total = model.config, 0.0
    for choice, s in routing:
        for chosen, scores in zip(segments.split(choice), segments.split(s)):
            share = chosen.float().mean(1) * c["n_routed_experts"] / c["num_experts_per_tok"]
            affinity = (scores / scores.sum(-1, keepdim=True)).mean(1)
            total = total + (share * affinity).sum(-1).mean()
    return total * c["aux_loss_alpha"] / len(routing)


def kept_shares(device: str) -> Tensor:
    """[N, 1]: the share of activations that dropout keeps, for every token of a step."""
    return torch.cat([torch.full((rows * length, 1), 1 - STORY_DROPOUT * (kind != "skill"),
                                 device=device) for kind, (rows, length) in LAYOUT.items()])


def make_loss(model: TinyModel, segments: Segments, keep: Tensor, device: str):
    """The function that is compiled: ids -> (loss, main loss, MTP loss, expert loads)."""

    def loss_of(ids: list[Tensor], wanted: list[Tensor], mtp_weight: Tensor):
        tokens, following, after = (torch.cat([x[:, k:x.shape[1] - 2 + k].flatten() for x in ids])
                                    for k in (0, 1, 2))
        weights, mtp_weights = (torch.cat([x[:, k:x.shape[1] - 2 + k].flatten() for x in wanted])
                                .float() for k in (1, 2))
        with torch.autocast(device, dtype=torch.bfloat16):
            h, v, routing = model(tokens, following, segments, keep)
            main = weighted_cross_entropy(model.lm_head(h), following, weights)
            mtp = weighted_cross_entropy(model.lm_head(v), after, mtp_weights)
        loss = main + mtp_weight * mtp + balance_loss(routing, segments, model)
        loads = torch.stack([choice.float().mean(0) for choice, _ in routing])  # [MoE layers, E]
        return loss, main, mtp, loads

    return loss_of


class Schedule:
    """Where in the run we are, 0..1: by the clock, or by steps."""

    def __init__(self, minutes: float, steps: int | None):
        self.seconds, self.steps, self.start = 60 * minutes, steps, None

    def progress(self, step: int) -> float:
        if self.steps:
            return step / self.steps
        if self.start is None or step < 3:  # compilation is not training time
            self.start = time.monotonic()
        return (time.monotonic() - self.start) / self.seconds


def learning_rate(step: int, progress: float) -> float:
    decay = FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * decay


def adjust_bias(blocks: list[MoeMlp], loads: Tensor, speed: float) -> None:
    """Auxiliary-loss-free balancing: busy experts become a little less likely to be chosen."""
    with torch.no_grad():
        for block, load in zip(blocks, loads):
            block.bias += speed * torch.sign(load.mean() - load)


def train(model: TinyModel, batches: Batches, held_out: Tensor, schedule: Schedule, args) -> None:
    device = args.device
    segments = Segments(list(LAYOUT.values()), device)
    loss_of = make_loss(model, segments, kept_shares(device), device)
    if not args.no_compile:
        loss_of = torch.compile(loss_of, fullgraph=True, dynamic=False)
    optimizer, step, begun = Optimizer(model), 0, time.monotonic()
    tokens_per_step = sum(rows * length for rows, length in LAYOUT.values())
    while (progress := schedule.progress(step)) < 1:
        quantized = progress >= QUANTIZED_FROM
        ids, wanted = batches.draw()
        mtp_weight = torch.tensor(MTP_WEIGHT[quantized], device=device)
        loss, main, mtp, loads = loss_of(ids, wanted, mtp_weight)
        loss.backward()
        optimizer.step(learning_rate(step, progress), quantized)
        if not quantized:
            adjust_bias(model.moe_layers(), loads, BIAS_SPEED)
        step += 1
        if step % args.log_every == 0 or step == 1:
            line = (f"step {step} {progress:.3f} loss {main.item():.3f} mtp {mtp.item():.3f} "
                    f"load {loads.min().item():.3f}..{loads.max().item():.3f} "
                    f"{step * tokens_per_step / (time.monotonic() - begun) / 1e6:.2f} Mtok/s")
            if step % (5 * args.log_every) == 0:
                train_rows = torch.cat([batches.draw()[0][-1] for _ in range(8)])
                train_rows = train_rows[:, :held_out.shape[1]]
                line += (f" | raw train {raw_loss(model, train_rows, device):.3f}"
                         f" held-out {raw_loss(model, held_out, device):.3f}")
            print(line, flush=True)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(optimizer.masters[name])
    print(f"{step} steps, {step * tokens_per_step / 1e6:.0f} M tokens", flush=True)


def rows_of(stream: np.ndarray, bos: int, length: int, device: str) -> Tensor:
    """A token stream as rows [BOS | length tokens] one after the other."""
    count = len(stream) // length
    text = torch.from_numpy(stream[:count * length].astype(np.int64)).view(count, length)
    return F.pad(text, (1, 0), value=bos).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus/stories.txt.xz"))
    parser.add_argument("--tokenizer", type=Path, default=Path("models/tiny"))
    parser.add_argument("--tests", type=Path, default=Path("tests/data/tiny"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", type=Path, help="write the measurements here as JSON")
    parser.add_argument("--init", type=Path, help="go on from these released files")
    parser.add_argument("--minutes", type=float, default=3.5, help="of training proper")
    parser.add_argument("--steps", type=int, help="a fixed number of steps instead of --minutes")
    parser.add_argument("--batch-scale", type=float, default=1.0, help="shrinks a step, for trials")
    parser.add_argument("--pool-scale", type=float, default=1.0, help="fewer chat rows, for trials")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--log-every", type=int, default=100)
    args = parser.parse_args()

    check_yarn()
    torch.manual_seed(args.seed)
    for kind, (rows, length) in LAYOUT.items():
        LAYOUT[kind] = (max(1, round(rows * args.batch_scale)), length)
    pool = {kind: max(8, round(rows * args.pool_scale)) for kind, rows in POOL.items()}
    chats = Rows(pool, {kind: LAYOUT[kind][1] for kind in pool}, args.corpus, args.tokenizer,
                 args.workers, args.seed)
    encoder = Encoder(args.tokenizer)
    train_books, held_out_books = load_books(args.corpus)
    raw, (held_out_stream, _) = raw_text(train_books, encoder), raw_text(held_out_books, encoder)
    held_out = rows_of(held_out_stream, encoder.bos, 1024, args.device)

    if args.init:
        model = load(args.init).to(args.device)
    else:
        model = TinyModel(CONFIG).to(args.device)
        initialize(model)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    begun = time.monotonic()
    batches = Batches(chats.collect(), raw, encoder.bos, args.device)
    print(f"chat rows ready after {time.monotonic() - begun:.0f} s more", flush=True)
    train(model.train(), batches, held_out, Schedule(args.minutes, args.steps), args)

    export(model.state_dict(), CONFIG, args.out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if args.tokenizer.resolve() != args.out.resolve():
            shutil.copy(args.tokenizer / name, args.out / name)
    report = measure(args.out, args.tests, raw[0], held_out, args.device)
    if args.report:
        args.report.write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
