"""Who has something of its own to say, by the score sheets (`Sheet.standing_ppm`).

Each validator is heard with its newest sheet that has the expert, weighed by its stake.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from moesubnet.mixture.sheet import MICRO
from moesubnet.mixture.sheet_cache import AnySheet
from moesubnet.types import Hotkey


def agreed_standing(sheets: Iterable[tuple[AnySheet, int]], hotkeys: Sequence[Hotkey]) -> list[int]:
    """ppm, for each of `hotkeys`; whom no sheet has, stands whole. sheets: with the stake of their
    validators, in rao."""
    newest: dict[tuple[Hotkey, Hotkey], tuple[int, int]] = {}
    for sheet, stake_rao in sorted(sheets, key=lambda item: (-item[0].epoch, item[0].sha256)):
        for hotkey, standing_ppm in zip(sheet.hotkeys, sheet.standing_ppm, strict=True):
            newest.setdefault((sheet.validator, hotkey), (standing_ppm, stake_rao))
    said: defaultdict[Hotkey, list[tuple[int, int]]] = defaultdict(list)
    for (_, hotkey), heard in newest.items():
        said[hotkey].append(heard)
    return [_mean(said[hotkey]) for hotkey in hotkeys]


def _mean(heard: Sequence[tuple[int, int]]) -> int:
    total = sum(stake_rao for _, stake_rao in heard)
    return sum(ppm * stake_rao for ppm, stake_rao in heard) // total if total else MICRO
