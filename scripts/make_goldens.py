#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes tests/data/goldens/NAME.safetensors: what transformers says of the tiny checkpoints.

    python3 scripts/make_goldens.py [--configs ../shared/model-configs] [NAME ...]

Needs torch, transformers, numpy and safetensors (made with torch 2.11.0, transformers 5.23.0, CPU).
The tests read only what is committed. For every tests/data/goldens/NAME.json the weights are
generated (golden_weights.py), FP8 is dequantised exactly, transformers' model of the architecture
(golden_models.py; for DeepseekForCausalLM a few lines of our own) runs in float32 with eager
attention, and the golden file gets:

    input_ids   [P + 64] i32  a random prompt of P tokens, then what transformers' generate() adds
                              greedily, with its cache
    logits      [P + 64, V]   float32, every position, from one forward pass over all tokens
    mtp_logits  [P + 63, V]   where the checkpoint has an MTP layer
    metadata    prompt_tokens, weights_digest, versions

transformers has no MTP layer (it ignores its tensors). mtp_logits come from the few lines of
PyTorch in `mtp_logits` below, after models.md section 8: the hidden state after the final norm, the
embedding's half first, transformers' own decoder layer, shared_head.norm, the main model's head.

Before anything is written, softmax scale and inv_freq of transformers for the released configs are
compared with the table of models.md 2.4, and a checkpoint whose choices are near-ties (experts,
groups, greedy tokens) is refused: rounding would decide it.

Where transformers 5.23.0 and models.md could differ, and what was found:

  * Groups that are dropped get -inf, as models.md 7.3 says. Early versions used 0 (trap 12), which
    differs where a chosen biased score is negative. v3-bf16 has a bias that makes it so: `Margins`
    counts 646 such choices there (none in the others), so a 0 mask fails its golden.
  * q_a_layernorm and kv_a_layernorm are built without eps: 1e-6 whatever rms_norm_eps says. Same.
    v3-noqlora has rms_norm_eps 1e-3, so it tells the two apart.
  * Without mscale or mscale_all_dim in rope_scaling, transformers multiplies cos and sin by
    m(1) = 0.1 ln(factor) + 1; DeepSeek's modelling code by m(mscale) / m(mscale_all_dim) with
    defaults 1 and 0. The two agree where both keys are absent and differ for mscale != 1 alone;
    every released checkpoint has both keys, equal. The engine follows DeepSeek's code.
  * Rotated q and k leave apply_rotary_pos_emb_interleave de-interleaved, a permutation of both that
    no score sees (models.md 2.3).
  * inv_freq and angles are float32 there, float64 here: the main part of the remaining NMSE.
  * moe_layer_freq is not read there; every fixture has 1. Router logits and softmax are float32.
  * A V3 model with the wrong eps, softmax scale, rope layout, bias or scaling factor is 3e-6 (eps)
    to 0.45 away from these goldens in NMSE, against the 1e-9 that the tests allow.
  * The router's order of experts is unspecified (topk, unsorted) and expert outputs are added in
    ascending expert id, as in the engine.

The other architectures:

  * V2's softmax scale carries m(mscale_all_dim)^2, as DeepSeek's code has it. transformers left it
    out until July 2026 (models.md trap 1): older versions fail the check of the table above.
  * V2 rotates complex numbers: pairs (2i, 2i + 1), in place. That is the interleaved form itself.
  * V2's router masks dropped groups with 0; its scores are softmax values, above 0, so -inf would
    choose the same. It reads neither norm_topk_prob (DeepSeek's code normalises instead of scaling;
    false in every released checkpoint) nor moe_layer_freq (1 everywhere).
  * head_dim of a V2 config is overwritten with qk_rope_head_dim; the engine ignores it.
  * Llama's linear and llama3 scaling, and Qwen2's unused sliding_window, agree with models.md 2.5,
    2.6 and 4. The window of the fixtures, 32, is shorter than their sequences.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch.nn.functional import linear
from transformers import GenerationConfig
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as v2
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from golden_models import Margins, hf_config, hf_state, load_model
from golden_weights import Spec, architecture, generate, words

ROOT = Path(__file__).resolve().parent.parent
GOLDENS = ROOT / "tests" / "data" / "goldens"
PROMPT_TOKENS = 96
NEW_TOKENS = 64
MIN_CHOICE_MARGIN = 1e-4  # of biased scores; float32 noise here is about 1e-6
MIN_GREEDY_MARGIN = 5e-3  # of logits

# models.md 2.4: inv_freq[10], [16], [31], softmax scale.
ROPE_TABLE = {
    "deepseek-v2-lite": (0.0562341325, 0.0055, 3.33380358e-06, 0.114721387),
    "deepseek-v2": (0.0562341325, 0.0055, 3.33380358e-06, 0.114721387),
    "deepseek-v2.5": (0.0562341325, 0.0055, 3.33380358e-06, 0.135233779),
    "deepseek-v3": (0.0562341325, 0.0055, 3.33380358e-06, 0.135233779),
    "deepseek-r1": (0.0562341325, 0.0055, 3.33380358e-06, 0.135233779),
    "deepseek-v3.1": (0.0562341325, 0.0055, 3.33380358e-06, 0.135233779),
    "kimi-k2-instruct": (0.0340072782, 0.00447213595, 8.76441291e-07, 0.130860800),
}


# models.md 2.5: inv_freq[28], [29], [33], [35].
LLAMA3_TABLE = {28: 0.00321144599, 29: 0.00216657076, 33: 0.00031269375, 35: 9.55621235e-05}


def check_llama3_table(configs: Path) -> None:
    released = json.loads((configs / "r1-distill-llama-8b.json").read_text())
    got = LlamaRotaryEmbedding(hf_config(released)).inv_freq
    for i, want in LLAMA3_TABLE.items():
        if not math.isclose(float(got[i]), want, rel_tol=1e-6):
            raise SystemExit(f"llama3 inv_freq[{i}]: {float(got[i])}, models.md 2.5 says {want}")


def check_rope_table(configs: Path) -> None:
    for name, want in ROPE_TABLE.items():
        released = json.loads((configs / f"{name}.json").read_text())
        config = hf_config(released)
        is_v2 = architecture(released) == "DeepseekV2"
        rope = (v2.DeepseekV2RotaryEmbedding if is_v2 else v3.DeepseekV3RotaryEmbedding)(config)
        with torch.device("meta"):
            scale = (v2.DeepseekV2Attention if is_v2 else v3.DeepseekV3Attention)(config, 0).scaling
        got = (*(float(rope.inv_freq[i]) for i in (10, 16, 31)), scale)
        for g, w in zip(got, want):
            if not math.isclose(g, w, rel_tol=1e-6):
                raise SystemExit(f"{name}: transformers has {got}, models.md 2.4 says {want}")
        if rope.attention_scaling != 1:
            raise SystemExit(f"{name}: cos and sin are scaled by {rope.attention_scaling}")
    print(f"rope: {len(ROPE_TABLE)} released configs agree with models.md 2.4")


def mtp_logits(model, spec: Spec, state: dict, hidden: torch.Tensor, ids: torch.Tensor, watch):
    """Position i: main hidden state i and token i + 1, for the token i + 2."""
    layer = spec.config["num_hidden_layers"]
    own = {k.removeprefix(f"model.layers.{layer}."): v for k, v in state.items()
           if k.startswith(f"model.layers.{layer}.")}
    block = v3.DeepseekV3DecoderLayer(model.config, 0 if layer < model.config.first_k_dense_replace
                                      else layer).eval()
    block.load_state_dict({k: v for k, v in own.items() if k in block.state_dict()}, strict=True)
    block.mlp.gate.register_forward_hook(watch)

    def norm(x, name):
        out = v3.DeepseekV3RMSNorm(x.shape[-1], eps=model.config.rms_norm_eps)
        out.weight.data = own[f"{name}.weight"]
        return out(x)

    n = len(ids) - 1
    embedding = model.model.embed_tokens(ids[1:])
    u = linear(torch.cat([norm(embedding, "enorm"), norm(hidden[:n], "hnorm")], -1),
               own["eh_proj.weight"])[None]
    mask = torch.full((n, n), -math.inf).triu(1)[None, None]
    rope = model.model.rotary_emb(u, torch.arange(n)[None])
    v = block(u, attention_mask=mask, position_embeddings=rope)
    return linear(norm(v[0], "shared_head.norm"), model.lm_head.weight)


def sort_metadata(path: Path) -> None:
    """save_file writes metadata in random order; with it sorted, the same run is the same file."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(text) == length
    path.write_bytes(raw[:8] + text + raw[8 + length:])


@torch.no_grad()
def make(spec: Spec) -> None:
    weights, weights_digest = generate(spec)
    state = hf_state(spec.config, weights)
    model = load_model(spec, state)
    margins = Margins(spec.config)
    margins.watch(model, spec.config)

    vocab = spec.config["vocab_size"]
    prompt = torch.from_numpy(words(spec.seed, "input_ids", PROMPT_TOKENS).astype("int64") % vocab)
    greedy = GenerationConfig(do_sample=False, max_new_tokens=NEW_TOKENS, use_cache=True,
                              eos_token_id=None, pad_token_id=None)
    model.generation_config = greedy
    ids = model.generate(prompt[None], generation_config=greedy)[0]
    assert len(ids) == PROMPT_TOKENS + NEW_TOKENS, len(ids)
    out = model.model(input_ids=ids[None], use_cache=False)
    logits = model.lm_head(out.last_hidden_state[0])
    best = logits.topk(2, dim=-1)
    greedy_margin = float((best[0][PROMPT_TOKENS - 1:, 0] - best[0][PROMPT_TOKENS - 1:, 1]).min())
    recomputed = best[1][PROMPT_TOKENS - 1:-1, 0]
    assert torch.equal(recomputed, ids[PROMPT_TOKENS:]), "the cache changes greedy tokens"

    tensors = {"input_ids": ids.to(torch.int32), "logits": logits.contiguous()}
    if spec.config.get("num_nextn_predict_layers"):
        mtp = mtp_logits(model, spec, state, out.last_hidden_state[0], ids, margins)
        tensors["mtp_logits"] = mtp.contiguous()
    print(f"{spec.name}: logits deviation {float(logits.std()):.2f}, "
          f"{len(set(ids[PROMPT_TOKENS:].tolist()))} different greedy tokens; margins: greedy "
          f"{greedy_margin:.1e}, experts {margins.expert:.1e}, groups {margins.group:.1e}; "
          f"0-masking would differ {margins.zero_mask} times")
    choice_margin = min(margins.expert, margins.group)
    if choice_margin < MIN_CHOICE_MARGIN or greedy_margin < MIN_GREEDY_MARGIN:
        raise SystemExit(f"{spec.name}: near-ties; choose another seed")
    path = GOLDENS / f"{spec.name}.safetensors"
    save_file(tensors, path, metadata={
        "prompt_tokens": str(PROMPT_TOKENS), "weights_digest": f"{weights_digest:016x}",
        "made_with": f"torch {torch.__version__}, transformers {transformers.__version__}"})
    path.chmod(0o644)
    sort_metadata(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="default: every spec in tests/data/goldens")
    parser.add_argument("--configs", type=Path, default=ROOT.parent / "shared" / "model-configs")
    args = parser.parse_args()
    torch.set_num_threads(1)  # one order of summation
    check_rope_table(args.configs)
    check_llama3_table(args.configs)
    for path in sorted(GOLDENS.glob("*.json")):
        if not args.names or path.stem in args.names:
            make(Spec.load(path))


if __name__ == "__main__":
    main()
