#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints the chat that README.md shows, by having it: drives deepseek-run on a pseudo-terminal.

    python3 scripts/repl_transcript.py [BINARY [MODEL]]

Python's standard library only.
"""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "tools"))
from pty_chat import PROMPT, PtyChat  # noqa: E402

STORY = "Tell me a story about a fox."  # Ctrl-C ends it
LINES = [
    "What is 47 + 38?",
    "What day comes after Monday?",
    '"""',
    "Sort these numbers:",
    '31, 7, 19"""',
    STORY,
    "/undo",
    "/set tmp=0.7",
    "/set temp=0.7",
    "/regen",
    "/stats",
    "/tokens",
    "/save fox.json",
    "/exit",
]


def main() -> None:
    binary = os.path.abspath(sys.argv[1] if len(sys.argv) > 1
                             else ROOT / "build" / "release" / "deepseek-run")
    model = os.path.abspath(sys.argv[2] if len(sys.argv) > 2 else ROOT / "models" / "tiny")
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)  # what the chat saves goes with it
        env = {"TERM": "xterm", "NO_COLOR": "1", "XDG_STATE_HOME": directory, "PATH": "/usr/bin:/bin",
               "LC_ALL": "C.UTF-8"}
        print("$ deepseek-run -m models/tiny --temp 0")
        with PtyChat([binary, "-m", model, "--temp", "0"], env, columns=200) as chat:
            shown = chat.expect(PROMPT)
            for line in LINES:
                chat.send(line + "\r")
                if line == "/exit":
                    chat.wait()
                    break
                if line == STORY:
                    shown += chat.expect(r"\n(.|\n){150}")
                    chat.interrupt()
                shown += chat.expect(r"\n[>.] $")
        print(shown.removesuffix("> ").rstrip() + "\n> /exit")


if __name__ == "__main__":
    main()
