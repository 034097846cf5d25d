#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs deepseek-run on every bad model directory and checks what hostile.md promises.

For each case: the exit code; one error on stderr that matches the case's pattern and holds no
control byte; nothing on stdout; an end within five seconds.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cases import CASES, Case
from make import TINY
from model_dir import ModelDir

LIMIT_S = 5
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")


def problems_of(case: Case, run: subprocess.CompletedProcess, seconds: float) -> list[str]:
    found = []
    errors = run.stderr.decode("utf-8", "replace")
    if run.returncode != case.code:
        found.append(f"exit code {run.returncode}, expected {case.code}")
    if seconds >= LIMIT_S:
        found.append(f"took {seconds:.1f} s, at most {LIMIT_S} allowed")
    if CONTROL.search(run.stderr):
        found.append("a control byte on stderr")
    if case.code == 0:
        if not run.stdout:
            found.append("no answer on stdout")
        return found
    if run.stdout:
        found.append(f"{len(run.stdout)} bytes on stdout, expected none")
    if not re.search(case.pattern, errors):
        found.append(f"stderr does not match {case.pattern!r}")
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    if len(lines) != 1:
        found.append(f"{len(lines)} lines start with 'error: ', expected one")
    return found


def check(case: Case, binary: Path, source: Path, scratch: Path) -> list[str]:
    out = scratch / case.name
    case.make(ModelDir(source, out))
    command = [str(binary), "-m", str(out), "-p", "hi", "-n", "4", "--device", "reference"]
    start = time.monotonic()
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                             timeout=4 * LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return [f"still running after {4 * LIMIT_S} s"]
    found = problems_of(case, run, time.monotonic() - start)
    if found:
        found.append("stderr: " + repr(run.stderr[:500]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True, help="deepseek-run")
    parser.add_argument("--case", action="append", choices=sorted(CASES), metavar="CASE",
                        help="only this one (repeatable)")
    parser.add_argument("--from", dest="source", type=Path, default=TINY,
                        help="the good model directory (default: models/tiny)")
    args = parser.parse_args()
    if not (args.source / "model.safetensors").exists():
        print(f"{args.source}: no model.safetensors; give --from DIR", file=sys.stderr)
        return 2
    failed = 0
    chosen = [CASES[name] for name in args.case] if args.case else list(CASES.values())
    with tempfile.TemporaryDirectory(prefix="dsr-hostile-") as scratch:
        for case in chosen:
            found = check(case, args.binary.resolve(), args.source, Path(scratch))
            failed += bool(found)
            for line in found:
                print(f"{case.name}: {line}")
    print(f"{len(chosen) - failed} of {len(chosen)} cases as promised")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
