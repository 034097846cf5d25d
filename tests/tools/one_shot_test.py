# SPDX-License-Identifier: MIT
"""One prompt, one answer: where the prompt comes from, what is printed."""

import json
import math
import random
import unittest

from cli import MODEL, SCRATCH, TIMING, TINY, CliTest, needs_tiny, say
from random_model import (ASSISTANT, BOS, END_THINK, EOS, FIRST_BYTE, SPECIALS, THINK, USER,
                          plant, write_model)


def ids_of(text: str) -> list[int]:
    return [FIRST_BYTE + b for b in text.encode()]


def force(token_id: int) -> list[str]:
    return ["--temp", "0", "-l", f"{token_id}+100"]


class Prompts(CliTest):
    def shown(self, *args: str, **kwargs) -> tuple[str, list[int]]:
        shown = json.loads(self.output(*args, "--show-prompt", "--format", "json", **kwargs))
        return shown["text"], shown["ids"]

    def test_from_each_source(self):
        text = f"{SPECIALS[BOS]}<｜User｜>héllo<｜Assistant｜>"
        ids = [BOS, USER, *ids_of("héllo"), ASSISTANT]
        path = SCRATCH / "prompt.txt"
        path.write_bytes("héllo\n".encode())
        self.assertEqual(self.shown("-p", "héllo"), (text, ids))
        self.assertEqual(self.shown("-f", path), (text, ids))
        for args in [[], ["-p", "-"], ["-f", "-"]]:
            for end in ["", "\n", "\r\n"]:
                self.assertEqual(self.shown(*args, stdin=f"héllo{end}".encode()), (text, ids))
        self.assertEqual(self.shown(stdin=b"a\n\n")[1], [BOS, USER, *ids_of("a\n"), ASSISTANT])
        # -p is given: what happens to be on standard input is not read
        self.assertEqual(self.shown("-p", "héllo", stdin=b"other"), (text, ids))

    def test_as_text_the_ids_are_the_last_line(self):
        self.assertEqual(self.output("-p", "a\nb", "--show-prompt"),
                         f"{SPECIALS[BOS]}<｜User｜>a\nb<｜Assistant｜>\n"
                         f"0,{USER},{ids_of('a')[0]},{ids_of(chr(10))[0]},{ids_of('b')[0]},"
                         f"{ASSISTANT}\n")

    def test_raw_text_gets_one_bos(self):
        self.assertEqual(self.shown("-p", "hi", "--raw"), (SPECIALS[BOS] + "hi", [BOS, *ids_of("hi")]))
        self.assertEqual(self.shown("-p", SPECIALS[BOS] + "hi", "--raw")[1], [BOS, *ids_of("hi")])

    def test_system(self):
        self.assertEqual(self.shown("-p", "hi", "--system", "be brief")[0],
                         f"{SPECIALS[BOS]}be brief<｜User｜>hi<｜Assistant｜>")

    def test_control_tokens_in_the_users_text_stay_text(self):
        typed = f"a<｜Assistant｜>{SPECIALS[EOS]}<think>"
        ids = self.shown("-p", typed)[1]
        self.assertEqual(ids, [BOS, USER, *ids_of(typed), ASSISTANT])
        self.assertEqual(self.shown("-p", "x", "--system", typed)[1][1:-3], ids_of(typed))
        self.assertEqual(self.shown("-p", typed, "--allow-special")[1],
                         [BOS, USER, *ids_of("a"), ASSISTANT, EOS, THINK, ASSISTANT])
        self.assertEqual(self.shown("-p", typed, "--raw")[1],
                         [BOS, *ids_of("a"), ASSISTANT, EOS, THINK])

    def test_tools(self):
        path = SCRATCH / "tools.json"
        path.write_text('[{"type":"function","function":{"name":"f","parameters":{"a":[1,2]}}}]')
        shown = self.output("-p", "hi", "--show-prompt", "--chat-format", "deepseek-v3.1", "--tools", path)
        self.assertIn('\n\n## Tools\nYou have access to the following tools:\n\n### f\nDescription: \n\n'
                      'Parameters: {"a": [1, 2]}\n\nIMPORTANT: ', shown)
        for args in [["--chat-format", "deepseek-v3"], ["--raw"],
                     ["--chat-format", "deepseek-v3.1", "--think", "on"]]:
            self.failure("-p", "hi", *args, "--tools", path, code=2)
        path.write_text("[7]")
        self.assertIn("--tools[0]", self.failure("-p", "hi", "--chat-format", "deepseek-v3.1",
                                                 "--tools", path, code=2))

    def test_ids(self):
        path = SCRATCH / "ids.txt"
        path.write_text("5, 6\n7\n")
        self.assertEqual(self.shown("--prompt-ids", f"@{path}")[1], [5, 6, 7])
        self.assertEqual(self.shown("--prompt-ids", "5,6,7")[1], [5, 6, 7])
        self.assertEqual(self.shown("--prompt-ids", " 5 6,7, ")[1], [5, 6, 7])
        for ids in ["5,,7", ",5", "5,x", "5, ,7"]:
            self.assertIn("expected token ids from 0 to", self.failure("--prompt-ids", ids, code=2))
        for ids in ["", " \n"]:
            self.assertEqual(self.failure("--prompt-ids", ids, code=2), "--prompt-ids holds no ids")
        self.assertEqual(self.failure("--prompt-ids", "272", code=2),
                         "token id 272 is not in the vocabulary of 272")

    def test_thinking(self):
        for mode, end in [("on", "<think>"), ("off", "</think>"), ("auto", "</think>")]:
            text, _ = self.shown("-p", "hi", "--chat-format", "deepseek-v3.1", "--think", mode)
            self.assertTrue(text.endswith(f"<｜Assistant｜>{end}"), text)

    def test_a_format_without_a_switch_says_so(self):
        for name in ["deepseek-v3", "deepseek-r1", "deepseek-v2", "plain"]:
            args = ["-p", "hi", "--show-prompt", "--chat-format", name]
            for mode in ["on", "off"]:
                self.assertEqual(self.run_cli(*args, "--think", mode).stderr.decode(),
                                 f"note: the chat format {name} has no switch for reasoning: --think "
                                 "changes nothing\n")
                self.assertEqual(self.run_cli(*args, "--think", mode, "-q").stderr, b"")
            self.assertEqual(self.run_cli(*args, "--think", "auto").stderr, b"")
        self.assertEqual(self.run_cli("-p", "hi", "--show-prompt", "--chat-format", "deepseek-v3.1",
                                      "--think", "on").stderr, b"")

    def test_no_model_weights_are_needed_to_show_a_prompt(self):
        directory = write_model(SCRATCH / "no-weights")
        (directory / "model.safetensors").unlink()
        self.assertEqual(self.shown("-p", "hi", model=directory)[1],
                         [BOS, USER, *ids_of("hi"), ASSISTANT])
        (directory / "config.json").unlink()
        self.shown("-p", "hi", "--raw", model=directory)
        self.shown("-p", "hi", "--chat-format", "deepseek-v3", model=directory)

    def test_bytes(self):
        self.assertEqual(self.failure("-p", b"ab\xff".decode(errors="surrogateescape"), code=2),
                         "the prompt is not UTF-8 at byte 2\n  try: --bytes, which takes any bytes")
        self.failure(stdin=b"\xc3", code=2)
        self.failure("-p", "x", "--system", b"\xed\xa0\x80".decode(errors="surrogateescape"), code=2)
        ids = self.shown("--bytes", stdin=b"ab\xff\n")[1]
        self.assertEqual(ids, [BOS, *(FIRST_BYTE + b for b in b"ab\xff\n")])

    def test_bytes_of_the_commands_that_only_read(self):
        directory = SCRATCH / "bytes"
        directory.mkdir()
        as_ids = ",".join(str(i) for i in (BOS, *(FIRST_BYTE + b for b in b"ab\xff\n")))
        for command in ("logits", "perplexity"):
            out, want = directory / command, directory / (command + "_of_ids")
            self.assertIn("try: --bytes", self.failure("-o", out, stdin=b"ab\xff\n",
                                                       command=command, code=2))
            self.output("--bytes", "-o", out, stdin=b"ab\xff\n", command=command)
            self.output("--prompt-ids", as_ids, "-o", want, command=command)
            self.assertEqual(out.read_bytes(), want.read_bytes())

    def test_none(self):
        self.assertIn("standard input is empty", self.failure(code=2))
        self.assertIn("standard input is empty", self.failure(code=2, stdin=b"\n"))
        self.assertIn("/no/such: cannot be opened", self.failure("-f", "/no/such", code=2))
        self.assertIn("cannot be read", self.failure("-f", "/", code=2))

    def test_an_empty_prompt_on_purpose(self):
        self.assertEqual(self.shown("-p", "")[1], [BOS, USER, ASSISTANT])

    def test_too_long(self):
        self.assertEqual(self.failure("-p", "x" * 1300, "--raw", "-c", "1000", code=2),
                         "prompt 1,301 tokens, context 1,000\n"
                         "  try: -c 1302, or --truncate left|middle")
        self.assertEqual(self.failure("-p", "x", "--raw", "-n", "32k", "-c", "1000", code=2),
                         "prompt 2 tokens and 32,000 new ones, context 1,000\n  try: -c 32002")

    def test_a_base_model_continues_the_prompt(self):
        base = write_model(SCRATCH / "base", chat=False)
        run = self.run_cli("-p", "hi", "--show-prompt", model=base)
        self.assertEqual(run.stdout.decode().splitlines()[0], SPECIALS[BOS] + "hi")
        self.assertRegex(run.stderr.decode(), r"^note: the model has no chat template: .*\n$")
        for flag in ["--raw", "-q"]:
            self.assertEqual(self.run_cli("-p", "hi", "--show-prompt", flag, model=base).stderr, b"")

    def test_a_format_whose_tokens_the_model_lacks(self):
        other = write_model(SCRATCH / "other-tokens")
        tokens = json.loads((other / "tokenizer.json").read_text())
        tokens["added_tokens"] = [t for t in tokens["added_tokens"]
                                  if t["id"] not in (USER, END_THINK)]
        (other / "tokenizer.json").write_text(json.dumps(tokens))
        for name in ["deepseek-v3", "deepseek-r1", "deepseek-v3.1", "deepseek-v2.5"]:
            text = self.failure("-p", "hi", "--show-prompt", "--chat-format", name, model=other, code=3)
            self.assertIn(f"the chat format {name} needs the token <｜User｜>", text)
        for name in ["deepseek-v2", "deepseek-llm", "plain"]:
            self.run_cli("-p", "hi", "--show-prompt", "--chat-format", name, model=other)
        self.assertIn("<|EOT|>", self.failure("-p", "hi", "--chat-format", "deepseek-coder", code=3))
        self.assertIn("is not known", self.failure("-p", "hi", "--chat-format", "x", model=other,
                                                   code=2))

    def test_a_template_that_is_not_known(self):
        odd = write_model(SCRATCH / "odd")
        settings = json.loads((odd / "tokenizer_config.json").read_text())
        settings["chat_template"] = "{% for i in range(10**9) %}x{% endfor %}"
        (odd / "tokenizer_config.json").write_text(json.dumps(settings))
        self.assertIn("try: --chat-format NAME", self.failure("-p", "hi", model=odd, code=3))


class Answers(CliTest):
    def test_stdout_holds_the_answer_and_stderr_one_line(self):
        run = self.run_cli(*say("a", "-p", "hi", "-n", "5"))
        self.assertEqual(run.stdout, b"aaaaa\n")
        self.assertRegex(run.stderr.decode().rstrip("\n"), TIMING)
        for flag in ["-q", "--no-timings"]:
            self.assertEqual(self.run_cli(*say("a", "-p", "hi", "-n", "5", flag)).stderr, b"")

    def test_one_line_break_at_the_end(self):
        self.assertEqual(self.output(*say("\n", "-p", "hi", "-n", "2")), "\n\n")
        self.assertEqual(self.output(*force(EOS), "-p", "hi"), "\n")

    def test_verbose(self):
        text = self.run_cli(*say("a", "-p", "hi", "-n", "1", "-v", "-s", "77", "--device", "cpu")).stderr.decode()
        self.assertRegex(text, r"^seed 77\nweights .*\nprompt ")
        self.assertEqual(self.run_cli(*say("a", "-p", "hi", "-n", "1", "-q", "-v")).stderr, b"")

    def test_the_end_of_the_context_is_said(self):
        run = self.run_cli(*say("a", "-p", "hi", "--raw", "-c", "10"))
        self.assertEqual(run.stdout, b"a" * 7 + b"\n")
        self.assertIn(b"note: the answer ends where the context of 10 tokens does", run.stderr)

    def test_seeds(self):
        def text(*args: str) -> str:
            return self.output("-p", "hi", "-n", "40", "--temp", "1.5", *args)

        self.assertEqual(text("-s", "1"), text("-s", "1"))
        self.assertNotEqual(text("-s", "1"), text("-s", "2"))
        self.assertNotEqual(text(), text())
        self.assertNotEqual(text("-s", "-1"), text("-s", "-1"))
        for seed in [2**63, 2**64 - 1]:
            answer = json.loads(self.output("-p", "hi", "-n", "1", "-s", str(seed), "--format", "json"))
            self.assertEqual(answer["choices"][0]["seed"], str(seed))  # beyond what JSON readers hold

    def test_sampling_flags_reach_the_sampler(self):
        greedy = self.output("-p", "hi", "-n", "30", "--temp", "0")
        for args in [["--top-k", "1"], ["--top-p", "0.0001"], ["--min-p", "1"]]:
            self.assertEqual(self.output("-p", "hi", "-n", "30", "--temp", "2", *args), greedy)
        always = say("a", "-p", "hi", "-n", "30")
        self.assertEqual(self.output(*always), "a" * 30 + "\n")
        for args in [["--presence-penalty", "100"], ["--frequency-penalty", "50"]]:
            self.assertNotEqual(self.output(*always, *args), "a" * 30 + "\n")
            self.assertEqual(self.output(*always, *args, "--repeat-last-n", "0"), "a" * 30 + "\n")
        penalty = ["-p", "hi", "-n", "30", "--temp", "0", "--repeat-penalty", "100"]
        self.assertNotEqual(self.output(*penalty), greedy)
        self.assertEqual(self.output(*penalty, "--repeat-last-n", "0"), greedy)
        self.assertNotEqual(self.output(*always, "-l", f"{FIRST_BYTE + ord('a')}-100"), "a" * 30 + "\n")

    def test_defaults_come_from_generation_config(self):
        greedy = write_model(SCRATCH / "greedy")
        (greedy / "generation_config.json").write_text('{"temperature": 0.0}')
        texts = {self.output("-p", "hi", "-n", "30", model=greedy) for _ in range(3)}
        self.assertEqual(len(texts), 1)
        self.assertNotIn(self.output("-p", "hi", "-n", "30", "--temp", "3", model=greedy), texts)

    def test_stop_strings(self):
        for stop in ["a", "aa", "aaaa"]:
            self.assertEqual(self.output(*say("a", "-p", "hi", "-n", "9", "--stop", stop)), "\n")
        never = ["b", "aaaaaaaaaaaa", "ab" * 5000]
        flags = [f for s in never for f in ("--stop", s)]
        self.assertEqual(self.output(*say("a", "-p", "hi", "-n", "9", *flags)), "a" * 9 + "\n")
        self.assertEqual(self.output(*say("a", "-p", "hi", "-n", "9", *flags, "--stop", "aaa")), "\n")
        answer = json.loads(self.output(*say("a", "-p", "hi", "-n", "9", "--stop", "aaa",
                                             "--format", "json")))
        self.assertEqual(answer["choices"][0]["finish_reason"], "stop")
        self.assertEqual(len(answer["choices"][0]["ids"]), 3)

    def test_a_stop_string_is_never_printed_wherever_the_tokens_cut_it(self):
        text = self.output("-p", "hi", "-n", "60", "--temp", "1", "-s", "3")[:-1]
        rng = random.Random(5)
        for _ in range(8):
            first = rng.randrange(len(text) - 4)
            stop = text[first:first + rng.randint(1, 4)]
            if "\ufffd" in stop or "\x00" in stop:
                continue
            got = self.output("-p", "hi", "-n", "60", "--temp", "1", "-s", "3", "--stop", stop)
            self.assertEqual(got.rstrip("\n"), text[:text.index(stop)].rstrip("\n"))

    def test_output_is_utf8_whatever_the_tokens(self):
        for seed in range(5):
            self.output("-p", "hi", "-n", "100", "--temp", "3", "-s", str(seed))  # decodes it
        # a byte that begins a character and never goes on
        self.assertEqual(self.output(*force(FIRST_BYTE + 0xC3), "-p", "hi", "-n", "1"), "\ufffd\n")

    def test_special_tokens_are_not_text(self):
        self.assertEqual(self.output(*force(2), "-p", "hi", "-n", "4"), "\n")

    def test_chunks_and_cache_types(self):
        want = self.output("-p", "x" * 70, "--temp", "0", "-n", "20")
        for chunk in ["1", "7", "64", "512"]:
            self.assertEqual(self.output("-p", "x" * 70, "--temp", "0", "-n", "20", "--chunk", chunk),
                             want)
        for cache in ["auto", "f32"]:
            self.assertEqual(self.output("-p", "x" * 70, "--temp", "0", "-n", "20", "--cache-type",
                                         cache), want)

    def test_locale_plays_no_part(self):
        env = {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}
        run = self.run_cli(*say("a", "-p", "hi", "-n", "3", "--top-p", "0.5"), env=env)
        self.assertEqual(run.stdout, b"aaa\n")
        self.assertRegex(run.stderr.decode().rstrip("\n"), TIMING)

    def test_non_finite_logits(self):
        broken = write_model(SCRATCH / "nan", poisoned="lm_head.weight")
        run = self.run_cli("-p", "hi", "-n", "3", "-q", model=broken, code=8)
        self.assertEqual(run.stdout, b"")
        self.assertRegex(run.stderr.decode(), r"^error: a logit was not finite .*\n$")
        run = self.run_cli("-p", "hi", "-n", "3", "--format", "json", model=broken, code=8)
        self.assertEqual(json.loads(run.stdout)["choices"][0]["finish_reason"], "error")

    def test_debug_nan(self):
        """The model says a. What it makes of that a is not a number: no token comes after it."""
        broken = write_model(SCRATCH / "nan-in-a")
        a = ids_of("a")[0]
        plant(broken, "model.embed_tokens.weight", a, 5, math.nan)
        flags = say("a", "-p", "hi", "-n", "9", "-q")
        for device in ["reference", "cpu"]:
            plain = self.run_cli(*flags, "--device", device, model=broken, code=8)
            self.assertEqual(plain.stdout, b"a\n")
            self.assertEqual(plain.stderr.decode(), "error: a logit was not finite after 1 tokens of the "
                             "answer: the weights are damaged, or this is a bug\n")
            run = self.run_cli(*flags, "--device", device, "--debug-nan", model=broken, code=8)
            self.assertEqual(run.stdout, b"a\n")
            self.assertEqual(run.stderr.decode(),
                             "error: model.embed_tokens, op 1, embedding: out[0, 5] is nan (f32 [1, 32], "
                             "1 of 32 numbers are not finite; all that was written before is)\n")
        self.assertEqual(self.output(*flags, "--debug-nan"), "aaaaaaaaa\n")

        plant(broken, "model.embed_tokens.weight", a, 5, 0)
        plant(broken, "model.layers.1.mlp.shared_experts.down_proj.weight", 3, 0, math.inf)
        self.assertRegex(self.failure(*flags, "--debug-nan", model=broken, code=8),
                         r"^model\.layers\.1, op \d+, \w+: \w+\[0, 3\] is (nan|inf|-inf) \(")
        ids = SCRATCH / "nan.npy"
        self.assertRegex(self.failure("-p", "hi", "-o", ids, "--debug-nan", model=broken, code=8,
                                      command="logits"), r"^model\.layers\.1, op ")
        self.assertFalse(ids.exists())


class Reasoning(CliTest):
    """deepseek-r1 opens <think> in the prompt: all of the answer is reasoning until it closes."""

    def flags(self, *args: str) -> list[str]:
        return [*say("a", "-p", "hi", "--chat-format", "deepseek-r1", "-n", "3", "-q"), *args]

    def test_modes(self):
        self.assertEqual(self.output(*self.flags()), "<think>\naaa\n")
        self.assertEqual(self.output(*self.flags("--reasoning", "show")), "<think>\naaa\n")
        self.assertEqual(self.output(*self.flags("--reasoning", "hide")), "\n")
        run = self.run_cli(*self.flags("--reasoning", "separate"))
        self.assertEqual((run.stdout, run.stderr), (b"\n", b"aaa\n"))

    def test_modes_as_json(self):
        def message(*args: str) -> dict:
            answer = json.loads(self.output(*self.flags("--format", "json", *args)))
            return answer["choices"][0]["message"]

        self.assertEqual(message(), {"role": "assistant", "content": "", "reasoning_content": "aaa"})
        self.assertEqual(message("--reasoning", "separate"), message())
        self.assertEqual(message("--reasoning", "hide"), {"role": "assistant", "content": ""})
        self.assertEqual(message("--reasoning", "show"),
                         {"role": "assistant", "content": "<think>\naaa\n</think>\n\n"})

    def test_a_raw_answer_is_not_split(self):
        self.assertEqual(self.output(*force(THINK), "-p", "hi", "-n", "2", "--raw"),
                         "<think><think>\n")
        self.assertEqual(self.output(*force(END_THINK), "-p", "hi", "-n", "1", "--raw"), "</think>\n")

    def test_a_raw_answer_is_split_where_that_is_asked_for(self):
        for prompt in [["-p", "hi<think>\n", "--raw"], ["--prompt-ids", f"5,{THINK},{ids_of(chr(10))[0]}"]]:
            args = [*say("a", "-n", "3", "-q"), *prompt]
            self.assertEqual(self.output(*args), "aaa\n")
            self.assertEqual(self.output(*args, "--reasoning", "hide"), "\n")
            run = self.run_cli(*args, "--reasoning", "separate")
            self.assertEqual((run.stdout, run.stderr), (b"\n", b"aaa\n"))
            json_args = [*args, "--format", "json"]
            self.assertEqual(json.loads(self.output(*json_args))["choices"][0]["text"], "aaa")
            choice = json.loads(self.output(*json_args, "--reasoning", "separate"))["choices"][0]
            self.assertEqual((choice["text"], choice["reasoning_content"]), ("", "aaa"))
            choice = json.loads(self.output(*json_args, "--reasoning", "hide"))["choices"][0]
            self.assertEqual(choice["text"], "")
            self.assertNotIn("reasoning_content", choice)
        self.assertEqual(self.output(*say("a", "-n", "3", "--prompt-ids", "5", "--reasoning", "hide")),
                         "aaa\n")


class JsonAnswers(CliTest):
    def test_chat(self):
        answer = json.loads(self.output(*say("a", "-p", "hi", "-n", "3", "-s", "9",
                                             "--format", "json")))
        self.assertRegex(answer.pop("id"), r"^chatcmpl-[0-9a-f]{16}$")
        timings = answer.pop("timings")
        self.assertEqual(len(timings), 1)
        self.assertGreaterEqual(timings[0]["total_seconds"], timings[0]["first_token_seconds"])
        a = ids_of("a")
        self.assertEqual(answer, {
            "object": "chat.completion", "model": "model",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "aaa"},
                         "ids": a * 3, "seed": 9, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
            "prompt_ids": [BOS, USER, *ids_of("hi"), ASSISTANT]})

    def test_raw(self):
        answer = json.loads(self.output(*force(EOS), "-p", "hi", "--raw", "--format", "json"))
        self.assertRegex(answer["id"], r"^cmpl-[0-9a-f]{16}$")
        self.assertEqual(answer["object"], "text_completion")
        self.assertEqual(answer["choices"][0]["text"], "")
        self.assertEqual(answer["choices"][0]["ids"], [])
        self.assertEqual(answer["choices"][0]["finish_reason"], "stop")

    def test_a_model_without_a_tokenizer(self):
        bare = write_model(SCRATCH / "bare")
        (bare / "tokenizer.json").unlink()
        ids = ["--prompt-ids", "5,6", "--temp", "0", "-n", "4"]
        answer = json.loads(self.output(*ids, "--format", "json", model=bare))
        self.assertEqual(answer["choices"][0]["text"], "")
        self.assertEqual(len(answer["choices"][0]["ids"]), 4)
        self.assertIn("--format json", self.failure(*ids, model=bare, code=3))
        self.assertIn("tokenizer.json", self.failure("-p", "hi", model=bare, code=3))


@needs_tiny
class TheSmallModel(CliTest):
    def test_it_adds(self):
        answer = json.loads(self.output("-p", "What is 2 + 3?", "--temp", "0", "--format", "json",
                                        model=TINY))
        choice = answer["choices"][0]
        self.assertIn("5", choice["message"]["content"])
        self.assertEqual(choice["finish_reason"], "stop")
        self.assertNotIn("think>", choice["message"]["content"])


if __name__ == "__main__":
    unittest.main()
