#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Looks for arrivals at a barrier that overtake loads from shared memory, in compiled sm_90 kernels.

    scripts/check_arrivals.py [--cuobjdump PATH] OBJECT...     objects or archives with SASS

A thread that gives a stage of a ring back has read it, in the source. In the machine code a load
from shared memory has arrived only where some instruction waits for its scoreboard, and the arrival
at an mbarrier (SYNCS.ARRIVE) does not wait by itself: then the copy engine may overwrite what has
not been read yet, now and then. So between such a load and an arrival there must be the wait of an
instruction that needs the value, or a value loaded later (loads from shared memory end in order),
or a fence (MEMBAR). The scan goes through a kernel from top to bottom, as it lies in memory: a wait
on a path that is not taken counts.
"""
import argparse
import re
import subprocess
import sys

LOAD = re.compile(r"\bLDSM?\b(?!.*\bRZ, \[RZ\])")
# Not those that also say how many bytes are to come.
ARRIVAL = re.compile(r"\bSYNCS\.ARRIVE\.TRANS64(\.RED)?\.A[R1]T0\b")


def instructions(listing):
    """Yields (kernel, [(address, text, control bits)])."""
    kernel, found = None, []
    for line in listing.splitlines():
        begin = re.search(r"Function : (\S+)", line)
        if begin:
            if kernel:
                yield kernel, found
            kernel, found = begin.group(1), []
            continue
        first = re.match(r"\s+/\*([0-9a-f]+)\*/\s+(.*?)\s*/\* 0x[0-9a-f]+ \*/", line)
        if first:
            found.append([first.group(1), first.group(2), 0])
            continue
        second = re.match(r"\s+/\* 0x([0-9a-f]+) \*/", line)
        if second and found:
            found[-1][2] = int(second.group(1), 16) >> 41
    if kernel:
        yield kernel, found


def overtaken(found):
    """Yields (address of an arrival, [loads under way])."""
    pending = []  # (scoreboard, load), in order
    for address, text, control in found:
        sets, waits = control >> 5 & 7, control >> 11 & 63
        ended = [i for i, (board, _) in enumerate(pending) if board < 6 and waits >> board & 1]
        if "MEMBAR" in text:
            pending = []
        elif ended:
            del pending[:ended[-1] + 1]
        if ARRIVAL.search(text) and pending:
            yield address, [load for _, load in pending]
        if LOAD.search(text):
            pending.append((sets, f"{address} {text}"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuobjdump", default="cuobjdump", metavar="PATH")
    parser.add_argument("objects", nargs="+", metavar="OBJECT")
    args = parser.parse_args()
    n_kernels = n_arrivals = n_wrong = 0
    for path in args.objects:
        listing = subprocess.run([args.cuobjdump, "--dump-sass", path], check=True,
                                 stdout=subprocess.PIPE, text=True).stdout
        for kernel, found in instructions(listing):
            n_kernels += 1
            n_arrivals += sum(1 for _, text, _ in found if ARRIVAL.search(text))
            for address, loads in overtaken(found):
                n_wrong += 1
                print(f"{path}: {kernel}: the arrival at {address} overtakes")
                for load in loads:
                    print(f"    {load}")
    print(f"check_arrivals: {n_kernels} kernels, {n_arrivals} arrivals, {n_wrong} before their loads")
    return 0 if n_arrivals and not n_wrong else 1  # with none it does not know this SASS


if __name__ == "__main__":
    sys.exit(main())
