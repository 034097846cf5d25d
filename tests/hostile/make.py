#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes one bad model directory of hostile.md: make.py CASE OUT [--from DIR]; make.py --list."""

import argparse
from pathlib import Path

from cases import CASES
from model_dir import ModelDir

TINY = Path(__file__).resolve().parents[2] / "models" / "tiny"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="?", choices=sorted(CASES), metavar="CASE")
    parser.add_argument("out", nargs="?", type=Path, help="a directory that does not exist yet")
    parser.add_argument("--from", dest="source", type=Path, default=TINY,
                        help="the good model directory (default: models/tiny)")
    parser.add_argument("--list", action="store_true", help="names, exit codes and patterns")
    args = parser.parse_args()
    if args.list:
        for case in CASES.values():
            print(f"{case.name:36} exit {case.code}  {case.pattern}")
        return
    if args.case is None or args.out is None:
        parser.error("CASE and OUT are needed, or --list")
    CASES[args.case].make(ModelDir(args.source, args.out))


if __name__ == "__main__":
    main()
