# SPDX-License-Identifier: MIT
"""tokenize, logits and inspect."""

import ast
import json
import math
import os
import signal
import struct
import subprocess
import time
import unittest
from pathlib import Path

from cli import BINARY, MODEL, SCRATCH, CliTest, environment
from random_model import BOS, FIRST_BYTE, THINK, VOCAB_SIZE, shapes, write_model


def ids_of(text: str) -> list[int]:
    return [FIRST_BYTE + b for b in text.encode()]


class Tokenize(CliTest):
    def tokenize(self, *args: str, **kwargs) -> str:
        return self.output(*args, command="tokenize", **kwargs)

    def test_text(self):
        self.assertEqual(self.tokenize("-p", "a\n<think>é"),
                         f'{ids_of("a")[0]}\t"a"\n{ids_of(chr(10))[0]}\t"\\x0a"\n{THINK}\t"<think>"\n'
                         f'{FIRST_BYTE + 0xc3}\t"\\xc3"\n{FIRST_BYTE + 0xa9}\t"\\xa9"\n')

    def test_count_and_json(self):
        self.assertEqual(self.tokenize("-p", "abc", "--count"), "3\n")
        self.assertEqual(json.loads(self.tokenize("--json", stdin=b"ab\n")),
                         {"count": 2, "ids": ids_of("ab"), "pieces": ["a", "b"]})
        self.assertEqual(json.loads(self.tokenize("-p", "a", "--json", "--add-bos"))["ids"],
                         [BOS, *ids_of("a")])

    def test_only_a_tokenizer_is_needed(self):
        directory = SCRATCH / "tokenizer-only"
        directory.mkdir()
        (directory / "tokenizer.json").symlink_to(MODEL / "tokenizer.json")
        self.assertEqual(self.tokenize("-p", "abc", "--count", model=directory), "3\n")
        self.assertIn("bos", self.failure("-p", "abc", "--add-bos", model=directory,
                                          command="tokenize", code=2))

    def test_jsonl(self):
        texts = ["hi", "", "é\u2028\U0001f600", "<think>", "a\x00b"]
        lines = "".join(json.dumps({"text": t, "more": 1}) + "\n" for t in texts)
        out = self.tokenize("--jsonl", stdin=lines.encode())
        self.assertEqual([json.loads(line)["ids"] for line in out.splitlines()],
                         [[THINK] if t == "<think>" else ids_of(t) for t in texts])
        path = SCRATCH / "lines.jsonl"
        path.write_text(lines.rstrip("\n"))  # the last line may lack its end
        self.assertEqual(self.tokenize("--jsonl", "-f", str(path)), out)
        self.assertEqual(json.loads(self.tokenize("--jsonl", "--add-bos", stdin=b'{"text":"a"}')),
                         {"ids": [BOS, *ids_of("a")]})
        self.assertEqual(self.tokenize("--jsonl"), "")

    def test_jsonl_decodes_ids(self):
        rows = [ids_of("h\u00e9"), [], [THINK, 10 ** 6], ids_of("\u00e9")[:1]]
        out = self.tokenize("--jsonl", stdin="".join(
            json.dumps({"ids": ids}) + "\n" for ids in rows).encode())
        self.assertEqual([json.loads(line) for line in out.splitlines()],
                         [{"text": t} for t in ["h\u00e9", "", "<think>", "\ufffd"]])
        for bad in [b'{"ids":[-1]}', b'{"ids":[1.5]}', b'{"ids":7}', b'{"ids":[2147483648]}']:
            run = self.run_cli("--jsonl", command="tokenize", stdin=bad, code=7)
            self.assertEqual(list(json.loads(run.stdout)), ["error"])

    def test_bad_lines_do_not_stop_the_rest(self):
        lines = b'{"text":"a"}\nnot json\n\n{"no":1}\n{"text":5}\n{"text":"\xff"}\n{"text":"b"}\n'
        run = self.run_cli("--jsonl", command="tokenize", stdin=lines, code=7)
        rows = [json.loads(line) for line in run.stdout.splitlines()]
        self.assertEqual([list(row) for row in rows], [["ids"]] + [["error"]] * 5 + [["ids"]])

    def test_a_coprocess_gets_each_answer_at_once(self):
        process = subprocess.Popen([BINARY, "tokenize", "-m", MODEL, "--jsonl"], env=environment(),
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for text in ["a", "bc"]:
            process.stdin.write(json.dumps({"text": text}).encode() + b"\n")
            process.stdin.flush()
            self.assertEqual(json.loads(process.stdout.readline())["ids"], ids_of(text))
        process.stdin.close()
        self.assertEqual(process.wait(10), 0)
        process.stdout.close()

    def test_an_interrupted_run_ends_after_a_whole_line(self):
        path = SCRATCH / "many.jsonl"
        path.write_text(json.dumps({"text": "x" * 300}) + "\n")
        with open(path, "rb") as lines:
            one = lines.read()
        path.write_bytes(one * 200_000)
        process = subprocess.Popen(
            [BINARY, "tokenize", "-m", MODEL, "--jsonl", "-f", path], env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        first = os.read(process.stdout.fileno(), 1000)
        process.send_signal(signal.SIGINT)
        time.sleep(0.6)  # nobody reads: the time limit passes while a line is half written
        out, err = process.communicate(timeout=10)
        path.unlink()
        self.assertEqual((process.returncode, err), (130, b""))
        out = first + out
        self.assertTrue(out.endswith(b"\n"), out[-100:])
        rows = out.splitlines()
        self.assertLess(len(rows), 200_000)
        for row in rows:
            self.assertEqual(json.loads(row)["ids"], ids_of("x" * 300))

    def test_a_signal_while_waiting_for_a_line(self):
        for args in [["--jsonl"], []]:
            process = subprocess.Popen(
                [BINARY, "tokenize", "-m", MODEL, *args], env=environment(), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(10), 130)
            self.assertEqual(process.communicate(), (b"", b""))

    def test_errors(self):
        self.assertIn("not valid UTF-8 at byte offset 1", self.failure(
            command="tokenize", stdin=b"a\xff", code=2))
        for args in [["--jsonl", "-p", "x"], ["--jsonl", "--count"], ["--jsonl", "--json"],
                     ["-p", "x", "--count", "--json"]]:
            self.failure(*args, command="tokenize", code=2)
        with open("/dev/full", "wb") as full:
            self.failure("-p", "hi", command="tokenize", stdout=full, code=6)


def read_npy(path: Path) -> tuple[tuple[int, ...], list[float]]:
    raw = path.read_bytes()
    assert raw[:8] == b"\x93NUMPY\x01\x00", raw[:8]
    (length,) = struct.unpack("<H", raw[8:10])
    assert (10 + length) % 64 == 0 and raw[9 + length] == ord("\n")
    header = ast.literal_eval(raw[10:10 + length].decode("ascii"))
    assert header["descr"] == "<f4" and header["fortran_order"] is False
    count = math.prod(header["shape"])
    return header["shape"], list(struct.unpack(f"<{count}f", raw[10 + length:]))


class Logits(CliTest):
    def logits(self, *args: str) -> tuple[tuple[int, ...], list[float]]:
        path = SCRATCH / "logits.npy"
        path.unlink(missing_ok=True)
        self.assertEqual(self.output(*args, "-o", str(path), command="logits"), "")
        return read_npy(path)

    def test_rows(self):
        shape, values = self.logits("--prompt-ids", "0,5,6,7")
        self.assertEqual(shape, (4, VOCAB_SIZE))
        # a row depends on what came before it alone, and the last one is what greedy takes
        self.assertEqual(self.logits("--prompt-ids", "0,5")[1], values[:2 * VOCAB_SIZE])
        self.assertEqual(self.logits("--prompt-ids", "0,5,6,7", "--chunk", "1")[1], values)
        last = values[3 * VOCAB_SIZE:]
        answer = json.loads(self.output("--prompt-ids", "0,5,6,7", "--temp", "0", "-n", "1",
                                        "--format", "json"))
        allowed = [v for i, v in enumerate(last) if i < 263]  # ids without an entry are not sampled
        self.assertEqual(answer["choices"][0]["ids"] or [1], [allowed.index(max(allowed))])

    def test_text_is_raw(self):
        ids = ",".join(map(str, [BOS, *ids_of("hi")]))
        self.assertEqual(self.logits("-p", "hi"), self.logits("--prompt-ids", ids))

    def test_the_file_appears_whole_or_not_at_all(self):
        directory = SCRATCH / "out"
        directory.mkdir()
        self.failure("--prompt-ids", "999", "-o", directory / "x.npy", command="logits", code=2)
        self.failure("-p", "x" * 100, "-c", "5", "-o", directory / "x.npy", command="logits", code=2)
        self.assertEqual(os.listdir(directory), [])
        self.failure("-p", "hi", "-o", directory / "no" / "x.npy", command="logits", code=6)
        self.failure("-p", "hi", "-o", "/dev/full", command="logits", code=6)
        self.assertTrue(os.path.exists("/dev/full"))
        self.failure("-p", "hi", command="logits", code=2)


    def test_standard_output(self):
        path = SCRATCH / "piped.npy"
        run = self.run_cli("-p", "hi", "-o", "-", command="logits", cwd=SCRATCH)
        path.write_bytes(run.stdout)
        self.assertEqual(read_npy(path), self.logits("-p", "hi"))
        self.assertFalse((SCRATCH / "-").exists())
        with open("/dev/full", "wb") as full:
            self.assertEqual(self.failure("-p", "hi", "-o", "-", command="logits", stdout=full, code=6),
                             "standard output: cannot be written: No space left on device")
        parent, child = os.openpty()
        self.assertIn("terminal", self.failure("-p", "hi", "-o", "-", command="logits", stdout=child,
                                               code=2))
        os.close(child)
        os.close(parent)

    def test_an_interrupted_run_leaves_nothing(self):
        directory = SCRATCH / "interrupted"
        directory.mkdir()
        try:
            os.close(os.open(directory, os.O_TMPFILE | os.O_WRONLY))
        except OSError:
            self.skipTest("the file system has no files without a name")
        process = subprocess.Popen(
            [BINARY, "logits", "-m", MODEL, "-p", "x" * 60_000, "-c", "100000", "--chunk", "60K",
             "-o", directory / "x.npy"], env=environment(), stderr=subprocess.PIPE)
        time.sleep(0.2)
        process.kill()
        process.communicate(timeout=10)
        self.assertEqual(os.listdir(directory), [])


class Inspect(CliTest):
    def test_json(self):
        report = json.loads(self.output("--format", "json", command="inspect"))
        elements = {name: math.prod(shape) for name, shape in shapes().items()}
        self.assertEqual(report["total"], {"tensors": len(elements), "bytes": 2 * sum(elements.values()),
                                           "parameters": sum(elements.values())})
        experts = sum(n for name, n in elements.items() if ".experts." in name)
        self.assertEqual(report["parts"]["experts"]["parameters"], experts)
        self.assertEqual(report["active_parameters"], sum(elements.values()) - experts // 2 -
                         elements["model.embed_tokens.weight"])
        self.assertEqual(sum(p["tensors"] for p in report["parts"].values()), len(elements))
        self.assertEqual(sum(t["count"] for t in report["tensors"]), len(elements))
        self.assertIn({"pattern": "model.layers.*.mlp.experts.*.up_proj.weight", "count": 4,
                       "dtype": "BF16", "shape": [16, 32], "bytes": 4096}, report["tensors"])
        self.assertEqual(report["kv_bytes_per_token"]["f32"], 2 * 4 * (16 + 8))
        self.assertEqual(report["architecture"], "DeepseekV3ForCausalLM")

    def test_text(self):
        text = self.output(command="inspect")
        for words in ["DeepseekV3ForCausalLM", "2 (1 dense, 1 with experts)", "2 of 4", "200,000 tokens",
                      "model.layers.*.self_attn.q_proj.weight", "shared experts", "100.0 %"]:
            self.assertIn(words, text)

    def test_damaged(self):
        broken = write_model(SCRATCH / "broken")
        os.truncate(broken / "model.safetensors", 5000)
        for args in [[], ["--format", "json"]]:
            self.failure(*args, model=broken, command="inspect", code=3)
        other = write_model(SCRATCH / "other", hidden_size=64)
        self.failure(model=other, command="inspect", code=3)


if __name__ == "__main__":
    unittest.main()
