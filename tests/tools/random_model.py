# SPDX-License-Identifier: MIT
"""A small DeepSeek-V3 model directory with random weights and a tokenizer of single bytes.

What it says means nothing, but with --temp 0 and --logit-bias a test can make it say anything.
Python's standard library only.
"""

import json
import math
import os
import random
import struct
from pathlib import Path

SPECIALS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
MARKERS = ["<think>", "</think>", "<｜User｜>", "<｜Assistant｜>"]
BOS, EOS, PAD = 0, 1, 2
FIRST_BYTE = 3  # the id of byte b is FIRST_BYTE + b
THINK, END_THINK, USER, ASSISTANT = (FIRST_BYTE + 256 + i for i in range(4))
VOCAB_SIZE = 272  # more than there are entries

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": VOCAB_SIZE, "max_position_embeddings": 200_000, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": BOS, "eos_token_id": EOS,
    "q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
    "norm_topk_prob": True, "routed_scaling_factor": 1.0, "scoring_func": "sigmoid",
    "topk_method": "noaux_tc", "hidden_act": "silu", "torch_dtype": "bfloat16",
}

CHAT_TEMPLATE = "{{bos_token}}{% for m in messages %}<｜User｜>{{m.content}}<｜Assistant｜>{% endfor %}"


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]


def tokenizer() -> dict:
    def added(token_id: int, content: str, special: bool) -> dict:
        return {"id": token_id, "content": content, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": special}

    vocab = {c: FIRST_BYTE + b for b, c in enumerate(byte_alphabet())}
    tokens = [added(i, t, True) for i, t in enumerate(SPECIALS)]
    tokens += [added(THINK + i, t, False) for i, t in enumerate(MARKERS)]
    split = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}"}, "behavior": "Isolated",
             "invert": False}
    words = {**split, "pattern": {"Regex": (
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?"
        "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")}}
    cjk = {**split, "pattern": {"Regex": "[一-龥\u3040-ゟ゠-ヿ]+"}}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": False}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens,
            "normalizer": {"type": "Sequence", "normalizers": []},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, cjk, words, level]},
            "post_processor": level, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []}}


def shapes(config: dict | None = None) -> dict[str, list[int]]:
    c = config or CONFIG
    d, heads = c["hidden_size"], c["num_attention_heads"]
    rank, rope = c["kv_lora_rank"], c["qk_rope_head_dim"]
    out = {"model.embed_tokens.weight": [VOCAB_SIZE, d], "model.norm.weight": [d],
           "lm_head.weight": [VOCAB_SIZE, d]}

    def ffn(prefix: str, width: int) -> None:
        out.update({f"{prefix}.gate_proj.weight": [width, d], f"{prefix}.up_proj.weight": [width, d],
                    f"{prefix}.down_proj.weight": [d, width]})

    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}"
        out.update({
            f"{p}.input_layernorm.weight": [d], f"{p}.post_attention_layernorm.weight": [d],
            f"{p}.self_attn.q_proj.weight": [heads * (c["qk_nope_head_dim"] + rope), d],
            f"{p}.self_attn.kv_a_proj_with_mqa.weight": [rank + rope, d],
            f"{p}.self_attn.kv_a_layernorm.weight": [rank],
            f"{p}.self_attn.kv_b_proj.weight":
                [heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), rank],
            f"{p}.self_attn.o_proj.weight": [d, heads * c["v_head_dim"]]})
        if layer < c["first_k_dense_replace"]:
            ffn(f"{p}.mlp", c["intermediate_size"])
            continue
        out[f"{p}.mlp.gate.weight"] = [c["n_routed_experts"], d]
        out[f"{p}.mlp.gate.e_score_correction_bias"] = [c["n_routed_experts"]]
        for e in range(c["n_routed_experts"]):
            ffn(f"{p}.mlp.experts.{e}", c["moe_intermediate_size"])
        ffn(f"{p}.mlp.shared_experts", c["moe_intermediate_size"])
    return out


def bf16(value: float) -> bytes:
    return struct.pack("<f", value)[2:]  # truncated: these weights are random anyway


def write_safetensors(path: Path, tensors: dict[str, tuple[list[int], bytes]]) -> None:
    """bf16 tensors: {name: (shape, content)}."""
    header, size = {}, 0
    for name, (shape, content) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [size, size + len(content)]}
        size += len(content)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text
                     + b"".join(content for _, content in tensors.values()))


def random_weights(config: dict | None = None, poisoned: str = "") -> dict[str, tuple[list[int], bytes]]:
    """`poisoned` names a tensor whose values are all NaN."""
    rng = random.Random(1)
    out = {}
    for name, shape in shapes(config).items():
        count = math.prod(shape)
        if name == poisoned:
            content = bf16(math.nan) * count
        elif len(shape) == 1:
            content = bf16(1.0) * count
        else:
            content = b"".join(bf16(rng.gauss(0, 0.3)) for _ in range(count))
        out[name] = (shape, content)
    return out


def write_model(directory: Path, chat: bool = True, poisoned: str = "", **config) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    changed = {k: v for k, v in {**CONFIG, **config}.items() if v is not None}
    (directory / "config.json").write_text(json.dumps(changed))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer()))
    settings = {"add_bos_token": True, "bos_token": SPECIALS[BOS], "eos_token": SPECIALS[EOS]}
    if chat:
        settings["chat_template"] = CHAT_TEMPLATE
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    write_safetensors(directory / "model.safetensors", random_weights(poisoned=poisoned))
    return directory


def write_hollow_model(directory: Path, size: int) -> Path:
    """Weights of at least `size` bytes, all zero, in a file that takes no room on a disk."""
    config = {**CONFIG, "hidden_size": 512, "n_routed_experts": 64}
    config["moe_intermediate_size"] = -(-size // (2 * 3 * 512 * 64))
    write_model(directory, **config)
    header, end = {}, 0
    for name, shape in shapes(config).items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path = directory / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end)
    return directory


def plant(directory: Path, name: str, row: int, column: int, value: float) -> None:
    """One number of a matrix in a model that was written is `value`."""
    path = directory / "model.safetensors"
    raw = bytearray(path.read_bytes())
    length = struct.unpack("<Q", raw[:8])[0]
    tensor = json.loads(raw[8:8 + length])[name]
    at = 8 + length + tensor["data_offsets"][0] + 2 * (row * tensor["shape"][1] + column)
    raw[at:at + 2] = bf16(value)
    path.write_bytes(raw)


def write_shards(directory: Path, shards: int) -> Path:
    """A model of so many layers that each of the files holds at least one tensor."""
    layers = 2
    while len(shapes({**CONFIG, "num_hidden_layers": layers})) < shards:
        layers += 1
    config = {**CONFIG, "num_hidden_layers": layers}
    write_model(directory, num_hidden_layers=layers)
    (directory / "model.safetensors").unlink()
    tensors = list(random_weights(config).items())
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = dict(tensors[i::shards])
        write_safetensors(directory / file, part)
        weight_map.update(dict.fromkeys(part, file))
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory
