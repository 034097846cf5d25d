# SPDX-License-Identifier: MIT
"""What the flags print that answer no prompt: settings, devices, completions, the manual page."""

import json
import os
import re
import shutil
import subprocess
import unittest

from cli import BINARY, MODEL, SCRATCH, CliTest, environment
from random_model import write_model

COMMANDS = ["", "tokenize", "logits", "inspect", "plan", "verify", "bench", "batch",
            "perplexity", "make-random-checkpoint"]


def needs(program: str):
    return unittest.skipUnless(shutil.which(program), f"{program} is missing")


class PrintConfig(CliTest):
    def lines(self, *args, **kwargs) -> list[tuple[str, str, str]]:
        """(name, value, source) of each line."""
        text = self.output(*args, "--print-config", **kwargs)
        out = []
        for line in text.splitlines():
            match = re.fullmatch(r"([a-z0-9-]+) = (.*?) *# (.*)", line)
            self.assertTrue(match, line)
            out.append(match.groups())
        return out

    def test_each_source_is_named(self):
        path = SCRATCH / "a.config"
        path.write_text("\ntop-k = 5\nraw = on")
        user = SCRATCH / "user" / "deepseek-run"
        user.mkdir(parents=True)
        (user / "config").write_text("top-p = 0.5\ntop-k = 6\ntemp = 1")
        (MODEL / "generation_config.json").write_text('{"repetition_penalty": 1.25, "do_sample": true}')
        found = {name: (value, source) for name, value, source in self.lines(
            "--temp", "0.25", "--config", path,
            env={"XDG_CONFIG_HOME": str(user.parent), "DEEPSEEK_RUN_MIN_P": "0.125"})}
        (MODEL / "generation_config.json").unlink()
        for name, want in [("temp", ("0.25", "flag")), ("min-p", ("0.125", "DEEPSEEK_RUN_MIN_P")),
                           ("top-k", ("5", f"{path}:2")), ("raw", ("on", f"{path}:3")),
                           ("top-p", ("0.5", f"{user}/config:1")),
                           ("repeat-penalty", ("1.25", "generation_config.json")),
                           ("repeat-last-n", ("-1", "generation_config.json")),
                           ("chunk", ("", "built-in: 2048 on a GPU, else 512")), ("presence-penalty", ("0", "built-in")),
                           ("model", (str(MODEL), "flag")), ("quiet", ("off", "built-in")),
                           ("seed", ("-1", "built-in")),
                           ("threads", ("", "built-in: its physical cores"))]:
            self.assertEqual(found[name], want, name)

    def test_greedy_by_generation_config(self):
        model = write_model(SCRATCH / "greedy")
        (model / "generation_config.json").write_text('{"do_sample": false}')
        self.assertIn(("temp", "0", "generation_config.json"), self.lines(model=model))
        (model / "generation_config.json").write_text('{"temperature": -3}')
        run = self.run_cli("--print-config", model=model)
        self.assertIn(b"warning: generation_config.json", run.stderr)
        self.assertRegex(run.stdout.decode(), r"temp = 0.6 +# built-in\n")

    def test_every_setting_has_a_line_and_no_other_flag(self):
        for command in COMMANDS:
            names = [name for name, _, _ in self.lines(command=command, model=None)]
            self.assertEqual(len(names), len(set(names)))
            self.assertIn("quiet", names)
            for name in ["prompt", "output", "help", "config", "print-config", "man"]:
                self.assertNotIn(name, names)

    def test_repeated_flags_have_a_line_each(self):
        found = self.lines("--stop", "a", "--stop", "b", "--temp", "1", "--temp", "2")
        self.assertEqual([f for f in found if f[0] == "stop"],
                         [("stop", "a", "flag"), ("stop", "b", "flag")])
        self.assertEqual([f for f in found if f[0] == "temp"], [("temp", "2", "flag")])

    def test_what_it_prints_means_the_same_as_a_file(self):
        odd = ' # "x" \\ \n\t\x1b[2J é \x85 '
        path = SCRATCH / "printed.config"
        first = self.output("--system", odd, "--temp", "1.5", "-s", "3", "--stop", "#", "--stop", "b\n",
                            "--chat-format", "deepseek-v3", "-n", "20", "--print-config")
        self.assertNotRegex(first, r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
        path.write_text(first)
        flags = ["-p", "hi", "--config", path]
        again = self.output("--config", path, "--print-config", model=None)
        self.assertEqual([line.split(" #")[0].rstrip() for line in first.splitlines() if "flag" in line],
                         [line.split(" #")[0].rstrip() for line in again.splitlines()
                          if str(path) in line and " =  " not in line
                          and re.search(rf":({'|'.join(self.flag_lines(first))})$", line)])
        shown = json.loads(self.output(*flags, "--show-prompt", "--format", "json", model=None))
        self.assertIn(odd, shown["text"])
        self.assertEqual(self.output(*flags, model=None),
                         self.output("-p", "hi", "--system", odd, "--temp", "1.5", "-s", "3", "--stop",
                                     "#", "--stop", "b\n", "--chat-format", "deepseek-v3", "-n", "20"))

    @staticmethod
    def flag_lines(text: str) -> list[str]:
        return [str(i) for i, line in enumerate(text.splitlines(), 1) if line.endswith("# flag")]

    def test_a_model_that_is_missing_is_a_warning(self):
        run = self.run_cli("--print-config", model="/no/such")
        self.assertRegex(run.stdout.decode(), r"model = /no/such +# flag\n")
        self.assertIn(b"does not exist", run.stderr)


class Help(CliTest):
    def test_search(self):
        text = self.output("--help=TEMP", model=None)
        self.assertRegex(text, r"^deepseek-run:\n +--temp T .*\n")
        self.assertNotIn("--top-k", text)
        text = self.output("--help=quant", model=None)
        self.assertIn("deepseek-run bench:\n", text)
        self.assertIn("--quant", text)
        text = self.output("--help=Sampling", model=None)
        self.assertIn("--top-k", text)
        self.assertNotIn("--format", text)
        self.assertEqual(self.failure("--help=tempp", code=2),
                         'nothing in the help has "tempp"\n  try: --help=temp')
        self.assertIn("try: --help", self.failure("--help=\x1bzzzzzzz", code=2))


class Devices(CliTest):
    def test_each_can_be_used(self):
        names = [line.split()[0] for line in self.output("--list-devices", model=None).splitlines()]
        self.assertIn("cpu", names)
        self.assertIn("reference", names)
        for name in names:
            self.run_cli("-p", "hi", "-n", "1", "--device", name)


class Completion(CliTest):
    def complete(self, *words: str) -> list[str]:
        """What bash proposes for the last word."""
        script = 'source <("$0" --completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); ' \
                 '_deepseek_run; printf "%s\\n" "${COMPREPLY[@]}"'
        run = subprocess.run(["bash", "-c", script, BINARY, "deepseek-run", *words], check=True,
                             capture_output=True, env=environment(), cwd=SCRATCH, timeout=60)
        self.assertEqual(run.stderr, b"")
        return run.stdout.decode().split("\n")[:-1]

    def test_bash(self):
        self.assertEqual(self.complete("--thi"), ["--think"])
        self.assertEqual(self.complete("--think", ""), ["auto", "on", "off"])
        self.assertEqual(self.complete("--think", "o"), ["on", "off"])
        self.assertEqual(self.complete("--think", "=", "a"), ["auto"])
        self.assertEqual(self.complete("--think", "="), ["auto", "on", "off"])
        self.assertEqual(self.complete("tok"), ["tokenize"])
        self.assertEqual(self.complete("tokenize", "--co"), ["--count", "--config"])
        self.assertEqual(self.complete("bench", "--format", "j"), ["json", "jsonl"])
        self.assertEqual(self.complete("--format", "j"), ["json"])
        self.assertEqual(self.complete("--chat-format", "deepseek-r"), ["deepseek-r1"])
        self.assertEqual(self.complete("-p", "tok"), [""])
        self.assertEqual(self.complete("--zzz"), [""])
        self.assertNotIn("--man", self.complete("--"))

    def test_bash_and_files(self):
        (SCRATCH / "files").mkdir()
        (SCRATCH / "files" / "a b.txt").write_text("")
        (SCRATCH / "files" / "a dir").mkdir()
        self.assertEqual(sorted(self.complete("-f", "files/a")), ["files/a b.txt", "files/a dir"])
        self.assertEqual(self.complete("--model", "files/"), ["files/a dir"])

    def test_bash_knows_every_flag_of_every_command(self):
        for command in COMMANDS:
            words = [command] if command else []
            known = self.complete(*words, "-")
            help_text = self.output("--help", model=None, command=command)
            listed = re.findall(r"^ +(-\S+?)(?:,|\[| |$)(?: (--[a-z0-9-]+))?", help_text, re.MULTILINE)
            self.assertEqual(sorted(known), sorted(n for pair in listed for n in pair if n), command)

    @needs("zsh")
    def test_zsh(self):
        script = 'autoload -U compinit; compinit -u -D; source <("$0" --completion zsh); ' \
                 'print $_comps[deepseek-run]'
        run = subprocess.run(["zsh", "-f", "-c", script, BINARY], check=True, capture_output=True,
                             env=environment(), timeout=60)
        self.assertEqual((run.stdout, run.stderr), (b"_deepseek_run\n", b""))

    @needs("fish")
    def test_fish(self):
        def complete(line: str) -> list[str]:
            script = f'{BINARY} --completion fish | source; complete -C "{line}"'
            run = subprocess.run(["fish", "-N", "-c", script], check=True, capture_output=True,
                                 env=environment(HOME=str(SCRATCH)), timeout=60)
            return [line.split("\t")[0] for line in run.stdout.decode().splitlines()]

        self.assertEqual(complete("deepseek-run --thi"), ["--think"])
        self.assertEqual(sorted(complete("deepseek-run --think ")), ["auto", "off", "on"])
        self.assertEqual(complete("deepseek-run tok"), ["tokenize"])
        self.assertEqual(complete("deepseek-run tokenize --cou"), ["--count"])

    def test_shells(self):
        self.assertIn("expected bash, zsh or fish", self.failure("--completion", "sh", code=2))
        for shell in ["zsh", "fish"]:
            text = self.output("--completion", shell, model=None)
            for command in COMMANDS:
                self.assertIn(command, text)


class Manual(CliTest):
    def test_it_names_every_flag_and_exit_code(self):
        text = self.output("--man", model=None).replace("\\-", "-")
        self.assertTrue(text.startswith(".TH DEEPSEEK-RUN 1 "))
        for command in COMMANDS:
            for name in re.findall(r"--[a-z0-9-]+", self.output("--help", model=None, command=command)):
                self.assertIn(name, text)
        for code in [*range(10), "128+n"]:
            self.assertIn(f"\n\\fB{code}\\fR\n", text)

    @needs("groff")
    def test_groff_has_no_complaint(self):
        text = self.run_cli("--man", model=None).stdout
        run = subprocess.run(["groff", "-man", "-ww", "-Tascii"], input=text, capture_output=True,
                             check=True, timeout=60)
        self.assertEqual(run.stderr, b"")
        self.assertIn(b"EXIT STATUS", re.sub(rb".\x08|\x1b\[\d*m", b"", run.stdout))

    @needs("cmake")
    def test_it_is_installed(self):
        build = os.path.dirname(BINARY)
        if not os.path.exists(os.path.join(build, "cmake_install.cmake")):
            self.skipTest("the binary stands in no build directory")
        target = SCRATCH / "installed"
        subprocess.run(["cmake", "--install", build, "--prefix", target], check=True,
                       capture_output=True, timeout=60)
        page = (target / "share" / "man" / "man1" / "deepseek-run.1").read_bytes()
        self.assertEqual(page, self.run_cli("--man", model=None).stdout)
        for path, shell in [("bash-completion/completions/deepseek-run", "bash"),
                            ("zsh/site-functions/_deepseek-run", "zsh"),
                            ("fish/vendor_completions.d/deepseek-run.fish", "fish")]:
            self.assertEqual((target / "share" / path).read_bytes(),
                             self.run_cli("--completion", shell, model=None).stdout)


if __name__ == "__main__":
    unittest.main()
