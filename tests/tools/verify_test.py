# SPDX-License-Identifier: MIT
"""deepseek-run verify: files against the SHA-256 that a Hugging Face cache names them by."""

import hashlib
import json
import struct
import unittest
from pathlib import Path

from cli import MODEL, SCRATCH, CliTest

WEIGHTS = "model.safetensors"


class Verify(CliTest):
    def setUp(self):
        """A cache with one weight file, and its blob."""
        data = (MODEL / WEIGHTS).read_bytes()
        place = SCRATCH / self.id() / "models--org--name"
        self.snapshot = place / "snapshots" / "0"
        for folder in [place / "blobs", self.snapshot]:
            folder.mkdir(parents=True)
        self.blob = place / "blobs" / hashlib.sha256(data).hexdigest()
        self.blob.write_bytes(data)
        (self.snapshot / WEIGHTS).symlink_to(self.blob)

    def verify(self, model: Path, code: int = 0) -> str:
        return self.output(command="verify", model=model, code=code)

    def test_a_file_as_published(self):
        self.assertEqual(self.verify(self.snapshot), f"{WEIGHTS}: as published\n1 file without "
                         "fault, 1 compared with a published checksum\n")

    def test_one_bit(self):
        data = bytearray(self.blob.read_bytes())
        for at in (0, 100, len(data) - 1):  # the length, the header, the data
            data[at] ^= 1
            self.blob.write_bytes(data)
            found = hashlib.sha256(data).hexdigest()
            self.assertIn(f"{WEIGHTS}: differs: SHA-256 is {found}, expected {self.blob.name}\n"
                          "1 of 1 file is not as published\n", self.verify(self.snapshot, code=3))
            data[at] ^= 1

    def test_elsewhere_there_is_no_checksum(self):
        self.assertIn("no published checksum\n1 file without fault, 0 compared", self.verify(MODEL))

    def test_a_short_file(self):
        (self.snapshot / WEIGHTS).unlink()
        (self.snapshot / WEIGHTS).write_bytes(self.blob.read_bytes()[:-5])
        self.assertIn(f"{WEIGHTS}: damaged: ", self.verify(self.snapshot, code=3))

    def test_nan_codes_are_counted(self):
        codes = bytes([0x7F, 0x80, 0xFF, 0x7E, 0x00, 0xFE])
        header = json.dumps({"good": {"dtype": "U8", "shape": [6], "data_offsets": [0, 6]},
                             "bad": {"dtype": "F8_E4M3", "shape": [2, 3],
                                     "data_offsets": [6, 12]}}).encode()
        (self.snapshot / WEIGHTS).unlink()
        (self.snapshot / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + codes * 2)
        self.assertIn("but 2 FP8 values are NaN, the first in bad",
                      self.verify(self.snapshot, code=3))


if __name__ == "__main__":
    unittest.main()
