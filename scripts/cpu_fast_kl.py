#!/usr/bin/env python3
"""How far `--cpu-math fast` is from exact: mean and largest KL divergence over the positions of a text.

  scripts/cpu_fast_kl.py PROGRAM TEXT [flags of the program, for both]
"""
import array
import math
import os
import subprocess
import sys
import tempfile


def logits(program, text, flags):
    """Rows of float32 from the .npy file that `logits` writes."""
    with tempfile.TemporaryDirectory() as where:
        path = os.path.join(where, "logits.npy")
        subprocess.run([program, "logits", "-f", text, "-o", path, "-q", *flags], check=True)
        with open(path, "rb") as f:
            data = f.read()
    header_bytes = int.from_bytes(data[8:10], "little")
    header = data[10:10 + header_bytes].decode()
    n, width = (int(v) for v in header.split("'shape': (")[1].split(")")[0].split(",")[:2])
    values = array.array("f", data[10 + header_bytes:])
    assert len(values) == n * width, header
    return [values[i * width:(i + 1) * width] for i in range(n)]


def log_softmax(row):
    top = max(row)
    total = math.log(math.fsum(math.exp(v - top) for v in row)) + top
    return [v - total for v in row]


def main():
    program, text, *flags = sys.argv[1:]
    exact = logits(program, text, ["--cpu-math", "exact", *flags])
    fast = logits(program, text, ["--cpu-math", "fast", *flags])
    divergences, same_best = [], 0
    for p, q in zip(map(log_softmax, exact), map(log_softmax, fast)):
        divergences.append(math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q)))
        same_best += p.index(max(p)) == q.index(max(q))
    n = len(divergences)
    print(f"{n} positions: KL(exact || fast) mean {math.fsum(divergences) / n:.3g}, "
          f"largest {max(divergences):.3g}; the same most probable token at {same_best}")


if __name__ == "__main__":
    main()
