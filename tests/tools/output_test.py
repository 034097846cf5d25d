# SPDX-License-Identifier: MIT
"""Where output goes, what terminals get, and signals."""

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import time
import unittest
from pathlib import Path

from cli import BINARY, MODEL, SCRATCH, CliTest, environment, say
from random_model import EOS, FIRST_BYTE, tokenizer, write_model


def run_on_terminal(*args: str, model: Path = MODEL, **env: str) -> tuple[str, int]:
    """Runs it with stdout on a pseudo-terminal; what arrived there, and the exit code."""
    parent, child = pty.openpty()
    process = subprocess.Popen([BINARY, "-m", model, "-q", *args], stdin=subprocess.DEVNULL,
                               stdout=child, env=environment(**{"TERM": "xterm", **env}))
    os.close(child)
    out = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        out += part
    os.close(parent)
    return out.decode().replace("\r\n", "\n"), process.wait()


SAID = 3 + 256 + 4  # the id of what model_that_says() says

# Each of these does something to some terminal, or to whoever reads it.
SEQUENCES = [
    "\x1b[2J", "\x1b[31mred\x1b[0m", "\x1b[1;1H", "\x1b[6n", "\x1b[c", "\x1b[>c", "\x1b[?1049h", "\x1b[?25l",
    "\x1b[20t", "\x1b[21t", "\x1b[8;9999;9999t", "\x1bc", "\x1b7", "\x1b(0", "\x1b#8", "\x1b[4i", "\x1b[200~",
    "\x1b]0;title\x07", "\x1b]2;title\x1b\\", "\x1b]52;c;cm0gLXJmIH4=\x07", "\x1b]52;c;?\x1b\\",
    "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "\x1b]10;?\x07", "\x1b]11;#f00\x07", "\x1b]4;1;?\x07",
    "\x1b]1337;File=inline=1:AA==\x07", "\x1b]777;notify;a;b\x07", "\x1bP$qm\x1b\\", "\x1bP+q544e\x1b\\",
    "\x1bPq#0;2;0;0;0\x1b\\", "\x1b_Gf=100;AA==\x1b\\", "\x1b^private\x1b\\", "\x1bXstring\x1b\\",
    "\u009b2J", "\u009d0;title\u009c", "\u0090q\u009c", "\u0085", "\u009fapc\u009c", "\u0084\u008d", "\x07",
    "a\x08b", "safe\rfake", "\x0c", "\x0b", "\x0e\x0f", "\x7f", "\x00", "\x05", "\x11\x13", "\x1a", "\x9b31m",
    "\u202egnp.exe", "\u2066a\u2069", "zero\u200bwidth", "\ufeffbom", "\U000e0041\U000e007f", "\u061c", "\u2028",
    "tab\tand\nline", "é語🙂\u200d", "\x1b\x1b[[A", "\n\n",
]
DECEPTIVE = "[\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"


def shown(text: str, strict: bool = False) -> str:
    """What a terminal has to get."""
    out = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda m: f"\\x{ord(m[0]):02x}", text)
    return re.sub(DECEPTIVE, lambda m: f"\\u{{{ord(m[0]):04x}}}", out) if strict else out


def model_that_says(text: str) -> Path:
    """A model with one more token in its vocabulary."""
    out = SCRATCH / "talking"
    if not out.exists():
        write_model(out)
    content = tokenizer()
    content["added_tokens"].append({**content["added_tokens"][-1], "id": SAID, "content": text})
    (out / "tokenizer.json").write_text(json.dumps(content))
    return out


class Files(CliTest):
    def test_an_answer_in_a_file(self):
        path = SCRATCH / "answer.txt"
        path.write_text("what was there before, longer than the answer")
        run = self.run_cli(*say("a", "-p", "hi", "-n", "3", "-q", "-o", str(path)))
        self.assertEqual((run.stdout, run.stderr), (b"", b""))
        self.assertEqual(path.read_text(), "aaa\n")
        self.run_cli(*say("a", "-p", "hi", "-n", "3", "--format", "json", "-o", str(path)))
        json.loads(path.read_text())

    def test_a_file_is_left_alone_if_there_is_no_answer(self):
        path = SCRATCH / "kept.txt"
        path.write_text("kept")
        self.failure("-p", "hi", "-o", path, model=Path("/no/such"), code=3)
        self.failure("-p", "x" * 100, "-c", "10", "-o", path, code=2)
        self.assertEqual(path.read_text(), "kept")

    def test_no_file_is_created_if_there_is_no_answer(self):
        directory = SCRATCH / "nothing"
        directory.mkdir()
        path = directory / "x"
        self.failure("-p", "x" * 100, "-c", "10", "-o", path, code=2)
        self.failure("--prompt-ids", "272", "-o", path, code=2)
        self.failure("-p", "hi", "-l", "272+1", "-o", path, code=2)
        self.failure("-p", "hi", "--stop", "", "-o", path, code=2)
        self.assertEqual(os.listdir(directory), [])
        # An answer without a token is one.
        self.run_cli("-p", "hi", "--temp", "0", "-l", f"{EOS}+100", "-o", path)
        self.assertTrue(path.exists())

    def test_a_place_that_cannot_be_written_is_known_before_the_answer(self):
        start = time.monotonic()
        self.failure("-p", "hi", "-c", "100000", "-l", f"{EOS}-100", "-o", "/no/such/dir/x", code=6)
        self.failure("-p", "hi", "-c", "100000", "-l", f"{EOS}-100", "-o", "/", code=6)
        self.assertLess(time.monotonic() - start, 5)

    def test_the_prompt_is_not_overwritten(self):
        path = SCRATCH / "both.txt"
        path.write_text("5")
        link = SCRATCH / "link.txt"
        link.symlink_to(path)
        for args in [["-f", path], ["-f", link], ["--prompt-ids", f"@{path}"]]:
            self.assertEqual(self.failure(*args, "-n", "1", "-o", path, code=2),
                             f"the prompt and -o are the same file: {path}")
        self.failure("-f", path, "-o", link, command="logits", code=2)
        run = subprocess.run(["bash", "-c", '"$0" -m "$1" -n 1 -o "$2" <"$2"', BINARY, MODEL, path],
                             capture_output=True, env=environment(), timeout=60, check=False)
        self.assertEqual(run.returncode, 2)
        self.assertEqual(path.read_text(), "5")
        self.run_cli("-f", os.devnull, "-n", "1", "-o", os.devnull)

    def test_output_that_cannot_be_written(self):
        args = say("a", "-p", "hi", "-n", "3")
        self.assertEqual(self.failure(*args, "-o", "/dev/full", code=6),
                         "/dev/full: cannot be written: No space left on device")
        self.assertEqual(self.failure(*args, "-o", "/no/such/dir/x", code=6),
                         "/no/such/dir/x: cannot be created: No such file or directory")
        with open("/dev/full", "wb") as full:
            for args in [args, ["--help"], ["--version"], [*args, "--format", "json"],
                         ["-p", "hi", "--show-prompt"]]:
                self.assertEqual(self.failure(*args, stdout=full, code=6),
                                 "standard output: cannot be written: No space left on device")

    def test_a_closed_pipe_ends_it_quietly(self):
        script = f'"$0" -m "$1" -p hi -l {EOS}-100 -c 100000 2>/dev/null | head -c 1; ' \
                 'echo ":${PIPESTATUS[0]}"'
        start = time.monotonic()
        run = subprocess.run(["bash", "-c", script, BINARY, MODEL], capture_output=True,
                             env=environment(), timeout=60, check=True)
        self.assertTrue(run.stdout.endswith(b":141\n"), run.stdout)
        self.assertEqual(run.stderr, b"")
        self.assertLess(time.monotonic() - start, 5)

    def test_closed_descriptors(self):
        script = '"$0" -m "$1" -p hi -n 1 >&-'
        run = subprocess.run(["bash", "-c", script, BINARY, MODEL], capture_output=True,
                             env=environment(), timeout=60, check=False)
        self.assertEqual(run.returncode, 6)
        run = subprocess.run(["bash", "-c", '"$0" -m "$1" <&-', BINARY, MODEL], capture_output=True,
                             env=environment(), timeout=60, check=False)
        self.assertEqual(run.returncode, 2)
        path = SCRATCH / "descriptors.txt"
        for closed in ["2>&-", "1>&-", "0<&-", "0<&- 1>&- 2>&-"]:
            path.unlink(missing_ok=True)
            line = f'"$0" -m "$1" -p hi -n 3 --temp 0 -l "$2" -v -o "$3" {closed}'
            run = subprocess.run(["bash", "-c", line, BINARY, MODEL, f"{FIRST_BYTE + ord('a')}+100",
                                  path], capture_output=True, env=environment(), timeout=60,
                                 check=False)
            self.assertEqual((run.returncode, path.read_bytes()), (0, b"aaa\n"), closed)


class Terminals(CliTest):
    def test_control_characters_are_shown(self):
        for byte, shown in [(0x1b, r"\x1b"), (0x07, r"\x07"), (0x08, r"\x08"), (0x0d, r"\x0d"),
                            (0x7f, r"\x7f"), (0x00, r"\x00"), (0x09, "\t"), (0x41, "A")]:
            args = ["-p", "hi", "-n", "2", "--temp", "0", "-l", f"{FIRST_BYTE + byte}+100"]
            self.assertEqual(run_on_terminal(*args), (shown * 2 + "\n", 0))
            self.assertEqual(run_on_terminal(*args, "--raw")[0].rstrip("\n"), chr(byte) * 2)
            self.assertEqual(self.run_cli(*args).stdout, bytes([byte, byte]) + b"\n")

    def test_nothing_a_model_says_controls_a_terminal(self):
        for seed in range(4):
            text, code = run_on_terminal("-p", "hi", "-n", "200", "--temp", "5", "-s", str(seed))
            self.assertEqual(code, 0)
            self.assertNotRegex(text, r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

    def test_sequences(self):
        self.assertGreaterEqual(len(SEQUENCES), 40)
        for text in SEQUENCES:
            model = model_that_says(text)
            args = ["-p", "hi", "-n", "1", "--temp", "0", "-l", f"{SAID}+100"]
            end = "" if text.endswith("\n") else "\n"
            piped = self.run_cli(*args, model=model).stdout.decode()
            self.assertEqual(piped, text + end)
            self.assertEqual(run_on_terminal(*args, model=model), (shown(text) + end, 0))
            self.assertEqual(run_on_terminal(*args, "--raw", model=model)[0].replace("\r", ""),
                             (text + end).replace("\r", ""))
            strict, _ = run_on_terminal(*args, "--strict-tty", model=model)
            self.assertEqual(strict, shown(text, strict=True) + end)
            self.assertNotRegex(strict, DECEPTIVE)

    def test_strict_counts_for_raw_answers_too(self):
        model = model_that_says("\x1b[2J\u202e")
        args = ["-p", "hi", "-n", "1", "--temp", "0", "-l", f"{SAID}+100", "--raw"]
        self.assertEqual(run_on_terminal(*args, "--strict-tty", model=model),
                         ("\\x1b[2J\\u{202e}\n", 0))

    def test_any_text(self):
        rng = random.Random(11)
        pool = [*map(chr, range(0xA0)), *"\u202e\u200b\ufeff", *"aé語🙂", "\U000e0041"]
        for _ in range(20):
            text = "".join(rng.choice(pool) for _ in range(70)) + "."
            model = model_that_says(text)
            args = ["-p", "hi", "-n", "1", "--temp", "0", "-l", f"{SAID}+100"]
            got, _ = run_on_terminal(*args, model=model)
            self.assertRegex(got, r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")
            self.assertEqual(got, shown(text) + "\n")
            self.assertEqual(self.run_cli(*args, model=model).stdout.decode(), text + "\n")
            for flags in [["--format", "json"], ["--show-prompt", "--format", "json", "--allow-special"]]:
                line = self.run_cli(*args, *flags, "-p", text.replace("\0", ""), model=model).stdout
                self.assertNotRegex(line.decode(), r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
                answer = json.loads(line)
                if "choices" in answer:
                    self.assertEqual(answer["choices"][0]["message"]["content"], text)
                else:
                    self.assertIn(text.replace("\0", ""), answer["text"])

    def test_reasoning_is_dimmed(self):
        args = say("a", "-p", "hi", "--chat-format", "deepseek-r1", "-n", "2")
        dim = "\x1b[2m{}\x1b[22m"
        self.assertEqual(run_on_terminal(*args)[0],
                         dim.format("<think>\n") + dim.format("a") * 2 + "\n")
        for env in [{"NO_COLOR": "1"}, {"TERM": "dumb"}]:
            self.assertEqual(run_on_terminal(*args, **env)[0], "<think>\naa\n")
        self.assertEqual(run_on_terminal(*args, NO_COLOR="")[0].count("\x1b"), 6)


class Signals(CliTest):
    def start(self, *args: str, model: Path = MODEL,
              prompt: tuple[str, ...] = ("-p", "hi")) -> subprocess.Popen:
        """Generating without end; whoever ignores signals around us does not matter."""
        def default_signals() -> None:
            for number in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]:
                signal.signal(number, signal.SIG_DFL)

        line = [BINARY, "-m", model, *prompt, "-c", "100000", *say("a"), "-l", f"{EOS}-100",
                "--loop-guard", "off", *args]
        return subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env=environment(),
                                preexec_fn=default_signals)

    def wait_for_output(self, process: subprocess.Popen) -> bytes:
        self.assertTrue(select.select([process.stdout], [], [], 10)[0], "no output in 10 s")
        return os.read(process.stdout.fileno(), 100)

    def test_they_end_the_answer_and_what_was_said_is_out(self):
        for number in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]:
            process = self.start()
            first = self.wait_for_output(process)
            start = time.monotonic()
            process.send_signal(number)
            out, err = process.communicate(timeout=10)
            self.assertLess(time.monotonic() - start, 0.5)
            self.assertEqual(process.returncode, 128 + number)
            self.assertRegex(first + out, rb"^a+\n$")
            self.assertRegex(err, rb"^prompt \d+ tok, .*\n$")

    def test_text_that_was_held_back_is_flushed(self):
        # All of the answer may still become the stop string.
        process = self.start("--stop", "a" * 100_000 + "b", "-v", "--device", "cpu")
        self.assertTrue(process.stderr.readline().startswith(b"seed"))
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=10)
        self.assertEqual(process.returncode, 130)
        self.assertRegex(out, rb"^a+\n$")

    def test_json_is_whole(self):
        process = self.start("--format", "json", "-v", "--device", "cpu")
        self.assertTrue(process.stderr.readline().startswith(b"seed"))
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=10)
        self.assertEqual(process.returncode, 130)
        choice = json.loads(out)["choices"][0]
        self.assertEqual(choice["finish_reason"], "cancelled")
        self.assertEqual(choice["message"]["content"], "a" * len(choice["ids"]))

    def test_a_long_prompt_is_not_waited_for(self):
        (SCRATCH / "long.txt").write_text("x" * 60_000)
        # One step for all of it: seconds in which nothing looks at the signal.
        process = self.start("-v", "--device", "cpu", "--chunk", "60K", prompt=("-f", str(SCRATCH / "long.txt")))
        self.assertTrue(process.stderr.readline().startswith(b"seed"))
        time.sleep(0.1)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        self.assertLess(time.monotonic() - start, 0.5)
        self.assertEqual(process.returncode, 130)

    def test_a_second_signal_ends_it_at_once(self):
        process = self.start("--chunk", "8")
        self.wait_for_output(process)
        process.send_signal(signal.SIGSTOP)  # both arrive before it can react
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=10)
        self.assertIn(process.returncode, [130, 143])

    def test_a_pipe_without_a_writer_is_not_waited_for(self):
        fifo = SCRATCH / "prompt.fifo"
        os.mkfifo(fifo)
        process = self.start(prompt=("-f", str(fifo)))
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        self.assertEqual((process.returncode, out, err), (130, b"", b""))

    def test_a_weight_file_that_becomes_shorter(self):
        model = write_model(SCRATCH / "shrinking")
        process = self.start(model=model)
        self.wait_for_output(process)
        os.truncate(model / "model.safetensors", 0)
        _, err = process.communicate(timeout=10)
        self.assertEqual(process.returncode, 3)
        self.assertRegex(err.decode(), r"^error: .*/model\.safetensors: cannot be read at byte \d+: ")


if __name__ == "__main__":
    unittest.main()
