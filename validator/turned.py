"""A senior that has become an echo of others.

Prefixes that are asked again (`twice`) show who answers them otherwise than before. Who keeps what
it once answered to them shows nothing there, but it shows on new text: next to those who came after
it, it was an expert of its own, and now it says what they say, one of them or a mixture, and says
it later, as who repeats has to wait. Siblings were near each other from the beginning, and a copy
of a senior is no senior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from moesubnet.mixture.sheet import Sheet
from moesubnet.types import Hotkey
from moesubnet.validator.scoring import terms
from moesubnet.validator.seniors import Float, apart_from_mixtures, by_seniority

SHEETS = 50  # looked back over, as many as are served
EACH_TIME = 3  # sheets: of 16 walks one is ± 0.07
NEAR = 0.45  # experts of their own making are 0.5 to 0.8 apart
APART = 0.35  # mixtures of others are 0.36 to 0.8 from who says something of its own, siblings 0.2
NEARER = 2 / 3  # of what it was


def turned(newest: Callable[[int], Sequence[Sheet]]) -> set[Hotkey]:
    """Who, senior to others that answer sooner, is near to a mixture of them in the last sheets,
    and was not when all were first there. newest: so many of one validator's sheets, the newest
    first."""
    near = [pair for sheet in newest(1) for pair in _near(sheet)]
    if not near:
        return set()  # as a rule, and no other sheet is read
    sheets = [_Read(sheet) for sheet in newest(SHEETS)[::-1]]
    return {elder for elder, juniors in near if _came_near(sheets, elder, juniors)}


class _Read:
    """A sheet, of which what its items come to is worked out once."""

    def __init__(self, sheet: Sheet) -> None:
        self.column = {hotkey: i for i, hotkey in enumerate(sheet.hotkeys)}
        self._sheet = sheet
        self._terms: tuple[Float, Float, Float] | None = None

    def apart(self, elder: Hotkey, others: Sequence[Hotkey]) -> float:
        self._terms = self._terms or terms(self._sheet)
        columns = [self.column[hotkey] for hotkey in others]
        return apart_from_mixtures(*self._terms, self.column[elder], columns)


def _near(sheet: Sheet) -> Iterator[tuple[Hotkey, list[Hotkey]]]:
    """Seniors that are near to those who came later and answer sooner, with these."""
    read, order = _Read(sheet), [i for i in by_seniority(sheet) if sheet.since[i] is not None]
    for place, i in enumerate(order):
        took_ms = sheet.answer_ms[i]
        juniors = [
            sheet.hotkeys[j]
            for j in order[place + 1 :]
            if took_ms is not None and (its := sheet.answer_ms[j]) is not None and its < took_ms
        ]
        if juniors and read.apart(sheet.hotkeys[i], juniors) < NEAR:
            yield sheet.hotkeys[i], juniors


def _came_near(sheets: Sequence[_Read], elder: Hotkey, juniors: Sequence[Hotkey]) -> bool:
    """Of all of them, or of those who had come by some time: a newer one hides nothing."""
    came = {j: next(k for k, s in enumerate(sheets) if j in s.column) for j in juniors}
    for by in sorted(set(came.values())):
        old = [j for j in juniors if came[j] <= by]
        there = [s for s in sheets if s.column.keys() >= {elder, *old}]
        if len(there) < 2 * EACH_TIME:
            continue
        now = max(s.apart(elder, old) for s in there[-EACH_TIME:])
        then = float(np.mean([s.apart(elder, old) for s in there[:EACH_TIME]]))
        if then >= APART and now < min(NEAR, NEARER * then):
            return True
    return False
