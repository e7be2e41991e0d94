"""What revealed score sheets say of the past: how good the mixture was, and how votes came about.

Pure; recomputed from what validators published, so anyone gets the same numbers. Perplexity is
exp of the mean negative log-probability of the labels, per token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moesubnet.mixture.mixing import Float, log_sum_exp
from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, MICRO, NANO, Sheet
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
    sheets: Sequence[Sheet], student: Mapping[bytes, Float] | None = None
) -> Perplexities | None:
    """Over all items of these sheets; None without items. student: its log-probabilities of the
    labels, by the sheet's SHA-256: somebody else than validators has asked it."""
    mixture: list[float] = []
    baseline: list[float] = []
    by_expert: dict[Hotkey, list[float]] = {}
    for sheet in sheets:
        given = sheet.log_q > LOG_Q_UNANSWERED
        log_q, log_w = sheet.log_q / MICRO, sheet.log_w / MICRO
        mixture += log_sum_exp(np.where(given, log_q + log_w, -np.inf)).tolist()
        baseline += log_q[:, -1].tolist()
        for column, hotkey in enumerate(sheet.hotkeys):
            if given[:, column].all():
                by_expert.setdefault(hotkey, []).extend(log_q[:, column].tolist())
    if not mixture:
        return None
    whole = [values for values in by_expert.values() if len(values) == len(mixture)]
    best = min(map(_perplexity, whole)) if whole else None
    asked = [student[s.sha256] for s in sheets if student and s.sha256 in student]
    is_whole = len(asked) == len(sheets)
    return Perplexities(
        len(mixture),
        _perplexity(mixture),
        _perplexity(baseline),
        best,
        _perplexity(np.concatenate(asked).tolist()) if is_whole else None,
    )


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


def _perplexity(log_probabilities: Sequence[float]) -> float:
    return math.exp(-math.fsum(log_probabilities) / len(log_probabilities))
