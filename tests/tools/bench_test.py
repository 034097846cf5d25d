# SPDX-License-Identifier: MIT
"""deepseek-run bench on a CPU: its comparison's words and exit code, and shares of what was read."""

import json
import tempfile
import unittest
from pathlib import Path

from cli import MODEL, TINY, CliTest

FLAGS = ["-q", "-p", "0", "-n", "8", "-r", "6", "--warmup", "1", "--device", "cpu"]


class Compare(CliTest):
    def setUp(self):
        where = tempfile.TemporaryDirectory(prefix="dsr-bench-")
        self.addCleanup(where.cleanup)
        self.base = Path(where.name) / "base.json"

    def compared(self, factor: float, code: int) -> str:
        """Against a report of this machine whose rows were so much faster, each time."""
        report = json.loads(self.output(*FLAGS, "--format", "json", command="bench", model=MODEL))
        for row in report["rows"]:
            for key in ["tok_per_s", "tok_per_s_median"]:
                row[key] *= factor
            row["repetitions"] = [r * factor for r in row["repetitions"]]
        self.base.write_text(json.dumps(report))
        run = self.run_cli(*FLAGS, "--compare", self.base, command="bench", model=MODEL, code=code)
        return run.stderr.decode()

    def test_far_slower_is_exit_9(self):
        self.assertIn("slower", self.compared(100, code=9))

    def test_far_faster_is_exit_0(self):
        self.assertIn("faster", self.compared(0.01, code=0))

    def test_what_is_no_report(self):
        self.base.write_text("[]")
        self.failure(*FLAGS, "--compare", self.base, command="bench", model=MODEL, code=2)


class ReadThen(CliTest):
    """The share of what memory gave right before and after each repetition."""

    def row(self, *args: str) -> dict:
        flags = ["-q", "-p", "0", "-r", "2", "--device", "cpu", "--format", "json"]
        return json.loads(self.output(*flags, *args, command="bench", model=None))["rows"][0]

    def test_answers_that_read_more_than_the_probe_have_one(self):
        # One layer and the head in bf16: 0.58 GB a token.
        card = TINY.parent / "deepseek-v2-lite.json"
        row = self.row("--random-weights", "--card", card, "--layers", "1", "-n", "2")
        self.assertGreater(row["bytes_per_step"] * row["n"], 1 << 30)
        self.assertGreater(row["bandwidth_share_then"], 0.01)  # others take what they like of both
        self.assertLess(row["bandwidth_share_then"], 10)

    def test_others_do_not(self):
        self.assertIsNone(self.row("-m", MODEL, "-n", "8")["bandwidth_share_then"])


if __name__ == "__main__":
    unittest.main()
