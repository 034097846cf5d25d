# SPDX-License-Identifier: MIT
"""Text from hostile users and files through the whole program: rows F14, F16, U1 and U4."""

import json
import os
import shutil
import time
import unittest

from cli import MODEL, SCRATCH, CliTest

class HostileText(CliTest):
    def refused(self, *args, code: int, **kwargs) -> str:
        start = time.monotonic()
        text = self.failure(*args, code=code, **kwargs)
        self.assertLess(time.monotonic() - start, 5)
        return text

    def test_invalid_utf8(self):
        path = SCRATCH / "invalid.txt"
        for raw, at in [(b"\xff", 0), (b"ab\xc3(", 2), (b"abc\xe4\xbd", 3), (b"\xed\xa0\x80", 0)]:
            path.write_bytes(raw)
            for args, stdin in [(["-p", os.fsdecode(raw)], None), (["-f", path], None),
                                (["-f", "-"], raw), ([], raw)]:
                self.assertIn(f"byte {at}", self.refused(*args, stdin=stdin or b"", code=2))

    def test_a_template_that_nobody_runs(self):
        model = self.copy("evil-template")
        config = json.loads((model / "tokenizer_config.json").read_text())
        config["chat_template"] = "{% for i in range(10**9) %}{% endfor %}\x1b[2J"
        (model / "tokenizer_config.json").write_text(json.dumps(config))
        self.assertIn("--chat-format", self.refused("-p", "hi", model=model, code=3))

    def test_hostile_tokenizers(self):
        model = self.copy("evil-tokenizer")
        good = (model / "tokenizer.json").read_text()
        for text in ["", "{", "[" * 10_000, good[:len(good) // 2], good + "\x1b[2J",
                     good.replace('"BPE"', '"\\u001b]0;x"', 1)]:
            (model / "tokenizer.json").write_text(text)
            self.refused("-p", "hi", model=model, code=3)

    def test_prompts_longer_than_the_context(self):
        for length in [16, 17, 5000]:
            text = self.refused("-p", "x" * length, "--raw", "-c", "16", code=2)
            self.assertIn("16", text)
        self.refused("-p", "hi", "-n", "-5", code=2)
        self.refused("-p", "hi", "-n", str(2 ** 63), code=2)

    def copy(self, name: str):
        target = SCRATCH / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(MODEL, target)
        return target


if __name__ == "__main__":
    unittest.main()
