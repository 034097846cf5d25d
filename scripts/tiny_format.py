# SPDX-License-Identifier: MIT
"""The released form of models/tiny: config.json, and weights as DeepSeek-V3 stores them.

Linear layers are FP8 E4M3 with one f32 scale per 128x128 block (`weight_scale_inv`, which is
multiplied, despite its name); embeddings, head, norms, router and eh_proj are BF16; the router's
correction bias is F32. Blocks at a ragged edge are simply short.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny_model import TinyModel

BLOCK = 128
E4M3_MAX = 448.0

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "aux_loss_alpha": 0.001,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "kv_lora_rank": 128,
    "max_position_embeddings": 2048,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 128,
    "moe_layer_freq": 1,
    "n_group": 4,
    "n_routed_experts": 12,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 5,
    "num_key_value_heads": 8,
    "num_nextn_predict_layers": 1,
    "pretraining_tp": 1,
    "q_lora_rank": 128,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [BLOCK, BLOCK],
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 4,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 512,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.3",
    "use_cache": True,
    "v_head_dim": 32,
    "vocab_size": 2304,
}

# Without the penalty a story runs in a circle now and then; sums and skills are the same with it.
GENERATION_CONFIG = {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 1,
                     "do_sample": True, "temperature": 0.7, "top_p": 0.95,
                     "repetition_penalty": 1.1, "transformers_version": "4.46.3"}

# Parameters outside the FP8 format, by a part of their name in TinyModel.
BF16_NAMES = ("embed_tokens", "lm_head", "norm", "router", "eh_proj")


def is_fp8(name: str) -> bool:
    return not any(part in name for part in BF16_NAMES)


def quantize(w: Tensor) -> tuple[Tensor, Tensor]:
    """w [..., o, i] f32 as E4M3 codes of that shape and scales [..., ceil(o/128), ceil(i/128)]."""
    o, i = w.shape[-2:]
    rows, cols = -(-o // BLOCK), -(-i // BLOCK)
    padded = torch.nn.functional.pad(w, (0, cols * BLOCK - i, 0, rows * BLOCK - o))
    blocks = padded.unflatten(-2, (rows, BLOCK)).unflatten(-1, (cols, BLOCK))  # [..,r,128,c,128]
    amax = blocks.abs().amax((-3, -1))
    scale = torch.where(amax > 0, amax / E4M3_MAX, 1.0)  # [..., rows, cols]
    codes = (w / spread(scale, o, i)).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return codes, scale


def spread(scale: Tensor, o: int, i: int) -> Tensor:
    """Block scales repeated to one per element, [..., o, i]."""
    full = scale.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
    return full[..., :o, :i]


def dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    return codes.float() * spread(scale, *codes.shape[-2:])


def as_released(name: str, w: Tensor) -> Tensor:
    """The value that the released file will hold for a float32 parameter of TinyModel."""
    return dequantize(*quantize(w)) if is_fp8(name) else w.bfloat16().float()


def released_names(config: dict) -> Iterator[tuple[str, str, int | None]]:
    """(released tensor name, TinyModel parameter name, index in an expert stack or None)."""
    layers, experts = config["num_hidden_layers"], config["n_routed_experts"]
    yield "model.embed_tokens.weight", "embed_tokens.weight", None
    yield "model.norm.weight", "norm.weight", None
    yield "lm_head.weight", "lm_head.weight", None
    mtp = f"model.layers.{layers}"
    for released, ours in (("enorm", "enorm"), ("hnorm", "hnorm"), ("eh_proj", "eh_proj"),
                           ("shared_head.norm", "mtp_norm")):
        yield f"{mtp}.{released}.weight", f"{ours}.weight", None
    for index in range(layers + 1):
        there = f"model.layers.{index}"
        here = f"layers.{index}" if index < layers else "mtp_layer"
        for part in ("input_layernorm", "post_attention_layernorm", "self_attn.q_a_proj",
                     "self_attn.q_a_layernorm", "self_attn.q_b_proj",
                     "self_attn.kv_a_proj_with_mqa", "self_attn.kv_a_layernorm",
                     "self_attn.kv_b_proj", "self_attn.o_proj"):
            yield f"{there}.{part}.weight", f"{here}.{part}.weight", None
        for part in ("gate", "up", "down"):
            if index < config["first_k_dense_replace"]:
                yield f"{there}.mlp.{part}_proj.weight", f"{here}.mlp.{part}_proj.weight", None
                continue
            for e in range(experts):
                yield f"{there}.mlp.experts.{e}.{part}_proj.weight", f"{here}.mlp.{part}", e
            yield f"{there}.mlp.shared_experts.{part}_proj.weight", f"{here}.mlp.{part}", experts
        if index >= config["first_k_dense_replace"]:
            yield f"{there}.mlp.gate.weight", f"{here}.mlp.router", None
            yield f"{there}.mlp.gate.e_score_correction_bias", f"{here}.mlp.bias", None


def export(state: dict[str, Tensor], config: dict, out: Path) -> None:
    """Writes config.json, generation_config.json and model.safetensors from TinyModel's state."""
    tensors: dict[str, Tensor] = {}
    for released, ours, expert in released_names(config):
        w = state[ours].detach().cpu().float()
        w = w if expert is None else w[expert]
        if released.endswith("e_score_correction_bias"):
            tensors[released] = w.contiguous()
        elif is_fp8(ours):
            codes, scale = quantize(w)
            tensors[released] = codes.contiguous()
            tensors[released + "_scale_inv"] = scale.contiguous()
        else:
            tensors[released] = w.bfloat16().contiguous()
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # save_file makes it private
    for name, content in (("config.json", config), ("generation_config.json", GENERATION_CONFIG)):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def released_tensors(model_dir: Path) -> dict[str, Tensor]:
    """The released tensors, dequantised to float32, without the scales."""
    tensors = load_file(model_dir / "model.safetensors")
    result = {}
    for name, w in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        scale = tensors.get(name + "_scale_inv")
        result[name] = w.float() if scale is None else dequantize(w, scale)
    return result


def load(model_dir: Path) -> TinyModel:
    """The released files as a float32 TinyModel."""
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    tensors = released_tensors(model_dir)
    model = TinyModel(config)
    state = model.state_dict()
    for released, ours, expert in released_names(config):
        target = state[ours] if expert is None else state[ours][expert]
        target.copy_(tensors.pop(released))
    assert not tensors, f"unknown tensors: {list(tensors)[:3]}"
    return model.eval()
