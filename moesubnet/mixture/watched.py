"""Whose sheets are heard: a rule that everybody applies to the same sheets, so that a validator
that is shown to be wrong loses its say everywhere at once. Pure.

A sheet is not heard, nor is any other of its validator's in the window, when

- it does not begin with what the sheet of the epoch before ended with (averages, novelty,
  seniority);
- a quarter of its walks are walks of its own that were public before its epoch: it measured
  nothing. Walks are the same if one has all that was shown of the other before anything was scored,
  and at least BEGINNING_IDS: conversations under one template begin alike. (Of others' walks
  nothing is known here: only the newest sheet's hash is on chain, so anybody can put a sheet with
  today's text into yesterday's history.)
- auditors with more than half of the stake of all others say that its receipts contradict it
  (`Sheet.contradicted`). They can be audited themselves, and evidence is there for everybody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.gate import WeightedSheet
from moesubnet.mixture.sheet import MAX_WALK_TOKENS, Sheet, Summary
from moesubnet.mixture.sheet_cache import AnySheet
from moesubnet.types import Hotkey

PUBLIC_AFTER_EPOCHS = 2  # revealed in the next epoch, so known to all at the start of the one after
STALE_PART = 0.25
BEGINNING_IDS = 32

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_LOTS = np.random.PCG64(0).random_raw(MAX_WALK_TOKENS)


def silenced(items: Sequence[WeightedSheet]) -> dict[Hotkey, str]:
    """Validators that have no say, and why, by all sheets that are known."""
    sheets = {item.sheet.sha256: item.sheet for item in items}
    stakes = {item.sheet.validator: item.stake_rao for item in items}
    found: dict[Hotkey, str] = {}
    by_validator: defaultdict[Hotkey, list[AnySheet]] = defaultdict(list)
    for sheet in sheets.values():
        by_validator[sheet.validator].append(sheet)
        before = sheets.get(sheet.previous_sha256)
        # Between others a vote was lost, whose averages nobody has seen.
        is_next = before is not None and before.epoch == sheet.epoch - 1
        if before is not None and is_next and not _follows(sheet, before):
            found[sheet.validator] = f"epoch {sheet.epoch} does not follow from the one before"
    for validator, own in by_validator.items():
        read = [whole for sheet in own if (whole := sheet.read())]  # one validator's at a time
        for sheet, stale in zip(read, _stale_parts(read), strict=True):
            if stale >= STALE_PART:
                found[validator] = f"epoch {sheet.epoch} asks for its own text of before"
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


def beginnings(ids: npt.NDArray[np.uint32]) -> U64:
    """A hash of each beginning of a text, from that of its first id to that of all of them, at most
    MAX_WALK_TOKENS: Σ rᵢ(idᵢ + 1) mod 2⁶⁴ with random rᵢ. Who knows these can make two texts of
    one hash, and is the only one whom it harms."""
    ids = ids[:MAX_WALK_TOKENS]
    return np.cumsum((ids.astype(np.uint64) + np.uint64(1)) * _LOTS[: len(ids)])


def _stale_parts(sheets: Sequence[Sheet]) -> list[float]:
    """Of one validator's sheets, what part of each one's walks was public in others before."""
    nothing = np.zeros(1, np.uint32)  # of a walk in which nobody was asked anything
    walks = [beginnings(ids if len(ids) else nothing) for sheet in sheets for ids in sheet.walks]
    if not walks:
        return [0.0] * len(sheets)
    counts = [len(sheet.walks) for sheet in sheets]
    epochs = np.repeat(np.array([sheet.epoch for sheet in sheets], np.int64), counts)
    shown = np.concatenate([_shown(sheet) for sheet in sheets])
    heads = np.array([walk[:n][-1] for walk, n in zip(walks, shown, strict=True)])
    walks = [walk[min(BEGINNING_IDS, len(walk)) - 1 :] for walk in walks]
    texts, lengths = np.concatenate(walks), np.array([len(walk) for walk in walks])
    known = np.minimum(
        _first_epochs(texts, np.repeat(epochs, lengths), heads),
        np.minimum.reduceat(_first_epochs(heads, epochs, texts), np.cumsum(lengths) - lengths),
    )
    stale = np.split(known + PUBLIC_AFTER_EPOCHS <= epochs, np.cumsum(counts)[:-1])
    return [float(part.mean()) if len(part) else 0.0 for part in stale]


def _shown(sheet: Sheet) -> I64:
    """Of each walk, how many ids came before what was scored first; BEGINNING_IDS at least."""
    first = np.full(len(sheet.walks), MAX_WALK_TOKENS, np.int64)
    np.minimum.at(first, sheet.walk, sheet.position.astype(np.int64))
    return np.maximum(first, BEGINNING_IDS)


def _first_epochs(hashes: U64, epochs: I64, of: U64) -> I64:
    """In which epoch each `of` came first among the hashes; far off where it never did."""
    order = np.lexsort((epochs, hashes))
    ranked = hashes[order]
    places = np.minimum(np.searchsorted(ranked, of), len(ranked) - 1)
    far = np.iinfo(np.int64).max - PUBLIC_AFTER_EPOCHS
    return np.where(ranked[places] == of, epochs[order][places], far)


def _follows(sheet: Summary, before: Summary) -> bool:
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
