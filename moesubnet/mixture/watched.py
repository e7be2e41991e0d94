"""Whose sheets are heard: a rule that everybody applies to the same sheets, so that a validator
that is shown to be wrong loses its say everywhere at once. Pure.

A sheet is not heard, nor is any other of its validator's in the window, when

- it does not begin with what the sheet of the epoch before ended with (averages, novelty,
  seniority);
- a quarter of its walks begin as walks of its own that were public before its epoch: it measured
  nothing. (Of others' walks nothing is known here: only the newest sheet's hash is on chain, so
  anybody can put a sheet with today's text into yesterday's history.)
- auditors with more than half of the stake of all others say that its receipts contradict it
  (`Sheet.contradicted`). They can be audited themselves, and evidence is there for everybody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from moesubnet.mixture.gate import WeightedSheet
from moesubnet.mixture.sheet import Sheet
from moesubnet.types import Hotkey

PUBLIC_AFTER_EPOCHS = 2  # revealed in the next epoch, so known to all at the start of the one after
STALE_PART = 0.25
BEGINNING_IDS = 32


def silenced(items: Sequence[WeightedSheet]) -> dict[Hotkey, str]:
    """Validators that have no say, and why, by all sheets that are known."""
    sheets = {item.sheet.sha256: item.sheet for item in items}
    stakes = {item.sheet.validator: item.stake_rao for item in items}
    found: dict[Hotkey, str] = {}
    first_seen: dict[tuple[Hotkey, bytes], int] = {}
    for sheet in sheets.values():
        for walk in _beginnings(sheet):
            first_seen[walk] = min(sheet.epoch, first_seen.get(walk, sheet.epoch))
    for sheet in sheets.values():
        before = sheets.get(sheet.previous_sha256)
        # Between others a vote was lost, whose averages nobody has seen.
        is_next = before is not None and before.epoch == sheet.epoch - 1
        if before is not None and is_next and not _follows(sheet, before):
            found[sheet.validator] = f"epoch {sheet.epoch} does not follow from the one before"
        known = [first_seen[w] + PUBLIC_AFTER_EPOCHS <= sheet.epoch for w in _beginnings(sheet)]
        if known and sum(known) >= STALE_PART * len(known):
            found[sheet.validator] = f"epoch {sheet.epoch} asks for its own text of before"
    accusers: defaultdict[bytes, set[Hotkey]] = defaultdict(set)
    for sheet in sheets.values():
        for digest in sheet.contradicted:
            accusers[digest].add(sheet.validator)
    for digest, auditors in accusers.items():
        accused = sheets.get(digest)
        if accused is None:
            continue
        others = sum(stake for hotkey, stake in stakes.items() if hotkey != accused.validator)
        against = sum(stakes[hotkey] for hotkey in auditors - {accused.validator})
        if 2 * against > others:
            found[accused.validator] = f"its receipts contradict epoch {accused.epoch}"
    return found


def _beginnings(sheet: Sheet) -> list[tuple[Hotkey, bytes]]:
    """Of each walk whose it is, and how it begins."""
    return [(sheet.validator, ids[:BEGINNING_IDS].tobytes()) for ids in sheet.walks]


def _follows(sheet: Sheet, before: Sheet) -> bool:
    """Whether what a sheet starts from is what its validator published last, but for experts that
    are others now, who begin anew (`closing.close_sheet`)."""
    column = {hotkey: i for i, hotkey in enumerate(before.hotkeys)}
    for i, hotkey in enumerate(sheet.hotkeys):
        if hotkey not in column:
            continue
        then = column[hotkey]
        if sheet.ema_before[i] != before.ema_after[then]:
            return False
        began = sheet.novelty_before[i], sheet.since_before[i]
        if began not in ((None, None), (before.novelty_after[then], before.since[then])):
            return False
    return True
