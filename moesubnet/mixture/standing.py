"""Who has something of its own to say, by the score sheets (`Sheet.standing_ppm`).

Each validator is heard with its newest sheet that has the expert, weighed by its stake; but nobody
stands higher than half of the stake says, or an expert that all but one small validator were kept
from asking would stand by that one's word alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from moesubnet.mixture.sheet_cache import AnySheet
from moesubnet.types import Hotkey


def agreed_standing(sheets: Iterable[tuple[AnySheet, int]], hotkeys: Sequence[Hotkey]) -> list[int]:
    """ppm, for each of `hotkeys`, which are in the sheets. sheets: with the stake of their
    validators, in rao, above 0. Of an expert all validators have a say that have a sheet as new as
    the first one with it."""
    said: defaultdict[Hotkey, dict[Hotkey, tuple[int, int]]] = defaultdict(dict)
    first: dict[Hotkey, int] = {}
    last: dict[Hotkey, tuple[int, int]] = {}
    for sheet, stake_rao in sorted(sheets, key=lambda item: (-item[0].epoch, item[0].sha256)):
        last.setdefault(sheet.validator, (sheet.epoch, stake_rao))
        for hotkey, standing_ppm in zip(sheet.hotkeys, sheet.standing_ppm, strict=True):
            said[hotkey].setdefault(sheet.validator, (standing_ppm, stake_rao))
            first[hotkey] = sheet.epoch

    def agreed(hotkey: Hotkey) -> int:
        could_rao = sum(stake for epoch, stake in last.values() if epoch >= first[hotkey])
        heard = sorted(said[hotkey].values(), reverse=True)
        return min(_mean(heard), _most(heard, could_rao))

    return list(map(agreed, hotkeys))


def _mean(heard: Sequence[tuple[int, int]]) -> int:
    return sum(ppm * stake for ppm, stake in heard) // sum(stake for _, stake in heard)


def _most(heard: Sequence[tuple[int, int]], of_rao: int) -> int:
    """That half of the stake says, or more. heard: the highest first."""
    so_far = 0
    for ppm, stake_rao in heard:
        so_far += stake_rao
        if 2 * so_far >= of_rao:
            return ppm
    return 0
