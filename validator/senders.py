"""Whether an expert answers otherwise through one router than through the others. Pure.

Each walk goes through a router that is drawn by lot, so how well an expert does in a walk has
nothing to do with who asked, unless that router and the expert are friends (or foes). A walk's
figure is the expert's mean gain over the baseline, ln q − ln q_b, less its mean over the sheet's
walks. Of each expert and sender the sum over that sender's walks is taken, by its standard
deviation under the lot; then the lots are drawn again, within each sheet, and

    p = (1 + how often the largest sum of all is as large) / (1 + how often they were drawn)

so p is of all experts and senders together: in a fair network some p ≤ 0.001 comes once in a
thousand times, however many there are. A fact for people; it gates nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesubnet.mixture.sheet import LOG_Q_ABSENT, LOG_Q_UNANSWERED, MICRO, Sheet
from moesubnet.types import Hotkey
from moesubnet.validator.value import Float

EPOCHS = 32  # of one's own sheets
DRAWS = 2_000
MIN_WALKS = 8  # through a sender, and through others
SUSPICIOUS_P = 1e-3


@dataclass(frozen=True, slots=True)
class Difference:
    """An expert through one sender: nats per token better than through all others, with p."""

    hotkey: Hotkey
    sender: Hotkey
    walks: int
    nats: float
    p: float


def differences(sheets: Sequence[Sheet], draws: int = DRAWS) -> list[Difference]:
    """Of one validator's sheets: for each expert that went through several senders, the sender
    through which it differs most. The same for whoever has the same sheets."""
    hotkeys = sorted({hotkey for sheet in sheets for hotkey in sheet.hotkeys})
    senders = sorted({sender for sheet in sheets for sender in sheet.senders})
    parts = [_by_walk(sheet, hotkeys, senders) for sheet in sheets if len(sheet.walk)]
    if not parts:
        return []
    gains = np.concatenate([gain for gain, _ in parts])
    through = np.concatenate([sender for _, sender in parts])
    counts = np.bincount(through, minlength=len(senders))
    tried = np.flatnonzero((counts >= MIN_WALKS) & (len(through) - counts >= MIN_WALKS))
    if not len(tried):
        return []
    centred = np.nan_to_num(np.concatenate([_centred(gain) for gain, _ in parts]))
    found = _sums(centred, through[None], tried)[0]
    rng = np.random.default_rng(int.from_bytes(sheets[-1].seed[:8], "little"))
    lots = [rng.permuted(np.tile(sender, (draws, 1)), axis=1) for _, sender in parts]
    largest = np.zeros(draws)
    for begin in range(0, draws, 100):  # 100 lots × experts × senders at once
        again = np.concatenate([lot[begin : begin + 100] for lot in lots], axis=1)
        largest[begin : begin + 100] = np.abs(_sums(centred, again, tried)).max(axis=(1, 2))
    named = []
    for column, hotkey in enumerate(hotkeys):
        most = int(np.argmax(np.abs(found[:, column])))
        p = (1 + np.sum(largest >= abs(found[most, column]) - 1e-9)) / (1 + draws)
        mine = (through == tried[most]) & ~np.isnan(gains[:, column])
        others = (through != tried[most]) & ~np.isnan(gains[:, column])
        if mine.any() and others.any():
            nats = float(gains[mine, column].mean() - gains[others, column].mean())
            sender = senders[tried[most]]
            named.append(Difference(hotkey, sender, int(mine.sum()), nats, float(p)))
    return named


def _by_walk(
    sheet: Sheet, hotkeys: Sequence[Hotkey], senders: Sequence[Hotkey]
) -> tuple[Float, np.ndarray]:
    """Mean gain over the baseline [W, experts], NaN where there is none; sender [W]: who asked
    the walk's first item. What came another way than that, as its router was left, is not counted.
    """
    walks = np.unique(sheet.walk)
    gains = np.full((len(walks), len(hotkeys)), np.nan)
    through = np.zeros(len(walks), np.intp)
    columns = [hotkeys.index(hotkey) for hotkey in sheet.hotkeys]
    gain = (sheet.log_q[:, :-1].astype(np.float64) - sheet.log_q[:, -1:]) / MICRO
    answered = sheet.log_q[:, :-1] > LOG_Q_UNANSWERED
    for k, walk in enumerate(walks):
        items = np.flatnonzero(sheet.walk == walk)
        asked = sheet.log_q[items[0], :-1] != LOG_Q_ABSENT
        by = int(np.bincount(sheet.sender[items[0], asked]).argmax()) if asked.any() else 0
        through[k] = senders.index(sheet.senders[by])
        counted = answered[items] & (sheet.sender[items] == by)
        total = np.where(counted, gain[items], 0.0).sum(axis=0)
        with np.errstate(invalid="ignore"):
            gains[k, columns] = total / counted.sum(axis=0)
    return gains, through


def _centred(gains: Float) -> Float:
    """Less each expert's mean over the walks that it has."""
    there = ~np.isnan(gains)
    total = np.where(there, gains, 0.0).sum(axis=0)
    centred: Float = gains - total / np.maximum(there.sum(axis=0), 1)
    return centred


def _sums(centred: Float, through: np.ndarray, tried: np.ndarray) -> Float:
    """[lots, senders, experts]: sums over a sender's walks, by their deviations under the lot.
    through: [lots, W]."""
    count = centred.shape[0]
    spread = np.sqrt(np.maximum((centred**2).sum(axis=0), 1e-12) / count)
    out = np.empty((len(through), len(tried), centred.shape[1]))
    for place, sender in enumerate(tried.tolist()):
        mine = (through == sender).astype(np.float64)
        size = mine.sum(axis=1)[:, None]
        out[:, place] = mine @ centred / (spread * np.sqrt(size * (1 - size / count)))
    return out
