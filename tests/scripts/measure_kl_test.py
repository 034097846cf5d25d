# SPDX-License-Identifier: MIT
"""measure_kl.py without a model: its figures against cases computed by hand, and its exit status."""

import contextlib
import io
import math
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
sys.dont_write_bytecode = True
try:
    import numpy as np
    import measure_kl
except ImportError:
    np = None

ROWS, LENGTH, VOCABULARY = 4, 128, 50


class Fake:
    """Logits of a reference, and the same with noise that stands for rounding."""

    def __init__(self, noise_of_ours: float):
        rng = np.random.default_rng(7)
        self.exact = rng.normal(size=(ROWS * LENGTH, VOCABULARY)).astype(np.float32)
        self.theirs = self.exact + rng.normal(size=self.exact.shape).astype(np.float32) * 0.03
        self.ours = (self.exact + rng.normal(size=self.exact.shape) * noise_of_ours).astype(np.float32)

    def logits(self, rows, *flags, jobs=1):
        return self.exact if "reference" in flags else self.ours


@unittest.skipIf(np is None, "no numpy")
class MeasureKl(unittest.TestCase):
    def test_kl_of_a_case_by_hand(self):
        exact = np.zeros((1, 3))  # a third each
        other = np.log([[0.5, 0.25, 0.25]]) + 7
        want = (math.log(1 / 3 / 0.5) + 2 * math.log(1 / 3 / 0.25)) / 3
        self.assertAlmostEqual(measure_kl.kl(exact, other)[0], want, places=12)
        self.assertEqual(measure_kl.kl(other, other)[0], 0)

    def test_the_interval(self):
        n = 100 * measure_kl.BLOCK
        theirs = np.random.default_rng(3).exponential(size=n)
        for value in measure_kl.ratio_interval(1.05 * theirs, theirs):  # paired: no noise is left
            self.assertAlmostEqual(value, 1.05)
        ours = np.random.default_rng(4).exponential(size=n)
        ratio, low, high = measure_kl.ratio_interval(ours, theirs)
        self.assertTrue(low < ratio < high and low < 1 < high, (low, ratio, high))
        # Of a ratio of two means of n exponentials: 1.96 sqrt(2 / n) each way.
        self.assertAlmostEqual(high - low, 2 * 1.96 * math.sqrt(2 / n), delta=0.01)

    def status(self, noise_of_ours: float) -> tuple[int, str]:
        fake, out = Fake(noise_of_ours), io.StringIO()
        with mock.patch.multiple(measure_kl, Binary=lambda *a: fake,
                                 held_out_rows=lambda *a: [[0] * LENGTH] * ROWS,
                                 transformers_logits=lambda *a: (fake.exact, fake.theirs)), \
                mock.patch.object(sys, "argv", ["x", "binary", "--corpus", "none"]), \
                contextlib.redirect_stdout(out):
            return measure_kl.main(), out.getvalue()

    def test_the_exit_status_tells(self):
        self.assertEqual(self.status(0.03)[0], 0)
        status, text = self.status(0.04)  # KL grows with the square: 1.8
        self.assertEqual(status, 1)
        self.assertIn("above 1.1", text)


if __name__ == "__main__":
    unittest.main()
