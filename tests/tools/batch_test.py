# SPDX-License-Identifier: MIT
"""batch: what the records say, and that nothing that happens to the process loses or doubles one."""

import json
import random
import re
import resource
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

from batch_case import BatchCase, prompts, read_records, write_lines
from cli import BINARY, MODEL, SANITIZED, TINY, environment, needs_tiny

README = Path(__file__).resolve().parents[2] / "README.md"
KILLS, PROMPTS = (15, 60) if SANITIZED else (100, 300)


class BatchTest(BatchCase):
    def test_records_of_every_kind_of_line(self):
        source = write_lines(self.dir / "in.jsonl", [
            {"custom_id": "a", "method": "POST", "url": "/v1/completions",
             "body": {"model": "m", "prompt": "hi", "max_tokens": 3, "n": 2, "seed": 7}},
            {"prompt": "hello", "max_tokens": 2},
            "this is not JSON",
            {"prompt": "hello", "temperature": -1},
            {"prompt": "hello", "max_tokens": 100000},
            {"custom_id": "m", "body": {"messages": [{"role": "user", "content": "hi"}]}},
            {"prompt": [1, 2, 3], "max_tokens": 2, "colour": "red"},
            {"body": {"prompt": "no id"}},
            {"prompt": "hello", "stop": ["a", ""]},
        ])
        run = self.batch(source, "--ordered", "-c", "200", code=7)
        self.assertIn('field "colour" is not understood', run.stderr.decode())
        self.assertRegex(run.stderr.decode(), r"(?m)^9/9 done, 6 failed")
        records = read_records(self.out)
        self.assertEqual([r["custom_id"] for r in records],
                         ["a", "2", None, "4", "5", "m", "7", None, "9"])
        body = records[0]["response"]["body"]
        self.assertEqual(records[0]["response"]["status_code"], 200)
        self.assertEqual([c["finish_reason"] for c in body["choices"]], ["length", "length"])
        self.assertEqual([c["seed"] for c in body["choices"]], [7, 7])
        self.assertNotEqual(body["choices"][0]["ids"], body["choices"][1]["ids"])
        self.assertNotIn("timings", body)
        self.assertEqual(records[6]["response"]["body"]["prompt_ids"], [1, 2, 3])
        messages = [r["error"] and r["error"]["message"] for r in records]
        self.assertRegex(messages[2], "^line 3: not JSON")
        self.assertEqual(messages[3], "line 4: temperature is -1, expected 0 or 0.01 to 100")
        self.assertRegex(messages[4], r"^prompt \d+ tokens and 100,000 new ones, context 200")
        self.assertRegex(messages[5], "^line 6: messages need a chat format")
        self.assertRegex(messages[7], "^line 8 has a body and no custom_id")
        self.assertEqual(messages[8], "line 9: a stop string is empty")

    @needs_tiny
    def test_the_example_of_the_readme(self):
        block = re.search(r"```\n\$ cat q\.jsonl\n(.*?)\n```", README.read_text(), re.S).group(1)
        lines = block.splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("$"))
        source = write_lines(self.dir / "q.jsonl", lines[:at])
        run = self.run_cli(source, "-o", self.out, "--ordered", "--device", "cpu", command="batch",
                           model=TINY, code=7)
        self.assertTrue(run.stderr.decode().startswith(lines[at + 1].partition(" | ")[0]))
        self.assertEqual(self.out.read_text().splitlines()[-1], lines[-1])

    def test_answers_are_those_of_one_shot(self):
        source = write_lines(self.dir / "in.jsonl",
                             [{"prompt": "abc", "max_tokens": 9, "seed": 5, "temperature": 0.8}] +
                             prompts(5))
        self.batch(source, "--ordered")
        one = json.loads(self.output("--raw", "-p", "abc", "-n", "9", "-s", "5", "--temp", "0.8",
                                     "--format", "json"))
        body = read_records(self.out)[0]["response"]["body"]
        self.assertEqual(body["choices"], one["choices"])
        self.assertEqual(body["usage"], one["usage"])

    def test_log_probabilities_are_each_requests_own(self):
        wanted = [{"logprobs": 2}, {}, {"logprobs": 0}, {"logprobs": 20}, {"logprobs": True}]
        source = write_lines(self.dir / "in.jsonl",
                             [{"prompt": f"text {i}", "max_tokens": 6, "seed": i, **w}
                              for i, w in enumerate(wanted)])
        self.batch(source, "--ordered")
        for i, (w, record) in enumerate(zip(wanted, read_records(self.out))):
            flags = ["--logprobs", str(int(w["logprobs"]) if w["logprobs"] is not True else 0)
                     ] if w else []
            one = json.loads(self.output("--raw", "-p", f"text {i}", "-n", "6", "-s", str(i),
                                         "--format", "json", *flags))
            self.assertEqual(record["response"]["body"]["choices"], one["choices"])
            self.assertEqual("logprobs" in one["choices"][0], bool(w))

    def test_auto_and_the_same_device_by_name_are_one_batch(self):
        source = write_lines(self.dir / "in.jsonl", prompts(4))
        self.batch(source, "--device", "auto")
        manifest = json.loads(Path(f"{self.out}.manifest.json").read_text())
        self.assertIn(manifest["device"], ("cpu", "cuda"))
        self.assertIn(manifest["cache_type"], ("f32", "bf16"))
        by_name = self.dir / "by_name"
        named = ["--device", manifest["device"], "--cache-type", manifest["cache_type"]]
        self.batch(source, *named, out=by_name)
        self.assertEqual(by_name.read_bytes(), self.out.read_bytes(), "ids included")
        self.assertIn("4/4 done", self.batch(source, *named).stderr.decode())
        self.assertIn("device is", self.refusal(source, "--device", "reference"))

    def test_other_arithmetic_is_another_batch(self):
        source = write_lines(self.dir / "in.jsonl", prompts(2))
        self.batch(source, "--device", "cpu")
        # What changes no bit may change.
        self.batch(source, "--device", "cpu", "--cpu-level", "portable", "--chunk", "7", "-t", "1")
        self.assertIn('cpu_math is "exact", now "fast"',
                      self.refusal(source, "--device", "cpu", "--cpu-math", "fast"))
        # Nor are code and chunks of a GPU anything to the cpu.
        manifest = json.loads(Path(f"{self.out}.manifest.json").read_text())
        self.assertFalse({"cuda_arch", "chunk"} & manifest.keys())
        self.batch(source, "--device", "cpu", "--cuda-arch", "80")
        # The definitions have one arithmetic.
        other = self.dir / "reference"
        self.batch(source, "--device", "reference", out=other)
        self.batch(source, "--device", "reference", "--cpu-math", "fast", out=other)

    def test_a_line_that_is_too_long(self):
        source = self.dir / "long.jsonl"
        with open(source, "wb") as f:
            f.write(b'{"prompt": "a", "max_tokens": 1}\n{"prompt": "' + b"x" * (64 << 20) +
                    b'"}\n{"prompt": "b", "max_tokens": 1}')
        self.batch(source, "--ordered", code=7)
        records = read_records(self.out)
        self.assertEqual([bool(r["error"]) for r in records], [False, True, False])
        self.assertEqual(records[1]["error"]["message"], "line 2 is longer than 64 MiB")

    def test_plain_text(self):
        lines = self.dir / "lines.txt"
        lines.write_bytes("\ufeffone\r\n\r\ntwo\nthr\xe9e".encode())
        self.batch(lines, "--split", "line", "-n", "2", "--ordered")
        records = read_records(self.out)
        self.assertEqual([r["custom_id"] for r in records], ["1", "3", "4"])
        ids = [len(r["response"]["body"]["prompt_ids"]) for r in records]
        self.assertEqual(ids[0], ids[1], "no carriage return, no byte order mark")
        blank = write_lines(self.dir / "blank.txt", ["a", "b", "", "", "c"])
        out = self.dir / "blank.out"
        self.batch(blank, "--split", "blank", "-n", "2", "--ordered", out=out)
        self.assertEqual([r["custom_id"] for r in read_records(out)], ["1", "5"])

    def test_bad_utf8_and_an_empty_file(self):
        bad = self.dir / "bad.txt"
        bad.write_bytes(b"fine\nno\xffgood\n")
        self.batch(bad, "--split", "line", "-n", "2", "--ordered", code=7)
        self.assertEqual(read_records(self.out)[1]["error"]["message"],
                         "line 2: not UTF-8 at byte 2")
        empty = write_lines(self.dir / "empty", [])
        out = self.dir / "empty.out"
        self.batch(empty, out=out)
        self.assertEqual(out.read_text(), "")

    def test_refusals(self):
        source = write_lines(self.dir / "in.jsonl", prompts(2))
        twice = write_lines(self.dir / "twice.jsonl",
                            [{"custom_id": "q", "prompt": "a"}, {"custom_id": "q", "prompt": "b"}])
        self.assertEqual(self.refusal(twice),
                         'lines 1 and 2 have the same custom_id "q"')
        self.assertFalse(self.out.exists())
        self.assertIn("are the same file", self.refusal(source, out=source))
        self.assertIn("cannot be opened", self.refusal(self.dir / "none"))
        self.assertIn("needs a file to read", self.refusal("-"))
        foreign = self.dir / "foreign"
        foreign.write_text("precious\n")
        for flags in ([], ["--restart"]):
            self.assertIn("is not empty, and there is no", self.refusal(source, *flags, out=foreign))
        self.assertEqual(foreign.read_text(), "precious\n")
        self.assertIn("needs a file to write", self.failure(source, command="batch", code=2))

    def test_the_files_of_the_batch_are_no_input(self):
        source = write_lines(self.dir / "in.jsonl", prompts(2))
        self.batch(source)
        files = {p: p.read_bytes() for p in sorted(self.dir.glob("out.jsonl*"))}
        self.assertEqual(len(files), 4, "records, lock, manifest, times")
        link = self.dir / "link"
        link.hardlink_to(f"{self.out}.stats.jsonl")
        for path in [*files, link]:
            for flags in ([], ["--restart"]):
                error = self.refusal(path, "--split", "line", *flags)
                self.assertRegex(error, "^the input (is a file that the batch itself writes|and -o "
                                        "are the same file): ")
            self.assertEqual({p: p.read_bytes() for p in files}, files)
        # Nor are they made to say so.
        other = self.dir / "other"
        other.symlink_to(source)
        self.assertIn("are the same file", self.refusal(source, out=other))
        self.assertEqual(sorted(self.dir.glob("other*")), [other])

    def test_an_empty_custom_id_is_one(self):
        source = write_lines(self.dir / "in.jsonl", [
            {"custom_id": "", "body": {"prompt": "a", "max_tokens": 2}},
            {"body": {"prompt": "a", "max_tokens": 2}}])
        self.batch(source, "--ordered", code=7)
        self.assertEqual([r["custom_id"] for r in read_records(self.out)], ["", None])
        times = read_records(Path(f"{self.out}.stats.jsonl"))
        self.assertEqual(times[0]["custom_id"], "")
        twice = write_lines(self.dir / "twice.jsonl", [{"custom_id": "", "prompt": "a"}] * 2)
        self.assertEqual(self.refusal(twice, out=self.dir / "twice"),
                         'lines 1 and 2 have the same custom_id ""')

    def test_a_changed_input_or_seed_needs_restart(self):
        source = write_lines(self.dir / "in.jsonl", prompts(3))
        self.batch(source)
        before = self.out.read_text()
        self.assertIn("seed is", self.refusal(source, "-s", "3"))
        write_lines(source, prompts(4))
        self.assertIn("input_sha256 is", self.refusal(source))
        self.assertEqual(self.out.read_text(), before)
        self.batch(source, "--restart")
        self.assertEqual(len(read_records(self.out)), 4)

    @needs_tiny
    def test_what_cannot_start_leaves_everything_as_it_was(self):
        # Without max_tokens the context is not known before the model is loaded.
        source = write_lines(self.dir / "in.jsonl", ["not JSON", {"prompt": "hello"}])
        too_long = ["-c", "99999"]  # the model's context is 2,048
        run = lambda *args, code: self.run_cli(source, "-o", self.out, "--device", "cpu", "-n", "-1",
                                               *args, command="batch", model=TINY, code=code)
        manifest = Path(f"{self.out}.manifest.json")
        run(*too_long, code=2)
        self.assertFalse(manifest.exists())
        self.assertEqual(self.out.read_bytes() if self.out.exists() else b"", b"")
        run("-c", "64", code=7)
        before, described = self.out.read_bytes(), manifest.read_bytes()
        self.assertEqual(len(read_records(self.out)), 2)
        run("--restart", *too_long, code=2)
        self.assertEqual((self.out.read_bytes(), manifest.read_bytes()), (before, described))
        run("--restart", "-c", "48", code=7)
        self.assertNotEqual(manifest.read_bytes(), described)
        self.assertEqual(len(read_records(self.out)), 2)

    def test_a_damaged_manifest(self):
        source = write_lines(self.dir / "in.jsonl", prompts(3))
        self.batch(source, "--ordered")
        whole = self.out.read_bytes()
        manifest = Path(f"{self.out}.manifest.json")
        for text in ("", "{", "[]", '{"a": 1}'):
            manifest.write_text(text)
            self.assertIn("--restart", self.refusal(source))
            self.assertEqual(self.out.read_bytes(), whole)
        self.batch(source, "--ordered", "--restart")
        self.assertEqual(self.out.read_bytes(), whole)

    def test_retry_errors(self):
        source = write_lines(self.dir / "in.jsonl", prompts(3) + ["{"])
        self.batch(source, code=7)
        records = read_records(self.out)
        # As if one had failed for a reason that has gone.
        at = next(i for i, r in enumerate(records) if r["custom_id"] == "2")
        good = records[at]
        records[at] = {**good, "response": None, "error": {"code": "x", "message": "y"}}
        write_lines(self.out, records)
        self.batch(source, code=7)
        self.assertEqual(read_records(self.out)[at]["error"]["code"], "x", "done, though in error")
        self.batch(source, "--retry-errors", "--ordered", code=7)
        self.assertEqual(read_records(self.out)[1], good)
        self.assertEqual(read_records(self.out)[3]["error"]["code"], "invalid_request")

    def test_shards_are_the_whole(self):
        source = write_lines(self.dir / "in.jsonl", prompts(7))
        self.batch(source, "--ordered")
        parts = []
        for i in range(3):
            part = self.dir / f"part{i}"
            self.batch(source, "--shard", f"{i + 1}/3", out=part)
            parts += part.read_text().splitlines()
        self.assertEqual(sorted(parts), sorted(self.out.read_text().splitlines()))
        self.assertIn("--shard is", self.refusal(source, "--shard", "4/3"))

    @needs_tiny
    def test_killed_at_any_moment_nothing_is_lost_or_doubled(self):
        short = [{**p, "max_tokens": 1 + i % 4} for i, p in enumerate(prompts(PROMPTS))]
        source = write_lines(self.dir / "in.jsonl", [*short, "bad"])
        want = self.dir / "want"
        start = time.monotonic()
        subprocess.run(self.command(source, want), env=environment(), check=False)
        whole_run = time.monotonic() - start
        rng = random.Random(1)
        killed = runs = synced = 0
        while killed < KILLS:
            self.assertLess(runs, 20 * KILLS)
            process = subprocess.Popen(self.command(source, self.out), env=environment())
            time.sleep(rng.uniform(0, whole_run / 8))
            process.kill()
            runs += 1
            finished = process.wait() != -signal.SIGKILL
            text = self.out.read_bytes() if self.out.exists() else b""
            now = text.count(b"\n")
            self.assertGreaterEqual(now, synced, "a record was lost")
            synced = now
            if finished:
                self.assertEqual(text, want.read_bytes())
                for path in self.dir.glob("out.jsonl*"):
                    path.unlink()
                synced = 0
            else:
                killed += 1
        subprocess.run(self.command(source, self.out), env=environment(), check=False)
        self.assertEqual(self.out.read_bytes(), want.read_bytes())
        print(f"{killed} kills in {runs} runs", file=sys.stderr)

    def test_an_end_lost_with_the_power_is_done_again(self):
        source = write_lines(self.dir / "in.jsonl", prompts(12))
        self.batch(source, "--ordered")
        want = self.out.read_bytes()
        rng = random.Random(2)
        for tail in (b"", b"\0" * 300, b'{"id":"batch_req_', b"garbage\n"):
            with open(self.out, "wb") as f:
                f.write(want[:rng.randrange(len(want))] + tail)
            self.batch(source, "--ordered")
            self.assertEqual(self.out.read_bytes(), want)

    def test_a_full_disk_at_every_write(self):
        """With a limit on the file's size writes are cut short and then fail, as on a full disk."""
        source = write_lines(self.dir / "in.jsonl", prompts(12))
        self.batch(source, "--ordered")
        want = self.out.read_bytes()
        full = self.dir / "full"
        sizes = [0, 1, *range(200, len(want), max(1, len(want) // 12)), len(want) - 1]
        for size in sizes:
            run = subprocess.run(
                [*self.command(source, full, model=str(MODEL)), "-q"],
                env=environment(), stderr=subprocess.PIPE, check=False,
                restore_signals=False,  # SIGXFSZ stays ignored
                preexec_fn=lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
            self.assertEqual(run.returncode, 6, f"{size}: {run.stderr}")
            self.assertRegex(run.stderr.decode(), r"^error: .*: cannot be written: File too large\n$")
            self.assert_whole(full)
        self.batch(source, "--ordered", out=full)
        self.assertEqual(full.read_bytes(), want)


if __name__ == "__main__":
    unittest.main()
