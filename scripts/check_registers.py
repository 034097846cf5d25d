#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Looks whether kernels that hand registers from warp to warp have them, in compiled sm_90 kernels.

    scripts/check_registers.py [--cuobjdump PATH] OBJECT...    objects or archives with SASS

In kernels/moe/stream_one.cuh one warpgroup of three keeps fewer registers (setmaxnreg.dec) and two
take more (setmaxnreg.inc), which wait until there are as many. A launch has what ptxas gave each
thread, and launch bounds say only how many these are at most: with fewer the kernel would hang.
"""
import argparse
import re
import subprocess
import sys

import check_arrivals

HANDOVER = re.compile(r"USETMAXREG\.(DEALLOC|TRY_ALLOC)\S*.* 0x([0-9a-f]+) ;")
TAKERS = 2  # warpgroups, beside one that gives


def hangs(registers, given, taken):
    """Whether three warpgroups with so many registers a thread have too few for that."""
    return given + TAKERS * taken > (TAKERS + 1) * registers


def usages(listing):
    """{kernel: registers of a thread}, of cuobjdump -res-usage."""
    return {name: int(n) for name, n in re.findall(r"Function (\S+):\s+REG:(\d+)", listing)}


def handovers(listing):
    """{kernel: (registers kept, registers taken)}, of cuobjdump --dump-sass."""
    out = {}
    for kernel, found in check_arrivals.instructions(listing):
        changes = [HANDOVER.search(text) for _, text, _ in found]
        n = {change.group(1): int(change.group(2), 16) for change in changes if change}
        if n:
            out[kernel] = (n.get("DEALLOC", 0), n.get("TRY_ALLOC", 0))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuobjdump", default="cuobjdump", metavar="PATH")
    parser.add_argument("objects", nargs="+", metavar="OBJECT")
    args = parser.parse_args()
    n_kernels = n_wrong = 0
    for path in args.objects:
        def show(what):
            return subprocess.run([args.cuobjdump, what, path], check=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True).stdout
        found = handovers(show("--dump-sass"))
        registers = usages(show("-res-usage")) if found else {}
        for kernel, (kept, taken) in found.items():
            n_kernels += 1
            if not kept or not taken or hangs(registers[kernel], kept, taken):
                n_wrong += 1
                print(f"{path}: {kernel}: {registers[kernel]} a thread, kept {kept}, taken {taken}")
    print(f"check_registers: {n_kernels} kernels hand registers on, {n_wrong} have too few")
    return 0 if n_kernels and not n_wrong else 1  # with none it does not know this SASS


if __name__ == "__main__":
    sys.exit(main())
