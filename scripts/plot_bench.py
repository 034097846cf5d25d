#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws what `deepseek-run bench --format json` measured: tokens per second by depth, a curve for
each test and batch size, with the standard deviation of the repetitions; of --serve-like the
latencies by arrival rate. SVG, standard library.

    scripts/plot_bench.py before.json after.json -o speed.svg
"""

import argparse
import json
import math
from html import escape
from pathlib import Path

WIDTH, PANEL, LEFT, RIGHT, TOP, BOTTOM = 900, 360, 70, 220, 40, 50  # pixels
Curves = dict[str, list[tuple[float, float, float]]]  # label -> points (x, y, deviation), ascending
COLOURS = ["#1b6ca8", "#d1495b", "#3a7d44", "#8d5b9f", "#c77d0a", "#4a4e69", "#00798c", "#a44a3f"]


PANELS = {  # kind -> title, unit of y, what x is
    "pp": ("prompts", "tok/s", "tokens in the cache before"),
    "tg": ("answers", "tok/s", "tokens in the cache before"),
    "ttft": ("served: time to the first token", "ms", "requests per second"),
    "e2e": ("served: time to the last token", "ms", "requests per second"),
}


def read_curves(path: Path) -> dict[str, Curves]:
    curves: dict[str, Curves] = {kind: {} for kind in PANELS}
    for row in json.loads(path.read_text())["rows"]:
        test = row["test"]
        if not test.startswith("serve"):
            points = curves[test[:2]].setdefault(f"{test}, batch {row['batch']}", [])
            points.append((row["depth"], row["tok_per_s"], row["tok_per_s_sd"]))
        elif row["rate"] is not None:  # all at once has no place on an axis of rates
            for kind in ("ttft", "e2e"):
                for which in ("median", "p99"):
                    label = f"{test.split('@')[0]}, batch {row['batch']}, {which}"
                    point = (row["rate"], row[f"{kind}_ms"][which], 0.0)
                    curves[kind].setdefault(label, []).append(point)
    for labels in curves.values():
        for points in labels.values():
            points.sort()
    return curves


def ticks(most: float) -> list[float]:
    """Round numbers from 0 to a little more than `most`, four to eight of them."""
    if most <= 0:
        return [0.0, 1.0]
    step = 10 ** math.floor(math.log10(most / 4))
    step *= next(f for f in (1, 2, 5, 10) if most / (step * f) <= 7)
    return [step * i for i in range(math.ceil(most / step) + 1)]


def number(x: float) -> str:
    return f"{x:,.0f}" if x == round(x) else f"{x:,.3g}"


class Panel:
    """One diagram: its axes and curves as SVG elements."""

    def __init__(self, kind: str, top: int, curves: list[tuple[str, list[tuple[float, float, float]]]]):
        title, self.y_unit, self.x_title = PANELS[kind]
        self.curves = curves
        self.x_ticks = sorted({x for _, points in curves for x, _, _ in points})
        self.y_ticks = ticks(max(y + sd for _, points in curves for _, y, sd in points))
        self.top, self.out = top + TOP, []
        self.text(LEFT, top + TOP - 14, title, size=15)
        self.axes()
        for i, (label, points) in enumerate(curves):
            self.curve(points, COLOURS[i % len(COLOURS)])
            y = self.top + 14 + 20 * i
            self.out.append(f'<rect x="{WIDTH - RIGHT + 16}" y="{y - 9}" width="12" height="12" '
                            f'fill="{COLOURS[i % len(COLOURS)]}"/>')
            self.text(WIDTH - RIGHT + 34, y + 2, label)

    def x(self, value: float) -> float:
        most = self.x_ticks[-1] or 1
        return LEFT + (WIDTH - LEFT - RIGHT) * value / most

    def y(self, value: float) -> float:
        return self.top + (PANEL - TOP - BOTTOM) * (1 - value / self.y_ticks[-1])

    def text(self, x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> None:
        self.out.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
                        f'font-size="{size}">{escape(text)}</text>')

    def axes(self) -> None:
        for value in self.y_ticks:
            y = self.y(value)
            self.out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" '
                            'stroke="#ddd"/>')
            self.text(LEFT - 8, y + 4, number(value), anchor="end")
        for value in self.x_ticks:
            self.text(self.x(value), self.y(0) + 18, number(value), anchor="middle")
        self.text((LEFT + WIDTH - RIGHT) / 2, self.y(0) + 38, self.x_title,
                  anchor="middle")
        self.text(LEFT - 60, self.top - 14, self.y_unit)

    def curve(self, points: list[tuple[float, float, float]], colour: str) -> None:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y, _ in points)
        self.out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y, sd in points:
            at = self.x(x)
            self.out.append(f'<circle cx="{at:.1f}" cy="{self.y(y):.1f}" r="3" fill="{colour}"/>')
            self.out.append(f'<line x1="{at:.1f}" y1="{self.y(y + sd):.1f}" x2="{at:.1f}" '
                            f'y2="{self.y(max(y - sd, 0)):.1f}" stroke="{colour}"/>')


def draw(paths: list[Path]) -> str:
    reports = [(path.stem, read_curves(path)) for path in paths]
    panels, height = [], 0
    for kind in PANELS:
        curves = [(label if len(reports) == 1 else f"{name}: {label}", points)
                  for name, report in reports for label, points in report[kind].items()]
        if curves:
            panels += Panel(kind, height, curves).out
            height += PANEL
    if not panels:
        raise SystemExit("error: the reports have no rows")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            'font-family="sans-serif">\n<rect width="100%" height="100%" fill="white"/>\n' +
            "\n".join(panels) + "\n</svg>\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("reports", nargs="+", type=Path, help="json of deepseek-run bench")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.write_text(draw(arguments.reports))


if __name__ == "__main__":
    main()
