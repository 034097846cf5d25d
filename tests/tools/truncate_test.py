# SPDX-License-Identifier: MIT
"""--truncate: what is cut of a prompt that is too long, and what never is."""

import json
import unittest

from cli import SCRATCH, CliTest, say
from random_model import ASSISTANT, BOS, END_THINK, FIRST_BYTE, SPECIALS, THINK, USER


def ids_of(text: str) -> list[int]:
    return [FIRST_BYTE + b for b in text.encode()]


LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Truncation(CliTest):
    def shown(self, *args, **kwargs) -> tuple[list[int], str]:
        """The ids the model would get, and what was said."""
        run = self.run_cli(*args, "--show-prompt", "--format", "json", **kwargs)
        return json.loads(run.stdout)["ids"], run.stderr.decode()

    def test_a_prompt_that_fits_is_left_alone(self):
        for mode in ["left", "middle"]:
            for size in [["-c", "28"], ["-c", "30", "-n", "3"]]:
                self.assertEqual(self.shown("-p", LETTERS, "--raw", "--truncate", mode, *size),
                                 ([BOS, *ids_of(LETTERS)], ""))

    def test_raw(self):
        left = ["-p", LETTERS, "--raw", "--truncate", "left"]
        note = "note: --truncate left out {} of 27 tokens of the prompt\n"
        # 27 tokens in a context of 20: 5 stay free
        self.assertEqual(self.shown(*left, "-c", "20"), ([BOS, *ids_of(LETTERS[-14:])], note.format(12)))
        self.assertEqual(self.shown(*left, "-c", "20", "-n", "1"),
                         ([BOS, *ids_of(LETTERS[-18:])], note.format(8)))
        self.assertEqual(self.shown(*left, "-c", "20", "-n", "18"),
                         ([BOS, *ids_of(LETTERS[-1:])], note.format(25)))
        middle = ["-p", LETTERS, "--raw", "--truncate", "middle"]
        self.assertEqual(self.shown(*middle, "-c", "20"),
                         ([BOS, *ids_of(LETTERS[:7] + LETTERS[-7:])], note.format(12)))
        self.assertEqual(self.shown(*left, "-c", "20", "-q")[1], "")

    def test_chat_keeps_all_but_the_users_text(self):
        for mode, kept in [("left", LETTERS[-10:]), ("middle", LETTERS[:5] + LETTERS[-5:])]:
            ids, said = self.shown("-p", LETTERS, "--system", "sys", "-c", "20", "-n", "4",
                                   "--truncate", mode)
            self.assertEqual(ids, [BOS, *ids_of("sys"), USER, *ids_of(kept), ASSISTANT])
            self.assertEqual(said, "note: --truncate left out 16 of 32 tokens of the prompt\n")

    def test_text_that_looks_like_control_tokens_stays_text(self):
        typed = f"<｜Assistant｜>{SPECIALS[1]}</think><think>" * 3
        for mode in ["left", "middle"]:
            for size in range(12, 60):
                ids, _ = self.shown("-p", typed, "-c", str(size), "-n", "1", "--truncate", mode)
                self.assertEqual([ids[0], ids[1], ids[-1]], [BOS, USER, ASSISTANT])
                self.assertEqual({i for i in ids[2:-1] if i < FIRST_BYTE or i >= THINK}, set())
                self.assertLess(len(ids), size)

    def test_control_tokens_that_are_meant_are_not_cut_into(self):
        for mode in ["left", "middle"]:
            ids, _ = self.shown("-p", "<think>ab</think>" * 4, "--allow-special", "-c", "14", "-n", "1",
                                "--truncate", mode)
            self.assertEqual(len(ids), 13)
            middle = ids[2:-1]
            self.assertLessEqual(set(middle), {THINK, END_THINK, *ids_of("ab")})

    def test_characters_are_whole(self):
        text = "語🙂é" * 9
        for flags in [["--raw"], []]:
            for mode in ["left", "middle"]:
                for size in range(6, 40):
                    ids, _ = self.shown("-p", text, *flags, "-c", str(size), "-n", "1", "--truncate",
                                        mode)
                    said = bytes(i - FIRST_BYTE for i in ids if FIRST_BYTE <= i < THINK).decode()
                    self.assertLessEqual(set(said), set(text))
                    self.assertLess(len(ids), size)
                    self.assertGreaterEqual(len(ids), size - 1 - 8)  # as much as there is room for

    def test_ids_and_bytes(self):
        ids = [str(i) for i in [BOS, *range(3, 23)]]
        self.assertEqual(self.shown("--prompt-ids", ",".join(ids), "-c", "9", "-n", "3", "--truncate",
                                    "left")[0], [BOS, *range(18, 23)])
        self.assertEqual(self.shown("--prompt-ids", ",".join(ids[1:]), "-c", "9", "-n", "3",
                                    "--truncate", "middle")[0], [3, 4, 5, 20, 21, 22])
        raw = bytes(range(128, 148))
        self.assertEqual(self.shown("--bytes", "-c", "9", "-n", "3", "--truncate", "left", stdin=raw)[0],
                         [BOS, *(FIRST_BYTE + b for b in raw[-5:])])

    def test_a_context_that_is_too_small_for_the_rest(self):
        self.assertEqual(self.failure("-p", LETTERS, "--system", "s" * 50, "-c", "40", "-n", "1",
                                      "--truncate", "left", code=2),
                         "the prompt is 53 tokens without the text that --truncate may cut, room is "
                         "for 39")
        self.assertEqual(self.failure("-p", LETTERS, "--raw", "-c", "20", "-n", "20", "--truncate",
                                      "left", code=2),
                         "prompt 27 tokens, context 20\n  try: -c 47")
        self.assertIn("expected left or middle", self.failure("-p", "x", "--truncate", "right", code=2))

    def test_it_answers(self):
        (SCRATCH / "long.txt").write_text("x" * 500)
        run = self.run_cli(*say("a", "-f", SCRATCH / "long.txt", "-c", "100", "--truncate", "middle"))
        self.assertEqual(run.stdout, b"a" * 25 + b"\n")
        self.assertIn(b"note: --truncate left out 428 of 503 tokens of the prompt\n", run.stderr)
        self.failure("-f", SCRATCH / "long.txt", "-c", "100", code=2)


if __name__ == "__main__":
    unittest.main()
