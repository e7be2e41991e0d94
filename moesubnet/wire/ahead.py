"""How a responder draws the next tokens of a sequence by itself, so that one call brings several.

The caller says with which numbers: token j is the one at `points[j]` of its law (`Drawn.at_point`).
So whoever reads the laws draws the same tokens with the same numbers. What a responder says that
it drew is a guess that the caller checks, and the text is the one of tokens asked one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesubnet.errors import FrameError
from moesubnet.wire import frames

MAX_AHEAD = 64  # tokens
MAX_WITHIN_S = 1.0
MAX_TEMPERATURE = 10.0
FIELDS = frozenset(("temperature", "top_p", "within_ms"))
POINTS = "points"  # the tensor: whole numbers of 2⁻⁵³, as many bits as a float64 has below 1
_UNIT = 2.0**-53


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """temperature: 0 is the likeliest token. within_s: a pass that would end later after the call
    came is not begun. points: float64 [tokens of all sequences, one after the other], in [0, 1)."""

    temperature: float
    top_p: float
    within_s: float
    points: NDArray[np.float64]

    def fields(self) -> dict[str, frames.Field]:
        within_ms = int(self.within_s * 1e3)
        how = {"temperature": float(self.temperature), "top_p": float(self.top_p)}
        return {**how, "within_ms": within_ms}

    def tensors(self) -> dict[str, frames.Tensor]:
        return {POINTS: (self.points / _UNIT).astype(np.uint64)}


def ahead_of(frame: frames.Frame, further: Sequence[int]) -> Ahead | None:
    """What a request says of it, if it does. further: tokens, by sequence. Raises FrameError."""
    if POINTS not in frame.tensors:
        return None
    numbers = frame.tensor(POINTS, "u64", (sum(further),))
    temperature, top_p, within_ms = (
        frame.fields.get(name) for name in ("temperature", "top_p", "within_ms")
    )
    if not (isinstance(temperature, float) and isinstance(top_p, float)):
        raise FrameError("temperature or top_p is no float")
    if not (0.0 <= temperature <= MAX_TEMPERATURE and 0.0 < top_p <= 1.0):
        raise FrameError("temperature or top_p is out of range")
    if type(within_ms) is not int or not 0 <= within_ms <= MAX_WITHIN_S * 1e3:
        raise FrameError("within_ms is not a time up to a second")
    if not any(further) or int(numbers.max()) >= 2**53:
        raise FrameError("points are not one in [0, 1) for each token")
    return Ahead(temperature, top_p, within_ms / 1e3, numbers * _UNIT)
