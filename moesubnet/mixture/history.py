"""What revealed score sheets say of the past: how good the mixture was, and how votes came about.

Pure; recomputed from what validators published, so anyone gets the same numbers. Perplexity is
exp of the mean negative log-probability of the labels, per token.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.mixing import Float, log_sum_exp
from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, MICRO, NANO, Sheet
from moesubnet.mixture.sheet_cache import AnySheet
from moesubnet.types import Hotkey


@dataclass(frozen=True, slots=True)
class Perplexities:
    """Over the same items. best_expert: of those that answered every item; None without one.
    student: None where it was not asked about all."""

    items: int
    mixture: float
    baseline: float
    best_expert: float | None
    student: float | None


def perplexities(
    sheets: Iterable[AnySheet], student: Mapping[bytes, Float] | None = None
) -> Perplexities | None:
    """Over all items of these sheets, one of which is in memory at a time; None without items.
    student: its log-probabilities of the labels, by the sheet's SHA-256: somebody else than
    validators has asked it."""
    items = 0
    mixture, baseline, by_student = _Sum(), _Sum(), _Sum()
    by_expert: defaultdict[Hotkey, _Sum] = defaultdict(_Sum)
    for sheet in filter(None, (kept.read() for kept in sheets)):
        items += sheet.items
        given = sheet.log_q > LOG_Q_UNANSWERED
        log_q, log_w = sheet.log_q / MICRO, sheet.log_w / MICRO
        mixture.add(log_sum_exp(np.where(given, log_q + log_w, -np.inf)))
        baseline.add(log_q[:, -1])
        for column in np.flatnonzero(given[:, :-1].all(axis=0)).tolist():
            by_expert[sheet.hotkeys[column]].add(log_q[:, column])
        by_student.add((student or {}).get(sheet.sha256, np.empty(0)))
    if not items:
        return None
    whole = [of_expert.perplexity for of_expert in by_expert.values() if of_expert.count == items]
    return Perplexities(
        items,
        mixture.perplexity,
        baseline.perplexity,
        min(whole, default=None),
        by_student.perplexity if by_student.count == items else None,
    )


class _Sum:
    """Of log-probabilities."""

    def __init__(self) -> None:
        self.count, self._total = 0, 0.0

    def add(self, log_probabilities: npt.NDArray[np.floating]) -> None:
        self.count += len(log_probabilities)
        self._total += math.fsum(log_probabilities)

    @property
    def perplexity(self) -> float:
        return math.exp(-self._total / self.count)


@dataclass(frozen=True, slots=True)
class Standing:
    """One expert in one sheet. alone_nats: mean log-probability of the labels that it answered;
    vote: its part of the sheet's votes."""

    hotkey: Hotkey
    alone_nats: float | None
    reliability: float
    score_nats: float | None
    vote: float


def standings(sheet: Sheet) -> list[Standing]:
    """The sheet's experts, the largest vote first."""
    total = sum(sheet.row_u16)
    given = sheet.log_q > LOG_Q_UNANSWERED
    rows = []
    for column, hotkey in enumerate(sheet.hotkeys):
        answered = sheet.log_q[given[:, column], column]
        score = sheet.ema_after[column]
        rows.append(
            Standing(
                hotkey,
                float(answered.mean()) / MICRO if len(answered) else None,
                sheet.reliability_ppm[column] / MICRO,
                None if score is None else score / NANO,
                sheet.row_u16[column] / total if total else 0.0,
            )
        )
    return sorted(rows, key=lambda row: (-row.vote, row.hotkey))
