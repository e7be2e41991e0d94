"""Who repeats a newcomer from that one's first moment on: a cuckoo.

It was never seen apart from the newcomer in any sheet; but it was something else by what it
answered to texts of its own before the newcomer came (`before`). The newcomer is asked these texts
now, in the hours of the last sheets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moesubnet.mixture.sheet import I32, LOG_Q_ABSENT, LOG_W_NONE, U32, Sheet
from moesubnet.types import Hotkey
from moesubnet.validator.before import Again
from moesubnet.validator.seniors import SHORT, BesideMixtures, by_seniority, waited_for
from moesubnet.validator.turned import (
    EACH_TIME,
    NEAR,
    SELDOM,
    Read,
    each,
    has_become,
    is_like,
    is_other,
)

NEAREST = 8  # of those who came later a senior is held against
LEAST_TEXTS = 4  # that it answered before they came
SHORT_OF = (SHORT, 1 / 6)  # half a newcomer's law never falls short of a sixth; others do, often
SURE = 2.0  # standard errors of what those say


@dataclass(frozen=True)
class _Like:
    """A senior that is like one that came later and answers sooner, in one sheet."""

    elder: Hotkey
    newcomer: Hotkey
    came: int  # in which epoch
    has_place: bool  # the newcomer once had something of its own


def watched(newest: Callable[[int], Sequence[Sheet]]) -> dict[Hotkey, list[int]]:
    """Who has a place and answered in the last sheet: those who are to be asked texts of their own
    (`before`). With the epochs, if there are any, such that texts from before them should be asked
    again: of all, as it is like some that came then or later."""
    found: dict[Hotkey, list[int]] = {}
    for sheet in newest(1):
        answered = Read(sheet).answered
        placed = zip(sheet.hotkeys, sheet.since, strict=True)
        found = {h: [] for h, since in placed if since is not None and h in answered}
        for like in _like_later(sheet):
            found[like.elder] = sorted({*found[like.elder], like.came})
    return found


def cuckoos(newest: Callable[[int], Sequence[Sheet]], again: Sequence[Again]) -> set[Hotkey]:
    """Who is like some that came later and answer sooner, in each of the last sheets, and was not
    by what it answered before they came. again: its texts of then, asked of all, in the hours of
    these sheets: who can tell neither cannot be far from it in one and near in the other. Of those
    who once had something of their own any count: they would give that up."""
    sheets = newest(EACH_TIME) if again else []
    if len(sheets) < EACH_TIME:
        return set()
    epochs, reads = {sheet.epoch for sheet in sheets}, [Read(sheet) for sheet in sheets]
    found: set[Hotkey] = set()
    for like in _like_later(sheets[0]):
        texts = [
            text
            for text in again
            if text.elder == like.elder and text.epoch < like.came
            if like.has_place or text.again in epochs
            if like.newcomer in text.hotkeys
        ]
        both = {like.elder, like.newcomer}
        pair = like.elder, [like.newcomer]
        if all(both <= read.answered and read.has(*pair) for read in reads) and is_cuckoo(
            texts, reads, like.elder, like.newcomer
        ):
            found.add(like.elder)
    return found


def is_cuckoo(texts: Sequence[Again], now: Sequence[Read], elder: Hotkey, newcomer: Hotkey) -> bool:
    """Whether the elder is like the newcomer in each of some sheets, and was not by its texts."""
    if len(texts) < LEAST_TEXTS:
        return False
    for short_of in SHORT_OF:
        beside = each(now, elder, [newcomer], short_of)
        if beside.apart.max() < NEAR or beside.short.max(axis=0).min() < SELDOM:  # else as a rule
            was = _at_least(texts, elder, newcomer, short_of)
            if is_other(was) and has_become(was, beside):
                return True
    return False


def _like_later(sheet: Sheet) -> Iterator[_Like]:
    """Of those NEAREST to a senior each by itself: a confederate beside it hides nothing, and who
    mixes some of them is seldom short of any."""
    read, order = Read(sheet), by_seniority(sheet)
    for place, i in enumerate(order):
        elder = sheet.hotkeys[i]
        if sheet.since[i] is None or elder not in read.answered:
            continue
        later = [j for j in order[place + 1 :] if sheet.hotkeys[j] in read.answered]
        sooner = [sheet.hotkeys[j] for j in waited_for(sheet, i, later)]
        for newcomer in read.nearest(elder, sooner)[:NEAREST]:
            pair = elder, [newcomer]
            if read.has(*pair) and is_like(read.beside(*pair)):
                j = read.column[newcomer]
                has_place = sheet.since_before[j] is not None
                yield _Like(elder, newcomer, _came(sheet, j), has_place)


def _came(sheet: Sheet, i: int) -> int:
    """The epoch of its registration."""
    return sheet.epoch + 1 + -sheet.age_millis[i] // 1_000


def _at_least(
    texts: Sequence[Again], elder: Hotkey, newcomer: Hotkey, short_of: float
) -> BesideMixtures:
    """What these texts say of the elder beside the newcomer, SURE standard errors less (jackknife,
    texts being the sample)."""

    def beside(some: Sequence[Again]) -> BesideMixtures:
        return Read(joined(some)).beside(elder, [newcomer], short_of)

    whole, count = beside(texts), len(texts)
    left_out = [beside([*texts[:k], *texts[k + 1 :]]) for k in range(count)]
    errors = [np.sqrt(count - 1) * np.std(part, axis=0) for part in zip(*left_out, strict=True)]
    return BesideMixtures(
        whole.apart - SURE * errors[0], whole.short - SURE * errors[1], whole.baseline_short
    )


@dataclass(frozen=True, eq=False)
class Joined:
    """Items of several texts in columns of all who were asked any."""

    hotkeys: tuple[Hotkey, ...]
    log_q: I32
    log_w: I32
    walk: U32
    position: U32


def joined(texts: Sequence[Again]) -> Joined:
    hotkeys = tuple(sorted({hotkey for text in texts for hotkey in text.hotkeys}))
    counts = [len(text.position) for text in texts]
    log_q = np.full((sum(counts), len(hotkeys) + 1), LOG_Q_ABSENT, "<i4")
    log_w = np.full(log_q.shape, LOG_W_NONE, "<i4")
    begins = np.cumsum([0, *counts])
    for text, begin, count in zip(texts, begins, counts, strict=False):
        columns = [*map(hotkeys.index, text.hotkeys), len(hotkeys)]
        log_q[begin : begin + count, columns] = text.log_q
        log_w[begin : begin + count, columns] = text.log_w
    walk = np.repeat(np.arange(len(texts), dtype="<u4"), counts)
    position = np.concatenate([text.position for text in texts])
    return Joined(hotkeys, log_q, log_w, walk, position)
