#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Rewrites a checkpoint's pytorch_model*.bin files as safetensors, shard by shard.

    scripts/bin_to_safetensors.py MODEL_DIR OUT_DIR

Some older checkpoints were published as .bin files, which are pickles: deepseek-run never reads
them. This does, once, with torch's weights_only loader, which runs no code of the file. Names,
types and values stay as they are; one .bin file becomes one safetensors file, so no more than one
is in memory at a time. Everything else in MODEL_DIR but code is copied. OUT_DIR must not exist,
and appears when all of it is written. Needs torch; the files are written by this script itself.
"""

import argparse
import json
import os
import pickle
import re
import shutil
import struct
import sys
from pathlib import Path

INDEX = "pytorch_model.bin.index.json"
NOT_COPIED = (".bin", ".bin.index.json", ".safetensors", ".safetensors.index.json", ".py", ".pt",
              ".pth", ".msgpack", ".h5", ".gguf")


class Failure(Exception):
    pass


def stored_types(torch) -> dict:
    """As safetensors spells the types of torch."""
    names = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
             "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8",
             "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
    return {getattr(torch, t): name for t, name in names.items() if hasattr(torch, t)}


def shards(source: Path) -> list[str]:
    """The .bin files of a checkpoint, each a bare name that exists."""
    index = source / INDEX
    if index.is_file():
        listed = json.loads(index.read_text())["weight_map"].values()
        names = sorted(set(listed))
    else:
        names = sorted(p.name for p in source.glob("pytorch_model*.bin"))
    if not names:
        raise Failure(f"{source}: has no {INDEX} and no pytorch_model*.bin")
    wrong = [n for n in names if not re.fullmatch(r"[\w.-]+\.bin", n)]
    if wrong:
        raise Failure(f"{index}: {wrong[0]!r} is not the bare name of a .bin file")
    missing = [n for n in names if not (source / n).is_file()]
    if missing:
        raise Failure(f"{source}: {len(missing)} of {len(names)} files are missing: "
                      + ", ".join(missing[:10]))
    return names


def new_name(name: str) -> str:
    return re.sub(r"^pytorch_model", "model", name).removesuffix(".bin") + ".safetensors"


def tensor_bytes(torch, tensor) -> memoryview:
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.numel() == 0:
        return memoryview(b"")
    return memoryview(flat.view(torch.uint8).numpy())


def load(torch, source: Path):
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as e:
        # torch's own advice is to load it all the same, with whatever code it holds: leave it out.
        reason = str(e).strip().splitlines() or ["empty"]
        raise Failure(f"{source}: holds more than tensors, or is damaged ({type(e).__name__}: "
                      f"{reason[0].split('. ')[0]})") from None


def convert(torch, source: Path, target: Path) -> dict[str, int]:
    """Writes one safetensors file; gives the bytes of each tensor."""
    types = stored_types(torch)
    tensors = load(torch, source)
    if not isinstance(tensors, dict):
        raise Failure(f"{source}: holds a {type(tensors).__name__}, expected tensors by name")
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise Failure(f"{source}: {name!r} is a {type(tensor).__name__}, expected a tensor")
        if tensor.dtype not in types or tensor.layout != torch.strided:
            raise Failure(f"{source}: {name!r} is a {tensor.layout} {tensor.dtype} tensor, "
                          "which safetensors cannot hold")
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": types[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(target, "xb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            out.write(tensor_bytes(torch, tensor))
        out.flush()
        os.fsync(out.fileno())
    return {n: t.numel() * t.element_size() for n, t in tensors.items()}


def copy_others(source: Path, target: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(NOT_COPIED):
            shutil.copyfile(path, target / path.name)


def run(torch, source: Path, target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise Failure(f"{target}: exists already, expected the name of a new directory")
    names = shards(source)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        weight_map, total = {}, 0
        for i, name in enumerate(names):
            print(f"{i + 1}/{len(names)} {name}", file=sys.stderr)
            for tensor, size in convert(torch, source / name, partial / new_name(name)).items():
                if tensor in weight_map:
                    raise Failure(f"{source / name}: {tensor!r} is in {weight_map[tensor]} too")
                weight_map[tensor] = new_name(name)
                total += size
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
        copy_others(source, partial)
        partial.rename(target)
    finally:
        if partial.exists():
            shutil.rmtree(partial)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("out_dir", type=Path)
    args = parser.parse_args()
    try:
        import torch  # here: --help works without it
    except ImportError:
        print("error: torch is not installed\n  try: pip install torch", file=sys.stderr)
        return 1
    try:
        run(torch, args.model_dir, args.out_dir)
    except Failure as e:
        print(f"error: {e}", file=sys.stderr)
        return 3
    except OSError as e:
        print(f"error: {e}", file=sys.stderr)
        return 6
    return 0


if __name__ == "__main__":
    sys.exit(main())
