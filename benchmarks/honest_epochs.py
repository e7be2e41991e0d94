"""How often an honest expert is taken for one that has nothing of its own: the statistics alone.

    python benchmarks/honest_epochs.py FOLDER [--epochs 6000] [--walks 32] [--seed 0]

FOLDER: as `record_laws.py` writes it. Histories of 50 epochs, each of `walks` walks drawn without
repetition within the history, with the moving averages and seniorities that follow. Histories draw
from the same recorded walks, so they are not independent of each other: intervals are for what
these experts say on such text, and no wider.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np
from cast import SPECIALISTS, Recordings
from search_adversaries import label_nats, sheet_of

from moesubnet.mixture.sheet import MICRO
from moesubnet.validator.scoring import recount
from moesubnet.validator.seniors import SENIOR_STANDING

HISTORY_EPOCHS = 50
SETTLED_EPOCHS = 3  # of a history, while it is being found out who they are


def upper_bound(events: int, trials: int) -> float:
    """The exact 95 % upper bound on a probability (Clopper-Pearson, one-sided)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if _at_most(events, trials, p) > 0.05 else (low, p)
    return high


def _at_most(events: int, trials: int, p: float) -> float:
    """P[X ≤ events] of a binomial law."""
    if p >= 1.0:
        return float(events >= trials)
    ways = math.lgamma(trials + 1)
    return math.fsum(
        math.exp(
            ways - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            + k * math.log(p) + (trials - k) * math.log1p(-p)
        )
        for k in range(events + 1)
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=6_000)
    parser.add_argument("--walks", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--experts", nargs="*", default=[*SPECIALISTS, "all"])
    arguments = parser.parse_args()
    recorded = Recordings(arguments.folder.expanduser())
    said = {name: label_nats(recorded.law(name), recorded.walks) for name in arguments.experts}
    names = sorted(said)
    history = min(HISTORY_EPOCHS, len(recorded.walks) // arguments.walks)
    explained, unpaid = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    counted = 0
    for number in range(arguments.epochs // history):
        order = np.random.default_rng([arguments.seed, number]).permutation(len(recorded.walks))
        novelty, since = (None,) * len(names), (None,) * len(names)
        for epoch in range(history):
            drawn = order[epoch * arguments.walks : (epoch + 1) * arguments.walks]
            chosen = {name: nats[drawn] for name, nats in said.items()}
            sheet = sheet_of(chosen, recorded.walks[drawn], recorded.baseline.logp)
            sheet = dataclasses.replace(sheet, epoch=epoch, novelty_before=novelty, since=since)
            result = recount(sheet)
            novelty, since = result.novelty_after, result.since
            if epoch < SETTLED_EPOCHS:
                continue
            counted += 1
            for i, name in enumerate(names):
                explained[name] += result.standing_ppm[i] < SENIOR_STANDING * MICRO
                unpaid[name] += not result.score_nano[i]
    print("| expert | epochs | explained (standing < 0.5) | at most | unpaid | at most |")
    print("|---|---|---|---|---|---|")
    rows = {name: (explained[name], unpaid[name], counted) for name in names}
    rows["all of them"] = (*(sum(x.values()) for x in (explained, unpaid)), counted * len(names))
    for name, (a, b, n) in rows.items():
        bounds = (upper_bound(a, n), upper_bound(b, n))
        print(f"| {name} | {n:,} | {a:,} | {bounds[0]:.1e} | {b:,} | {bounds[1]:.1e} |")


if __name__ == "__main__":
    main()
