"""Which hotkeys serve one model, by the score sheets: they share a prior and a place in the panel.

A sheet names the leader of every expert's cluster (`Sheet.leaders`, who registered first). Each
validator is heard with its newest sheet that has the expert; the stake behind the answers decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from moesubnet.mixture.sheet import Sheet
from moesubnet.types import Hotkey


def agreed_leaders(sheets: Iterable[tuple[Sheet, int]], hotkeys: Sequence[Hotkey]) -> list[int]:
    """For each of `hotkeys` (sorted) the index of its cluster's leader; of a cluster whose leader
    is not among them, of its first. sheets: with the stake of their validators, in rao."""
    heard: dict[tuple[Hotkey, Hotkey], tuple[Hotkey, int]] = {}
    for sheet, stake_rao in sorted(sheets, key=lambda item: (-item[0].epoch, item[0].sha256)):
        for hotkey, leader in zip(sheet.hotkeys, sheet.leaders, strict=True):
            heard.setdefault((sheet.validator, hotkey), (sheet.hotkeys[leader], stake_rao))
    votes: dict[Hotkey, Counter[Hotkey]] = {hotkey: Counter() for hotkey in hotkeys}
    for (_, hotkey), (named, stake_rao) in heard.items():
        if hotkey in votes:
            votes[hotkey][named] += stake_rao
    elected = {
        hotkey: max(count, key=lambda leader: (count[leader], leader == hotkey, leader))
        for hotkey, count in votes.items()
        if count
    }
    roots = [_root(hotkey, elected) for hotkey in hotkeys]
    first = {root: index for index, root in reversed(list(enumerate(roots)))}
    column = {hotkey: index for index, hotkey in enumerate(hotkeys)}
    return [column.get(root, first[root]) for root in roots]


def _root(hotkey: Hotkey, elected: Mapping[Hotkey, Hotkey]) -> Hotkey:
    """The leader of the leader …; validators that disagree may even have made a circle."""
    path = [hotkey]
    while (above := elected.get(path[-1], path[-1])) not in path:
        path.append(above)
    return min(path[path.index(above) :])
