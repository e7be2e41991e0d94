"""Whom a walk asks.

A text of a user's waits for the slowest of the few experts that a router chose for it, so a walk
that waits for everybody is known by its pace. It asks whom a router would choose for its text, so
what anybody is worth there is measured whole. It also asks those whom they are to be told from:
those who speak like them, and by lot as many again who usually answer no later, as whoever repeats
another has to wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random

import numpy as np

from moesubnet.mixture.choosing import TOP_K
from moesubnet.mixture.sheet import LOG_Q_ABSENT, LOG_Q_UNANSWERED, Sheet
from moesubnet.types import Hotkey
from moesubnet.validator.scoring import terms
from moesubnet.validator.seniors import (
    DISTANCE_ENOUGH,
    GRACE_MILLIS,
    Float,
    by_seniority,
    waited_for,
)

ASKED = 2 * TOP_K  # by a walk, unless more are to be told from each other
LIKE_JUNIORS = TOP_K  # the nearest: a swarm of copies makes no walk long
LOOKED_BACK = 8  # sheets
LEAST_ITEMS = 16  # that two answered both: fewer say nothing


@dataclass(frozen=True)
class Known:
    """By a validator's own sheets. answer_ms: of those who are no newcomers, what nine of ten of
    their answers took, infinite where fewer came of what they were asked; like: of each expert
    those who speak like it."""

    answer_ms: Mapping[Hotkey, float] = field(default_factory=dict)
    like: Mapping[Hotkey, Collection[Hotkey]] = field(default_factory=dict)

    def is_sooner(self, hotkey: Hotkey, other: Hotkey) -> bool:
        """As far as is known."""
        return self.answer_ms.get(hotkey, 0) < self.answer_ms.get(other, inf)


def company(
    known: Known, chosen: Collection[Hotkey], serving: Sequence[Hotkey], lots: Random
) -> set[Hotkey]:
    """Of all that serve those whom one walk asks. chosen: by a router, for its text. lots: nobody
    else may know them. Newcomers are always asked."""
    if len(serving) <= TOP_K:
        return set(serving)
    asked = {hotkey for hotkey in serving if hotkey not in known.answer_ms}.union(chosen)
    asked.update(*(known.like.get(hotkey, ()) for hotkey in chosen))
    asked.intersection_update(serving)
    took_ms = [known.answer_ms.get(hotkey, 0) for hotkey in asked]
    slowest_ms = max(ms for ms in (0, *took_ms) if ms < inf)
    sooner = [h for h in serving if h not in asked and known.answer_ms[h] <= slowest_ms]
    asked.update(lots.sample(sooner, min(len(sooner), max(0, ASKED - len(asked)))))
    return asked


def known_by(newest: Callable[[int], Sequence[Sheet]]) -> Known:
    """newest: so many of one validator's sheets, the newest first."""
    sheets = [sheet for sheet in newest(LOOKED_BACK) if len(sheet.walk)]
    answer_ms: dict[Hotkey, float] = {}
    for sheet in sheets:
        asked = np.sum(sheet.log_q[:, :-1] != LOG_Q_ABSENT, axis=0)
        answered = np.sum(sheet.log_q[:, :-1] > LOG_Q_UNANSWERED, axis=0)
        for i in np.flatnonzero(asked).tolist():
            took_ms = sheet.answer_ms[i] if 10 * answered[i] >= 9 * asked[i] else None
            if sheet.age_millis[i] > GRACE_MILLIS:
                answer_ms.setdefault(sheet.hotkeys[i], inf if took_ms is None else took_ms)
    return Known(answer_ms, _alike(sheets) if sheets else {})


def _alike(sheets: Sequence[Sheet]) -> dict[Hotkey, Collection[Hotkey]]:
    """Nearer than what is enough for a standing, in the mean over items that both answered by the
    weight that one or the other has there: all such seniors of it, and the nearest of the others
    that it waited for, as it may be their echo (`turned`)."""
    newest = sheets[0]
    apart = _apart(newest.hotkeys, sheets)
    apart = np.minimum(apart, apart.T)
    order = by_seniority(newest)
    found: dict[Hotkey, Collection[Hotkey]] = {}
    for place, i in enumerate(order):
        near = [j for j in np.argsort(apart[i], kind="stable") if apart[i, j] < DISTANCE_ENOUGH]
        seniors = [j for j in near if j in order[:place]]
        waited = waited_for(newest, i, order[place + 1 :])
        juniors = [j for j in near if j in waited]
        found[newest.hotkeys[i]] = [newest.hotkeys[j] for j in (*seniors, *juniors[:LIKE_JUNIORS])]
    return found


def _apart(hotkeys: Sequence[Hotkey], sheets: Sequence[Sheet]) -> Float:
    """[n, n], E[min((ln q_i − ln q_j)², 1)] by i's weight; infinite where too few items say it."""
    n = len(hotkeys)
    squares, parts, items = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
    for sheet in sheets:
        column = {hotkey: k for k, hotkey in enumerate(sheet.hotkeys)}
        mine = np.array([column.get(hotkey, -1) for hotkey in hotkeys])
        _, weight, _ = terms(sheet)
        part = weight[:, :-1] / weight.sum(axis=1, keepdims=True)
        for walk in np.unique(sheet.walk):
            rows = np.flatnonzero(sheet.walk == walk)
            said = (sheet.log_q[rows, :-1] > LOG_Q_UNANSWERED)[:, mine] & (mine >= 0)
            there = np.flatnonzero(said.any(axis=0))
            said, x = said[:, there], sheet.log_q[rows][:, mine[there]] / 1e6
            both = said[:, :, None] & said[:, None, :]
            r = part[rows][:, mine[there], None] * both
            cells = np.ix_(there, there)
            far = np.minimum((x[:, :, None] - x[:, None, :]) ** 2, 1.0)
            squares[cells] += (r * far).sum(axis=0)
            parts[cells] += r.sum(axis=0)
            items[cells] += both.sum(axis=0)
    enough = (items >= LEAST_ITEMS) & (parts > 0)
    return np.where(enough, squares / np.where(enough, parts, 1.0), np.inf)
