# SPDX-License-Identifier: MIT
"""scripts/plot_bench.py: the points are where the numbers say."""

import json
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "plot_bench.py"
SVG = "{http://www.w3.org/2000/svg}"


def row(test: str, batch: int, depth: int, speed: float) -> dict:
    return {"test": test, "batch": batch, "depth": depth, "tok_per_s": speed, "tok_per_s_sd": 1.0}


class PlotBench(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = Path(scratch.name)

    def plot(self, *reports: list[dict]) -> ElementTree.Element:
        paths = []
        for i, rows in enumerate(reports):
            paths.append(self.dir / f"r<{i}>.json")
            paths[-1].write_text(json.dumps({"rows": rows}))
        out = self.dir / "out.svg"
        subprocess.run([sys.executable, str(SCRIPT), *map(str, paths), "-o", str(out)], check=True)
        return ElementTree.parse(out).getroot()

    def test_a_point_for_each_row_and_higher_is_faster(self):
        svg = self.plot([row("tg128", 1, 1024, 50), row("tg128", 1, 0, 100), row("tg128", 8, 0, 300),
                         row("pp512", 1, 0, 5000)])
        self.assertEqual(len(svg.findall(f"{SVG}circle")), 4)
        curves = [[tuple(map(float, p.split(","))) for p in line.get("points").split()]
                  for line in svg.findall(f"{SVG}polyline")]
        self.assertEqual([len(c) for c in curves], [1, 2, 1], "prompts, then answers")
        (x0, y0), (x1, y1) = curves[1]
        self.assertLess(x0, x1, "in the order of depth")
        self.assertLess(y0, y1, "SVG counts downwards")
        bottom = y1 + (y1 - y0)  # 50 less again is nothing
        self.assertAlmostEqual(bottom - curves[2][0][1], 3 * (bottom - y0), delta=1)

    def test_several_reports_are_told_apart(self):
        svg = self.plot([row("tg1", 1, 0, 10)], [row("tg1", 1, 0, 20)])
        labels = [t.text for t in svg.findall(f"{SVG}text")]
        self.assertIn("r<0>: tg1, batch 1", labels)
        self.assertIn("r<1>: tg1, batch 1", labels)

    def test_latencies_by_arrival_rate(self):
        def served(rate: float | None, median: float) -> dict:
            spread = {"mean": median, "median": median, "p90": median, "p99": 2 * median}
            return {**row(f"serve8+8@{rate}", 4, 0, 1), "rate": rate, "ttft_ms": spread,
                    "e2e_ms": spread}

        svg = self.plot([served(4, 30), served(1, 10), served(None, 99)])
        curves = [[tuple(map(float, p.split(","))) for p in line.get("points").split()]
                  for line in svg.findall(f"{SVG}polyline")]
        self.assertEqual([len(c) for c in curves], [2] * 4, "median and p99 of two latencies")
        (x0, y0), (x1, y1) = curves[0]
        self.assertLess(x0, x1, "in the order of rates")
        self.assertGreater(y0, y1, "longer is higher, and SVG counts downwards")
        labels = [t.text for t in svg.findall(f"{SVG}text")]
        self.assertIn("served: time to the first token", labels)
        self.assertIn("serve8+8, batch 4, p99", labels)

    def test_nothing_to_draw(self):
        path = self.dir / "empty.json"
        path.write_text('{"rows": []}')
        run = subprocess.run([sys.executable, str(SCRIPT), str(path), "-o", "x.svg"], check=False,
                             stderr=subprocess.PIPE, cwd=self.dir)
        self.assertEqual(run.returncode, 1)
        self.assertEqual(run.stderr, b"error: the reports have no rows\n")


if __name__ == "__main__":
    unittest.main()
