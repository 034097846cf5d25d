# SPDX-License-Identifier: MIT
"""The chat, through a pseudo-terminal: hostile.md U9, R4 and the REPL of cli.md."""

import json
import os
import re
import signal
import stat
import tempfile
import termios
import time
import unittest
from pathlib import Path

from cli import BINARY, MODEL, SANITIZED, SCRATCH, TINY, CliTest, environment, needs_tiny, say
from pty_chat import PASTE, PtyChat
from random_model import EOS, write_model

ENDLESS = say("a", "-l", f"{EOS}-100", "--loop-guard", "off")
EDITS_LINES = b"el_wgets" in Path(BINARY).read_bytes()


class ReplTest(CliTest):
    def setUp(self):
        self.state = Path(tempfile.mkdtemp(dir=SCRATCH, prefix=""))

    def chat(self, *args: str, model: Path = TINY, rows: int = 24, columns: int = 80,
             **env: str) -> PtyChat:
        changed = environment(**{"TERM": "xterm", "XDG_STATE_HOME": str(self.state), **env})
        for name in ["VISUAL", "EDITOR", "NO_COLOR"]:
            if name not in env:
                changed.pop(name, None)
        return PtyChat([BINARY, "-m", str(model), "-q", "--temp", "0", *args], changed, rows, columns)

    def history(self) -> str:
        return (self.state / "deepseek-run" / "history").read_text()

    def written(self, name: str, text: str) -> Path:
        path = self.state / name
        path.write_text(text)
        return path


@needs_tiny
class Turns(ReplTest):
    def test_turns_and_ctrl_d(self):
        with self.chat() as c:
            self.assertEqual(c.prompt(), "")  # no banner
            self.assertTrue(c.ask("What is 47 + 38?").endswith("47 + 38 = 85"))
            self.assertTrue(c.ask("What is 12 + 5?").endswith("12 + 5 = 17"))
            # The second prompt computed what follows the first turn only.
            line = re.search(r"prompts (\d+) tok computed, (\d+) tok reused", c.ask("/stats"))
            self.assertGreater(int(line[2]), int(line[1]))
            c.send("\x04")
            self.assertEqual(c.wait(), 0)

    def test_reasoning_is_dimmed_unless_no_color(self):
        for env, escapes in [({}, True), ({"NO_COLOR": "1"}, False)]:
            with self.chat(**env) as c:
                c.prompt()
                c.ask("What is 47 + 38?")
                self.assertEqual("\x1b[2m" in c.raw, escapes)

    def test_the_first_turn_may_be_given(self):
        with self.chat("-i", "-p", "What is 47 + 38?") as c:
            self.assertIn("47 + 38 = 85\n", c.prompt())
            c.ask("/undo")
            self.assertEqual(c.ask("/tokens"), "0 of 2,048 tokens (0 %)")

    def test_an_empty_line_is_no_turn(self):
        with self.chat() as c:
            c.prompt()
            self.assertEqual(c.ask(""), "")
            self.assertEqual(c.ask("   "), "")
            self.assertEqual(c.ask("/show"), "nothing yet")

    def test_a_block(self):
        with self.chat() as c:
            c.prompt()
            for line in ['"""', "first", "/undo", '  second"""']:
                c.send(line + "\r")
            c.prompt()
            self.assertIn("> first\n/undo\n  second\n", c.ask("/show"))
            c.ask('"""one line"""')
            self.assertIn("> one line\n", c.ask("/show"))

    def test_the_context_is_not_overrun(self):
        with self.chat("-c", "64") as c:
            c.prompt()
            c.ask("What is 47 + 38?")
            said = c.ask("z" * 150)
            self.assertRegex(said, r"error: the conversation would be \d+ tokens, and the context "
                                   r"holds 64: this message was not sent")
            self.assertIn("> What is 47 + 38?\n", c.ask("/show"))

    def test_a_full_context_is_said(self):
        with self.chat("-c", "48") as c:
            c.prompt()
            self.assertIn("47 + 38 = 85", c.ask("What is 47 + 38?"))
        with PtyChat([BINARY, "-m", str(TINY), "--temp", "0", "-c", "48"],
                     environment(TERM="xterm", XDG_STATE_HOME=str(self.state))) as c:
            c.prompt()
            said = c.ask("What is 47 + 38?")
            self.assertIn("note: the chat is at 46 of 48 tokens (95 %)", said)
            self.assertIn("try: /undo or /clear", said)


@needs_tiny
class Commands(ReplTest):
    def test_help_and_unknown_commands(self):
        with self.chat() as c:
            c.prompt()
            text = c.ask("/help")
            for name in ("help exit clear regen edit undo save load read system set think stats "
                         "tokens show plan").split():
                self.assertIn(f"  /{name} ", text)
            self.assertEqual(c.ask("/sats"), "error: unknown command /sats\n  try: /stats")
            self.assertEqual(c.ask("/usr/bin is a path"), "error: unknown command /usr/bin\n  try: /help, "
                             'or """ around a message that begins with /')
            self.assertNotIn("error", c.ask('"""/usr/bin is a path"""'))
            self.assertIn("> /usr/bin is a path\n", c.ask("/show"))
            self.assertEqual(c.ask("/undo 3"), 'error: /undo takes nothing, found "3"')
            self.assertEqual(c.ask("/load"), "error: /load needs a FILE")
            c.send("/exit\r")
            self.assertEqual(c.wait(), 0)

    def test_undo_regen_clear(self):
        with self.chat() as c:
            c.prompt()
            for command in ["/undo", "/regen", "/edit"]:
                self.assertRegex(c.ask(command), "^error: there is no")
            c.ask("What is 47 + 38?")
            c.ask("What is 12 + 5?")
            self.assertTrue(c.ask("/regen").endswith("12 + 5 = 17"))
            self.assertEqual(c.ask("/undo"), 'forgot "What is 12 + 5?" and its answer')
            self.assertEqual(c.ask("/clear"), "forgot 1 turn")
            self.assertEqual(c.ask("/tokens"), "0 of 2,048 tokens (0 %)")

    def test_regen_gives_another_answer_even_with_a_seed(self):
        with self.chat("--temp", "1.5", "-s", "3", "-n", "12") as c:
            c.prompt()
            first = c.ask("Tell me a story.")
            self.assertNotEqual(c.ask("/regen"), first)

    def test_set_checks_as_the_flags_do(self):
        with self.chat() as c:
            c.prompt()
            self.assertEqual(c.ask("/set temp=1e38"),
                             "error: temperature is 1e+38, expected 0 or 0.01 to 100")
            self.assertEqual(c.ask("/set top-k=-1"),
                             'error: --top-k is "-1", expected a whole number from 0 to 2147483647')
            self.assertEqual(c.ask("/set tmp=1"), 'error: unknown setting "tmp"\n  try: temp')
            self.assertEqual(c.ask("/set model=x"), "error: --model cannot change during a chat")
            self.assertRegex(c.ask("/set temp"), "^error: found \"temp\", expected NAME=VALUE")
            self.assertEqual(c.ask("/set logit-bias=99999+1"),
                             "error: logit_bias of token 99999, expected an id from 0 to 2303")
            self.assertEqual(c.ask("/set temperature=0.5"), "")  # an alias
            c.ask("/set stop= =")
            c.ask("/set n-predict=40")
            text = c.ask("/set")
            for part in ["temp=0.5 ", 'stop=" ="', "predict=40"]:
                self.assertIn(part, text)
            c.ask("/set temp=0")
            self.assertTrue(c.ask("What is 47 + 38?").endswith("</think>\n\n47 + 38"))
            c.ask("/set stop=")
            self.assertNotIn("stop", c.ask("/set"))

    def test_think_and_system(self):
        with self.chat("--chat-format", "deepseek-v3.1") as c:
            c.prompt()
            self.assertEqual(c.ask("/think on"), "think: on")
            self.assertIn("<｜Assistant｜><think>", c.ask("/show prompt"))
            self.assertEqual(c.ask("/think maybe"),
                             'error: --think is "maybe", expected auto, on or off')
            self.assertEqual(c.ask("/system"), "no system prompt")
            c.ask("/system Be brief.")
            self.assertIn("Be brief.<｜User｜>", c.ask("/show prompt"))
            self.assertEqual(c.ask('/system ""'), "no system prompt")

    def test_read_puts_a_file_in_front(self):
        path = self.written("notes.txt", "a note")
        with self.chat() as c:
            c.prompt()
            self.assertRegex(c.ask(f"/read {path}"), r"notes\.txt: \d+ tokens go in front of")
            c.ask("and a question")
            self.assertIn("> a note\nand a question\n", c.ask("/show"))
            self.assertRegex(c.ask("/read /no/such"), "^error: /no/such: cannot be opened: ")

    def test_tokens_of_a_text(self):
        with self.chat() as c:
            c.prompt()
            self.assertRegex(c.ask("/tokens 47"), r'^\d+\t"4"\n\d+\t"7"$')

    def test_plan(self):
        with self.chat() as c:
            c.prompt()
            self.assertRegex(c.ask("/plan"), "^weights .* kv cache ")


@needs_tiny
class Sessions(ReplTest):
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
class Pastes(ReplTest):
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


class Interrupts(ReplTest):
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


class Terminals(ReplTest):
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


class Histories(ReplTest):
    @unittest.skipUnless(EDITS_LINES, "built without libedit")
    def test_the_file(self):
        with self.chat("-n", "1", model=MODEL) as c:
            c.prompt()
            c.ask("a\\b")
            c.send(PASTE.format("two\rlines"))
            c.expect(r"\. lines$")
            c.ask("")
            os.kill(c.pid, signal.SIGKILL)  # it is written at once
            c.wait()
        self.assertEqual(self.history(), "a\\\\b\ntwo\\nlines\n")
        path = self.state / "deepseek-run" / "history"
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(path.parent.stat().st_mode), 0o700)
        with self.chat("-n", "1", model=MODEL) as c:
            c.prompt()
            c.ask("\x1b[A\x01x")
            self.assertIn("> xtwo\nlines\n", c.ask("/show"))

    @unittest.skipUnless(EDITS_LINES, "built without libedit")
    def test_it_is_private_even_if_it_was_not(self):
        path = self.state / "deepseek-run" / "history"
        path.parent.mkdir()
        path.write_text("before\n" * 3000 + "\xff\x1b[2J\n")
        path.chmod(0o644)
        with self.chat("-n", "1", model=MODEL) as c:
            c.prompt()
            c.ask("new")
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertLessEqual(self.history().count("\n"), 1001)
        self.assertTrue(self.history().endswith("\nnew\n"))

    @unittest.skipUnless(EDITS_LINES, "built without libedit")
    def test_without_a_place_for_it_the_chat_goes_on(self):
        (self.state / "deepseek-run").write_text("a file where a directory should be")
        with self.chat("-n", "2", *say("a"), model=MODEL) as c:
            c.prompt()
            self.assertIn("cannot be written", c.ask("hi"))
            self.assertEqual(c.ask("hi again"), "aa")


@needs_tiny
class Edits(ReplTest):
    @unittest.skipUnless(EDITS_LINES, "built without libedit")
    def test_in_the_line(self):
        with self.chat() as c:
            c.prompt()
            c.ask("What is 47 + 38?")
            c.send("/edit\r")
            c.expect(r"> What is 47 \+ 38\?$")
            self.assertTrue(c.ask("\x7f\x7f9?").endswith("47 + 39 = 86"))
            show = c.ask("/show")
            self.assertEqual((show.count("> "), show.count("47 + 39?")), (1, 1))
            c.send("/edit\r")
            c.expect(r"39\?$")
            c.interrupt()  # the turn stays as it is
            c.prompt()
            self.assertEqual(c.ask("/show"), show)

    def test_in_an_editor(self):
        editor = self.written("editor.sh", "#!/bin/sh\nsed -i s/38/39/ \"$2\"; [ \"$1\" = ok ]\n")
        editor.chmod(0o755)
        with self.chat(VISUAL=f"{editor} ok", EDITOR="false") as c:
            c.prompt()
            c.ask("What is 47 + 38?")
            self.assertTrue(c.ask("/edit").endswith("47 + 39 = 86"))
            self.assertEqual(c.ask("/edit"), "the message stays as it was")
            self.assertEqual(c.ask("/show").count("> "), 1)
        with self.chat(EDITOR=f"{editor} no") as c:
            c.prompt()
            c.ask("What is 47 + 38?")
            self.assertEqual(c.ask("/edit"),
                             "error: the editor failed: the message stays as it was")
            self.assertIn("47 + 38?", c.ask("/show"))


class Starts(ReplTest):
    def test_what_has_no_place_in_a_chat(self):
        for args, flag in [(["--raw"], "--raw"), (["--bytes"], "--bytes"), (["-o", "x"], "-o"),
                           (["--format", "json"], "--format json"),
                           (["--show-prompt"], "--show-prompt"),
                           (["--prompt-ids", "5"], "--prompt-ids"), (["-p", "-"], "-p -"),
                           (["--truncate", "left"], "--truncate"),
                           (["--n-samples", "2"], "--n-samples")]:
            self.assertRegex(self.failure("-i", *args, code=2), f"^{flag} has no place in a chat\n")

    def test_without_a_terminal(self):
        self.assertRegex(self.failure(code=2), "^no prompt: standard input is empty")
        run = self.run_cli(*say("a", "-i", "-n", "2", "-q"), stdin=b'hi\n"""\nx\n"""\n/tokens\n')
        self.assertEqual(run.stdout, b"aa\naa\n")
        self.assertRegex(run.stderr, rb"^\d+ of [\d,]+ tokens")

    def test_a_model_without_a_chat_template(self):
        model = write_model(self.state / "base", chat=False)
        run = self.run_cli(*say("a", "-i", "-n", "2"), stdin=b"hi\n", model=model)
        self.assertEqual(run.stdout, b"aa\n")
        self.assertIn(b"note: the model has no chat template: ", run.stderr)


if __name__ == "__main__":
    unittest.main()
