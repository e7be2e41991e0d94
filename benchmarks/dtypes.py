"""How far scores and votes of two validators are apart whose experts compute in other precisions.

    python benchmarks/dtypes.py ~/.local/share/moesubnet/localnet

The same text through the experts of a localnet, each in float32, bfloat16 and int8, as if each
validator met another replica of every expert: epochs of 32 walks under the gate that a validator's
own first epochs give. Prints a Markdown table, against float32: the largest and the mean difference
of a label's log-probability, of an expert's score, of its part of a vote; and beside them what text
makes of the same, in float32: the spread of an expert's score over epochs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import calibration
import numpy as np
import numpy.typing as npt
import torch

from moesubnet.mixture.gate import WeightedSheet, fit, uniform_gate
from moesubnet.mixture.sheet import MICRO, NANO, Sheet
from moesubnet.validator.scoring import recount

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Epochs:
    """What one validator found. log_q: nats [epochs, items, n]; score: nats a token [epochs, n];
    vote: parts of a row [epochs, n]."""

    log_q: Float
    score: Float
    vote: Float


def measured(root: Path, dtype: str) -> Epochs:
    """All epochs after those that the gate is fitted on."""
    economy = calibration.Economy(root, dtype)
    first = [economy.sheet(epoch, uniform_gate()) for epoch in range(calibration.GATE_EPOCHS)]
    gate = fit([WeightedSheet(sheet, 1) for sheet in first])
    later = range(calibration.GATE_EPOCHS, calibration.EPOCHS)
    return _of([economy.sheet(epoch, gate) for epoch in later])


def _of(sheets: Sequence[Sheet]) -> Epochs:
    results = [recount(sheet) for sheet in sheets]
    score = np.array([result.score_nano for result in results]) / NANO
    total = np.maximum(score.sum(axis=1, keepdims=True), 1e-12)
    return Epochs(np.stack([sheet.log_q[:, :-1] / MICRO for sheet in sheets]), score, score / total)


def apart(one: Epochs, other: Epochs) -> dict[str, tuple[float, float]]:
    """(largest, mean) absolute difference, by what."""
    pairs = {"log_q": (one.log_q, other.log_q), "score": (one.score, other.score)}
    pairs["vote"] = one.vote, other.vote
    far = {name: np.abs(a - b) for name, (a, b) in pairs.items()}
    return {name: (float(d.max()), float(d.mean())) for name, d in far.items()}


def main() -> None:
    torch.set_num_threads(1)
    root = Path(sys.argv[1]).expanduser()
    ours = measured(root, "float32")
    names = "ln q of a label, nats", "score, nats a token", "part of a vote"
    print("| against float32 | " + " | ".join(f"{name}: largest | mean" for name in names) + " |")
    print("|" + 7 * "---|")
    for dtype in ("bfloat16", "int8"):
        found = apart(ours, measured(root, dtype)).values()
        cells = [f"{figure:.4f}" for pair in found for figure in pair]
        print(f"| {dtype} | " + " | ".join(cells) + " |", flush=True)
    spread = ours.score.std(axis=0)
    print(
        f"\n{len(ours.score)} epochs of {calibration.WALKS} walks. In float32 an expert scores "
        f"{ours.score.mean():.3f} nats a token in the mean, and {spread.mean():.4f} more or less "
        "from one epoch's text to the next (one standard deviation)."
    )


if __name__ == "__main__":
    main()
