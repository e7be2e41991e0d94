"""What a walk tells of which its last label alone is scored, by sheets that are there.

    python benchmarks/one_label.py FOLDER [FOLDER …]

A label that leaves its validator when all have answered leaves late, and a miner sees that
(benchmarks/pace.py). The one label that need not leave at all is a walk's last. So a router could
have all labels but that one beforehand, and send them at its users' pace from wherever the
validator is. What that costs and opens, over all sheets of the folders, which must have one cast
of experts (at most 12):

1. how many times as many walks it takes for the same error of an expert's value: items of one walk
   are alike, so fifteen say less than fifteen times as much as one;
2. what an expert gains whose friend is the router. It learns beforehand the labels that nobody is
   scored on, can claim to have known them, and so weighs at the last item as much as it likes:
   e^k times as much at each, or by hindsight the best k of all for every item, which is more than
   anybody can know.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, MICRO, Sheet
from moesubnet.validator.value import random_marginals

Float = npt.NDArray[np.float64]

LOUDER = (-4, -2, -1, 0, 1, 2, 4, 8)  # e^k times an expert's weight


@dataclass(frozen=True)
class Items:
    """Of walks numbered on through all sheets. weight, joint: [M, n + 1]; last: [M] a walk's."""

    walk: npt.NDArray[np.int64]
    last: npt.NDArray[np.bool_]
    weight: Float
    joint: Float

    @classmethod
    def of(cls, sheets: Sequence[Sheet]) -> Items:
        walks, lasts, weights, joints, begun = [], [], [], [], 0
        for sheet in sheets:
            present = sheet.log_q > LOG_Q_UNANSWERED
            there = np.insert(sheet.chosen[sheet.walk], len(sheet.hotkeys), 1, axis=1)
            weight = np.where(present, there * np.exp(np.maximum(sheet.log_w / MICRO, -600.0)), 0.0)
            weight /= weight.sum(axis=1, keepdims=True)
            weight[:, -1] = np.maximum(weight[:, -1], 1e-20)
            ends = np.zeros(len(sheet.walks), np.int64)
            np.maximum.at(ends, sheet.walk, sheet.position)
            walks.append(sheet.walk + begun)
            lasts.append(sheet.position == ends[sheet.walk])
            weights.append(weight)
            joints.append(weight * np.where(present, np.exp(sheet.log_q / MICRO), 0.0))
            begun += len(sheet.walks)
        return cls(*(np.concatenate(part) for part in (walks, lasts, weights, joints)))

    def at_last(self) -> Items:
        parts = (self.walk, self.last, self.weight, self.joint)
        return Items(*(part[self.last] for part in parts))

    def values(self, louder: float = 0.0, expert: int | None = None) -> Float:
        """[M, n] each expert's value at each item, where all stand whole."""
        factor = np.ones(self.weight.shape[1])
        if expert is not None:
            factor[expert] = np.exp(louder)
        half = np.full(self.weight.shape[1] - 1, 0.5)
        return random_marginals(self.joint * factor, self.weight * factor, half)


def variance(values: Float, walk: npt.NDArray[np.int64]) -> Float:
    """[n] of the mean over items, times walks: an epoch of W walks has 1 / W of it."""
    counts = np.bincount(walk)
    sums = np.stack([np.bincount(walk, column) for column in values.T], axis=1)
    sums, counts = sums[counts > 0], counts[counts > 0]
    apart = sums - values.mean(axis=0) * counts[:, None]
    found: Float = (apart**2).sum(axis=0) * len(counts) / counts.sum() ** 2
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    folders = parser.parse_args().folders
    paths = {path.name: path for folder in folders for path in folder.glob("*.sheet")}  # by hash
    read = (Sheet.from_bytes(path.read_bytes()) for path in paths.values())
    sheets = sorted(read, key=lambda sheet: sheet.epoch)
    sheets = [sheet for sheet in sheets if len(sheet.walk)]
    sheets = [sheet for sheet in sheets if sheet.hotkeys == sheets[-1].hotkeys]
    items = Items.of(sheets)
    last, values = items.at_last(), items.values()
    more = variance(last.values(), last.walk) / variance(values, items.walk)
    print(f"{len(sheets)} sheets, {last.walk.size:,} walks, {items.walk.size:,} items\n")
    names = ["expert", "value", "by last labels", "walks for the same error"]
    names += [f"k = {k}" for k in LOUDER if k] + ["by hindsight"]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for i, hotkey in enumerate(sheets[-1].hotkeys):
        by = {k: last.values(k, i)[:, i] for k in LOUDER}
        base = by[0].mean()
        said = [f"{by[k].mean() / base:.2f}" for k in LOUDER if k]
        best = np.max(list(by.values()), axis=0).mean() / base
        row = [hotkey[:6], f"{values[:, i].mean():.3f}", f"{base:.3f}", f"{more[i]:.2f}×", *said]
        print(f"| {' | '.join(row)} | {best:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
