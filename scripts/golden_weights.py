# SPDX-License-Identifier: MIT
"""Weights of the tiny checkpoints, defined so that Python and C++ make the same bytes.

No weight files are committed: tests/support/tiny_checkpoint.cc generates every tensor from the same
definition, and a digest in the golden file says that both did.

Word j of a tensor is word j % 4 of the Philox4x32-10 block with key `seed` and counter
{low, high half of j / 4, low, high half of FNV-1a-64(tensor name)}. From a word w:

    s = (sum of the four bytes of w) - 510                    Irwin-Hall, -510..510, deviation 147.8
    m = s * 2^14 + (w mod 2^14) - 2^13                        24 bits

    matrix [N, K]      m * 2^(gain - 21 - h)                  h: the smallest integer with 4^h >= K
    embedding          m * 2^-21                              deviation 1.15
      if tied          as a matrix of gain 1: it is the head too
    norm               1 + m * 2^-24                          deviation 0.14
    correction bias    m * 2^-25 + bias_offset                deviation 0.07
    bias of q, k, v    m * 2^-23                              deviation 0.29

Each is exact in float64, then rounded to float32 and to the tensor's type (nearest, ties to even).
`gain` is 1 for the projections that make queries (scores that differ) and the router (choices that
differ), 2 for lm_head (a clear winner), 0 otherwise.

FP8: with block (bi, bj) and lift = 4 * ((bi + bj) mod 4), so that normal, small and subnormal codes
all occur:

    code   e4m3(s * 2^-lift), saturating at 448
    scale  f * 2^(lift + 2 gain - 8 - h)                      w: the words of NAME_scale_inv;
           f = 1 + (w >> 9) * 2^-23 as F32, f = 2^(w mod 2) as F8_E8M0
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

GAINS = {"q_proj.weight": 1, "q_b_proj.weight": 1, "mlp.gate.weight": 1, "lm_head.weight": 2,
         "embed_tokens.weight": 1}
UNQUANTIZED = ("mlp.gate.weight", "lm_head.weight", "eh_proj.weight")


@dataclass
class Spec:
    """tests/data/goldens/NAME.json."""

    name: str
    config: dict
    seed: int
    dtype: str  # of matrices that are not FP8, embeddings and norms: BF16, F16 or F32
    bias_dtype: str = "F32"  # of e_score_correction_bias
    bias_offset: float = 0  # below 0: biased scores that are chosen may be negative
    scale_dtype: str = "F32"  # F32 or F8_E8M0
    mtp_copies: bool = False  # the MTP layer carries its own vocabulary matrices
    block: list = field(default_factory=list)  # [rows, columns] or empty

    @staticmethod
    def load(path: Path) -> "Spec":
        raw = json.loads(path.read_text())
        quant = raw["config"].get("quantization_config")
        block = quant["weight_block_size"] if quant else []
        return Spec(name=path.stem, block=block, **raw)


def fnv1a(text: str) -> int:
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def words(seed: int, name: str, n: int) -> np.ndarray:
    """The first n words of a tensor, uint32."""
    blocks = np.arange((n + 3) // 4, dtype=np.uint64)
    low, stream = np.uint64(0xFFFFFFFF), fnv1a(name)
    c = [blocks & low, blocks >> np.uint64(32)]
    c += [np.full_like(blocks, stream & 0xFFFFFFFF), np.full_like(blocks, stream >> 32)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & low,
             (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & low]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack(c, axis=1).reshape(-1)[:n].astype(np.uint32)


def byte_sum(w: np.ndarray) -> np.ndarray:
    parts = [(w >> np.uint32(8 * i)) & np.uint32(255) for i in range(4)]
    return sum(p.astype(np.int64) for p in parts) - 510


def half_log(k: int) -> int:
    h = 0
    while 4**h < k:
        h += 1
    return h


def gain_of(name: str) -> int:
    return next((g for suffix, g in GAINS.items() if name.endswith(suffix)), 0)


TORCH_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass
class Stored:
    """A tensor as the file has it, and what it means in float32."""

    raw: np.ndarray  # uint8, the bytes
    value: torch.Tensor  # float32; for FP8 codes: the code's value, without scale


def store(value: np.ndarray, dtype: str) -> Stored:
    t = torch.from_numpy(value.astype(np.float32)).to(TORCH_TYPES[dtype]).contiguous()
    return Stored(t.view(torch.uint8).numpy().reshape(-1), t.float())


def plain(spec: Spec, name: str, shape: tuple) -> Stored:
    w = words(spec.seed, name, int(np.prod(shape)))
    m = byte_sum(w) * 2**14 + (w & np.uint32(0x3FFF)).astype(np.int64) - 2**13
    m = m.astype(np.float64)
    if name.endswith("e_score_correction_bias"):
        return store(m * 2.0**-25 + spec.bias_offset, spec.bias_dtype)
    if name.endswith("_proj.bias"):
        return store(m * 2.0**-23, spec.dtype)
    if len(shape) == 1:
        return store(1 + m * 2.0**-24, spec.dtype)
    m = m.reshape(shape)
    if name.endswith("embed_tokens.weight") and not spec.config["tie_word_embeddings"]:
        return store(m * 2.0**-21, spec.dtype)
    return store(m * 2.0 ** (gain_of(name) - 21 - half_log(shape[1])), spec.dtype)


def lifts(shape: tuple, block: list) -> np.ndarray:
    """Of every block, [block rows, block columns]."""
    rows, columns = (-(-n // b) for n, b in zip(shape, block))
    return 4 * ((np.arange(rows)[:, None] + np.arange(columns)) % 4)


def per_element(blocks, shape: tuple, block: list):
    """Repeats a value per block over the block's elements; edge blocks are short."""
    rows, columns = np.arange(shape[0]) // block[0], np.arange(shape[1]) // block[1]
    return blocks[rows][:, columns]


def fp8_codes(spec: Spec, name: str, shape: tuple) -> Stored:
    s = byte_sum(words(spec.seed, name, int(np.prod(shape)))).reshape(shape).astype(np.float64)
    x = s * 2.0 ** -per_element(lifts(shape, spec.block), shape, spec.block)
    code = torch.from_numpy(x.astype(np.float32)).clamp(-448, 448).to(torch.float8_e4m3fn)
    return Stored(code.view(torch.uint8).numpy().reshape(-1), code.float())


def fp8_scales(spec: Spec, name: str, shape: tuple) -> Stored:
    """Of the weight `name` with `shape`."""
    lift = lifts(shape, spec.block)
    w = words(spec.seed, name + "_scale_inv", lift.size).reshape(lift.shape)
    exponent = lift + 2 * gain_of(name) - 8 - half_log(shape[1])
    if spec.scale_dtype == "F32":
        return store((1 + (w >> np.uint32(9)).astype(np.float64) * 2.0**-23) * 2.0**exponent, "F32")
    exponent = exponent + (w % np.uint32(2)).astype(np.int64)
    raw = (exponent + 127).astype(np.uint8)
    return Stored(raw.reshape(-1), torch.from_numpy((2.0**exponent).astype(np.float32)))


# --- the tensors of a checkpoint, from models.md 3 to 7 -----------------------------------------


def architecture(c: dict) -> str:
    return c["architectures"][0].removesuffix("ForCausalLM")


def ffn_shapes(prefix: str, width: int, d: int) -> dict:
    return {f"{prefix}.gate_proj.weight": (width, d), f"{prefix}.up_proj.weight": (width, d),
            f"{prefix}.down_proj.weight": (d, width)}


def mla_shapes(prefix: str, c: dict) -> dict:
    d, heads, latent = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"]
    nope, rope, v = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    out = {}
    if c["q_lora_rank"] is None:
        out[f"{prefix}.q_proj.weight"] = (heads * (nope + rope), d)
    else:
        out[f"{prefix}.q_a_proj.weight"] = (c["q_lora_rank"], d)
        out[f"{prefix}.q_a_layernorm.weight"] = (c["q_lora_rank"],)
        out[f"{prefix}.q_b_proj.weight"] = (heads * (nope + rope), c["q_lora_rank"])
    out[f"{prefix}.kv_a_proj_with_mqa.weight"] = (latent + rope, d)
    out[f"{prefix}.kv_a_layernorm.weight"] = (latent,)
    out[f"{prefix}.kv_b_proj.weight"] = (heads * (nope + v), latent)
    out[f"{prefix}.o_proj.weight"] = (d, heads * v)
    return out


def gqa_shapes(prefix: str, c: dict) -> dict:
    d, heads = c["hidden_size"], c["num_attention_heads"]
    size = c.get("head_dim", d // heads)
    rows = {"q": heads * size, "k": c["num_key_value_heads"] * size,
            "v": c["num_key_value_heads"] * size}
    out = {f"{prefix}.{x}_proj.weight": (n, d) for x, n in rows.items()}
    if architecture(c) == "Qwen2":
        out |= {f"{prefix}.{x}_proj.bias": (n,) for x, n in rows.items()}
    return out | {f"{prefix}.o_proj.weight": (d, heads * size)}


def is_moe_layer(c: dict, layer: int) -> bool:
    return (c.get("n_routed_experts") is not None and layer >= c["first_k_dense_replace"]
            and layer % c["moe_layer_freq"] == 0)


def layer_shapes(c: dict, layer: int) -> dict:
    p, d = f"model.layers.{layer}", c["hidden_size"]
    out = {f"{p}.input_layernorm.weight": (d,), f"{p}.post_attention_layernorm.weight": (d,)}
    attention_shapes = mla_shapes if "kv_lora_rank" in c else gqa_shapes
    out |= attention_shapes(f"{p}.self_attn", c)
    if not is_moe_layer(c, layer):
        return out | ffn_shapes(f"{p}.mlp", c["intermediate_size"], d)
    width = c["moe_intermediate_size"]
    out[f"{p}.mlp.gate.weight"] = (c["n_routed_experts"], d)
    if architecture(c) == "DeepseekV3":
        out[f"{p}.mlp.gate.e_score_correction_bias"] = (c["n_routed_experts"],)
    for e in range(c["n_routed_experts"]):
        out |= ffn_shapes(f"{p}.mlp.experts.{e}", width, d)
    return out | ffn_shapes(f"{p}.mlp.shared_experts", c["n_shared_experts"] * width, d)


def shapes(spec: Spec) -> dict:
    """Every tensor's name and shape, scales apart."""
    c = spec.config
    vocab = (c["vocab_size"], c["hidden_size"])
    out = {"model.embed_tokens.weight": vocab, "model.norm.weight": (vocab[1],)}
    if not c["tie_word_embeddings"]:
        out["lm_head.weight"] = vocab
    n_main = c["num_hidden_layers"]
    for layer in range(n_main + c.get("num_nextn_predict_layers", 0)):
        out |= layer_shapes(c, layer)
        if layer < n_main:
            continue
        p = f"model.layers.{layer}"
        out |= {f"{p}.{n}.weight": (vocab[1],) for n in ("enorm", "hnorm", "shared_head.norm")}
        out[f"{p}.eh_proj.weight"] = (vocab[1], 2 * vocab[1])
        if spec.mtp_copies:
            out |= {f"{p}.embed_tokens.weight": vocab, f"{p}.shared_head.head.weight": vocab}
    return out


def source_name(name: str) -> str:
    """Whose words a tensor has: the MTP layer's vocabulary copies equal the main matrices."""
    if name.endswith(".shared_head.head.weight"):
        return "lm_head.weight"
    return "model.embed_tokens.weight" if name.endswith(".embed_tokens.weight") else name


def digest(name: str, raw: np.ndarray) -> int:
    odd = 2 * np.arange(raw.size, dtype=np.uint64) + np.uint64(1)
    total = int((raw.astype(np.uint64) * odd).sum(dtype=np.uint64))
    return fnv1a(name) * (2 * total + 1) % 2**64


def generate(spec: Spec) -> tuple[dict, int]:
    """{name: float32 tensor, dequantised}, and the digest of all bytes of the checkpoint."""
    out, total = {}, 0
    for name, shape in shapes(spec).items():
        if spec.block and len(shape) == 2 and not name.endswith(
                UNQUANTIZED + ("embed_tokens.weight", "shared_head.head.weight")):
            codes, scales = fp8_codes(spec, name, shape), fp8_scales(spec, name, shape)
            total += digest(name, codes.raw) + digest(name + "_scale_inv", scales.raw)
            out[name] = codes.value * per_element(scales.value, shape, spec.block)
        else:
            stored = plain(spec, source_name(name), shape)
            total += digest(name, stored.raw)
            out[name] = stored.value
    return out, total % 2**64
