# SPDX-License-Identifier: MIT
"""deepseek-run make-random-checkpoint: the command, and a disk that is full."""

import json
import resource
import signal
import unittest

from cli import SCRATCH, CliTest
from random_model import CONFIG

CARD = SCRATCH / "card.json"
CARD.write_text(json.dumps({"_card": {"checkpoint": "none"}, **CONFIG}))


def small_files() -> None:
    """In the child: writing more than 64 KiB to a file fails, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


class MakeRandomCheckpoint(CliTest):
    def make(self, *args, **kwargs):
        return self.run_cli("--card", CARD, *args, command="make-random-checkpoint", model=None,
                            **kwargs)

    def test_what_it_makes_runs(self):
        out = SCRATCH / "made"
        run = self.make("-o", out, "--quant", "fp8", "--layers", "2", "--seed", "5")
        self.assertEqual(run.stdout, b"")
        self.assertRegex(run.stderr.decode(), r"^.*: \d+ tensors in 1 files, 0\.00 GB in ")
        self.assertEqual(sorted(p.name for p in out.iterdir()), [
            "config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"])
        answer = json.loads(self.output("--prompt-ids", "3,4,5", "-n", "2", "--format", "json",
                                        "--temp", "0", model=out))
        self.assertEqual(len(answer["choices"][0]["ids"]), 2)

    def test_a_full_disk_is_exit_6_and_leaves_nothing(self):
        out = SCRATCH / "full"
        run = self.make("-o", out, code=6, preexec_fn=small_files)
        self.assertIn(b"cannot be written: File too large", run.stderr)
        self.assertEqual(list(SCRATCH.glob("full*")), [])

    def test_wrong_use(self):
        (SCRATCH / "there").mkdir()
        self.assertIn(b"exists already", self.make("-o", SCRATCH / "there", code=2).stderr)
        self.assertIn(b"needs --card FILE and -o DIR", self.make(code=2).stderr)
        self.assertIn(b"expected bf16 or fp8",
                      self.make("-o", SCRATCH / "x", "--quant", "int3", code=2).stderr)


if __name__ == "__main__":
    unittest.main()
