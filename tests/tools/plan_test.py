# SPDX-License-Identifier: MIT
"""deepseek-run plan: what it prints, and when it fails."""

import json
import os
import resource
import subprocess
import unittest

from cli import BINARY, MODEL, SANITIZED, SCRATCH, TINY, CliTest, environment, needs_tiny
from random_model import write_hollow_model

CARDS = TINY.parent
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}  # a machine with a GPU is one without, for CUDA


class Plan(CliTest):
    def plan(self, *args, code=0, **kwargs):
        kwargs.setdefault("model", None)
        return self.output(*args, command="plan", code=code, **kwargs)

    def test_a_checkpoint_on_this_machine(self):
        for device in ("cpu", "reference"):
            text = self.plan("--device", device, model=MODEL)
            self.assertRegex(text, rf"(?m)^device +{device}, on this machine$")
            self.assertRegex(text, r"(?m)^fits: weights ")

    def test_of_the_devices_here_it_plans_for_the_one_that_would_run(self):
        def plan(*flags):
            return json.loads(self.plan("--format", "json", *flags, model=MODEL, env=HIDDEN))

        auto, cpu = plan(), plan("--device", "cpu")
        self.assertEqual(auto["device"], "cpu", "without a GPU")
        self.assertEqual(cpu["device"], "cpu")
        self.assertEqual(cpu["total_bytes"], auto["total_bytes"])
        # It fails like running there.
        run = self.failure("-p", "hi", "--device", "cuda", code=5, env=HIDDEN)
        self.assertEqual(self.failure("--device", "cuda", command="plan", code=5, env=HIDDEN), run)
        self.assertIn("expected auto, cuda, cuda:N, cpu or reference",
                      self.failure("--device", "gpu", command="plan", code=2))
        card = CARDS / "deepseek-llm-7b.json"
        for device in ("cpu", "cuda:0"):
            self.assertIn("--gpus plans for GPUs by their name",
                          self.failure("--card", card, "--gpus", "1xL4", "--device", device,
                                       command="plan", model=None, code=2))

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

    def test_a_model_larger_than_memory_may_be_mapped(self):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        model = write_hollow_model(SCRATCH / "hollow", 2 * memory)
        for mode in ["auto", "read"]:
            run = self.run_cli("-p", "a", "--device", "cpu", "--load-mode", mode, model=model, code=4)
            self.assertEqual(run.stdout, b"")
            self.assertRegex(
                run.stderr.decode(),
                r"^error: not enough memory on cpu with -c \d+\n"
                r"  weights [\d.]+ [GT]B \+ .* = [\d.]+ [GT]B of [\d.]+ [GT]B available\n"
                r"  try: --load-mode mmap, which reads from the disk again what does not fit\n$")

    @unittest.skipIf(SANITIZED, "not with sanitizers")
    def test_it_takes_less_than_a_second(self):
        def seconds():
            """Of processors: the promise is about the program, not about a busy machine."""
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime + used.ru_stime

        start = seconds()
        self.plan("--card", CARDS / "deepseek-v3.json", code=4)
        self.assertLess(seconds() - start, 1.0)

    def test_gpus_by_name_stand_over_a_device_of_the_settings(self):
        card = str(CARDS / "deepseek-v2-lite.json")
        args = ["--card", card, "--gpus", "1xH100"]
        plain = self.output(*args, command="plan", model=None)
        self.assertEqual(self.output(*args, command="plan", model=None,
                                     env={"DEEPSEEK_RUN_DEVICE": "cpu"}), plain)

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

    def peak_of(self, *args):
        """Bytes that were resident of a process of its own at the most, from start to end."""
        process = subprocess.Popen([BINARY, *map(str, args)], env=environment(),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0, args)
        return usage.ru_maxrss * 1024

    def check_peaks(self, model, ctx_size):
        allowance = 64 << 20  # the program itself, its libraries, the tokenizer
        flags = ["-m", model, "--device", "cpu"]
        plan = json.loads(self.output("--format", "json", "-c", ctx_size, "--device", "cpu",
                                      command="plan", model=model))
        peak = self.peak_of(*flags, "--raw", "-p", "a b c " * 200, "-n", "100", "-c", ctx_size,
                            "--temp", "0.9", "-s", "1")
        self.assertLessEqual(peak, plan["total_bytes"] + allowance)
        # A bench touches all of the cache; its rows start after what it measures the machine with.
        report = json.loads(self.output("-r", "1", "--warmup", "0", "-p", "0", "-n", "4", "-B", "24",
                                        "-d", ctx_size - 5, "--device", "cpu", "--format", "json",
                                         command="bench", model=model))
        planned = report["planned_memory_bytes"]
        self.assertGreater(planned, 100 << 20, "little would show nothing")
        for row in report["rows"]:
            self.assertGreater(row["peak_memory_bytes"], 0.8 * planned)
            self.assertLessEqual(row["peak_memory_bytes"], planned + allowance)
        self.assertGreater(report["start_seconds"], 0)
        self.assertLess(report["start_seconds"] + report["load_seconds"], 30)

    @unittest.skipIf(SANITIZED, "sanitizers take memory")
    @needs_tiny
    def test_the_process_stays_within_its_plan(self):
        self.check_peaks(TINY, 2048)

    @unittest.skipIf(SANITIZED, "sanitizers take memory")
    def test_a_process_with_random_weights_stays_within_its_plan(self):
        self.check_peaks(MODEL, 24000)


if __name__ == "__main__":
    unittest.main()
