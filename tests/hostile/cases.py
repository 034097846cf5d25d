# SPDX-License-Identifier: MIT
"""The bad model directories of hostile.md, one function each, with what must be said about them.

A case is (row, exit code, pattern that stderr must match, function that damages a ModelDir).
"""

import json
import math
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from model_dir import INDEX, WEIGHTS, ModelDir


@dataclass(frozen=True)
class Case:
    name: str
    code: int
    pattern: str  # regular expression; not looked at for exit code 0
    make: Callable[[ModelDir], None]


CASES: dict[str, Case] = {}


def add(name: str, pattern: str, make: Callable[[ModelDir], object], code: int = 3) -> None:
    assert name not in CASES, name
    CASES[name] = Case(name, code, pattern, make)


# --- controls: not damaged, so that the other cases fail for their own reason ---------------------

add("control_unchanged", "", lambda m: None, code=0)
add("control_sharded", "", lambda m: m.shard(), code=0)
add("control_shards_without_index", "", lambda m: m.shard(with_index=False), code=0)
add("control_padded_header", "",
    lambda m: m.write_raw(b"\n  " + m.header_bytes + b" " * 4096), code=0)
add("control_unaligned_data", "", lambda m: m.write_raw(m.header_bytes.rstrip() + b" " *
                                                       (1 + len(m.header_bytes.rstrip()) % 2)),
    code=0)

# --- F1: cut files --------------------------------------------------------------------------------


def cut(size: int) -> Callable[[ModelDir], None]:
    def make(m: ModelDir) -> None:
        raw = (m.source / WEIGHTS).read_bytes()
        m.write(WEIGHTS, raw[:size])
    return make


for n in (0, 1, 7):
    add(f"F1_cut_at_{n}", rf"model\.safetensors is {n} bytes, expected at least 8", cut(n))
for n in (8, 9, 100):
    add(f"F1_cut_at_{n}", r"model\.safetensors is [\d,]+ bytes short: incomplete download", cut(n))
add("F1_cut_last_byte", r"model\.safetensors is 1 bytes short: incomplete download", cut(-1))

# --- F2: length of the header ---------------------------------------------------------------------

for label, length in (("0", 0), ("1", 1), ("above_cap", 100_000_001), ("2_63", 1 << 63),
                      ("2_64_less_1", (1 << 64) - 1)):
    add(f"F2_length_{label}", rf"the header's length is {length} bytes, expected 2 to 100,000,000",
        lambda m, length=length: m.write_raw(m.header_bytes, length=length))
add("F2_length_beyond_file", r"bytes short: incomplete download",
    lambda m: m.write_raw(m.header_bytes, length=99_999_999))

# --- F3: header is not what it should be ----------------------------------------------------------

NOT_JSON = r"model\.safetensors: the header: not JSON: "
NOT_OBJECT = r"model\.safetensors: the header is not a JSON object"
for label, header, pattern in (
        ("html", b"<html>not found</html>", NOT_OBJECT),
        ("array", b"[]", NOT_OBJECT),
        ("bad_utf8", b'{"a\xff": 1}', NOT_JSON),
        ("nul", b'{"a": 1}\0{"b": 2}', NOT_JSON + "a NUL byte"),
        ("lone_surrogate", b'{"a\\ud800": 1}', NOT_JSON),
        ("nan", b'{"a": NaN}', NOT_JSON),
        ("trailing_junk", b'{"a": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}} x', NOT_JSON),
        ("nested_arrays", b'{"a": ' + b"[" * 10_000_000, "nested deeper than 8 levels"),
        ("escape_in_name", b'{"\\u001b]0;owned\\u0007": 1}', r'tensor "\\x1b\]0;owned\\x07"'),
        ("duplicate_key", b'{"a": 1, "a": 1}', 'the key "a" appears twice'),
        ("long_name", b'{"' + b"n" * 5000 + b'": 1}', "a key of 5000 bytes"),
        ("many_values", b'{"a": [' + b"0," * (1 << 22) + b"0]}", "more than 4194304 values")):
    add(f"F3_{label}", pattern, lambda m, header=header: m.write_raw(header, b""))

# --- F4, F5, F6: offsets, shapes, types -----------------------------------------------------------


def with_entries(*entries: tuple[str, str, list, list]) -> Callable[[ModelDir], None]:
    """16 bytes of data under these (name, dtype, shape, data_offsets)."""
    header = {n: {"dtype": t, "shape": s, "data_offsets": o} for n, t, s, o in entries}
    return lambda m: m.write_raw(json.dumps(header).encode(), b"x" * 16)


def one(dtype: str, shape: list, offsets: list) -> Callable[[ModelDir], None]:
    return with_entries(("a", dtype, shape, offsets))


add("F4_overlap", 'tensors "a" and "b" overlap',
    with_entries(("a", "U8", [10], [0, 10]), ("b", "U8", [8], [8, 16])))
add("F4_hole", 'between tensors "a" and "b" are 4 bytes',
    with_entries(("a", "U8", [4], [0, 4]), ("b", "U8", [8], [8, 16])))
add("F4_begin_above_end", r"data_offsets \[16, 0\], expected 0 <= begin <= end",
    one("U8", [16], [16, 0]))
add("F4_out_of_range", "is 1 bytes short", one("U8", [17], [0, 17]))
add("F4_hole_at_begin", "begins at byte 8, expected 0", one("U8", [8], [8, 16]))
add("F4_trailing_bytes", r"4 bytes follow the last tensor .*, expected none",
    lambda m: m.write_raw(m.header_bytes, m.data + b"PK\3\4"))
add("F5_shape_product_overflows", r"more than 2\^63 bits", one("U8", [1 << 32, 1 << 32], [0, 16]))
add("F5_bytes_wrap", r"more than 2\^63 bits", one("F32", [(1 << 62) + 4], [0, 16]))
add("F5_size_differs", "is F32 .* bytes, but its data_offsets", one("F32", [5], [0, 16]))
add("F5_negative", "expected integers from 0", one("U8", [-4, -4], [0, 16]))
add("F5_rank_100", "has 100 dimensions", one("U8", [1] * 99 + [16], [0, 16]))
add("F5_empty_weight", r"expected .*\[", lambda m: empty_tensor(m))
add("F6_unknown", 'dtype "Q4_K", expected one of', one("Q4_K", [16], [0, 16]))
add("F6_half_bytes", "12 bits, expected whole bytes", one("F4", [3], [0, 16]))


def empty_tensor(m: ModelDir) -> None:
    tensors = m.all_tensors()
    name = m.name_ending("norm.weight")
    tensors[name] = (tensors[name][0], [0], b"")
    m.write_tensors(tensors)


def retyped(suffix: str, dtype: str, bytes_per_element: int) -> Callable[[ModelDir], None]:
    """One tensor with its shape kept and another type."""
    def make(m: ModelDir) -> None:
        tensors = m.all_tensors()
        name = m.name_ending(suffix)
        shape = tensors[name][1]
        tensors[name] = (dtype, shape, bytes(math.prod(shape) * bytes_per_element))
        m.write_tensors(tensors)
    return make


for dtype, size in (("I8", 1), ("F64", 8), ("C64", 8), ("F8_E8M0", 1), ("F8_E5M2", 1)):
    add(f"F6_{dtype}_norm", rf"norm\.weight is {dtype} .*expected ",
        retyped("norm.weight", dtype, size))

# --- F7: what weight_map may say, and where it leads ----------------------------------------------

BARE = "expected the bare name of a .safetensors file"
for label, value in (("traversal", "../../etc/passwd.safetensors"), ("absolute", "/dev/zero"),
                     ("folder", "a/b.safetensors"), ("backslash", "..\\b.safetensors"),
                     ("nul", "a\0b.safetensors"), ("tilde", "~root.safetensors"), ("empty", ""),
                     ("long", "n" * 5000 + ".safetensors"), ("extension", "model.bin")):
    add(f"F7_{label}", BARE, lambda m, value=value: m.point_index_at(value))


def listen(path: str) -> None:
    # A path longer than sockaddr_un holds is reached through its directory.
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(os.path.dirname(path))
        socket.socket(socket.AF_UNIX).bind(os.path.basename(path))
    finally:
        os.fchdir(here)
        os.close(here)


for label, make in (("FIFO", os.mkfifo), ("directory", os.mkdir), ("socket", listen),
                    ("device", lambda path: os.symlink("/dev/zero", path))):
    add(f"F7_{label}", f"expected a regular file, found a {label}",
        lambda m, make=make: m.special("x.safetensors", make))
add("F7_other_file", r"not a safetensors file",
    lambda m: m.special("x.safetensors", lambda path: os.symlink("/etc/passwd", path)))

# --- F9: what is missing --------------------------------------------------------------------------


def f9_wrong_shard(m: ModelDir) -> None:
    files = m.shard()
    index = json.loads((m.out / INDEX).read_text())
    name = next(iter(index["weight_map"]))
    m.write_index({**index["weight_map"], name: files[1]})


def f9_twice(m: ModelDir) -> None:
    files = m.shard()
    tensors = m.all_tensors()
    names = list(tensors)
    half = len(names) // 2
    m.write_tensors({n: tensors[n] for n in names[half:] + names[:1]}, files[1])


def f9_incomplete(m: ModelDir) -> None:
    m.remove(m.shard()[1])
    m.write("5e7a11.incomplete", b"")


add("F9_missing_shard",
    r"1 of 2 files are missing: model-00002-of-00002\.safetensors\n  try: hf download ",
    lambda m: m.remove(m.shard()[1]))
add("F9_all_missing", r"1 of 1 file is missing: gone\.safetensors",
    lambda m: m.point_index_at("gone.safetensors"))
add("F9_missing_without_index", r"1 of 2 files are missing: model-00001-of-00002\.safetensors",
    lambda m: m.remove(m.shard(with_index=False)[0]))
add("F9_interrupted", r"a download was interrupted: 5e7a11\.incomplete", f9_incomplete)
add("F9_wrong_shard", r"is not in .*, as the index says, but in ", f9_wrong_shard)
add("F9_twice", r"is in model-0000\d-of-00002\.safetensors and in ", f9_twice)
add("F9_no_weights", r"has a config\.json, but no weights", lambda m: m.remove(WEIGHTS))
add("F9_no_config", r"has no config\.json", lambda m: m.remove("config.json"))


def f9_pickle(m: ModelDir) -> None:
    m.remove(WEIGHTS)
    m.write("pytorch_model.bin", b"\x80\x02cos\nsystem\n(S'touch owned'\ntR.")


add("F9_pickle_only", r"scripts/bin_to_safetensors\.py", f9_pickle)

# --- F10: config.json lies ------------------------------------------------------------------------


def config(name: str, pattern: str, code: int = 3, **changes) -> None:
    add(f"F10_{name}", pattern, lambda m: m.write_config(**changes), code)


def nested(outer: str, **changes) -> Callable[[ModelDir], None]:
    return lambda m: m.write_config(**{outer: {**m.config[outer], **changes}})


def config_text(name: str, pattern: str, key: str, value_text: str) -> None:
    """A value that Python would not write as such."""
    def make(m: ModelDir) -> None:
        m.config[key] = "@@"
        m.write_config(text=json.dumps(m.config).replace('"@@"', value_text))
    add(f"F10_{name}", pattern, make)


config("layers_2_31", "num_hidden_layers is 2147483648, expected", num_hidden_layers=1 << 31)
config("layers_0", "num_hidden_layers is 0, expected", num_hidden_layers=0)
config("one_layer_more", "missing tensor|does not belong", num_hidden_layers=6)
config("heads_0", "num_attention_heads is 0, expected", num_attention_heads=0)
config("heads_missing", "num_attention_heads is missing", num_attention_heads=None)
config("hidden_size_differs", r"expected .*\[", hidden_size=257)
config("kv_lora_rank_negative", "kv_lora_rank is -128, expected", kv_lora_rank=-128)
config("kv_lora_rank_differs", r"expected .*\[", kv_lora_rank=100_000)
config("group_does_not_divide", "n_group 5 does not divide n_routed_experts", n_group=5)
config("topk_above_experts", "num_experts_per_tok", num_experts_per_tok=13)
config("topk_group_above_groups", "topk_group 5 is above n_group", topk_group=5)
config("experts_2_40", "n_routed_experts is 1099511627776, expected", n_routed_experts=1 << 40)
config("odd_rope", "qk_rope_head_dim 31 is odd", qk_rope_head_dim=31)
config("rope_theta_text", 'rope_theta is "NaN", expected a number', rope_theta="NaN")
config("rope_theta_0", "rope_theta is 0, expected", rope_theta=0)
config("rope_theta_negative", "rope_theta is -1, expected", rope_theta=-1)
config_text("rope_theta_nan", r"config\.json: not JSON", "rope_theta", "NaN")
config_text("rope_theta_huge", r"config\.json: not JSON", "rope_theta", "1e999")
config("rope_scaling_list", "rope_scaling: expected a JSON object", rope_scaling=[])
add("F10_rope_factor_0", "factor is 0, expected", nested("rope_scaling", factor=0))
add("F10_rope_type", r'"dynamic" is not supported', nested("rope_scaling", type="dynamic"))
add("F10_quant_method", r'quant_method "gptq" is not supported',
    nested("quantization_config", quant_method="gptq"))
add("F10_block_size_0", "weight_block_size is", nested("quantization_config",
                                                       weight_block_size=[0, 128]))
add("F10_block_size_differs", "weight_scale_inv is ", nested("quantization_config",
                                                             weight_block_size=[64, 64]))
config("vocab_differs", r"expected .*\[", vocab_size=2305)
config("vocab_2_31", "vocab_size is 2147483648, expected", vocab_size=1 << 31)
config("true_for_an_int", "num_hidden_layers is true, expected an integer", num_hidden_layers=True)
config("text_for_an_int", 'hidden_size is "256", expected an integer', hidden_size="256")
config_text("exponent_for_an_int", "hidden_size is 1000.0, expected an integer", "hidden_size",
            "1e3")
config("eos_above_vocab", "eos_token_id", eos_token_id=1 << 20)
config("eos_negative", "eos_token_id", eos_token_id=-5)
config("unknown_architecture", r'"GPT5ForCausalLM" is not supported',
       architectures=["GPT5ForCausalLM"])
config("escape_in_architecture", r'"\\x1b\[2J" is not supported', architectures=["\x1b[2J"])
config("no_architecture", "architectures is missing", architectures=None)
config("softmax_scoring", "scoring_func is ", scoring_func="softmax")
config("activation", "hidden_act is ", hidden_act="gelu")
config("context_0", "max_position_embeddings is 0", max_position_embeddings=0)
add("F10_not_json", r"config\.json: not JSON", lambda m: m.write_config(text="{'a': 1}"))
add("F10_array", r"config\.json: expected a JSON object", lambda m: m.write_config(text="[1]"))
add("F10_empty", r"config\.json: not JSON", lambda m: m.write_config(text=""))
add("F10_too_large", "bytes, at most", lambda m: m.write_config(text=" " * 17_000_000))
add("F10_nested", "nested deeper than 64", lambda m: m.write_config(text='{"a":' + "[" * 100_000))

# --- F11: the set of tensors ----------------------------------------------------------------------


def changed(change: Callable[[ModelDir, dict], None]) -> Callable[[ModelDir], None]:
    def make(m: ModelDir) -> None:
        tensors = m.all_tensors()
        change(m, tensors)
        m.write_tensors(tensors)
    return make


def rename(m: ModelDir, tensors: dict) -> None:
    name = m.name_ending("layers.1.self_attn.o_proj.weight")
    tensors[name.replace("o_proj", "out_proj")] = tensors.pop(name)


def scale_shape(m: ModelDir, tensors: dict) -> None:
    name = m.name_ending("kv_a_proj_with_mqa.weight_scale_inv")
    _, (rows, columns), _ = tensors[name]
    tensors[name] = ("F32", [rows - 1, columns], struct.pack("<f", 1) * ((rows - 1) * columns))


def scale_bf16(m: ModelDir, tensors: dict) -> None:
    name = m.name_ending("weight_scale_inv")
    _, shape, _ = tensors[name]
    tensors[name] = ("BF16", shape, b"\x80\x3f" * math.prod(shape))


def bf16_matrix(m: ModelDir, tensors: dict, drop_scale: bool) -> None:
    name = m.name_ending("layers.1.self_attn.o_proj.weight")
    _, shape, _ = tensors[name]
    tensors[name] = ("BF16", shape, b"\x00\x3c" * math.prod(shape))
    if drop_scale:
        tensors.pop(name + "_scale_inv")


add("F11_missing", r"missing tensor .*model\.norm\.weight",
    changed(lambda m, t: t.pop("model.norm.weight")))
add("F11_missing_layer", r"missing tensors .* and \d+ more",
    changed(lambda m, t: [t.pop(n) for n in m.tensor_names() if ".layers.1." in n]))
add("F11_extra", r'tensor "model\.extra\.weight" .*does not belong',
    changed(lambda m, t: t.update({"model.extra.weight": ("U8", [1], b"x")})))
add("F11_escape_in_name", r'tensor "\\x1b\[31m" .*does not belong',
    changed(lambda m, t: t.update({"\x1b[31m": ("U8", [1], b"x")})))
add("F11_renamed", r"missing tensor .*layers\.1\.self_attn\.o_proj\.weight", changed(rename))
add("F11_scale_missing", r"missing tensor .*weight_scale_inv",
    changed(lambda m, t: t.pop(m.name_ending("q_a_proj.weight_scale_inv"))))
add("F11_scale_shape", r"kv_a_proj_with_mqa\.weight_scale_inv is F32 \[.*expected .*\[",
    changed(scale_shape))
add("F11_scale_bf16", r"weight_scale_inv is BF16 .*expected F32", changed(scale_bf16))
for label, scale in (("with", False), ("without", True)):
    add(f"F11_bf16_where_fp8_{label}_scale", r"o_proj\.weight is BF16 .*expected F8_E4M3 ",
        changed(lambda m, t, scale=scale: bf16_matrix(m, t, drop_scale=scale)))
add("F11_scale_without_quantization", "quantization_config",
    lambda m: m.write_config(quantization_config=None))

# --- F12: bit rot ---------------------------------------------------------------------------------

for label, value in (("nan", math.nan), ("inf", math.inf), ("0", 0.0), ("negative", -1.0),
                     ("denormal", 1e-40)):
    add(f"F12_scale_{label}", r"weight_scale_inv\[0, 0\] is .*expected a normal positive number",
        lambda m, value=value: m.patch(m.name_ending("weight_scale_inv"), 0,
                                       struct.pack("<f", value)))
add("F12_nan_weight", "not finite|non-finite|NaN",
    lambda m: m.patch("lm_head.weight", 0, b"\xff\x7f" * 1000), code=8)

for label, codes in (("7f", b"\x7f"), ("ff", b"\xff")):
    add(f"F12_nan_fp8_{label}", "not finite|non-finite|NaN",
        lambda m, codes=codes: m.patch(m.name_ending("layers.1.self_attn.kv_b_proj.weight"), 0,
                                       codes * 1000), code=8)
for label, value in (("nan", math.nan), ("inf", math.inf)):
    add(f"F12_bias_{label}", r"e_score_correction_bias\[0\] is .*expected a finite number",
        lambda m, value=value: m.patch(m.name_ending("gate.e_score_correction_bias"), 0,
                                       struct.pack("<f", value)))

# --- F16: a template that must not run ------------------------------------------------------------

EVIL = "{% for i in range(10**9) %}{{ i }}{% endfor %}"


def evil_template(m: ModelDir) -> None:
    m.edit_json("tokenizer_config.json", chat_template=EVIL)


add("F16_evil_template", "--chat-format", evil_template)
