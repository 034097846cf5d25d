# SPDX-License-Identifier: MIT
"""The program in a hostile place: rows U4, U6 (what is not batch), U7, R12 to R16 and O3.

What models, tokenizers and text get is in text_hostile_test.py and tests/hostile; terminals and
signals are in output_test.py.
"""

import json
import os
import resource
import shutil
import subprocess
import time
import unittest
from pathlib import Path

from cli import BINARY, MODEL, SANITIZED, SCRATCH, TIMING, CliTest, environment, say
from random_model import BOS, FIRST_BYTE, write_model, write_shards

EVIL = "a\x1b[2J\n\x07\x9b\u202eb\\"
CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"


def limited(**limits: int):
    """A preexec_fn that sets RLIMIT_<NAME>; sanitizers need all addresses."""
    def apply() -> None:
        for name, value in limits.items():
            if name != "AS" or not SANITIZED:
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    return apply


class Lengths(CliTest):
    """U4: what does not fit the context is refused before anything is computed."""

    def test_table(self):
        too_long = "prompt {:,} tokens, context 16"
        with_new = "prompt 15 tokens and {:,} new ones, context 16"
        whole = "expected a whole number from 1 to 2147483647"
        for length, args, want in [
                (15, [], too_long.format(16)), (16, [], too_long.format(17)),
                (15, ["-n", "-1"], too_long.format(16)), (15, ["-n", "1"], too_long.format(16)),
                (100_000, [], too_long.format(100_001)),
                (14, ["-n", "2"], with_new.format(2)), (14, ["-n", "32K"], with_new.format(32768)),
                (14, ["-n", "2147483647"], with_new.format(2147483647)),
                (14, ["-n", "0"], f'--predict is "0", {whole}'),
                (14, ["-n", "-2"], f'--predict is "-2", {whole}'),
                (14, ["-n", "2147483648"], f'--predict is "2147483648", {whole}'),
                (14, ["-n", "9223372036854775807K"], f'--predict is "9223372036854775807K", {whole}'),
                (14, ["-c", "0"], f'--ctx-size is "0", {whole}'),
                (14, ["-c", "-1"], f'--ctx-size is "-1", {whole}'),
                (14, ["-c", "2147483648"], f'--ctx-size is "2147483648", {whole}'),
                (14, ["-c", "15"], "prompt 15 tokens, context 15"),
                (14, ["-c", "1"], "prompt 15 tokens, context 1")]:
            start = time.monotonic()
            path = SCRATCH / "prompt.txt"
            path.write_text("x" * length)
            text = self.failure("-f", path, "--raw", "-c", "16", *args, code=2)
            self.assertEqual(text.split("\n")[0], want)
            self.assertLess(time.monotonic() - start, 5)
        for args in [[], ["-n", "1"], ["-n", "-1"]]:
            self.assertEqual(self.output(*say("a", "-p", "x" * 14, "--raw", "-c", "16", *args)), "a\n")

    def test_more_than_the_models_context(self):
        small = write_model(SCRATCH / "short", max_position_embeddings=32)
        text = self.failure("-p", "x" * 40, "--raw", model=small, code=2)
        self.assertEqual(text, "prompt 41 tokens, context 32\n  try: --truncate left|middle")


class Lines(CliTest):
    """U6: one bad line of many is one record."""

    def records(self, data: bytes, code: int) -> list[dict]:
        out = self.output("--jsonl", command="tokenize", stdin=data, code=code)
        return [json.loads(line) for line in out.splitlines()]

    def test_table(self):
        good = b'{"text": "a"}'
        want = [FIRST_BYTE + ord("a")]
        for bad in [b"{", b"", b"\xff", b'{"text": "\xff"}', b'{"text": 1}', b'{"txet": "a"}', b"[]",
                    b"null", b'"a"', b"[" * 100_000, b'{"text": "a"', b'{"text": "a"} x', b"\x00",
                    b'{"text": "\\ud800"}', b'{"text": NaN}', b"{'text': 'a'}", b'{"a":' * 1000]:
            with self.subTest(bad=bad[:20]):
                first, second, third = self.records(good + b"\n" + bad + b"\n" + good, code=7)
                self.assertEqual((first["ids"], third["ids"]), (want, want))
                self.assertEqual(list(second), ["error"])
        for line in [good, good + b"\r", b'{"text": "a", "more": [1, {}]}', b' {"text":"\\u0061"} ']:
            for end in [b"", b"\n"]:
                self.assertEqual(self.records(line + end, code=0)[0]["ids"], want, line)
        self.assertEqual(self.records(b"", code=0), [])
        self.assertEqual(self.records(b'{"text": ""}', code=0), [{"ids": []}])

    def test_a_line_without_end(self):
        script = 'head -c 70000000 /dev/zero | "$0" tokenize -m "$1" --jsonl; echo ":$?"'
        run = subprocess.run(["bash", "-c", script, BINARY, MODEL], capture_output=True, timeout=60,
                             env=environment(), preexec_fn=limited(AS=1 << 30), check=True)
        self.assertEqual(run.stdout, b":2\n")
        self.assertEqual(run.stderr, b"error: standard input: has a line longer than 64 MiB\n")


class OddText(CliTest):
    """U7: text that is legal and odd."""

    def test_table(self):
        for text in ["", " ", "   \t\n ", "\0", "a\0b", "\u0301", "\u0301\u0301a", "\u180e", "\u0378",
                     "\uffff", "\U0010ffff", "\ufdd0", "\ue000", "\u200d", "\ufeff", "\u2028",
                     "\u1160\u1161", "\U000e0041", "e\u0301\u0323", "\ufffd", "\u202e", "\x85", "\x7f"]:
            with self.subTest(text=ascii(text)):
                path = SCRATCH / "odd.txt"
                path.write_bytes(text.encode())
                end = text.removesuffix("\n").removesuffix("\r")
                found = json.loads(self.output("-f", path, "--json", command="tokenize"))
                self.assertEqual(found["ids"], [FIRST_BYTE + b for b in end.encode()])
                for flags in [["--raw"], []]:
                    shown = json.loads(self.output("-f", path, *flags, "--show-prompt", "--format",
                                                   "json"))
                    self.assertIn(end, shown["text"])
                    self.assertEqual(shown["ids"][0], BOS)
                    self.assertEqual(self.output(*say("a", "-f", path, "-n", "2", *flags)), "aa\n")


class Devices(CliTest):
    """R12: no GPU, or none that can be used."""

    PLACES = [{"CUDA_VISIBLE_DEVICES": v} for v in ["", "-1", "99", "x", "\x1b[2J"]]

    def test_auto_answers(self):
        for env in [*self.PLACES, {**self.PLACES[0], "LD_LIBRARY_PATH": "/no/such"}]:
            run = self.run_cli(*say("a", "-p", "hi", "-n", "2"), env=env)
            self.assertEqual(run.stdout, b"aa\n")
            self.assertNotRegex(run.stderr.decode(), CONTROL)
            self.run_cli("--list-devices", env=env)
            self.run_cli("--gpus", "8xA100-80", command="plan", env=env)

    def test_what_is_asked_for_and_is_not_there(self):
        for env in self.PLACES[:2]:
            for device in ["cuda", "cuda:0"]:
                self.failure("-p", "hi", "--device", device, code=5, env=env)
        for device in ["cuda:", "cuda:x", "cuda:-1", "cuda:0,", "cuda:99999999999999999999", "", "tpu",
                       "CPU", "cpu ", "\x1b[2J"]:
            run = self.run_cli("-p", "hi", "--device", device, code=2, env=self.PLACES[0])
            self.assertEqual(run.stdout, b"")
            self.assertNotRegex(run.stderr.decode(), CONTROL)


class Streams(CliTest):
    """R13: standard output and error that are closed or full."""

    def test_full(self):
        with open("/dev/full", "wb") as full:
            for command, args in [("", ["--print-config"]), ("", ["--completion", "bash"]),
                                  ("", ["--man"]), ("", ["--list-devices"]), ("", ["--help=temp"]),
                                  ("inspect", []), ("plan", []), ("verify", []),
                                  ("tokenize", ["-p", "hi"]), ("tokenize", ["-p", "hi", "--count"])]:
                self.assertEqual(self.failure(*args, command=command, stdout=full, code=6),
                                 "standard output: cannot be written: No space left on device")

    def test_a_reader_that_leaves(self):
        line = '{"text": "hello"}\\n'
        for script in [f'yes "{line[:-2]}" | "$0" tokenize -m "$1" --jsonl | head -n 1',
                       '"$0" --man | true', 'sleep 0.2; "$0" --completion zsh | true']:
            script = f'{script} >/dev/null; echo "${{PIPESTATUS[-2]}}"'
            run = subprocess.run(["bash", "-c", script, BINARY, MODEL], capture_output=True,
                                 env=environment(), timeout=60, check=True)
            self.assertIn(run.stdout, [b"141\n", b"0\n"])  # 0: it had written all before
            self.assertEqual(run.stderr, b"")

    def test_standard_error_is_no_condition(self):
        for script in ['2>/dev/full', '2>&-', '2>&1 >&3 | true']:
            line = f'exec 3>&1; "$0" -m "$1" -p hi -v -n 3 --temp 0 -l {FIRST_BYTE + 97}+100 {script}'
            run = subprocess.run(["bash", "-c", line, BINARY, MODEL], capture_output=True,
                                 env=environment(), timeout=60, check=False)
            self.assertIn(run.stdout, [b"aaa\n"] if "true" not in script else [b"aaa\n", b""])


@unittest.skipUnless(shutil.which("localedef") and Path("/usr/share/i18n/locales/tr_TR").exists(),
                     "no locales to make")
class Locales(CliTest):
    """R14: numbers and letters are the same everywhere."""

    @classmethod
    def setUpClass(cls):
        cls.places = {}
        for name in ["de_DE", "tr_TR"]:
            subprocess.run(["localedef", "-c", "-i", name, "-f", "UTF-8", SCRATCH / f"{name}.UTF-8"],
                           capture_output=True, check=False)  # 1: it had warnings
            cls.places[name] = {"LOCPATH": str(SCRATCH), "LC_ALL": f"{name}.UTF-8",
                                "LANG": f"{name}.UTF-8"}
        cls.places["C"] = {"LC_ALL": "C", "TZ": "Pacific/Apia", "TERM": "dumb"}
        cls.places["none"] = {"LC_ALL": "xx_YY.UTF-8", "TZ": ":\x1b[2J", "TERM": "\x1b[2J"}

    def test_the_locales_are_real(self):
        script = "import locale; locale.setlocale(locale.LC_ALL, ''); print(locale.str(0.5))"
        for name in ["de_DE", "tr_TR"]:
            run = subprocess.run(["python3", "-c", script], env=environment(**self.places[name]),
                                 capture_output=True, check=True)
            self.assertEqual(run.stdout, b"0,5\n")

    def test_output_is_the_same(self):
        (SCRATCH / "locale.config").write_text("top-p = 0.25\nmin-p = 0.125")
        for command, args in [
                ("", ["--print-config", "--temp", "0.5", "--config", SCRATCH / "locale.config"]),
                ("", ["-p", "hi", "-n", "40", "--temp", "1.5", "-s", "3", "--top-p", "0.75", "-q"]),
                ("", ["--help=MIN"]), ("plan", ["--format", "json", "--gpus", "1xA100-80"]),
                ("plan", ["--gpus", "1xA100-80"]),
                ("inspect", ["--format", "json"]), ("inspect", []),
                ("tokenize", ["-p", "İıIi ẞß 1,5 1.5"])]:
            wanted = self.output(*args, command=command)
            for name, env in self.places.items():
                self.assertEqual(self.output(*args, command=command, env=env), wanted, (name, args))

    def test_what_is_said(self):
        for env in self.places.values():
            run = self.run_cli(*say("a", "-p", "hi", "-n", "3"), env=env)
            self.assertRegex(run.stderr.decode().rstrip("\n"), TIMING)
            self.assertEqual(self.failure("--temp", "0,5", code=2, env=env),
                             '--temp is "0,5", expected a number')
            self.assertEqual(self.failure("-p", "hi", "--temp", "0.001", code=2, env=env),
                             "temperature is 0.001, expected 0 or 0.01 to 100")
            self.assertEqual(len(self.output(*say("a", "-p", "hi"), env={
                **env, "DEEPSEEK_RUN_PREDICT": "3"})), 4)  # an I, which Turkish has two of


class Limits(CliTest):
    """R15: limits of the process."""

    def test_163_shards_and_64_descriptors(self):
        model = write_shards(SCRATCH / "shards", 163)
        want = self.output("-p", "hi", "-n", "5", "--temp", "0", model=model)
        self.assertEqual(self.output("-p", "hi", "-n", "5", "--temp", "0", model=model,
                                     preexec_fn=limited(NOFILE=64)), want)
        for command in ["inspect", "plan", "verify"]:
            self.output(command=command, model=model, preexec_fn=limited(NOFILE=64))

    @unittest.skipIf(SANITIZED, "sanitizers open files of their own")
    def test_one_descriptor(self):
        # Less than the loader of shared libraries needs cannot be answered for.
        self.assertEqual(self.output(*say("a", "-p", "hi", "-n", "3"),
                                     preexec_fn=limited(NOFILE=4)), "aaa\n")

    def test_small_stacks(self):
        text = SCRATCH / "long.txt"
        text.write_text("a1 é語\n" * 20_000 + "(" * 50_000)
        for stack in [8 << 20, 512 << 10]:
            count = self.output("-f", text, "--count", command="tokenize",
                                preexec_fn=limited(STACK=stack))
            self.assertEqual(int(count), len(text.read_bytes()))
            self.assertEqual(self.output(*say("a", "-p", "hi", "-n", "3"),
                                         preexec_fn=limited(STACK=stack)), "aaa\n")

    def test_no_locked_memory_and_no_core(self):
        self.assertEqual(self.output(*say("a", "-p", "hi", "-n", "3"),
                                     preexec_fn=limited(MEMLOCK=0, CORE=0)), "aaa\n")

    def test_files_that_may_not_grow(self):
        path = SCRATCH / "limited.txt"
        self.assertEqual(self.failure(*say("a", "-p", "hi", "-n", "30", "-o", path),
                                      preexec_fn=limited(FSIZE=10), code=6),
                         f"{path}: cannot be written: File too large")
        self.assertEqual(path.read_text(), "a" * 10)


class Places(CliTest):
    """R16 and O3: names and variables that do something to whoever prints or reads them."""

    def test_file_names(self):
        directory = SCRATCH / EVIL
        directory.mkdir()
        path = directory / EVIL
        for args in [["-m", path], ["-p", "hi", "-m", f"{EVIL}/{EVIL}"]]:
            self.failure(*args, model=None, code=3)
        for args in [["-f", path], ["-p", "hi", "--config", path], ["-p", "hi", "--tools", path],
                     ["--prompt-ids", f"@{path}"], ["-p", "hi", "--chat-format", EVIL],
                     ["-p", "hi", "--stop", "\x9b" + EVIL, "--temp", EVIL], ["--" + EVIL], [EVIL]]:
            self.failure(*args, code=2)
        self.failure("-p", "hi", "-o", directory / EVIL / "x", code=6)
        self.failure("--card", path, command="plan", model=None, code=3)
        model = write_model(directory / "model\n")
        self.assertEqual(self.output(*say("a", "-p", "hi", "-n", "2"), model=model), "aa\n")
        answer = json.loads(self.output("-p", "hi", "-n", "1", "--format", "json", model=model))
        self.assertEqual(answer["model"], "model\n")
        path.write_text("hi")
        out = directory / "out\n"
        self.run_cli(*say("a", "-f", path, "-n", "2", "-o", out))
        self.assertEqual(out.read_text(), "aa\n")
        config = directory / "config\x1b"
        config.write_text("nonsense")
        self.assertIn("config\\x1b:1: found", self.failure("-p", "hi", "--config", config, code=2))

    def test_names_that_are_no_text(self):
        directory = os.fsencode(SCRATCH / "bytes") + b"\xff\x9b"
        model = write_model(Path(os.fsdecode(directory)))
        answer = json.loads(self.output("-p", "hi", "-n", "1", "--format", "json", model=model))
        self.assertTrue(answer["model"].startswith("bytes"))
        run = self.run_cli("-p", "hi", model=Path(os.fsdecode(directory + b"/no")), code=3)
        self.assertIn(rb"bytes\xff\x9b/no", run.stderr)

    def test_messages_are_short(self):
        for args, code in [(["-f", "x" * 100_000], 2), (["-p", "hi", "-o", "y/" * 50_000], 6),
                           (["--" + "z" * 100_000], 2), (["-p", "hi", "--temp", "1" * 100_000 + "x"], 2),
                           (["-p", "hi", "--device", "d" * 100_000], 2),
                           (["-p", "hi", "--chat-format", "f" * 100_000], 2),
                           (["-p", "hi", "--config", "c" * 100_000], 2)]:
            self.assertLess(len(self.failure(*args, code=code)), 1000)
        self.assertLess(len(self.failure("-p", "hi", model="m" * 100_000, code=3)), 1000)

    def test_variables(self):
        want = self.output("-p", "hi", "-n", "20", "--temp", "0")
        for env in [
                {"HOME": ""}, {"HOME": EVIL}, {"HOME": "/dev/null"}, {"XDG_CONFIG_HOME": EVIL},
                {"XDG_CONFIG_HOME": "relative"}, {"XDG_CONFIG_HOME": "/dev/null"},
                {"HF_HOME": EVIL, "HF_HUB_CACHE": EVIL}, {"TMPDIR": "/no/such"}, {"PWD": "/no/such"},
                {"OMP_NUM_THREADS": "-1"}, {"MALLOC_ARENA_MAX": "x"}, {"PATH": ""}, {"IFS": "x"},
                {"TERM": ""}, {"TERM": EVIL}, {"COLUMNS": "-1"}, {"NO_COLOR": EVIL}, {"LANG": EVIL},
                {"TZ": "/dev/zero"}, {"BIG": "x" * 100_000}, {"LS_COLORS": EVIL}]:
            run = self.run_cli("-p", "hi", "-n", "20", "--temp", "0", env=env)
            self.assertEqual(run.stdout.decode(), want, env)
            self.assertRegex(run.stderr.decode().rstrip("\n"), TIMING)
        for name in [EVIL, "X" * 50_000, "é", "TEMP ", "temp"]:
            run = self.run_cli("-p", "hi", "-n", "20", "--temp", "0", env={f"DEEPSEEK_RUN_{name}": "1"})
            self.assertEqual(run.stdout.decode(), want)
            self.assertRegex(run.stderr.decode(), r"^warning: DEEPSEEK_RUN_.*has no meaning")
            self.assertNotRegex(run.stderr.decode(), CONTROL)
            self.assertLess(len(run.stderr), 500)

    def test_an_organisation_in_a_cache_with_an_odd_name(self):
        for env in [{"HF_HUB_CACHE": EVIL}, {"HF_HUB_CACHE": "", "HF_HOME": EVIL},
                    {"HF_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": "", "HOME": EVIL}]:
            self.failure("-m", "some/model", "-p", "hi", model=None, env=env, code=3)

    def test_a_working_directory_that_is_gone(self):
        script = 'mkdir "$2" && cd "$2" && rmdir "$2" && "$0" -m "$1" -p hi -n 1 -q'
        run = subprocess.run(["bash", "-c", script, BINARY, MODEL, SCRATCH / "gone"],
                             capture_output=True, env=environment(), timeout=60, check=False)
        self.assertEqual((run.returncode, run.stderr), (0, b""))

    def test_no_arguments_no_environment(self):
        run = subprocess.run([BINARY, "--version"], env={}, capture_output=True, check=True)
        self.assertTrue(run.stdout.startswith(b"deepseek-run "))
        run = subprocess.run([""], executable=BINARY, env={}, stdin=subprocess.DEVNULL,
                             capture_output=True, check=False, timeout=60)
        self.assertIn(run.returncode, [2, 3])  # no prompt, or no small model either
        self.assertEqual(run.stdout, b"")


if __name__ == "__main__":
    unittest.main()
