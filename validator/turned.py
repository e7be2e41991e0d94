"""A senior that has become an echo of others.

Prefixes that are asked again (`twice`) show who answers them otherwise than before. Who keeps what
it once answered to them shows nothing there, but it shows on new text, next to those who came after
it and answer sooner (as who repeats has to wait): it was an expert of its own, and now

- it says what they say, one of them or a mixture: it is *near*. Siblings were near each other from
  the beginning, and a copy of a senior is no senior; or
- there is nothing that they know and it does not: it seldom falls *short* of them. Whoever mixes a
  part s of others into its law never says less than s of what they say, however far it is from
  them; an expert of its own making does wherever it does not know the text.

A junior that asks the elder beforehand about the tokens that may come next repeats it without
waiting, and looks as if it were repeated, but not after a label that nobody expected. So both are
looked at there, too.

What it was is what the first sheets say that have it and them all, or, of a cuckoo, which was never
seen apart from them, what it answered before they came (`cuckoos`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.sheet import LOG_Q_ABSENT, LOG_Q_UNANSWERED, Sheet, unforeseen
from moesubnet.types import Hotkey
from moesubnet.validator.company import LEAST_ITEMS
from moesubnet.validator.scoring import Items, terms
from moesubnet.validator.seniors import (
    SHORT,
    BesideMixtures,
    Float,
    beside_mixtures,
    by_seniority,
    waited_for,
)

SHEETS = 50  # looked back over, as many as are served
EACH_TIME = 3  # sheets: of 16 walks one is ± 0.07
AGO = (6, 12, 24, 48)  # sheets: of those who were there by then, a newer one hides nothing
NEAR = 0.45  # experts of their own making are 0.5 to 0.8 apart
APART = 0.35  # mixtures of others are 0.36 to 0.8 from who says something of its own, siblings 0.2
NEARER = 2 / 3  # of what it was
SELDOM = 0.05  # of items: specialists are short of the others at 0.13 to 0.25, generalists at 0.04
FEWER = 1 / 3  # of what they were
AS_GOOD = 2 / 3  # the others are, next to the baseline: it is no echo of who has become worse


def turned(newest: Callable[[int], Sequence[Sheet]]) -> set[Hotkey]:
    """Who, senior to others that answer sooner, has become like them in the last sheets, and was
    not when all were first there. newest: so many of one validator's sheets, the newest first."""
    like = [pair for sheet in newest(1) for pair in _like_juniors(sheet)]
    if not like:
        return set()  # as a rule, and no other sheet is read
    sheets = [Read(sheet) for sheet in newest(SHEETS)[::-1]]
    return {elder for elder, juniors in like if _became(sheets, elder, juniors)}


class Read:
    """A sheet, of which what its items come to is worked out once."""

    def __init__(self, sheet: Items) -> None:
        self.column = {hotkey: i for i, hotkey in enumerate(sheet.hotkeys)}
        answered = np.any(sheet.log_q[:, :-1] > LOG_Q_UNANSWERED, axis=0)
        self.answered = {sheet.hotkeys[i] for i in np.flatnonzero(answered)}
        self._sheet = sheet
        self._terms: tuple[Float, Float, Float] | None = None

    def has(self, elder: Hotkey, others: Sequence[Hotkey]) -> bool:
        """Whether enough was asked of them together."""
        if not self.column.keys() >= {elder, *others}:
            return False
        return int(self._together(elder, others).sum()) >= LEAST_ITEMS

    def beside(
        self,
        elder: Hotkey,
        others: Sequence[Hotkey],
        short_of: float = SHORT,
        *,
        is_unforeseen: bool = False,
    ) -> BesideMixtures:
        """Of an elder that answered something, where any of the others was asked too. With
        is_unforeseen only after labels that it did not expect, if there are enough, of which nobody
        could have asked it beforehand."""
        self._terms = self._terms or terms(self._sheet)
        columns, rows = [self.column[h] for h in others], self._together(elder, others)
        if is_unforeseen:
            rare = unforeseen(self._sheet, self._sheet.log_q[:, self.column[elder]], rows)
            rows = rare if rare.sum() >= LEAST_ITEMS else rows
        joint, weight, quick = (part[rows] for part in self._terms)
        return beside_mixtures(joint, weight, quick, self.column[elder], columns, short_of)

    def _together(self, elder: Hotkey, others: Sequence[Hotkey]) -> npt.NDArray[np.bool_]:
        """[items]: those that the elder answered, and of which any other was asked."""
        log_q, columns = self._sheet.log_q, [self.column[hotkey] for hotkey in others]
        found: npt.NDArray[np.bool_] = np.any(log_q[:, columns] != LOG_Q_ABSENT, axis=1)
        found &= log_q[:, self.column[elder]] > LOG_Q_UNANSWERED
        return found

    def nearest(self, elder: Hotkey, others: Sequence[Hotkey]) -> list[Hotkey]:
        """Those who speak most like it first."""
        self._terms = self._terms or terms(self._sheet)
        joint, weight, _ = self._terms
        x = np.log(np.where(weight > 0, joint, 1.0)) - np.log(np.where(weight > 0, weight, 1.0))
        i, columns = self.column[elder], [self.column[hotkey] for hotkey in others]
        square = np.where(weight[:, columns] > 0, (x[:, columns] - x[:, [i]]) ** 2, 1.0)
        asked = self._sheet.log_q[:, columns] != LOG_Q_ABSENT
        part = (weight[:, i] / weight.sum(axis=1))[:, None] * asked
        whole = part.sum(axis=0)
        square = (part * np.minimum(square, 1.0)).sum(axis=0)
        apart = np.where(whole > 0, square / np.where(whole > 0, whole, 1.0), 1.0)
        return [others[k] for k in np.argsort(apart, kind="stable")]


def _like_juniors(sheet: Sheet) -> Iterator[tuple[Hotkey, list[Hotkey]]]:
    """Seniors that are like those who came later and answer sooner, with these."""
    read, order = Read(sheet), [i for i in by_seniority(sheet) if sheet.since[i] is not None]
    for place, i in enumerate(order):
        juniors = [sheet.hotkeys[j] for j in waited_for(sheet, i, order[place + 1 :])]
        elder = sheet.hotkeys[i]
        if juniors and read.has(elder, juniors) and is_like(read.beside(elder, juniors)):
            yield elder, juniors


def is_like(found: BesideMixtures) -> bool:
    return bool(found.apart < NEAR or found.short.min() < SELDOM)


def _became(sheets: Sequence[Read], elder: Hotkey, juniors: Sequence[Hotkey]) -> bool:
    came = {j: next(k for k, s in enumerate(sheets) if j in s.column) for j in juniors}
    whose = {tuple(j for j in juniors if came[j] <= max(0, len(sheets) - ago)) for ago in AGO}
    return any(_became_like(sheets, elder, old) for old in whose if old)


def _became_like(sheets: Sequence[Read], elder: Hotkey, others: Sequence[Hotkey]) -> bool:
    there = [sheet for sheet in sheets if sheet.has(elder, others)]
    if len(there) < 2 * EACH_TIME:
        return False
    was = each(there[:EACH_TIME], elder, others)
    mean = BesideMixtures(*(found.mean(axis=0) for found in was))
    last = there[-EACH_TIME:]
    now = each(last, elder, others)
    if not is_other(mean) or not has_become(mean, now):
        return False
    rare = each(last, elder, others, is_unforeseen=True)
    return has_become(mean, rare._replace(baseline_short=now.baseline_short))


def each(
    sheets: Sequence[Read],
    elder: Hotkey,
    others: Sequence[Hotkey],
    short_of: float = SHORT,
    *,
    is_unforeseen: bool = False,
) -> BesideMixtures:
    """[sheets], and of each mixture [sheets, 4]."""
    found = (s.beside(elder, others, short_of, is_unforeseen=is_unforeseen) for s in sheets)
    return BesideMixtures(*map(np.stack, zip(*found, strict=True)))


def is_other(was: BesideMixtures) -> bool:
    return bool(was.apart >= APART or was.short.max() >= SELDOM)


def has_become(was: BesideMixtures, now: BesideMixtures) -> bool:
    """now: of each sheet."""
    if was.apart >= APART and now.apart.max() < min(NEAR, NEARER * was.apart):
        return True
    is_seldom = now.short.max(axis=0) < np.minimum(SELDOM, FEWER * was.short)
    as_good = now.baseline_short.mean(axis=0) >= AS_GOOD * was.baseline_short
    return bool(np.any((was.short >= SELDOM) & is_seldom & as_good))
