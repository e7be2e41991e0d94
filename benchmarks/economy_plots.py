"""What was paid in each epoch of each economy: one panel each, on one sheet.

    python benchmarks/economy_plots.py OUT.svg FOLDER/economies-*.jsonl …

Of the rows that `economy.py` kept; of an economy that is in several files, the last one's.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("svg")
from cast import SPECIALISTS, TURNS, VALIDATORS
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

COLUMNS = 5
PANEL_INCHES = (2.5, 1.7)
CLAIM_CHARS = 44  # of a line
STYLE = {
    "svg.fonttype": "none",  # text stays text, and a file small
    "svg.hashsalt": "moesubnet",  # the same picture is the same file
    "font.size": 6.5,
    "axes.titlesize": 6.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.0,
}
HONEST, VICTIM, LOOKED_AT = "0.65", "tab:blue", "tab:red"
LEGEND = {
    "honest": HONEST,
    "whose loss is looked at": VICTIM,
    "who are looked at, together": LOOKED_AT,
}


def draw(found: dict, axes: Axes) -> None:
    """One row of `economy.py`."""
    series, looked_at, victim = found["series"], found["looked_at"], found["victim"]
    is_of_validators = bool(looked_at) and looked_at[0] in found["validators"]
    for name in VALIDATORS if is_of_validators else SPECIALISTS:
        if name in series and name not in (*looked_at, victim):
            axes.plot(series[name], color=HONEST, linewidth=0.6)
    if victim:
        axes.plot(series[victim], color=VICTIM)
    if looked_at:
        axes.plot(np.sum([series[name] for name in looked_at], axis=0), color=LOOKED_AT)
    for when in [*found["joins"], *([TURNS] if found["turns"] else [])]:
        axes.axvline(when, color="0.8", linewidth=0.6, linestyle=":")
    is_missed = found["met"] is False
    claim = textwrap.fill(found["claim"], CLAIM_CHARS)
    axes.set_title(f"{found['economy']}{': target missed' * is_missed}\n{claim}", loc="left")
    axes.title.set_color(LOOKED_AT if is_missed else "black")
    axes.set_ylim(bottom=0)
    axes.locator_params(nbins=4)
    axes.set_gid(found["economy"])


def sheet(rows: Sequence[dict], path: Path) -> None:
    with pyplot.rc_context(STYLE):
        lines = math.ceil(len(rows) / COLUMNS)
        size = (PANEL_INCHES[0] * COLUMNS, PANEL_INCHES[1] * lines + 0.5)
        figure, panels = pyplot.subplots(
            lines, COLUMNS, figsize=size, layout="constrained", squeeze=False
        )
        for axes in panels.flat[len(rows) :]:
            axes.set_axis_off()
        for found, axes in zip(rows, panels.flat, strict=False):
            draw(found, axes)
        figure.supxlabel("epoch; dotted: somebody joins, or turns")
        figure.supylabel("τ")
        keys = [Line2D([], [], color=color, label=label) for label, color in LEGEND.items()]
        figure.legend(handles=keys, loc="outside upper left", ncols=len(keys), frameon=False)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    path.write_text(re.sub(r"(\d\.\d)\d+", r"\1", drawn.getvalue()))  # a tenth of a point is enough


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("rows", type=Path, nargs="+")
    arguments = parser.parse_args()
    lines = (line for path in arguments.rows for line in path.read_text().splitlines())
    rows = {found["economy"]: found for found in map(json.loads, lines) if "series" in found}
    sheet(list(rows.values()), arguments.out)


if __name__ == "__main__":
    main()
