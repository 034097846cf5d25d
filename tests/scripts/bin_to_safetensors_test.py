# SPDX-License-Identifier: MIT
"""scripts/bin_to_safetensors.py, against torch's own bytes. Skips, by name, without torch."""

import importlib.util
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bin_to_safetensors.py"
HAS_TORCH = importlib.util.find_spec("torch") is not None
if HAS_TORCH:
    import torch


def read(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__")
    body = data[8 + size:]
    return {n: (t["dtype"], t["shape"], body[slice(*t["data_offsets"])]) for n, t in header.items()}


class Touch:
    """A pickle that runs code when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@unittest.skipUnless(HAS_TORCH, "torch is missing")
class BinToSafetensors(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="dsr-bin-")
        self.addCleanup(scratch.cleanup)
        self.base = Path(scratch.name)
        self.source, self.out = self.base / "in", self.base / "out"
        self.source.mkdir()
        (self.source / "config.json").write_text("{}")
        (self.source / "modeling.py").write_text("raise SystemExit")

    def convert(self, code: int = 0) -> str:
        run = subprocess.run([sys.executable, SCRIPT, self.source, self.out], check=False,
                             capture_output=True, text=True)
        self.assertEqual(run.returncode, code, run.stderr)
        self.assertEqual(list(self.base.glob("*.partial")), [])
        return run.stderr

    def write_shards(self) -> dict:
        torch.manual_seed(1)
        first = {"a.weight": torch.randn(5, 3).to(torch.bfloat16), "a.bias": torch.randn(5)}
        second = {"b.weight": torch.randn(4, 6).t(), "c": torch.tensor(3), "d": torch.zeros(0, 2),
                  "e": torch.randn(3).half()}
        names = {f"pytorch_model-0000{i}-of-00002.bin": t for i, t in [(1, first), (2, second)]}
        for name, tensors in names.items():
            torch.save(tensors, self.source / name)
        index = {"weight_map": {t: n for n, tensors in names.items() for t in tensors}}
        (self.source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        return {**first, **second}

    def test_names_types_and_values_stay(self):
        tensors = self.write_shards()
        self.convert()
        self.assertEqual(sorted(p.name for p in self.out.iterdir()), [
            "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
            "model.safetensors.index.json"])
        index = json.loads((self.out / "model.safetensors.index.json").read_text())
        self.assertEqual(list(index["weight_map"]), list(tensors))
        types = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64",
                 torch.float16: "F16"}
        for name, tensor in tensors.items():
            flat = tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else None
            want = b"" if flat is None else flat.numpy().tobytes()
            got = read(self.out / index["weight_map"][name])[name]
            self.assertEqual(got, (types[tensor.dtype], list(tensor.shape), want), name)
        self.assertEqual(index["metadata"]["total_size"],
                         sum(t.numel() * t.element_size() for t in tensors.values()))

    def test_one_file_without_an_index(self):
        torch.save({"w": torch.ones(2)}, self.source / "pytorch_model.bin")
        self.convert()
        self.assertEqual(read(self.out / "model.safetensors")["w"][2], struct.pack("<2f", 1, 1))

    def test_no_code_of_a_file_is_run(self):
        touched = self.base / "touched"
        hostile = pickle.dumps({"w": Touch(touched)}, protocol=2)
        (self.source / "pytorch_model.bin").write_bytes(hostile)
        self.assertIn("holds more than tensors, or is damaged", self.convert(code=3))
        self.assertFalse(touched.exists())
        pickle.loads(hostile)
        self.assertTrue(touched.exists())  # so it would have
        self.assertFalse(self.out.exists())

    def test_a_damaged_file(self):
        self.write_shards()
        first = self.source / "pytorch_model-00001-of-00002.bin"
        first.write_bytes(first.read_bytes()[:200])
        self.assertIn("or is damaged", self.convert(code=3))

    def test_what_exists_is_left_alone(self):
        self.write_shards()
        self.out.mkdir()
        self.assertIn("exists already", self.convert(code=3))
        self.assertEqual(list(self.out.iterdir()), [])

    def test_missing_shards_are_named_together(self):
        self.write_shards()
        for path in self.source.glob("*.bin"):
            path.unlink()
        self.assertIn("2 of 2 files are missing: pytorch_model-00001-of-00002.bin, "
                      "pytorch_model-00002-of-00002.bin", self.convert(code=3))

    def test_an_index_names_files_of_its_directory(self):
        (self.source / "pytorch_model.bin.index.json").write_text(
            json.dumps({"weight_map": {"w": "../pytorch_model.bin"}}))
        self.assertIn("not the bare name", self.convert(code=3))

    def test_a_tensor_twice(self):
        for i in (1, 2):
            torch.save({"w": torch.ones(2)}, self.source / f"pytorch_model-{i}.bin")
        self.assertIn("'w' is in model-1.safetensors too", self.convert(code=3))
        self.assertFalse(self.out.exists())


if __name__ == "__main__":
    unittest.main()
