"""What a validator that copies earns under other rules of the chain: no parameter stops it.

    python benchmarks/copying.py FOLDER [--epochs 50] [--walks 16] [--seed 0]

Plays one economy of `record_laws.py`'s FOLDER: honest validators, while better, equal and broader
experts come. Their scores are kept in FOLDER, and replayed in moments through Yuma 3 (numpy; the
formulas of chain_pallet/yuma) with one more validator of equal stake that votes the row that
another revealed last, or the mean of all such rows. Five honest ones are drawn from the two: of
each score its smoothed course, and the difference from that of another epoch. One Markdown row a
rule: the copier's dividends by its stake, of an honest one's, over all epochs and over the second
half; and what an honest one earns in its first 25 epochs that comes when half is over.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cast import STAKE_TOKENS, VALIDATORS, Cast, Economy, Recordings
from economies import COMERS
from economy import Played
from simulation import Member

from moesubnet.mixture.sheet import NANO
from moesubnet.validator.scoring import EMA_SHARE

Floats = npt.NDArray[np.float64]
PAID_TOKENS = 12.3  # to validators together, an epoch
SMOOTHED_EPOCHS = 3  # either way


@dataclass(frozen=True)
class Rules:
    """reveal: epochs from commit to reveal. kept: of a bond, an epoch. penalty: how far bonds
    follow clipped weights. share: of the newest score in a validator's average."""

    reveal: int = 1
    kept: float = 0.9
    penalty: float = 1.0
    share: float = EMA_SHARE
    liquid: tuple[float, float, float] | None = None  # lowest and highest rate, steepness

    def __str__(self) -> str:
        changed = {k: v for k, v in vars(self).items() if v != getattr(Rules(), k)}
        return ", ".join(f"{name} {value}" for name, value in changed.items()) or "as they are"


RULES = (
    Rules(),
    *(Rules(reveal=epochs) for epochs in (2, 4, 8)),
    *(Rules(kept=kept) for kept in (0.5, 0.99)),
    *(Rules(penalty=penalty) for penalty in (0.5, 0.0)),
    Rules(liquid=(0.1, 0.9, 10.0)),
    Rules(liquid=(0.025, 0.9, 300.0)),
    *(Rules(share=share) for share in (0.1, 1.0)),
    Rules(reveal=4, kept=0.975),
    Rules(reveal=8, kept=0.99),
)


def recorded_scores(folder: Path, epochs: int, walks: int, seed: int) -> Floats:
    """Scores [epochs, validators, experts] before any average; NaN before the first."""
    path = folder / f"scores-{epochs}-{walks}-{seed}.npy"
    if not path.exists():
        recorded = Recordings(folder)
        cast = Cast(recorded)
        comers = tuple(Member(n, recorded.law(n), joins=joins) for n, joins in COMERS.items())
        economy = Economy("experts come", (*cast.honest, *comers))
        ledger = Played(recorded, epochs, walks, seed).play(economy)
        column = {m.hotkey: i for i, m in enumerate(economy.members)}
        row = {Member(name).hotkey: i for i, name in enumerate(VALIDATORS)}
        scores = np.full((epochs + 1, len(row), len(column)), np.nan)
        for sheet in ledger.sheets:
            for hotkey, before, after in zip(
                sheet.hotkeys, sheet.ema_before, sheet.ema_after, strict=True
            ):
                if after is not None:
                    old = 0 if before is None else (1 - EMA_SHARE) * before
                    score = (after - old) / (1.0 if before is None else EMA_SHARE) / NANO
                    scores[sheet.epoch, row[sheet.validator], column[hotkey]] = score
        np.save(path, scores)
    scores = np.load(path)
    return scores[np.isfinite(scores).any(axis=(1, 2))]


def drawn(scores: Floats, validators: int, rng: np.random.Generator) -> Floats:
    """As many validators as if each had text of its own: [E, validators, experts]."""
    found = np.full((len(scores), validators, scores.shape[2]), np.nan)
    for expert in range(scores.shape[2]):
        there = np.flatnonzero(np.isfinite(scores[:, :, expert]).all(axis=1))
        own = scores[there, :, expert]
        near = abs(np.subtract.outer(there, there)) <= SMOOTHED_EPOCHS
        course = (near @ own.mean(axis=1)) / near.sum(axis=1)
        noise = rng.choice((own - course[:, None]).ravel(), (len(there), validators))
        found[there, :, expert] = np.maximum(course[:, None] + noise, 0.0)
    return found


def rows(scores: Floats, share: float) -> Floats:
    """Votes [E, V, n], each of sum 1."""
    found, average = np.zeros_like(scores), np.full(scores.shape[1:], np.nan)
    for row, score in zip(found, scores, strict=True):
        mixed = (1 - share) * average + share * np.nan_to_num(score)
        average = np.where(np.isnan(average), score, mixed)
        row[:] = np.nan_to_num(average)
        row /= np.maximum(row.sum(axis=1, keepdims=True), 1e-12)
    return found


def yuma3(weights: Floats, stake: Floats, bonds: Floats, rules: Rules) -> tuple[Floats, Floats]:
    """The bonds [V, n] and dividends [V] of one epoch; stake of sum 1."""
    consensus = np.array([_supported(column, stake) for column in weights.T])
    clipped = np.minimum(weights, consensus)
    incentive = stake @ clipped
    incentive /= max(incentive.sum(), 1e-12)
    target = weights + rules.penalty * (clipped - weights)
    rate: float | Floats = 1 - rules.kept
    if rules.liquid is not None:
        low, high, steepness = rules.liquid
        apart = np.where(target >= bonds, target - consensus, bonds - target).clip(0, 1)
        rate = low + (high - low) / (1 + np.exp(-steepness * (apart - 0.5)))
    bonds = rate * target + (1 - rate) * bonds
    dividends = stake * (bonds / np.maximum(bonds.sum(axis=0), 1e-12) @ incentive)
    return bonds, dividends / max(dividends.sum(), 1e-12)


def _supported(column: Floats, stake: Floats) -> float:
    """The largest weight that half of the stake gives."""
    order = np.argsort(-column)
    return float(column[order[np.searchsorted(np.cumsum(stake[order]), 0.5 - 1e-9)]])


def earned(votes: Floats, rules: Rules) -> Floats:
    """Dividends by the stake it began with [E, V]; they are staked. Stakes are equal, and count
    from a validator's first vote."""
    stake = np.full(votes.shape[1], float(STAKE_TOKENS))
    bonds, found = np.zeros(votes.shape[1:]), []
    for weights in votes:
        counts = stake * weights.any(axis=1)
        shares = counts / counts.sum() if counts.any() else stake / stake.sum()
        bonds, dividends = yuma3(weights, shares, bonds, rules)
        found.append(dividends)
        stake = stake + PAID_TOKENS * dividends
    return np.array(found)


def copied(honest: Floats, reveal: int, *, averages: bool) -> Floats:
    """A copier's votes: what was revealed when an epoch's votes are committed."""
    found = np.zeros((len(honest), honest.shape[2]))
    known = honest.mean(axis=1) if averages else honest[:, 0]
    found[reveal:] = known[:-reveal]
    return found


def judged(scores: Floats, rules: Rules) -> str:
    honest, half = rows(scores, rules.share), len(scores) // 2
    cells = []
    for averages in (False, True):
        copier = copied(honest, rules.reveal, averages=averages)
        paid = earned(np.concatenate([honest, copier[:, None]], axis=1), rules)
        for since in (2, half):
            others = paid[since:, :-1].mean(axis=1).sum()
            cells.append(f"{paid[since:, -1].sum() / others:.0%}")
    late = honest.copy()
    late[:half, 0] = 0.0
    paid = earned(late, rules)[half:][:25]
    cells.append(f"{paid[:, 0].sum() / paid[:, 1:].mean(axis=1).sum():.0%}")
    return f"| {rules} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--walks", type=int, default=16, help="of a validator, an epoch")
    parser.add_argument("--seed", type=int, default=0, help="which text, in what order")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    scores = recorded_scores(
        arguments.folder.expanduser(), arguments.epochs, arguments.walks, arguments.seed
    )
    for honest in (scores, drawn(scores, 5, np.random.default_rng(arguments.seed))):
        print(f"\n{honest.shape[1]} honest validators, {len(honest)} epochs\n")
        print("| rules | one's row | settled | all rows' mean | settled | honest, late |")
        print("|---|---|---|---|---|---|")
        for rules in RULES:
            print(judged(honest, rules))


if __name__ == "__main__":
    main()
