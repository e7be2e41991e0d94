"""Moving through text with a panel of experts, blindly: what collection and evaluation share.

N windows without a prompt go forward in lockstep, one id each per call, so every expert answers
for a token before it sees it and a weight is what a router would have used. `prefill` sends whole
windows at once instead: the same numbers from honest experts at a fraction of the calls, but an
expert can then claim p = 1 on tokens that it was shown. Use it only where all experts are trusted.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesubnet.errors import PeerUnavailable
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import Gate
from moesubnet.mixture.law import Law, law_of
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.types import Hotkey
from moesubnet.wire.asked import PanelError
from moesubnet.wire.panel import Panel
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.protocol import StepResponse, want_for

Ids = NDArray[np.uint32]
WINDOWS_PER_CALL = 128  # at least 64: an expert's cost per call is spread over them
# Where a call answers every position (tens of megabytes), or every position of a large model costs
# much more than a call does, and stopping loses what is half done.
FEW_WINDOWS_PER_CALL = 16

Answers = Mapping[Hotkey, StepResponse | PanelError]


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """What is known about one position of N windows before its token is.

    laws: [N][E], the members' laws (experts in sorted order, then the baseline).
    log_w: float64 [N, E], the mixture's weights; −inf for members that gave no answer.
    """

    position: int
    laws: list[list[Law]]
    log_w: NDArray[np.float64]

    def at(self, tokens: Ids) -> NDArray[np.float64]:
        """Each member's log-probability of a token of each window: [N] → [N, E]."""
        return np.array(
            [[law.at(token) for law in laws] for laws, token in zip(self.laws, tokens, strict=True)]
        )


@dataclass(frozen=True, slots=True)
class Members:
    """Who is mixed: a panel over `experts` (sorted), the gate, and the baseline."""

    panel: Panel
    experts: tuple[Hotkey, ...]
    gate: Gate
    baseline: Unigram

    @property
    def vocab_size(self) -> int:
        return len(self.baseline.logp)


def call_groups(count: int, *, vocab_size: int, prefill: bool) -> list[NDArray[np.intp]]:
    """Indices of `count` windows, split evenly into what goes into one call."""
    is_small = want_for(vocab_size).kind == "full"
    size = WINDOWS_PER_CALL if is_small and not prefill else FEW_WINDOWS_PER_CALL
    return np.array_split(np.arange(count), -(-count // size))


async def walk(
    members: Members, windows: Ids, session: str, *, prefill: bool = False
) -> AsyncGenerator[Turn]:
    """The turns of windows uint32 [N, W], position 0 … W − 1; but for `prefill` the tokens at a
    turn's position may still be written there before the next. Raises PeerUnavailable when no
    expert answers; a single one that fails is left out until it answers again. Experts are told
    that it is over however it ends, of one that is left early by `aclosing`."""
    names = members_of(members.experts)
    weights = Walk(members.gate, names, len(windows))
    baseline = members.baseline.law
    sequences = [PanelSequence(f"{session}-{index}") for index in range(len(windows))]
    rows = _prefilled if prefill else _step_by_step
    try:
        async for position, answers in rows(members.panel, sequences, windows):
            for column, hotkey in enumerate(members.experts):
                for index, sequence in enumerate(sequences):
                    if (said := sequence.said(hotkey)) is not None:
                        weights.amend(index, column, *said)
            laws = [[baseline] * len(names) for _ in windows]
            alive = np.ones(len(names), bool)
            for column, hotkey in enumerate(members.experts):
                answer = answers[hotkey]
                alive[column] = isinstance(answer, StepResponse)
                if isinstance(answer, StepResponse):
                    row = position - answer.rows[0].first
                    for index, part in enumerate(answer.rows):
                        laws[index][column] = law_of(part, row, baseline)
            if not alive[:-1].any():
                raise PeerUnavailable(f"no expert answers: {_reasons(answers)}")
            turn = Turn(position, laws, weights.log_weights(alive))
            yield turn
            label = windows[:, position]
            weights.observe(label, turn.at(label), blind=alive)
    finally:
        await members.panel.close(sequences)


def _reasons(answers: Answers) -> str:
    """What each of them said, or what became of it."""
    return "; ".join(f"{hotkey}: {answers[hotkey]}" for hotkey in sorted(answers))


async def _step_by_step(
    panel: Panel, sequences: Sequence[PanelSequence], windows: Ids
) -> AsyncIterator[tuple[int, Answers]]:
    for position in range(windows.shape[1]):
        yield (
            position,
            await panel.advance(sequences, list(windows[:, max(0, position - 1) : position])),
        )


async def _prefilled(
    panel: Panel, sequences: Sequence[PanelSequence], windows: Ids
) -> AsyncIterator[tuple[int, Answers]]:
    answers = await panel.advance(sequences, list(windows[:, :-1]), first=0)
    for position in range(windows.shape[1]):
        yield position, answers
