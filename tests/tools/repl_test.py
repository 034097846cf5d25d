# SPDX-License-Identifier: MIT
"""The chat, through a pseudo-terminal: the REPL of cli.md."""

import os
import re
import signal
import stat
import unittest

from cli import BINARY, MODEL, TINY, environment, needs_tiny, say
from pty_chat import PASTE, PtyChat
from random_model import write_model
from repl_case import EDITS_LINES, ReplCase


@needs_tiny
class Turns(ReplCase):
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
class Commands(ReplCase):
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


class Histories(ReplCase):
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
class Edits(ReplCase):
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


class Starts(ReplCase):
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
