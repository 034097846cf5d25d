# SPDX-License-Identifier: MIT
"""DRY, the loop guard, several answers, log-probabilities, and numbers and stop strings that are
out of all proportion (U5 and U8 of hostile input)."""

import json
import math
import os
import pty
import subprocess
import unittest

from cli import BINARY, MODEL, SCRATCH, TIMING, TINY, CliTest, environment, needs_tiny, say
from random_model import FIRST_BYTE, write_model


def ids_of(text: str) -> list[int]:
    return [FIRST_BYTE + b for b in text.encode()]


class Dry(CliTest):
    def test_it_breaks_a_repetition(self):
        flags = ["-p", "hi", "-n", "30", "--raw", "--temp", "0", "-l", f"{ids_of('a')[0]}+50"]
        self.assertEqual(self.output(*flags), "a" * 30 + "\n")
        off = self.output(*flags, "--dry-multiplier", "0", "--dry-base", "2")
        self.assertEqual(off, "a" * 30 + "\n")
        strong = self.output(*flags, "--dry-multiplier", "40", "--dry-allowed-length", "3")
        # "aaa" was followed by "a" once there are four of them; its penalty of 40 and then 70
        self.assertTrue(strong.startswith("aaaaa"), strong)
        self.assertNotEqual(strong, "a" * 30 + "\n")
        weak = self.output(*flags, "--dry-multiplier", "0.001", "--dry-base", "1")
        self.assertEqual(weak, "a" * 30 + "\n")

    def test_breakers_are_free(self):
        flags = ["-p", "hi", "-n", "30", "--raw", "--temp", "0", "--dry-multiplier", "100"]
        line_breaks = ["-l", f"{ids_of(chr(10))[0]}+50"]
        self.assertEqual(self.output(*flags, *line_breaks), "\n" * 30)


class LoopGuard(CliTest):
    def test_on_off_and_where_it_does_not_matter(self):
        model = write_model(SCRATCH / "long", max_position_embeddings=1500)
        run = self.run_cli(*say("a", "-p", "hi", "--raw"), model=model)
        self.assertEqual(run.stdout, b"a" * 1024 + b"\n")
        self.assertIn(b"note: the answer repeated itself and was ended (--loop-guard off", run.stderr)
        for flags in [["-n", "1100"], ["--loop-guard", "on"]]:
            answer = json.loads(self.output(*say("a", "-p", "hi", "--raw", *flags, "--format", "json"),
                                            model=model))
            self.assertEqual(answer["choices"][0]["finish_reason"], "repetition")
        answer = json.loads(self.output(*say("a", "-p", "hi", "--raw", "--loop-guard", "off",
                                             "--format", "json"), model=model))
        self.assertEqual(answer["choices"][0]["finish_reason"], "length")
        self.assertEqual(len(answer["choices"][0]["ids"]), 1500 - 3)
        self.assertEqual(self.failure("-p", "x", "--loop-guard", "maybe", code=2),
                         '--loop-guard is "maybe", expected off or on')


class Samples(CliTest):
    def flags(self, n: int, *more: str) -> list[str]:
        return ["-p", "hi", "-n", "20", "--temp", "1.2", "-s", "5", "--n-samples", str(n), *more]

    def choices(self, n: int, *more: str) -> list[dict]:
        answer = json.loads(self.output(*self.flags(n, "--format", "json", *more)))
        self.assertEqual(answer["usage"], {"prompt_tokens": 5, "completion_tokens":
                                           sum(len(c["ids"]) for c in answer["choices"]),
                                           "total_tokens": 5 + sum(len(c["ids"])
                                                                   for c in answer["choices"])})
        self.assertEqual([c["index"] for c in answer["choices"]], list(range(n)))
        return answer["choices"]

    def test_an_answer_depends_on_its_index_alone(self):
        four = self.choices(4)
        self.assertEqual(len({tuple(c["ids"]) for c in four}), 4)
        self.assertEqual({c["seed"] for c in four}, {5})
        for n in [1, 2, 3]:
            self.assertEqual(self.choices(n), four[:n])
        for args in [("--device", "reference"), ("--max-seqs", "1"), ("--max-seqs", "3")]:
            self.assertEqual(self.choices(4, *args), four)

    def test_as_text_a_script_splits_at_nul(self):
        texts = [c["message"]["content"] for c in self.choices(3)]
        run = self.run_cli(*self.flags(3))
        self.assertEqual(run.stdout.decode(), "".join(t + "\0" for t in texts))
        self.assertRegex(run.stderr.decode().rstrip("\n"), TIMING)
        self.assertIn(b"prompt 3 x 5 tok", run.stderr)
        self.assertIn(b"| 3 answers ", run.stderr)
        self.assertEqual(self.output(*self.flags(1)), texts[0] + "\n")  # one is as ever
        path = SCRATCH / "samples.txt"
        self.run_cli(*self.flags(3, "-o", str(path)))
        self.assertEqual(path.read_bytes(), run.stdout)

    def test_on_a_terminal_each_has_a_heading(self):
        master, slave = pty.openpty()
        line = [BINARY, "-m", str(MODEL), "-q", *say("a", "-p", "hi", "-n", "3", "--n-samples", "2")]
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=slave,
                                   env=environment(NO_COLOR="1", TERM="xterm"))
        os.close(slave)
        shown = b""
        try:
            while chunk := os.read(master, 4096):
                shown += chunk
        except OSError:
            pass  # the other side is closed
        os.close(master)
        self.assertEqual(process.wait(60), 0)
        self.assertEqual(shown.decode().replace("\r\n", "\n"),
                         "--- answer 1 of 2 ---\naaa\n\n--- answer 2 of 2 ---\naaa\n")

    def test_stop_strings_and_reasoning_are_each_answers_own(self):
        run = self.run_cli(*say("a", "-p", "hi", "-n", "9", "--n-samples", "2", "--stop", "aaa", "-q"))
        self.assertEqual(run.stdout, b"\0\0")
        run = self.run_cli(*say("a", "-p", "hi", "-n", "3", "--chat-format", "deepseek-r1",
                                "--n-samples", "2", "-q"))
        self.assertEqual(run.stdout, b"<think>\naaa\0<think>\naaa\0")

    def test_how_many(self):
        for n in ["0", "-1", "1025", "2147483648", "x"]:
            self.assertIn("expected a whole number from 1 to 1024",
                          self.failure("-p", "hi", "--n-samples", n, code=2))


class LogProbs(CliTest):
    def test_chat(self):
        flags = ["-p", "hi", "-n", "6", "--temp", "1", "-s", "4", "--format", "json"]
        choice = json.loads(self.output(*flags, "--logprobs", "20"))["choices"][0]
        content = choice["logprobs"]["content"]
        self.assertEqual(len(content), len(choice["ids"]))
        for entry in content:
            top = [t["logprob"] for t in entry["top_logprobs"]]
            self.assertEqual(len(top), 20)
            self.assertEqual(top, sorted(top, reverse=True))
            self.assertLess(sum(map(math.exp, top)), 1 + 1e-5)
            self.assertLessEqual(entry["logprob"], top[0])
        spoken = b"".join(bytes(e["bytes"]) for e in content)
        self.assertEqual(spoken.decode(errors="replace"), choice["message"]["content"])
        zero = json.loads(self.output(*flags, "--logprobs", "0"))["choices"][0]
        self.assertEqual(zero["ids"], choice["ids"])
        self.assertEqual([{**e, "top_logprobs": []} for e in content], zero["logprobs"]["content"])
        self.assertNotIn("logprobs", json.loads(self.output(*flags))["choices"][0])

    def test_text(self):
        flags = [*say("a", "-p", "hi", "-n", "3", "--raw", "--format", "json"), "--logprobs", "1"]
        log_probs = json.loads(self.output(*flags))["choices"][0]["logprobs"]
        self.assertEqual(list(log_probs), ["tokens", "token_logprobs", "top_logprobs", "text_offset"])
        self.assertEqual(log_probs["tokens"], ["a"] * 3)
        self.assertEqual(log_probs["text_offset"], [0, 1, 2])
        for value, top in zip(log_probs["token_logprobs"], log_probs["top_logprobs"]):
            self.assertLess(value, 0)  # the bias that forces the token is not in it
            self.assertEqual(top["a"], value)

    def test_only_with_json(self):
        self.assertEqual(self.failure("-p", "hi", "--logprobs", "3", code=2),
                         "--logprobs needs --format json: text has no place for them")
        self.assertEqual(self.failure("-p", "hi", "--logprobs", "21", "--format", "json", code=2),
                         "logprobs is 21, expected -1 or 0 to 20")


class Numbers(CliTest):
    """U5: every number has a closed range; nothing is computed for one outside it."""

    def test_extremes(self):
        reals = ["--temp", "--top-p", "--min-p", "--repeat-penalty", "--presence-penalty",
                 "--frequency-penalty", "--dry-multiplier", "--dry-base"]
        counts = ["--top-k", "--repeat-last-n", "--dry-allowed-length", "--logprobs", "--n-samples",
                  "-n"]
        for flag in reals:
            for value in ["nan", "-nan", "inf", "-inf", "1e38", "-1e38", "1e400", "-101", "", "1,5",
                          "2147483648"]:
                self.failure("-p", "x", f"{flag}={value}", code=2)
        for flag in counts:
            for value in ["-2", "2147483648", "1000000000000", "9223372036854775808", "1e9", "nan", ""]:
                self.failure("-p", "x", "--format", "json", flag, value, code=2)
        for bias in ["5+101", "5-101", "5+nan", "5+inf", "-1+1", "2147483648+1", "1000000000+1"]:
            self.failure("-p", "x", "-l", bias, code=2)

    def test_generation_config(self):
        for text in ['{"temperature": 1e38}', '{"temperature": -1}', '{"top_p": 0}', '{"top_p": 1.5}',
                     '{"top_k": 1000000000}', '{"top_k": -5}', '{"repetition_penalty": 0}',
                     '{"min_p": 2}', '{"temperature": "hot"}']:
            model = write_model(SCRATCH / "numbers")
            (model / "generation_config.json").write_text(text)
            run = self.run_cli("-p", "x", "-n", "1", model=model)
            self.assertRegex(run.stderr.decode(), r"warning: generation_config.json: .*; using the "
                             r"built-in sampling defaults\n", text)


class StopStrings(CliTest):
    """U8: nothing of a stop string is ever printed."""

    def test_table(self):
        self.assertEqual(self.failure("-p", "x", "--stop", "", code=2), "a stop string is empty")
        broken = b"a\xff".decode(errors="surrogateescape")
        self.assertIn("is not UTF-8 at byte 1", self.failure("-p", "x", "--stop", broken, code=2))
        nines = say("a", "-p", "x", "-n", "9")
        self.assertEqual(self.output(*nines, "--stop", "a" * 10_000), "a" * 9 + "\n")
        self.assertEqual(self.output(*nines, "--stop", "b" * 10_000), "a" * 9 + "\n")
        self.assertEqual(self.output(*nines, "--stop", "aaaaa"), "\n")  # over five tokens
        # A character of two tokens, and the stop string begins with its first byte.
        two_bytes = [FIRST_BYTE + 0xC3, FIRST_BYTE + 0xA4]
        alternate = ["--temp", "0", "-p", "x", "-n", "6", "--presence-penalty", "0"]
        force = ["-l", f"{two_bytes[0]}+100", "-l", f"{two_bytes[1]}+90", "--repeat-last-n", "1",
                 "--presence-penalty", "50"]
        self.assertEqual(self.output(*alternate, *force), "äää\n")
        self.assertEqual(self.output(*alternate, *force, "--stop", "ä"), "\n")
        self.assertEqual(self.output(*alternate, *force, "--stop", "ö"), "äää\n")
        self.assertEqual(self.output(*alternate, *force, "--stop", "ää"), "\n")


@needs_tiny
class TheSmallModel(CliTest):
    def test_samples_of_a_story(self):
        texts = self.output("-p", "Tell me a story about a fox.", "-n", "30", "-s", "1", "-q",
                            "--n-samples", "4", model=TINY).split("\0")
        self.assertEqual(len(set(texts)), 5)  # and the empty string after the last NUL


if __name__ == "__main__":
    unittest.main()
