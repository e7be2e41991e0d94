"""One economy as a picture: what was paid in each epoch."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("svg")
from cast import SPECIALISTS, TURNS, VALIDATORS
from matplotlib import pyplot

STYLE = {
    "svg.fonttype": "none",  # text stays text, and a file small
    "svg.hashsalt": "moesubnet",  # the same picture is the same file
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def plot(found: dict, folder: Path) -> None:
    """Write FOLDER/ECONOMY.svg of a row of `economy.py`."""
    series, looked_at = found["series"], found["looked_at"]
    is_of_validators = bool(looked_at) and looked_at[0] in found["validators"]
    honest = VALIDATORS if is_of_validators else SPECIALISTS
    victim = found["victim"]
    others = [n for n in honest if n in series and n not in (*looked_at, victim)]
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(4.6, 2.2), layout="constrained")
        for i, name in enumerate(others):
            label = None if i else "honest"
            axes.plot(series[name], color="0.6", linewidth=0.8, label=label)
        if victim:
            axes.plot(series[victim], color="tab:blue", label=victim)
        if looked_at:
            label = looked_at[0] if len(looked_at) == 1 else f"{len(looked_at)} together"
            together = np.sum([series[name] for name in looked_at], axis=0)
            axes.plot(together, color="tab:red", label=label)
        for when in [*found["joins"], *([TURNS] if found["turns"] else [])]:
            axes.axvline(when, color="0.8", linewidth=0.8, linestyle=":")
        axes.set(title=found["claim"], xlabel="epoch", ylabel="τ")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{found['economy']}.svg", metadata={"Date": None})
        pyplot.close(figure)
