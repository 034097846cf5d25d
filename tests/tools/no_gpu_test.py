# SPDX-License-Identifier: MIT
"""The program where there is no GPU, or none that it may use: built with CUDA or without."""

import re
import shutil
import subprocess
import unittest

from cli import BINARY, SCRATCH, CliTest, say

HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}  # a machine with a GPU is one without, for CUDA
ABSENCE = re.compile(r"cuda: (?P<why>no NVIDIA driver is installed|there is no GPU|"
                     r"the NVIDIA driver is older than this program's CUDA|"
                     r"this program was built without CUDA)$")


class NoGpu(CliTest):
    def why(self) -> str:
        message = self.failure("-p", "hi", "--device", "cuda", code=5, env=HIDDEN)
        self.assertRegex(message, ABSENCE)
        return ABSENCE.match(message)["why"]

    def test_asking_for_one_is_an_error_of_one_line(self):
        why = self.why()
        self.assertEqual(self.failure("-p", "hi", "--device", "cuda:1", code=5, env=HIDDEN),
                         f"cuda: {why}")
        source, out = SCRATCH / "no_gpu.txt", SCRATCH / "no_gpu.jsonl"
        source.write_text("hi\n")
        self.assertEqual(self.failure(source, "-o", out, "--split", "line", "--device", "cuda",
                                      command="batch", code=5, env=HIDDEN), f"cuda: {why}")
        for device in ["cuda:", "cuda:x", "cuda:-1", "gpu"]:
            self.assertIn("expected auto, cuda, cuda:N, cpu or reference",
                          self.failure("-p", "hi", "--device", device, code=2, env=HIDDEN))

    def test_auto_is_the_cpu_and_says_why_in_one_line(self):
        why = self.why()
        flags = say("a", "-p", "hi", "-n", "5", "--no-timings", "-s", "3", "-v")
        auto = self.run_cli(*flags, env=HIDDEN)
        cpu = self.run_cli(*flags, "--device", "cpu", env=HIDDEN)
        self.assertEqual(auto.stdout, b"aaaaa\n")
        self.assertEqual(cpu.stdout, b"aaaaa\n")
        note = f"note: {why}: using the cpu (--device cpu: without this note)"
        built_without = why == "this program was built without CUDA"
        notes = [line for line in auto.stderr.decode().splitlines() if "cpu" in line]
        self.assertEqual(notes, [] if built_without else [note])
        self.assertNotIn(b"note: ", cpu.stderr)

    def test_what_can_be_named_is_listed(self):
        listed = self.output("--list-devices", model=None, env=HIDDEN)
        self.assertEqual([line.split()[0] for line in listed.splitlines()], ["cpu", "reference"])

    @unittest.skipUnless(shutil.which("ldd"), "no ldd")
    def test_the_program_needs_no_library_of_a_driver_or_toolkit(self):
        ldd = subprocess.run(["ldd", BINARY], capture_output=True, text=True, check=False)
        self.assertNotRegex(ldd.stdout, r"lib(cuda|cudart|cublas|nccl)")


if __name__ == "__main__":
    unittest.main()
