"""How far an expert that writes alone is asked to draw ahead. No I/O, no clock.

It draws with our numbers (`wire.ahead`), so that its tokens are those that we draw from its laws:
a text is what it is without, and nothing is believed. Where a request bends the laws (penalties,
biases, a grammar) we may draw another token, and what was drawn after it was in vain: so much is
asked there as lately went well.
"""

from __future__ import annotations

from moesubnet.mixture.draft_length import DraftLength
from moesubnet.router.model import Drawing
from moesubnet.types import Hotkey
from moesubnet.wire.ahead import MAX_AHEAD, MAX_WITHIN_S, Ahead

REMEMBERED = 0.8  # of a round trip, from one to the next


class RoundTrips:
    """What a call to an expert takes beside the time that it is given. One for all streams."""

    def __init__(self) -> None:
        self._s: dict[Hotkey, float] = {}

    def took(self, hotkey: Hotkey, seconds: float) -> None:
        before_s = self._s.get(hotkey, seconds)
        self._s[hotkey] = REMEMBERED * before_s + (1.0 - REMEMBERED) * seconds

    def within_s(self, hotkey: Hotkey, patience_s: float) -> float:
        """How long an expert may draw: a reader's patience, or a round trip where that is more."""
        return min(MAX_WITHIN_S, max(patience_s, self._s.get(hotkey, 0.0)))


def ahead_for(
    drawing: Drawing, drafted: int, spare: int, length: DraftLength, within_s: float
) -> Ahead | None:
    """What to ask after a text with so many drafted tokens; None: nothing. spare: how many drafts
    may be lost. length: of this text, for what is kept of it."""
    if drawing.points is None:
        return None
    most = min(drawing.left - drafted, spare + 1, MAX_AHEAD)  # the last one is not read
    if drawing.is_bent:
        most = min(most, int(1.0 / (1.0 - length.acceptance)))  # 1 where most are in vain
    if most < 2:
        return None
    points = drawing.points(drafted + most)[drafted:]
    return Ahead(drawing.temperature, drawing.top_p, within_s, points)
