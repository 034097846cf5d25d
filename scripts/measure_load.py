#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How fast a checkpoint in the page cache gets to the GPU.

    scripts/measure_load.py build/release/deepseek-run
    scripts/measure_load.py BINARY --card models/deepseek-v2-lite.json --quant bf16 --runs 5

Makes a checkpoint of random weights (31 GB unless told otherwise) where there is most room, reads
it once so that it is cached, and starts the program on it several times. A load is what the program
says of itself: from the start of its engine, CUDA's own start included, to the last weight on the
device. Python's standard library only.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def roomiest(wanted: int) -> str:
    """A directory with room for so many bytes: memory first, then disks."""
    for directory in ["/dev/shm", os.environ.get("TMPDIR", "/tmp"), str(ROOT / "build")]:
        if os.path.isdir(directory) and shutil.disk_usage(directory).free > wanted:
            return directory
    raise SystemExit(f"no room for {wanted / 1e9:.0f} GB in /dev/shm, $TMPDIR or build")


def make(args: argparse.Namespace, parent: str) -> Path:
    directory = Path(parent) / "checkpoint"
    begin = time.perf_counter()
    layers = ["--layers", str(args.layers)] if args.layers else []
    subprocess.run([args.binary, "make-random-checkpoint", "--card", str(args.card), "--quant", args.quant,
                    *layers, "-o", str(directory), "-q"], check=True)
    print(f"made {directory} in {time.perf_counter() - begin:.0f} s", flush=True)
    return directory


def size_after_reading(directory: Path) -> int:
    """Bytes of weights, which are in the page cache then."""
    total = 0
    for file in sorted(directory.glob("*.safetensors")):
        with open(file, "rb", buffering=0) as f:
            while piece := f.read(1 << 24):
                total += len(piece)
    return total


def load_seconds(args: argparse.Namespace, directory: Path) -> float:
    out = subprocess.run([args.binary, "bench", "-m", str(directory), "--device", args.device, "-p", "0",
                          "-n", "1", "-d", "0", "-B", "1", "-r", "1", "--warmup", "0", "--format", "json"],
                         check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out)["load_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--card", type=Path, default=ROOT / "models" / "deepseek-v2-lite.json")
    parser.add_argument("--quant", default="bf16")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--bytes", type=float, default=33e9, help="room that the checkpoint needs")
    parser.add_argument("--sweep", help="load_bench: measures the first file by the upload's shape too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dsr-load-", dir=roomiest(int(args.bytes))) as parent:
        directory = make(args, parent)
        size = size_after_reading(directory)
        seconds = [load_seconds(args, directory) for _ in range(args.runs)]
        rates = sorted(size / s * 1e-9 for s in seconds)
        print(f"load of {size / 1e9:.1f} GB ({args.card.stem}, {args.quant}): {statistics.median(rates):.1f} "
              f"GB/s, {rates[0]:.1f} to {rates[-1]:.1f}; seconds " + " ".join(f"{s:.2f}" for s in seconds))
        if args.sweep:
            subprocess.run([args.sweep, str(sorted(directory.glob("*.safetensors"))[0])], check=True)


if __name__ == "__main__":
    main()
