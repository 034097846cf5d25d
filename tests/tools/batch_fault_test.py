# SPDX-License-Identifier: MIT
"""batch when the machine fails it: rows R3, R4, R6, R11 and R13 of what is promised. What fails is
chosen by tests/support/fault_shim.cc, which is preloaded."""

import errno
import os
import random
import signal
import subprocess
import time
import unittest
from pathlib import Path

from batch_case import BatchCase, prompts, read_records, write_lines
from cli import BINARY, MODEL, SANITIZED, environment

SHIM = os.environ.get("DSR_FAULT_SHIM", "")
needs_shim = unittest.skipIf(SANITIZED or not SHIM, "sanitizers want to be loaded first")


class Call:
    def __init__(self, line: str):
        self.op, size, self.path = line.rstrip("\n").split(" ", 2)
        self.size = int(size)


class Faults(BatchCase):
    def setUp(self):
        super().setUp()
        self.files = self.dir / "files"
        self.files.mkdir()
        self.log = self.dir / "calls"
        self.source = write_lines(self.dir / "in.jsonl", prompts(6) + ["bad"])

    def shimmed(self, out: Path, fail: str = "", *flags: str):
        """Runs the batch with a fault; the process, and the calls that the shim saw."""
        self.log.unlink(missing_ok=True)
        run = subprocess.run(
            self.command(self.source, out, *flags, model=str(MODEL)), check=False,
            stderr=subprocess.PIPE,
            env=environment(LD_PRELOAD=SHIM, DSR_SHIM_DIR=str(self.files), DSR_SHIM_FAIL=fail,
                            DSR_SHIM_LOG=str(self.log)))
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return run, [Call(line) for line in lines]

    def wanted(self) -> tuple[bytes, list[Call]]:
        """The records of a run without faults, and its calls."""
        out = self.files / f"want{len(list(self.files.iterdir()))}"
        run, calls = self.shimmed(out)
        self.assertEqual(run.returncode, 7, run.stderr)
        return out.read_bytes(), calls

    def fail_each(self, op: str, what: str, message: str) -> int:
        """Every call of that kind fails once; then the same command again. How many there were."""
        want, calls = self.wanted()
        of_kind = [c for c in calls if c.op == op]
        self.assertGreater(len(of_kind), 0)
        for n, call in enumerate(of_kind, 1):
            with self.subTest(op=op, n=n, path=call.path):
                out = self.files / f"{op}{n}{what}"
                run, seen = self.shimmed(out, f"{op}:{n}:{what}")
                self.assertEqual(len([c for c in seen if c.op == op][:n]), n, "it came to that")
                if call.path.endswith(".stats.jsonl"):  # lost lines matter to nobody
                    self.assertEqual(run.returncode, 7, run.stderr)
                else:
                    self.assertEqual(run.returncode, 6, run.stderr)
                    self.assertRegex(run.stderr.decode(), rf"^error: .*: {message}\n$")
                    self.assert_whole(out)
                self.batch(self.source, "--ordered", "-q", out=out, code=7)
                self.assertEqual(out.read_bytes(), want)
        return len(of_kind)

    @needs_shim
    def test_every_single_write_on_a_full_disk(self):
        # Seven records, a line of times for six of them and the run, the manifest, the ordering.
        n = self.fail_each("write", str(errno.ENOSPC), "cannot be written: No space left on device")
        self.assertEqual(n, 7 + 7 + 1 + 1)

    @needs_shim
    def test_every_single_write_cut_short(self):
        self.fail_each("write", "short", "cannot be written: No space left on device")

    @needs_shim
    def test_every_single_sync_and_rename(self):
        self.fail_each("fsync", str(errno.EIO), "cannot be written: Input/output error")
        self.fail_each("rename", str(errno.EIO), "cannot be put in place: Input/output error")
        self.fail_each("linkat", str(errno.EIO), "cannot be put in place: Input/output error")

    @needs_shim
    def test_what_is_not_synced_may_be_lost_with_the_power(self):
        self.source = write_lines(self.dir / "many.jsonl",
                                  [{"prompt": f"{i}", "max_tokens": 1 + i % 3} for i in range(150)])
        want_path = self.files / "want"
        run, calls = self.shimmed(want_path)
        self.assertEqual(run.returncode, 0, run.stderr)
        n_writes = sum(c.op == "write" for c in calls)
        rng = random.Random(3)
        for n in (2, 100, 200, n_writes - 1):
            out = self.files / f"power{n}"
            run, calls = self.shimmed(out, f"write:{n}:kill")
            self.assertEqual(run.returncode, -signal.SIGKILL)
            of_out = [c for c in calls if c.path == str(out)]
            synced = max((c.size for c in of_out if c.op == "fsync"), default=0)
            written = out.read_bytes() if out.exists() else b""
            self.assertLessEqual(written[synced:].count(b"\n"), 64, "the promise of R6")
            if n > 150:
                self.assertGreater(synced, 0)
            # A disk may keep all of what was not synced, none, a part, or its length alone.
            kept = written[:rng.randrange(synced, len(written) + 1)] if written else b""
            out.write_bytes(kept + rng.choice([b"", b"\0" * 100]))
            self.batch(self.source, "--ordered", "-q", out=out)
            self.assertEqual(out.read_bytes(), want_path.read_bytes())

    @needs_shim
    def test_the_names_of_new_files_are_synced(self):
        _, calls = self.wanted()
        created = next(i for i, c in enumerate(calls) if c.path == str(self.files / "want0"))
        synced = [i for i, c in enumerate(calls) if c.op == "fsync" and c.path == str(self.files)]
        self.assertLess(min(synced), created, "the manifest's, before a record is written")
        # The manifest's, the records' as the file is made, and the ordered file's.
        self.assertEqual(len(synced), 3)

    def test_a_place_that_cannot_be_written(self):
        self.assertRegex(self.refusal(self.source, out=Path("/proc/out.jsonl"), code=6),
                         "^/proc/out.jsonl.lock: cannot be created: ")
        for out in (Path("/dev/full"), self.dir):
            self.assertEqual(self.refusal(self.source, out=out),
                             f"{out}: a batch needs a regular file to write")
            self.assertFalse(Path(f"{out}.lock").exists())


class Processes(BatchCase):
    def start_long(self, out: Path, **popen) -> subprocess.Popen:
        """A batch that has answered one record and will be at the others, all at once, for long."""
        long = [{"prompt": f"p{i}", "max_tokens": 20000, "ignore_eos": True,
                 "loop_guard": False} for i in range(1, 33)]
        source = write_lines(self.dir / "long.jsonl", [{"prompt": "p0", "max_tokens": 3}, *long])
        process = subprocess.Popen(
            [BINARY, "batch", "-m", str(MODEL), str(source), "-o", str(out), "--raw", "-q"],
            env=environment(), stderr=subprocess.PIPE, **popen)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and (not out.exists() or not out.read_bytes()):
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        return process

    def test_signals_keep_what_is_finished(self):
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
            out = self.dir / f"out{code}"
            process = self.start_long(out)
            start = time.monotonic()
            process.send_signal(number)
            self.assertEqual(process.wait(20), code, process.stderr.read())
            # Half a second is the promise; a busy machine takes its share.
            self.assertLess(time.monotonic() - start, 2 if not SANITIZED else 10)
            self.assertEqual([r["custom_id"] for r in read_records(out)], ["1"])

    def test_of_two_processes_the_second_is_kept_out(self):
        process = self.start_long(self.out)
        before = self.out.read_bytes()
        source = self.dir / "long.jsonl"
        for flags in ([], ["--restart"], ["--retry-errors"]):
            self.assertIn("another process is writing it", self.refusal(source, *flags))
        self.assertEqual(self.out.read_bytes(), before)
        self.assertIsNone(process.poll(), "the first one goes on")
        process.kill()
        process.wait()
        # The lock goes with the process.
        again = subprocess.Popen(
            [BINARY, "batch", "-m", str(MODEL), str(source), "-o", str(self.out), "--raw", "-q"],
            env=environment(), stderr=subprocess.PIPE)
        self.addCleanup(again.stderr.close)
        time.sleep(0.3)
        again.terminate()
        self.assertIn(again.wait(20), (0, 143), again.stderr.read())

    def test_other_names_of_the_output_are_kept_out_too(self):
        there = self.dir / "there"
        soft = self.dir / "soft"
        soft.symlink_to(self.out)  # before there is an OUT
        process = self.start_long(self.out)
        before = self.out.read_bytes()
        hard = self.dir / "hard"
        hard.hardlink_to(self.out)  # of the file that the batch made
        there.symlink_to(self.dir)
        for name in (soft, hard, there / "out.jsonl"):
            for flags in ([], ["--restart"]):
                self.assertIn("another process is writing it",
                              self.refusal(self.dir / "long.jsonl", *flags, out=name))
        self.assertEqual(self.out.read_bytes(), before)
        self.assertIsNone(process.poll(), "the first one goes on")
        self.assertFalse(Path(f"{soft}.lock").exists(), "it is OUT.lock that counts")
        process.kill()
        process.wait()
        # Continued, OUT is there from the start, and a link to it is locked as well.
        again = subprocess.Popen(
            [BINARY, "batch", "-m", str(MODEL), str(self.dir / "long.jsonl"), "-o", str(soft),
             "--raw", "-q"], env=environment(), stderr=subprocess.PIPE)
        for end in (again.stderr.close, again.wait, again.kill):  # the last one first
            self.addCleanup(end)
        deadline, times = time.monotonic() + 10, f"{self.out}.stats.jsonl"  # opened last
        while time.monotonic() < deadline and times not in [
                os.path.realpath(f) for f in Path(f"/proc/{again.pid}/fd").iterdir()]:
            time.sleep(0.01)
        self.assertIn("another process is writing it",
                      self.refusal(self.dir / "long.jsonl", out=hard))

    def test_standard_streams_that_are_closed_or_full(self):
        source = write_lines(self.dir / "in.jsonl", prompts(4))
        self.batch(source, "--ordered")
        for name, redirections in (("full", ">/dev/full"), ("closed", ">&- 2>&-"),
                                   ("pipe", "| head -c 0")):
            out = self.dir / name
            subprocess.run(["bash", "-o", "pipefail", "-c",
                            f'"$0" "$@" {redirections}', *self.command(source, out, model=str(MODEL))],
                           env=environment(), check=True)
            self.assertEqual(out.read_bytes(), self.out.read_bytes())


if __name__ == "__main__":
    unittest.main()
