# SPDX-License-Identifier: MIT
"""Runs the program for tests. The binary comes from $DSR_BINARY, set by ctest.

Python's standard library only.
"""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from random_model import FIRST_BYTE, write_model

BINARY = os.path.abspath(os.environ.get("DSR_BINARY", "build/ci/deepseek-run"))
TINY = Path(__file__).resolve().parents[2] / "models" / "tiny"
SANITIZED = b"__asan_init" in Path(BINARY).read_bytes()  # slower, and reserves all memory there is
TIMING = re.compile(
    r"^prompt (\d+ x )?[\d,]+ tok(, [\d,.]+ tok/s)? \| (answer|\d+ answers) [\d,]+ tok(, [\d,.]+ tok/s)? \| "
    r"load \d+\.\d s( \| first token \d+\.\d\d s)?$")

_scratch = tempfile.TemporaryDirectory(prefix="dsr-cli-")  # gone with the process
SCRATCH = Path(_scratch.name)
MODEL = write_model(SCRATCH / "model")


def environment(**changes: str) -> dict[str, str]:
    """Ours without what a user may have set, and `changes`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DEEPSEEK_RUN_")}
    return {**kept, "XDG_CONFIG_HOME": str(SCRATCH / "no-config"), **changes}


def say(text: str, *more: str) -> list[str]:
    """Flags under which the model says the one character `text` again and again."""
    assert len(text.encode()) == 1
    return ["--temp", "0", "-l", f"{FIRST_BYTE + ord(text)}+100", *more]


class CliTest(unittest.TestCase):
    maxDiff = None

    def run_cli(self, *args: str | Path, stdin: bytes | None = None, model: Path | None = MODEL,
                command: str = "", code: int = 0, env: dict[str, str] | None = None,
                **popen) -> subprocess.CompletedProcess:
        """Runs it and checks the exit code; `model` None: no -m. stdin None: an empty one."""
        line = [BINARY] + ([command] if command else [])
        line += ["-m", str(model)] if model is not None else []
        line += [str(a) for a in args]
        run = subprocess.run(line, input=stdin if stdin is not None else b"", env=environment(
            **(env or {})), stdout=popen.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE,
            timeout=60, check=False, **popen)
        self.assertEqual(run.returncode, code, f"{line}\n{run.stderr.decode(errors='replace')}")
        return run

    def output(self, *args: str | Path, **kwargs) -> str:
        return self.run_cli(*args, **kwargs).stdout.decode()

    def failure(self, *args: str | Path, code: int, **kwargs) -> str:
        """The error's text, after checking that it is one, in one line (and perhaps a hint), with
        nothing on stdout and no control byte."""
        run = self.run_cli(*args, code=code, **kwargs)
        self.assertEqual(run.stdout or b"", b"")
        text = run.stderr.decode()
        self.assertNotRegex(text, r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
        errors = [line for line in text.splitlines() if not line.startswith(("note: ", "warning: "))]
        self.assertTrue(errors and errors[0].startswith("error: "), text)
        for hint in errors[1:]:
            self.assertTrue(hint.startswith("  try: "), text)
        return "\n".join(errors)[len("error: "):]


def needs_tiny(test):
    """Skips, by name, where models/tiny is not complete."""
    return unittest.skipUnless((TINY / "model.safetensors").is_file(), "models/tiny is missing")(test)
