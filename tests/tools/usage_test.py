# SPDX-License-Identifier: MIT
"""Flags, aliases, help, and what wrong ones get."""

import os
import re
import subprocess
import time
import unittest

from cli import BINARY, MODEL, SANITIZED, SCRATCH, CliTest, environment, needs_tiny, say
from random_model import write_model

COMMANDS = ["", "tokenize", "logits", "inspect", "plan", "verify", "bench", "batch", "perplexity",
            "make-random-checkpoint"]


class Help(CliTest):
    def test_every_command_has_help_on_stdout(self):
        for command in COMMANDS:
            for flag in ["--help", "-h"]:
                run = self.run_cli(flag, command=command, model=None)
                self.assertIn(b"Usage: deepseek-run", run.stdout)
                self.assertEqual(run.stderr, b"")
                self.assertLessEqual(max(map(len, run.stdout.decode().splitlines())), 100)

    @unittest.skipIf(SANITIZED, "not with sanitizers")
    def test_help_is_instant(self):
        def seconds() -> float:
            start = time.perf_counter()
            subprocess.run([BINARY, "--help"], stdout=subprocess.DEVNULL, check=True)
            return time.perf_counter() - start

        # The best of many: the promise is about the program, not about a busy machine.
        self.assertLess(min(seconds() for _ in range(20)), 0.020)

    def test_version(self):
        self.assertRegex(self.output("--version", model=None), r"^deepseek-run \d+\.\d+\.\d+\n$")

    def test_each_flag_in_the_help_works(self):
        """A flag that is listed is accepted, with a value exactly if one is listed."""
        values = {"DIR": MODEL, "N": "20", "NAME": "auto", "TEXT": "x", "FILE":
                  SCRATCH / "prompt.txt", "IDS": "5", "T": "1", "P": "0.5",
                  "X": "1", "ID+B": "5+1"}
        special = {"--chat-format": "deepseek-v3", "--cuda-arch": "80",
                   "--tools": SCRATCH / "no-tools.json", "--config": os.devnull}
        (SCRATCH / "no-tools.json").write_text("[]")
        (SCRATCH / "prompt.txt").write_text("hi")
        for line in self.output("--help", model=None).splitlines():
            if line.startswith("Information"):
                break  # they print something else
            if not line.lstrip().startswith("-"):
                continue
            words = re.split("  +", line.strip())[0].split()
            names = [w.rstrip(",") for w in words if w.startswith("-")]
            value = [w for w in words if not w.startswith("-")]
            for name in names:
                prompt = name in ("-p", "--prompt", "-f", "--file", "--prompt-ids")
                args = [name] + [str(special.get(name) or values.get(v) or v.split("|")[0])
                                 for v in value]
                args += [] if prompt else ["-p", "x"]
                args += [] if name in ("-n", "--predict") else ["-n", "1"]
                args += ["--format", "json"] if name == "--logprobs" else []
                if name in ("-o", "--output"):
                    args[1] = os.devnull
                self.run_cli(*args)


class Aliases(CliTest):
    def test_they_mean_the_primary_flag(self):
        def prompt(*args: str) -> str:
            return self.output("--show-prompt", *args)

        plain = prompt("-p", "hi")
        self.assertEqual(prompt("--prompt", "hi"), plain)
        self.assertEqual(prompt("--prompt=hi"), plain)
        self.assertEqual(prompt("-phi"), plain)
        self.assertEqual(prompt("-prompt", "hi"), plain)
        system = prompt("-p", "hi", "--system", "S")
        self.assertNotEqual(system, plain)
        for name in ["-sys", "--system-prompt"]:
            self.assertEqual(prompt("-p", "hi", name, "S"), system)
        raw = prompt("-p", "hi", "--raw")
        self.assertNotEqual(raw, plain)
        self.assertEqual(prompt("-p", "hi", "-no-cnv"), raw)
        (SCRATCH / "hi.txt").write_text("hi")
        for name in ["-f", "--file", "--prompt-file"]:
            self.assertEqual(prompt(name, str(SCRATCH / "hi.txt")), plain)
        self.assertEqual(prompt("-p", "hi", "--chat-template", "plain"),
                         prompt("-p", "hi", "--chat-format", "plain"))
        for name in ["--nothink", "--no-think"]:
            self.assertEqual(prompt("-p", "hi", name, "--chat-format", "deepseek-v3.1"),
                             prompt("-p", "hi", "--think", "off", "--chat-format", "deepseek-v3.1"))
        self.assertEqual(self.output("--model-path", MODEL, "--show-prompt", "-p", "hi", model=None),
                         plain)

    def test_they_mean_the_primary_flag_while_generating(self):
        say_a = say("a", "-p", "hi", "--raw")
        for name in ["-n", "--predict", "--n-predict", "--max-tokens", "--max-new-tokens"]:
            self.assertEqual(self.output(*say_a, name, "3"), "aaa\n")
        self.assertEqual(self.output(*say_a, "-n3"), "aaa\n")
        self.assertEqual(self.output(*say_a, "-n", "3", "--temp", "5", "--temperature", "0"), "aaa\n")
        for name in ["-c", "--ctx-size", "--max-model-len"]:
            self.assertEqual(self.output(*say_a, name, "8"), "aaaaa\n")
        for name in ["--stop", "--reverse-prompt"]:
            self.assertEqual(self.output(*say_a, "-n", "3", name, "a"), "\n")
        for args in [("-dev", "reference"), ("-ctk", "bf16"), ("--kv-cache-dtype", "fp8"),
                     ("-b", "7"), ("--max-num-batched-tokens", "7"), ("--chunk", "7"),
                     ("--load-mode", "read"), ("--no-mmap",), ("-np", "2"),
                     ("--repetition-penalty", "1"), ("-c", "1K"), ("-c", "1k")]:
            self.assertEqual(self.output(*say_a, "-n", "3", *args), "aaa\n")
        self.assertIn('"text":"aaa"', self.output(*say_a, "-n", "3", "--output-format", "json"))
        want = self.output("--max-seqs", "3", "--gpus", "1xA100-80", command="plan")
        for name in ["-np", "--parallel", "--max-num-seqs"]:
            self.assertEqual(self.output(name, "3", "--gpus", "1xA100-80", command="plan"), want)


class EngineFlags(CliTest):
    """Every command that runs a model takes them and hands them on: a wrong value is refused by the
    engine, a right one changes no result."""

    RUNS = {
        "": ["-p", "hi", "-n", "3", "--temp", "0"],
        "logits": ["-p", "hi", "-o", "OUT"],
        "batch": ["--split", "line", "--restart", "-n", "3", "-o", "OUT", "IN"],
        "perplexity": ["-p", "hello", "-o", "OUT"],
    }

    def line(self, command: str, *args: str) -> list[str]:
        source = SCRATCH / "lines.txt"
        source.write_text("hi\n")
        names = {"OUT": str(SCRATCH / f"of-{command}"), "IN": str(source)}
        return [names.get(a, a) for a in self.RUNS[command]] + list(args)

    def result(self, command: str, *args: str) -> bytes:
        out = SCRATCH / f"of-{command}"
        run = self.run_cli(*self.line(command, *args), command=command)
        return run.stdout + (out.read_bytes() if out.exists() else b"")

    def test_they_are_taken_by_every_command(self):
        for command in self.RUNS:
            want = self.result(command)
            for args in [("--load-mode", "read"), ("--no-mmap",), ("-t", "1"), ("--chunk", "1"),
                         ("--cpu-level", "portable"), ("--device", "auto"), ("--cache-type", "auto")]:
                self.assertEqual(self.result(command, *args), want, (command, args))

    def test_they_reach_the_engine(self):
        for command in self.RUNS:
            for args in [("--device", "nowhere"), ("--cpu-level", "none")]:
                self.failure(*self.line(command, *args), command=command, code=2)


class WrongFlags(CliTest):
    def test_an_unknown_flag_gets_the_nearest_name(self):
        self.assertEqual(self.failure("--tempp", "1", code=2), "unknown flag --tempp\n  try: --temp")
        self.assertEqual(self.failure("--promt=x", code=2), "unknown flag --promt\n  try: --prompt")
        self.assertEqual(self.failure("--zzzzzz", code=2), "unknown flag --zzzzzz\n  try: --help")
        self.assertEqual(self.failure("-Z", code=2), "unknown flag -Z\n  try: --help")
        for word, near in [("help", "--help"), ("batsh", "deepseek-run batch")]:
            self.assertRegex(self.failure(word, model=None, code=2),
                             f'^unexpected argument "{word}"; .*\n  try: {near}$')
        self.assertEqual(self.failure("a", "b", command="batch", model=None, code=2),
                         'unexpected argument "b": the input is "a" already')
        self.assertEqual(self.failure("--predict", "1", command="tokenize", code=2),
                         "--predict is not a flag here, but of deepseek-run, deepseek-run batch")
        self.assertEqual(self.failure("--card", "x", command="batch", code=2),
                         "--card is not a flag here, but of deepseek-run plan, deepseek-run bench, "
                         "deepseek-run make-random-checkpoint")
        self.assertIn("is not a flag here", self.failure("-p", "x", command="batch", code=2))

    def test_foreign_flags_get_a_sentence(self):
        self.assertEqual(self.failure("--mirostat", "2", code=2),
                         "--mirostat is not a flag of deepseek-run: not among the samplers here: "
                         "--help=Sampling lists them")
        for name in ["-ngl", "--n-gpu-layers", "--trust-remote-code", "-fa", "--flash-attn",
                     "--tensor-parallel-size", "-tp", "--ep", "--dtype", "--jinja",
                     "--gpu-memory-utilization", "-hf", "--port"]:
            text = self.failure(name, "99", code=2)
            self.assertTrue(text.startswith(f"{name} is not a flag of deepseek-run: "), text)

    def test_values(self):
        for args, text in [
                (["-n"], "-n needs a value"),
                (["--n-predict"], "--n-predict needs a value"),
                (["--raw=1"], "--raw takes no value"),
                (["--nothink=1"], "--nothink takes no value"),
                (["-n", "0"], '--predict is "0", expected a whole number from 1 to 2147483647'),
                (["-n", "abc"], '--predict is "abc", expected a whole number from 1 to 2147483647'),
                (["-n", "2G"], '--predict is "2G", expected a whole number from 1 to 2147483647'),
                (["-n", "1e3"], '--predict is "1e3", expected a whole number from 1 to 2147483647'),
                (["-n", "9" * 30], f'--predict is "{"9" * 30}", expected a whole number from 1 to '
                                   "2147483647"),
                (["-c", "-5"], '--ctx-size is "-5", expected a whole number from 1 to 2147483647'),
                (["--temp", "0,7"], '--temp is "0,7", expected a number'),
                (["--temp", ""], '--temp is "", expected a number'),
                (["--format", "xml"], '--format is "xml", expected text or json'),
                (["--think", "1"], '--think is "1", expected auto, on or off'),
                (["--reasoning", "x"], '--reasoning is "x", expected show, hide or separate'),
                (["--cache-type", "q8"], '--cache-type is "q8", expected auto, f32, bf16 or fp8'),
                (["-l", "5"], '--logit-bias is "5", expected ID+B or ID-B, for example 1234+1.5'),
                (["--prompt-ids", "1,x"],
                 '--prompt-ids is "x", expected token ids from 0 to 2147483647'),
                (["--prompt-ids", ","], '--prompt-ids is "", expected token ids from 0 to 2147483647'),
                (["--seed", "-2"], '--seed is "-2", expected a whole number from 0 to '
                                   "18446744073709551615"),
                (["--seed", str(2**64)], f'--seed is "{2**64}", expected a whole number from 0 to '
                                         "18446744073709551615"),
                (["--format", "x\x1b[2J"], '--format is "x\\x1b[2J", expected text or json')]:
            self.assertEqual(self.failure(*args, code=2), text)

    def test_sampling_ranges(self):
        for args, text in [
                (["--temp", "-1"], "temperature is -1, expected 0 or 0.01 to 100"),
                (["--temp", "nan"], "temperature is nan, expected 0 or 0.01 to 100"),
                (["--temp", "1e38"], "temperature is 1e+38, expected 0 or 0.01 to 100"),
                (["--top-p", "0"], "top_p is 0, expected 0.0001 to 1"),
                (["--min-p", "2"], "min_p is 2, expected 0 to 1"),
                (["--top-k", "2000000"], "top_k is 2000000, expected 0 to 1048576"),
                (["--repeat-penalty", "0"], "repetition_penalty is 0, expected 0.01 to 100"),
                (["--repeat-last-n", "2000000"],
                 "penalty_window is 2000000, expected -1 or 0 to 1048576"),
                (["--presence-penalty", "inf"], "presence_penalty is inf, expected -100 to 100"),
                (["--frequency-penalty", "-101"], "frequency_penalty is -101, expected -100 to 100"),
                (["-l", "5+101"], "logit_bias of token 5 is 101, expected -100 to 100"),
                (["-l", "272+1"], "logit_bias of token 272, expected an id from 0 to 271")]:
            self.assertEqual(self.failure(*args, "-p", "hi", code=2), text)

    def test_arguments_that_are_no_flags(self):
        for argument in ["hello", "bench", "--", "-", ""]:
            self.assertIn("a prompt is given with -p", self.failure(argument, code=2))
        self.assertTrue(self.failure("tokenise", model=None, code=2).endswith(
            "comes first\n  try: deepseek-run tokenize"))

    def test_flags_that_exclude_each_other(self):
        for args in [["-p", "a", "-f", "b"], ["-p", "a", "--prompt-ids", "1"],
                     ["-p", "a", "--raw", "--system", "s"],
                     ["-p", "a", "--raw", "--chat-format", "plain"], ["-p", "a", "--raw", "--nothink"],
                     ["--prompt-ids", "1", "--system", "s"], ["--prompt-ids", "1", "--think", "on"],
                     ["--prompt-ids", "1", "--chat-format", "plain"],
                     ["--prompt-ids", "1", "--allow-special"], ["-p", "a", "--stop", ""]]:
            self.failure(*args, code=2)


class Models(CliTest):
    def test_missing_directories(self):
        self.assertEqual(self.failure("-m", "/no/such", "-p", "hi", model=None, code=3),
                         'model directory "/no/such" (from -m) does not exist')
        self.assertEqual(self.failure("-p", "hi", model=None, code=3,
                                      env={"DEEPSEEK_RUN_MODEL": "/no/such"}),
                         'model directory "/no/such" (from DEEPSEEK_RUN_MODEL) does not exist')
        self.assertIn("is not a directory", self.failure("-m", BINARY, "-p", "hi", model=None, code=3))
        (SCRATCH / "empty").mkdir(exist_ok=True)
        prompt, out = ["-p", "hi"], ["-o", str(SCRATCH / "x.out")]
        for command, args in [("", prompt), ("tokenize", prompt), ("logits", prompt + out),
                              ("perplexity", prompt), ("batch", [str(MODEL / "config.json"), *out]), ("bench", []),
                              ("inspect", []), ("plan", []), ("verify", [])]:
            self.failure(*args, command=command, model=SCRATCH / "empty", code=3)

    def test_the_environment_names_a_model_and_the_flag_wins(self):
        ids = self.output("-p", "hi", "--show-prompt")
        env = {"DEEPSEEK_RUN_MODEL": str(MODEL)}
        self.assertEqual(self.output("-p", "hi", "--show-prompt", model=None, env=env), ids)
        env = {"DEEPSEEK_RUN_MODEL": "/no/such"}
        self.assertEqual(self.output("-p", "hi", "--show-prompt", env=env), ids)

    @needs_tiny
    def test_without_a_model_the_small_one_is_used_and_named(self):
        run = self.run_cli("-p", "hi", "--show-prompt", model=None, cwd="/")
        self.assertRegex(run.stderr.decode(),
                         r"^note: no -m given: using the small model in .*models/tiny\n$")
        self.assertEqual(self.run_cli("-p", "hi", "--show-prompt", "-q", model=None).stderr, b"")

    def test_devices(self):
        self.assertIn("reference", self.failure("-p", "hi", "--device", "tpu", code=2))
        if not os.path.exists("/dev/nvidia0"):
            for device in ["cuda", "cuda:0"]:
                self.assertIn("cuda: ", self.failure("-p", "hi", "--device", device, code=5))
        for device in ["auto", "cpu", "reference"]:
            self.output("-p", "hi", "-n", "1", "--device", device)
        self.output("-p", "hi", "-n", "1", "-t", "3", "--cpu-level", "portable")
        self.assertIn("avx512", self.failure("-p", "hi", "--cpu-level", "mmx", code=2))
        self.output("-p", "hi", "-n", "1", "--device", "cpu", "--cpu-level", "portable", "--cpu-math",
                    "fast")
        self.assertIn("exact", self.failure("-p", "hi", "--cpu-math", "loose", code=2))
        self.failure("-p", "hi", "--threads", "0", code=2)

    @unittest.skipIf(SANITIZED, "not with sanitizers")
    def test_what_does_not_fit(self):
        huge = write_model(SCRATCH / "long", max_position_embeddings=1 << 24, num_hidden_layers=2)
        run = subprocess.run(["prlimit", "--as=300000000", BINARY, "-m", str(huge), "-p", "hi",
                              "-c", "16000000"], capture_output=True, env=environment(), check=False)
        self.assertEqual(run.returncode, 4, run.stderr)
        self.assertEqual(run.stdout, b"")


if __name__ == "__main__":
    unittest.main()
