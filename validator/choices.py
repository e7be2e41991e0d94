"""A walk's second choice: users ask for some (`n`), so that a fork tells nobody whose text it is.

Where an answer begins the walk's session forks, as a router's does. One of the two goes on with the
text that is scored, by lot the first or the second, so who skips second choices skips walks. The
other goes on with what the experts would write, and nothing of it counts.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.law import Law, alone, law_of
from moesubnet.types import Hotkey
from moesubnet.wire.asked import PanelError
from moesubnet.wire.protocol import StepResponse

Answers = Mapping[Hotkey, StepResponse | PanelError]
Ask = Callable[[npt.NDArray[np.uint32]], Awaitable[Answers]]


class Scored(enum.Enum):
    """Which of a walk's choices has the text: its only one, the one that was there before, or the
    one that forks from it."""

    ALONE = 0
    FIRST = 1
    SECOND = 2


async def write(
    answers: Answers,
    worth: Mapping[Hotkey, float],
    tokens: int,
    baseline: Law,
    ask: Ask,
    lots: np.random.Generator,
) -> None:
    """So many tokens, each drawn from the law of an expert that is drawn by what it is worth: so
    from their mixture. Ends when nobody answers. answers: the first one's laws are in these; ask:
    sends one."""
    for _ in range(tokens):
        laws = {
            hotkey: law_of(answer.rows[0], -1, baseline)
            for hotkey, answer in answers.items()
            if isinstance(answer, StepResponse) and worth.get(hotkey)
        }
        if not laws:
            return
        weights = np.array([worth[hotkey] for hotkey in laws])
        law = list(laws.values())[lots.choice(len(laws), p=weights / weights.sum())]
        answers = await ask(np.array([alone(law).draw(1.0, 1.0, lots)], np.uint32))
