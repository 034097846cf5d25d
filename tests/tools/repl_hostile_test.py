# SPDX-License-Identifier: MIT
"""The chat against what a terminal, a model or a file can do to it: hostile.md U9, R4."""

import json
import os
import signal
import time
import unittest

from cli import BINARY, MODEL, SANITIZED, environment, needs_tiny, say
from pty_chat import PASTE, PtyChat
from random_model import EOS
from repl_case import EDITS_LINES, ReplCase

ENDLESS = say("a", "-l", f"{EOS}-100", "--loop-guard", "off")


@needs_tiny
class Sessions(ReplCase):
    def test_save_and_load(self):
        path = self.state / "chat.json"
        with self.chat("--system", "Be brief.", "-s", "7") as c:
            c.prompt()
            c.ask("What is 47 + 38?")
            c.ask("/set stop=END")
            self.assertEqual(c.ask(f"/save {path}"), f"saved 1 turn to {path}")
            c.ask("/clear")
            self.assertEqual(c.ask("/save"), f"saved 0 turns to {path}")  # the same file
            c.ask("What is 12 + 5?")
            c.ask("/save")
        saved = json.loads(path.read_text())
        self.assertEqual([m["role"] for m in saved["messages"]], ["system", "user", "assistant"])
        self.assertEqual(saved["settings"], ["temp=0", "seed=7", "stop=END"])
        with self.chat() as c:
            c.prompt()
            self.assertRegex(c.ask(f"/load {path}"), r"^loaded 1 turn, \d+ of 2,048 tokens")
            self.assertIn("stop=END", c.ask("/set"))
            self.assertIn("system: Be brief.", c.ask("/show"))
            self.assertTrue(c.ask("What is 3 + 4?").endswith("3 + 4 = 7"))

    def test_another_models_session_is_refused(self):
        path = self.state / "chat.json"
        with self.chat(model=MODEL) as c:
            c.prompt()
            c.ask(f"/save {path}")
        with self.chat() as c:
            c.prompt()
            self.assertRegex(c.ask(f"/load {path}"),
                             r'^error: .*chat\.json: is a chat with another model, "model" \(')
            c.ask("What is 47 + 38?")  # it goes on

    def test_hostile_sessions_get_one_line(self):
        good = self.state / "good.json"
        with self.chat() as c:
            c.prompt()
            c.ask(f"/save {good}")
            text = good.read_text()
            bad = {"empty": "", "text": "\x1b]52;c;aGk=\x07", "deep": "[" * 100_000, "array": "[]",
                   "other": "{}", "version": text.replace('session": 1', 'session": 2'),
                   "setting": text.replace('"temp=0"', '"temp=\\u001b[2J"'),
                   "forbidden": text.replace('"temp=0"', '"model=/etc"'),
                   "messages": text.replace('"messages": []', '"messages": [{"role": "system"}]')}
            for name, content in bad.items():
                said = c.ask(f"/load {self.written(name + '.json', content)}")
                self.assertRegex(said, r"^error: [^\n]*(\n  try: [^\n]*)?$", name)
            for path in ["/no/such", "/dev/zero", str(self.state)]:
                self.assertRegex(c.ask(f"/load {path}"), r"^error: [^\n]*$")
            self.assertNotIn("\x1b]52", c.raw)
            self.assertTrue(c.ask("What is 47 + 38?").endswith("= 85"))
            self.assertRegex(c.ask(f"/save {self.state}/text.json"), "exists and is not a saved chat")
            self.assertRegex(c.ask("/save /no/such/x"), "^error: /no/such/x: cannot be created")


@unittest.skipUnless(EDITS_LINES, "built without libedit")
@needs_tiny
class Pastes(ReplCase):
    LINES = [f"line {i}" for i in range(200)]

    def shown_turns(self, c: PtyChat) -> str:
        return c.ask("/show")

    def test_a_bracketed_paste_waits_for_enter(self):
        # A slow program is between two lines when some of the paste arrives; the terminal then makes a
        # line break of the CR already, and CR LF are two.
        endings = ["\r", "\n"] if SANITIZED else ["\r", "\n", "\r\n"]
        for ending in endings:
            with self.chat("-n", "4", "-c", "2K") as c:
                c.prompt()
                c.send(PASTE.format(ending.join(self.LINES)))
                c.expect(r"\. \.\.\. 179 more lines\n\. line 199$")
                self.assertFalse(c.read(0.3))  # nothing is sent, nothing is answered
                c.ask(" and this")
                show = self.shown_turns(c)
                self.assertEqual(show.count("> "), 1)
                self.assertIn("> " + "\n".join(self.LINES) + " and this\n", show)

    def test_a_paste_that_ends_with_a_line_break_waits_too(self):
        with self.chat("-n", "4") as c:
            c.prompt()
            c.send("see: ")
            c.send(PASTE.format("a\rb\r"))
            c.expect(r"see: a\n\. b\n\. $")
            self.assertFalse(c.read(0.3))
            c.ask("")
            self.assertIn("> see: a\nb\n", self.shown_turns(c))

    def test_a_paste_without_a_line_break_is_part_of_the_line(self):
        with self.chat("-n", "4") as c:
            c.prompt()
            c.send("say ")
            c.send(PASTE.format("中文 \x1b[31mred"))
            c.ask("!")
            self.assertIn("> say 中文 \\x1b[31mred!\n", self.shown_turns(c))

    def test_a_paste_into_the_middle_of_a_line(self):
        with self.chat("-n", "4") as c:
            c.prompt()
            c.send("ac\x1b[D")
            c.send(PASTE.format("1\r2"))
            c.expect(r"\. 2c$")
            c.ask("")
            self.assertIn("> a1\n2c\n", self.shown_turns(c))

    def test_commands_in_a_paste_are_text(self):
        with self.chat("-n", "4") as c:
            c.prompt()
            c.send(PASTE.format("/exit\r/exit\r"))
            c.expect(r"/exit\n\. $")
            c.ask("")
            self.assertIn("> /exit\n/exit\n", self.shown_turns(c))

    def test_lines_that_come_at_once_are_one_message(self):
        for env in [{}, {"TERM": "dumb"}]:
            with self.chat("-n", "4", **env) as c:
                c.prompt()
                c.send("\r".join(self.LINES) + "\r")
                c.prompt()
                self.assertIn("> " + "\n".join(self.LINES) + "\n", self.shown_turns(c))
                self.assertEqual(self.shown_turns(c).count("> "), 1)

    def test_ctrl_c_drops_a_paste(self):
        with self.chat("-n", "4") as c:
            c.prompt()
            c.send(PASTE.format("a\rb\rc"))
            c.expect(r"\. c$")
            c.interrupt()
            c.prompt()
            self.assertEqual(c.ask("/show"), "nothing yet")


class Interrupts(ReplCase):
    def endless(self, *args: str) -> PtyChat:
        return self.chat("-c", "100000", *ENDLESS, *args, model=MODEL)

    def test_ctrl_c_stops_the_answer_and_keeps_the_turn(self):
        with self.endless() as c:
            c.prompt()
            c.send("hi\r")
            c.expect("aaaa")
            start = time.monotonic()
            c.interrupt()
            self.assertRegex(c.prompt(), r"^a*\n\[stopped\]\n")
            self.assertLess(time.monotonic() - start, 0.5)
            self.assertRegex(c.ask("/show"), r"^> hi\na+\n\[stopped\]$")
            path = self.state / "chat.json"
            c.ask(f"/save {path}")
            self.assertEqual(json.loads(path.read_text())["messages"][1]["finish_reason"],
                             "cancelled")

    def test_twice_within_a_second_leaves(self):
        with self.endless() as c:
            c.prompt()
            c.send("hi\r")
            c.expect("aaaa")
            c.interrupt()
            time.sleep(0.1)  # two at the same instant are one signal
            c.interrupt()
            self.assertEqual(c.wait(), 130)
        with self.endless() as c:
            c.prompt()
            c.send("hi\r")
            c.expect("aaaa")
            c.interrupt()
            c.prompt()
            c.interrupt()
            self.assertEqual(c.wait(), 130)

    def test_two_that_are_apart_do_not(self):
        with self.endless() as c:
            c.prompt()
            for _ in range(2):
                c.send("hi\r")
                c.expect("aaaa")
                c.interrupt()
                c.prompt()
                time.sleep(1.1)
            self.assertEqual(c.ask("/show").count("[stopped]"), 2)

    def test_at_the_prompt_it_clears_the_line(self):
        for env in [{}, {"TERM": "dumb"}]:
            with self.chat(model=MODEL, **env) as c:
                c.prompt()
                c.send("some text")
                c.expect("some text$")
                c.interrupt()
                self.assertIn("Ctrl-D leaves", c.prompt())
                time.sleep(1.1)
                self.assertEqual(c.ask("/show"), "nothing yet")
                c.interrupt()
                c.prompt()
                c.interrupt()
                self.assertEqual(c.wait(), 130)

    def test_signals_end_it(self):
        for number in [signal.SIGTERM, signal.SIGHUP]:
            for answering in [False, True]:
                with self.endless() as c:
                    c.prompt()
                    if answering:
                        c.send("hi\r")
                        c.expect("aaaa")
                    start = time.monotonic()
                    os.kill(c.pid, number)
                    self.assertEqual(c.wait(), 128 + number)
                    self.assertLess(time.monotonic() - start, 1)

    def test_a_terminal_that_is_gone_ends_it(self):
        for answering in [False, True]:
            with self.endless() as c:
                c.prompt()
                if answering:
                    c.send("hi\r")
                    c.expect("aaaa")
                c.close()
                self.assertEqual(c.wait(), 129)

    def test_what_is_typed_while_it_answers_waits(self):
        with self.endless() as c:
            c.prompt()
            c.send("hi\r")
            c.expect("aaaa")
            c.send("/show")
            c.expect("aaaa")
            c.interrupt()
            self.assertRegex(c.expect("> /show$"), r"^a*\n\[stopped\]\n\n> /show$")
            self.assertRegex(c.ask(""), r"> hi\na+\n\[stopped\]$")


class Terminals(ReplCase):
    def test_the_model_cannot_control_the_terminal(self):
        with self.chat("--temp", "5", "-n", "300", model=MODEL, NO_COLOR="1", TERM="dumb") as c:
            c.prompt()
            for seed in range(3):
                c.ask(f"/set seed={seed}")
                c.ask("hi")
            self.assertNotRegex(c.raw.replace("\r\n", "\n"), r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

    @unittest.skipUnless(EDITS_LINES, "built without libedit")
    def test_resize_and_a_narrow_terminal(self):
        with self.chat("-n", "4", model=MODEL, columns=20) as c:
            c.prompt()
            text = "abcdefghij" * 8
            c.send(text)
            c.expect("j$")
            c.resize(10, 12)
            os.kill(c.pid, signal.SIGWINCH)
            c.expect("j ?$")
            c.resize(40, 200)
            c.expect("j ?$")
            c.send("!\r")
            c.prompt()
            self.assertIn(f"> {text}!\n", c.ask("/show"))

    @unittest.skipUnless(EDITS_LINES, "built without libedit")
    def test_keys(self):
        with self.chat("-n", "2", model=MODEL) as c:
            c.prompt()
            # Left, insert, Home, insert, End, delete backwards.
            c.ask("bd\x1b[Dc\x1b[Ha\x1b[Fee\x7f")
            self.assertIn("> abcde\n", c.ask("/show"))
            c.ask("\x1b[A\x1b[A\x01x")  # the message before /show
            self.assertIn("> xabcde\n", c.ask("/show"))
            c.ask("größe 中")
            self.assertIn("> größe 中\n", c.ask("/show"))

    def test_a_dumb_terminal_gets_no_escapes(self):
        with self.chat("-n", "3", *say("a"), model=MODEL, TERM="dumb") as c:
            c.prompt()
            self.assertEqual(c.ask("hi"), "aaa")
            self.assertNotIn("\x1b", c.raw)
            c.send("\x04")
            self.assertEqual(c.wait(), 0)

    def test_locales(self):
        for locale in ["C", "de_DE.UTF-8", ""]:
            with self.chat("-n", "3", model=MODEL, LC_ALL=locale) as c:
                c.prompt()
                c.ask("é 中")
                self.assertIn("> é 中\n", c.ask("/show"))

    def test_the_terminal_is_as_it_was(self):
        script = '"$0" -m "$1" -q -n 1; stty -a | tr ";" "\\n" | grep -c -E "[^-](icanon|echo )"'
        with PtyChat(["/bin/bash", "-c", script, BINARY, str(MODEL)],
                     environment(TERM="xterm", XDG_STATE_HOME=str(self.state))) as c:
            c.prompt()
            c.ask("hi")
            os.write(c.fd, b"\x04")
            c.wait()
            self.assertTrue(c.raw.rstrip().endswith("1") or c.raw.rstrip().endswith("2"), c.raw)
            self.assertGreater(c.raw.rfind("\x1b[?2004l"), c.raw.rfind("\x1b[?2004h"))


if __name__ == "__main__":
    unittest.main()
