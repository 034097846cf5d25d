# SPDX-License-Identifier: MIT
"""Settings from the environment and from configuration files, and which of them counts."""

import json
import unittest
from pathlib import Path

from cli import MODEL, SCRATCH, CliTest, say
from random_model import FIRST_BYTE

USER = SCRATCH / "xdg"  # what $XDG_CONFIG_HOME is set to


def config(text: str | bytes, name: str = "a.config") -> Path:
    path = SCRATCH / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def user_config(text: str) -> dict[str, str]:
    (USER / "deepseek-run").mkdir(parents=True, exist_ok=True)
    (USER / "deepseek-run" / "config").write_text(text)
    return {"XDG_CONFIG_HOME": str(USER)}


class Precedence(CliTest):
    def length(self, *args, env: dict[str, str] | None = None) -> int:
        """How long the answer gets: what --predict came to be."""
        return len(self.output(*say("a", "-p", "hi", *args), env=env)) - 1

    def test_the_strongest_source_counts(self):
        user = user_config("predict = 2\n")
        file = ["--config", config("predict = 3\n")]
        env = {**user, "DEEPSEEK_RUN_PREDICT": "4"}
        self.assertEqual(self.length(env=user), 2)
        self.assertEqual(self.length(*file, env=user), 3)
        self.assertEqual(self.length(env=env), 4)
        self.assertEqual(self.length(*file, env=env), 4)
        self.assertEqual(self.length("-n", "5", *file, env=env), 5)
        self.assertEqual(self.length("-n", "5", "-n", "6", *file, env=env), 6)

    def test_each_setting_by_itself(self):
        user = user_config("predict = 2\ntemp = 5\nseed = 1\n")
        self.assertEqual(self.output("-p", "hi", "-n", "9", env=user),
                         self.output("-p", "hi", "-n", "9", "--temp", "5", "-s", "1"))

    def test_the_home_directory(self):
        home = SCRATCH / "home"
        (home / ".config" / "deepseek-run").mkdir(parents=True)
        (home / ".config" / "deepseek-run" / "config").write_text("predict = 3")
        for xdg, want in [("", 3), ("/no/such", 7)]:
            self.assertEqual(self.length("-c", "12", env={"HOME": str(home), "XDG_CONFIG_HOME": xdg}),
                             want)

    def test_a_config_named_by_the_environment(self):
        env = {"DEEPSEEK_RUN_CONFIG": str(config("predict = 3"))}
        self.assertEqual(self.length(env=env), 3)
        self.assertEqual(self.length("--config", config("predict = 4", "b.config"), env=env), 4)

    def test_aliases(self):
        self.assertEqual(self.length(env={"DEEPSEEK_RUN_MAX_TOKENS": "4"}), 4)
        self.assertEqual(self.length("--config", config("n-predict = 3")), 3)
        # one flag under two names
        self.assertEqual(self.length("--config", config("n-predict = 3"),
                                     env={"DEEPSEEK_RUN_PREDICT": "4"}), 4)

    def test_flags_without_a_value(self):
        raw = self.output("-p", "hi", "--show-prompt", "--raw")
        chat = self.output("-p", "hi", "--show-prompt")
        self.assertEqual(self.output("-p", "hi", "--show-prompt", env={"DEEPSEEK_RUN_RAW": "on"}), raw)
        on = ["--config", config("raw = on")]
        self.assertEqual(self.output("-p", "hi", "--show-prompt", *on), raw)
        self.assertEqual(self.output("-p", "hi", "--show-prompt", *on,
                                     env={"DEEPSEEK_RUN_RAW": "off"}), chat)
        self.assertEqual(self.output("-p", "hi", "--show-prompt", "--no-raw", *on), chat)
        self.assertEqual(self.output("-p", "hi", "--show-prompt", "--no-raw", "--raw"), raw)
        self.assertEqual(self.run_cli("-p", "hi", "-n", "1", env={"DEEPSEEK_RUN_QUIET": "on"}).stderr, b"")
        self.assertIn(b"prompt ", self.run_cli("-p", "hi", "-n", "1", "--timings",
                                               env={"DEEPSEEK_RUN_NO_TIMINGS": "on"}).stderr)

    def test_repeatable_flags(self):
        a = FIRST_BYTE + ord("a")
        file = ["--config", config(f"logit-bias = {a}+50\nlogit-bias = {a + 1}+60\ntemp = 0")]
        self.assertEqual(self.output("-p", "hi", "-n", "2", *file), "bb\n")
        self.assertEqual(self.output("-p", "hi", "-n", "2", "-l", f"{a}+50", *file), "aa\n")

    def test_a_stronger_flag_replaces_what_it_excludes(self):
        user = user_config("system = be brief\nthink = on\nchat-format = deepseek-v3.1\n")
        for args in [["-p", "hi", "--raw"], ["--prompt-ids", "5,6"], ["--bytes", "-p", "hi"]]:
            self.assertEqual(self.output(*args, "--show-prompt", env=user),
                             self.output(*args, "--show-prompt"))
        self.assertIn("be brief", self.output("-p", "hi", "--show-prompt", env=user))
        self.failure("-p", "hi", "--raw", "--system", "x", code=2)
        self.output("--card", str(Path(__file__).parents[2] / "models" / "deepseek-v2-lite.json"),
                    "--gpus", "1xA100-80", command="plan", model=None, env={"DEEPSEEK_RUN_MODEL": str(MODEL)})

    def test_settings_of_other_commands_are_passed_over(self):
        env = {"DEEPSEEK_RUN_TEMP": "0.5", "DEEPSEEK_RUN_WARMUP": "3"}
        run = self.run_cli("-p", "a", command="tokenize", env=env)
        self.assertEqual(run.stderr, b"")
        self.run_cli("-p", "a", "--config", config("temp = x\nlayers = 3"), command="tokenize")

    def test_empty_is_not_set(self):
        self.assertEqual(self.length("--config", config("predict = 3"),
                                     env={"DEEPSEEK_RUN_PREDICT": ""}), 3)
        self.assertEqual(self.length("-c", "12", "--config", config("predict =\nraw =\n")), 7)

    def test_help_and_version_look_at_no_settings(self):
        env = {**user_config("nonsense"), "DEEPSEEK_RUN_TEMP": "x", "DEEPSEEK_RUN_FOO": "1"}
        for flag in ["--help", "--version", "--help=temp"]:
            self.assertEqual(self.run_cli(flag, model=None, env=env).stderr, b"")


class Files(CliTest):
    def system(self, text: str | bytes) -> str:
        """The system prompt that a file sets."""
        shown = self.output("-p", "hi", "--show-prompt", "--format", "json", "--config", config(text))
        return json.loads(shown)["text"].split("<｜User｜>")[0].removeprefix("<｜begin▁of▁sentence｜>")

    def test_the_format(self):
        for text, want in [
                ("system = be brief", "be brief"),
                ("system=be brief\r\n", "be brief"),
                ("\n\n# comment\n  system \t=  be brief  # comment\n", "be brief"),
                ("\ufeffsystem = a#b #c", "a#b"),
                ("system = # comment", ""),
                ('system = "# no comment"', "# no comment"),
                ('system = " a \\"b\\" \\\\ \\n\\x09c "  # comment', ' a "b" \\ \n\tc '),
                ('system = be "brief"', 'be "brief"'),
                ("system = a = b", "a = b"),
                ("system = a\nsystem = b", "b"),
                ("system = é语🙂", "é语🙂")]:
            self.assertEqual(self.system(text), want, text)

    def test_errors_name_file_and_line(self):
        for text, want in [
                ("\nnonsense", '2: found "nonsense", expected: name = value'),
                ("= 3", '1: found "= 3", expected: name = value'),
                ("tepm = 3", '1: unknown setting "tepm"\n  try: temp'),
                ("zzzzzz = 3", '1: unknown setting "zzzzzz"\n  try: --help'),
                ("--temp = 3", '1: unknown setting "--temp"\n  try: temp'),
                ("prompt = x", "1: --prompt is not set in a file"),
                ("output = x", "1: --output is not set in a file"),
                ("help = x", "1: --help is not set in a file"),
                ("config = x", "1: --config is not set in a file"),
                ("n-gpu-layers = 9", "1: --n-gpu-layers is not a flag of deepseek-run: layers are not "
                                     "split between devices: the whole model runs on one backend"),
                ("temp = x", '1: --temp is "x", expected a number'),
                ("#\n#\ntop-k = -1", '3: --top-k is "-1", expected a whole number from 0 to 2147483647'),
                ("raw = maybe", '1: raw is "maybe", expected on or off'),
                ('system = "a', "1: the value's closing \" is missing"),
                ('system = "a" b', '1: found "b" after the value\'s closing "'),
                ('system = "\\q"', r'1: a \ in quotes begins one of \" \\ \n \t \r \x1b'),
                ('system = "\\x1', r'1: a \ in quotes begins one of \" \\ \n \t \r \x1b'),
                ("a\x1b[2J = 3", '1: unknown setting "a\\x1b[2J"\n  try: --help'),
                ("x" * 1000, '1: found "' + "x" * 200 + '...", expected: name = value')]:
            path = config(text)
            self.assertEqual(self.failure("-p", "hi", "--config", path, code=2), f"{path}:{want}")

    def test_files_that_cannot_be_read(self):
        self.assertEqual(self.failure("-p", "hi", "--config", "/no/such", code=2),
                         "--config: /no/such does not exist")
        self.assertIn("/: cannot be read", self.failure("-p", "hi", "--config", "/", code=2))
        (USER / "deepseek-run" / "config").unlink(missing_ok=True)
        (USER / "deepseek-run").mkdir(parents=True, exist_ok=True)
        self.output("-p", "hi", "-n", "1", env={"XDG_CONFIG_HOME": str(USER)})

    def test_a_models_place_is_named(self):
        path = config("\nmodel = /no/such")
        self.assertEqual(self.failure("-p", "hi", "--config", path, model=None, code=3),
                         f'model directory "/no/such" (from {path}:2) does not exist')


class Variables(CliTest):
    def test_errors_name_the_variable(self):
        for name, value, want in [
                ("TEMP", "x", 'DEEPSEEK_RUN_TEMP: --temp is "x", expected a number'),
                ("RAW", "2", 'DEEPSEEK_RUN_RAW is "2", expected on or off'),
                ("CONFIG", "/no/such", "--config: /no/such does not exist")]:
            self.assertEqual(self.failure("-p", "hi", code=2, env={f"DEEPSEEK_RUN_{name}": value}), want)

    def test_those_that_mean_nothing_are_warned_about(self):
        for name, want in [
                ("TMEP", "DEEPSEEK_RUN_TMEP has no meaning; did you mean DEEPSEEK_RUN_TEMP?"),
                ("SOMETHING", "DEEPSEEK_RUN_SOMETHING has no meaning"),
                ("", "DEEPSEEK_RUN_ has no meaning"),
                ("PROMPT", "DEEPSEEK_RUN_PROMPT has no meaning: --prompt is given on the command line"),
                ("HELP", "DEEPSEEK_RUN_HELP has no meaning: --help is given on the command line"),
                ("A\x1b[2J", "DEEPSEEK_RUN_A\\x1b[2J has no meaning")]:
            env = {f"DEEPSEEK_RUN_{name}": "1"}
            run = self.run_cli("-p", "hi", "--show-prompt", env=env)
            self.assertEqual(run.stderr.decode(), f"warning: {want}\n")
            self.assertEqual(self.run_cli("-p", "hi", "--show-prompt", "-q", env=env).stderr, b"")


if __name__ == "__main__":
    unittest.main()
