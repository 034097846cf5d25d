# SPDX-License-Identifier: MIT
"""deepseek-run plan: what it prints, and when it fails."""

import json
import resource
import unittest

from cli import MODEL, SANITIZED, TINY, CliTest

CARDS = TINY.parent


class Plan(CliTest):
    def plan(self, *args, code=0, **kwargs):
        kwargs.setdefault("model", None)
        return self.output(*args, command="plan", code=code, **kwargs)

    def test_a_checkpoint_on_this_machine(self):
        text = self.plan(model=MODEL)
        self.assertRegex(text, r"(?m)^device +cpu, on this machine$")
        self.assertRegex(text, r"(?m)^fits: weights ")

    def test_every_card(self):
        cards = sorted(CARDS.glob("*.json"))
        self.assertEqual(len(cards), 23)
        for card in cards:
            about = json.loads(card.read_text())["_card"]
            got = json.loads(self.plan("--card", card, "--gpus", "1024xB200", "--format", "json"))
            self.assertEqual(got["weights"], about["weights"])
            self.assertTrue(got["fits"])
            self.assertEqual(got["try"], [])

    def test_what_does_not_fit_is_exit_4_with_what_would(self):
        args = ["--card", CARDS / "deepseek-v3.json", "--gpus", "8xA100-80"]
        text = self.plan(*args, code=4)
        self.assertRegex(text, r"(?m)^does not fit: 9\d\.\d GB of 81\.6 GB on each GPU$")
        self.assertRegex(text, r"(?m)^  try: --gpus 16xA100-80, or --gpus 8xH20$")
        self.assertFalse(json.loads(self.plan(*args, "--format", "json", code=4))["fits"])

    @unittest.skipIf(SANITIZED, "not with sanitizers")
    def test_it_takes_less_than_a_second(self):
        def seconds():
            """Of processors: the promise is about the program, not about a busy machine."""
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime + used.ru_stime

        start = seconds()
        self.plan("--card", CARDS / "deepseek-v3.json", code=4)
        self.assertLess(seconds() - start, 1.0)

    def test_wrong_use(self):
        card = str(CARDS / "deepseek-llm-7b.json")
        for args, error in [
                (["--card", card, "--gpus", "8xA100"], "--gpus \"8xA100\", expected NxNAME"),
                (["--card", card, "-m", str(MODEL)], "plan takes -m or --card, not both"),
                (["--card", card, "--weights", "4bit"], "4-bit weights are not supported yet"),
                (["-m", str(MODEL), "--weights", "fp8"], "--weights chooses the format of a --card"),
        ]:
            self.assertIn(error, self.failure(*args, command="plan", model=None, code=2))
        self.assertIn("no-such.json", self.failure("--card", "no-such.json", command="plan",
                                                   model=None, code=3))


if __name__ == "__main__":
    unittest.main()
