# SPDX-License-Identifier: MIT
"""What tests of batch have in common."""

import json
from pathlib import Path

from cli import BINARY, SCRATCH, TINY, CliTest


def prompts(n: int) -> list[dict]:
    return [{"prompt": f"number {i} " + "x" * (i * 7 % 40), "max_tokens": 4 + i * 5 % 40,
             "temperature": 0 if i % 3 == 0 else 0.9} for i in range(n)]


def write_lines(path: Path, lines) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n"
                            for line in lines))
    return path


def read_records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class BatchCase(CliTest):
    def setUp(self):
        self.dir = SCRATCH / self.id()
        self.dir.mkdir()
        self.out = self.dir / "out.jsonl"

    def batch(self, source: Path, *flags: str, out: Path | None = None, code: int = 0, **kwargs):
        return self.run_cli(source, "-o", out or self.out, "--raw", *flags, command="batch",
                            code=code, **kwargs)

    def refusal(self, source: Path, *flags: str, out: Path | None = None, code: int = 2) -> str:
        return self.failure(source, "-o", out or self.out, "--raw", *flags, command="batch",
                            code=code)

    def assert_whole(self, out: Path):
        """Whole records, no id twice."""
        if not out.exists():
            return
        text = out.read_text()
        self.assertTrue(text == "" or text.endswith("\n"))
        ids = [json.loads(line)["id"] for line in text.splitlines()]
        self.assertEqual(len(ids), len(set(ids)))

    def command(self, source: Path, out: Path, *flags: str, model: str = str(TINY)) -> list[str]:
        return [BINARY, "batch", "-m", model, str(source), "-o", str(out), "--raw", "-q",
                "--ordered", "--max-seqs", "4", "-t", "1", *flags]
