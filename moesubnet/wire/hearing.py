"""One question to many experts: sent to each, and taken as the answers come.

No task for each answer: they are counted as they come, and who asks wakes once, when all have
answered or are late. All times are the event loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from moesubnet.errors import (
    AuthError,
    BadReveal,
    PeerError,
    PeerLate,
    PeerResting,
    PeerUnavailable,
    UnknownBase,
    WireError,
)
from moesubnet.types import Hotkey
from moesubnet.wire.asked import Asked, PanelError
from moesubnet.wire.line import Line
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.patience import LEAST_PATIENCE_S, Awaited, Paces, deadline_s
from moesubnet.wire.protocol import StepRequest, StepResponse

MAX_REST_DOUBLINGS = 5


class Rests:
    """Who failed is left alone for `rest_s`, doubling with each failure in a row up to 32 times; 0
    leaves nobody alone."""

    def __init__(self, rest_s: float) -> None:
        self._rest_s = rest_s
        self._failures: dict[Hotkey, int] = {}
        self._until_s: dict[Hotkey, float] = {}

    def rests(self, hotkey: Hotkey, now_s: float) -> bool:
        return now_s < self._until_s.get(hotkey, 0.0)

    def failed(self, hotkey: Hotkey, now_s: float) -> None:
        if self.rests(hotkey, now_s):  # a call beside this one has counted
            return
        failures = self._failures.get(hotkey, 0)
        self._failures[hotkey] = failures + 1
        self._until_s[hotkey] = now_s + self._rest_s * 2 ** min(failures, MAX_REST_DOUBLINGS)

    def answered(self, hotkey: Hotkey) -> None:
        self._failures.pop(hotkey, None)


@dataclass(frozen=True, slots=True)
class Hearing:
    """How experts are heard, whatever they are asked; see `Panel`."""

    clients: Mapping[Hotkey, Asked]
    base_s: float
    paces: Paces
    rests: Rests
    lines: Mapping[Hotkey, Line] | None
    held_s: float

    def send(
        self, client: Asked, request: StepRequest, on_its_way: Callable[[], None]
    ) -> Awaitable[StepResponse]:
        """One request, within its deadline; a prompt waits in its expert's line."""
        tokens = request.tokens
        alone_s = deadline_s(self.base_s, tokens)
        line = None if self.lines is None else self.lines[client.hotkey]
        if line is None or not request.is_prompt:
            timeout_s = alone_s if line is None else line.beside_s(alone_s)
            return client.step(request, timeout_s=timeout_s, on_its_way=on_its_way)
        return line.send(
            partial(client.step, request),
            tokens,
            alone_s=alone_s,
            most_s=self.held_s,
            on_its_way=on_its_way,
        )


class Question:
    """Asked once, of each of `asked`, about these sequences.

    build: what to send to one of them; called again after it has said that it holds less than we
    believed. weights, least_patience_s: see `Awaited`. rested: ask those too who rest.
    """

    def __init__(
        self,
        how: Hearing,
        sequences: Sequence[PanelSequence],
        asked: Sequence[Hotkey],
        build: Callable[[Asked], StepRequest],
        *,
        weights: Mapping[Hotkey, float] | None = None,
        least_patience_s: float = LEAST_PATIENCE_S,
        rested: bool = False,
    ) -> None:
        self._how, self._sequences, self._asked, self._build = how, sequences, asked, build
        self._rested = rested
        self._answers: dict[Hotkey, StepResponse | PanelError] = {}
        self._under_way: dict[Hotkey, asyncio.Future[StepResponse]] = {}
        self._awaited = Awaited(
            asked, weights, least_patience_s, lambda hotkey: self._under_way[hotkey].cancel()
        )

    async def answers(self) -> dict[Hotkey, StepResponse | PanelError]:
        """Each one's answer or its error, in the order of `asked`. Cancelling cancels all."""
        try:
            # In turns, from token to token: who shares a machine with others is not always after
            # them, as if it waited for their answers (validator/seniors.py).
            turn = len(self._sequences[0].ids) % 2 if self._sequences else 0
            for hotkey in self._asked[:: -1 if turn else 1]:
                self._ask(hotkey)
            await self._awaited.over
        finally:
            if left := set(self._under_way.values()):
                for sent in left:
                    sent.cancel()
                await asyncio.wait(left)
        answers = self._answers
        return {h: answers[h] if h in answers else self._late(h) for h in self._asked}

    def _ask(self, hotkey: Hotkey) -> None:
        client = self._how.clients.get(hotkey)
        if client is None:
            self._answers[hotkey] = PeerUnavailable("left the panel")
        elif not self._rested and self._how.rests.rests(hotkey, self._now_s()):
            self._answers[hotkey] = PeerResting("resting after a failure")
        else:
            self._send(client)
            return
        self._awaited.came(hotkey, has_answered=False)

    def _send(self, client: Asked, *, is_again: bool = False) -> None:
        """One request, timed from when it is on its way."""
        hotkey, request = client.hotkey, self._build(client)
        patience_s = self._how.paces.patience_s(hotkey, request.tokens)
        patient_until_s = self._awaited.patient_until_s
        patient_until_s.pop(hotkey, None)

        def on_its_way() -> None:
            patient_until_s[hotkey] = self._now_s() + patience_s

        sent = asyncio.ensure_future(self._how.send(client, request, on_its_way))
        self._under_way[hotkey] = sent
        sent.add_done_callback(partial(self._came, client, request, patience_s, is_again))

    def _came(
        self,
        client: Asked,
        request: StepRequest,
        patience_s: float,
        is_again: bool,
        sent: asyncio.Future[StepResponse],
    ) -> None:
        hotkey, error = client.hotkey, None if sent.cancelled() else sent.exception()
        del self._under_way[hotkey]
        try:
            if self._awaited.over.done() or sent.cancelled():
                return
            if error is None:
                self._answers[hotkey] = self._taken(hotkey, request, patience_s, sent.result())
            elif isinstance(error, UnknownBase):
                self._missing(client, error, is_again=is_again)
            elif isinstance(error, PeerError | WireError | AuthError):
                self._answers[hotkey] = self._failed(hotkey, error)
            else:
                self._awaited.fail(error)
        finally:
            if hotkey not in self._under_way:
                answer = self._answers.get(hotkey)
                self._awaited.came(hotkey, has_answered=isinstance(answer, StepResponse))

    def _missing(self, client: Asked, error: UnknownBase, *, is_again: bool) -> None:
        """It holds less than we believed, and is asked once more from what it holds."""
        hotkey = client.hotkey
        for sequence, held in zip(self._sequences, error.held_tokens, strict=True):
            if is_again:
                sequence.set_held(hotkey, 0)
            else:
                sequence.set_missing(hotkey, held)
        if is_again:
            self._answers[hotkey] = self._failed(hotkey, error)
        else:
            self._send(client, is_again=True)

    def _taken(
        self, hotkey: Hotkey, request: StepRequest, patience_s: float, response: StepResponse
    ) -> StepResponse | PanelError:
        """An answer with how long it took, once the sequences know of it."""
        until_s, took_s = self._awaited.patient_until_s.get(hotkey), response.took_s
        if until_s is not None:
            took_s = self._now_s() - (until_s - patience_s)
            if request.ahead is None:  # which takes as long as it is given
                self._how.paces.took(hotkey, request.tokens, took_s)
        for sequence, step in zip(self._sequences, request.sequences, strict=True):
            sequence.set_held(hotkey, step.end)
        try:
            _settle(hotkey, self._sequences, response)
        except BadReveal as error:
            return self._failed(hotkey, error)
        if request.ahead is not None:
            for sequence, rows in zip(self._sequences, response.rows, strict=True):
                sequence.append(rows.further[:-1])
                sequence.set_held(hotkey, len(sequence.ids))
        self._how.rests.answered(hotkey)
        return StepResponse(response.rows, response.proof, took_s)

    def _late(self, hotkey: Hotkey) -> PanelError:
        self._how.paces.late(hotkey)
        return self._failed(hotkey, PeerLate("it was time to go on without it"))

    def _failed(self, hotkey: Hotkey, error: PanelError) -> PanelError:
        self._how.rests.failed(hotkey, self._now_s())
        return error

    def _now_s(self) -> float:
        return self._awaited.loop.time()


def _settle(hotkey: Hotkey, sequences: Sequence[PanelSequence], response: StepResponse) -> None:
    """Take what every sequence's rows show, then raise the first BadReveal."""
    refused: list[BadReveal] = []
    for sequence, rows in zip(sequences, response.rows, strict=True):
        try:
            sequence.settle(hotkey, rows)
        except BadReveal as error:
            refused.append(error)
    if refused:
        raise refused[0]
