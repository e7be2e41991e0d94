"""A senior that has become another's echo.

Prefixes that are asked again (`twice`) show who answers them otherwise than before. Who keeps what
it once answered to them shows nothing there, but it shows on new text: next to a newcomer it was
an expert of its own, and now it says what the newcomer says, and says it later, as who repeats has
to wait. Siblings were near each other from the beginning, and a copy of a senior is no senior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, MICRO, Sheet
from moesubnet.types import Hotkey

Float = npt.NDArray[np.float64]

SHEETS = 50  # looked back over, as many as are served
EACH_TIME = 3  # sheets: of 16 walks one is ± 0.07
NEAR = 0.45  # experts of their own making are 0.5 to 0.8 apart
NEARER = 2 / 3  # of what it was


def turned(newest: Callable[[int], Sequence[Sheet]]) -> set[Hotkey]:
    """Who, senior to another, is near to it in the last sheets, answers later, and was not near
    when both were first there. newest: so many of one validator's sheets, the newest first."""
    near = [pair for sheet in newest(1) for pair in _sooner(sheet)]
    if not near:
        return set()  # as a rule, and no other sheet is read
    sheets = newest(SHEETS)[::-1]
    return {elder for elder, junior in near if _came_near(sheets, elder, junior)}


def _came_near(sheets: Sequence[Sheet], elder: Hotkey, junior: Hotkey) -> bool:
    there = [s for s in sheets if elder in s.hotkeys and junior in s.hotkeys]
    if len(there) < 2 * EACH_TIME:
        return False

    def apart(these: Sequence[Sheet]) -> list[float]:
        pairs = [(sheet.hotkeys.index(elder), sheet.hotkeys.index(junior)) for sheet in these]
        near = (_apart(s, _parts(s), i, [j]) for s, (i, j) in zip(these, pairs, strict=True))
        return [float(distance) for [distance] in near]

    now, then = max(apart(there[-EACH_TIME:])), np.mean(apart(there[:EACH_TIME]))
    return bool(now < NEAR <= then and now < NEARER * then)


def _sooner(sheet: Sheet) -> Iterator[tuple[Hotkey, Hotkey]]:
    """Seniors, each with who became one later and answers sooner, if it is near in this sheet."""
    parts = _parts(sheet)
    known = [
        (i, since, took_ms)
        for i, (since, took_ms) in enumerate(zip(sheet.since, sheet.answer_ms, strict=True))
        if since is not None and took_ms is not None
    ]
    for i, since, took_ms in known:
        juniors = [j for j, later, its_ms in known if later > since and its_ms < took_ms]
        for j, distance in zip(juniors, _apart(sheet, parts, i, juniors), strict=True):
            if distance < NEAR:
                yield sheet.hotkeys[i], sheet.hotkeys[j]


def _parts(sheet: Sheet) -> Float:
    """Each one's part of the mixture, [M, n + 1]."""
    log_w: Float = sheet.log_w / MICRO
    return np.exp(log_w - np.logaddexp.reduce(log_w, axis=1, keepdims=True))


def _apart(sheet: Sheet, parts: Float, one: int, others: Sequence[int]) -> Float:
    """Mean of min((ln q − ln q′)², 1) by the weight of `one`; 1 where they never both answered."""
    said, theirs = sheet.log_q[:, [one]], sheet.log_q[:, list(others)]
    both = (said > LOG_Q_UNANSWERED) & (theirs > LOG_Q_UNANSWERED)
    square = np.minimum(((said.astype(np.float64) - theirs) / MICRO) ** 2, 1.0)
    weight = both * parts[:, [one]]
    total = weight.sum(axis=0)
    apart = (weight * square).sum(axis=0) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, apart, 1.0)
