"""Asking many experts about the same sequences in lockstep: how router, validator and distiller
move through text.

The caller owns the sequences; the panel remembers how much of each every expert holds and sends
the rest, so an expert that failed, restarted or just joined catches up by itself. An expert can
be slow, dead, wrong or lying: it loses its own answer and nobody else's. All times are the event
loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import ArrayLike

from moesubnet.errors import (
    AuthError,
    PeerError,
    PeerLate,
    PeerResting,
    PeerUnavailable,
    UnknownBase,
    WireError,
)
from moesubnet.types import Hotkey
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.patience import Paces, deadline_s
from moesubnet.wire.protocol import Ids, SequenceStep, StepRequest, StepResponse, Want, base_hash

PanelError = PeerError | WireError | AuthError
MAX_REST_DOUBLINGS = 5
PATIENCE = 2.0  # times as long as half of the weight took, …
LEAST_PATIENCE_S = 0.25  # … and at least so much longer: a distant expert is not a slow one


class PanelSequence:
    """One text: a session's name (at most 64 printable ASCII characters) and its ids so far."""

    def __init__(self, session: str, ids: ArrayLike = ()) -> None:
        self.session = session
        self.ids: Ids = np.array(ids, np.uint32)  # replaced, never changed in place
        self._held: dict[Hotkey, int] = {}

    def append(self, ids: ArrayLike) -> None:
        self.ids = np.concatenate([self.ids, np.asarray(ids, np.uint32)])

    def truncate(self, length: int) -> None:
        """Forget all ids from position `length`; the experts roll back at the next call."""
        self.ids = self.ids[:length]
        self._held = {hotkey: min(held, length) for hotkey, held in self._held.items()}

    def held_by(self, hotkey: Hotkey) -> int:
        """How many of the ids this expert is believed to hold."""
        return self._held.get(hotkey, 0)

    def set_held(self, hotkey: Hotkey, length: int) -> None:
        self._held[hotkey] = min(length, len(self.ids))


@dataclass(slots=True)
class _Call:
    """One `advance`, as all its experts see it."""

    sequences: Sequence[PanelSequence]
    first: int | None
    requests: dict[tuple[int, ...], StepRequest] = field(default_factory=dict)  # by what is held
    patient_until_s: dict[Hotkey, float] = field(default_factory=dict)  # of those on their way


class Panel:
    """A set of experts. `clients` is read anew at each call and may change between calls.

    base_s: how long one expert may take for a call that asks nothing of it; what it has to read,
    catching up included, adds to that (`deadline_s`). rest_s: how long an expert that failed is
    left alone, doubling with each failure in a row up to 32 times; 0 asks it every time. paces:
    what is known of the experts' speed; share one among all panels of a process.
    """

    def __init__(
        self,
        clients: Mapping[Hotkey, ExpertClient],
        *,
        base_s: float,
        want: Want,
        rest_s: float = 0.0,
        paces: Paces | None = None,
    ) -> None:
        self._clients = clients
        self._base_s = base_s
        self._paces = paces or Paces()
        self._want = want
        self._rest_s = rest_s
        self._failures: dict[Hotkey, int] = {}
        self._rests_until_s: dict[Hotkey, float] = {}

    async def advance(
        self,
        sequences: Sequence[PanelSequence],
        append: Sequence[ArrayLike],
        *,
        first: int | None = None,
        members: Collection[Hotkey] | None = None,
        weights: Mapping[Hotkey, float] | None = None,
    ) -> dict[Hotkey, StepResponse | PanelError]:
        """Append ids to each sequence, then ask every expert (or `members`) for the laws.

        Rows are those of positions `first` … len(ids); None asks only for the law of the next
        token. The ids are appended whatever the experts do. Cancelling cancels every request.
        weights: what each one's answer is worth; with it, who is late by the measure of those
        that hold the greater part, or by its own, is cut off with PeerLate. Without, all have
        until the deadline.
        """
        for sequence, ids in zip(sequences, append, strict=True):
            sequence.append(ids)
        wanted = list(self._clients if members is None else members)
        call = _Call(sequences, first)
        async with asyncio.TaskGroup() as group:
            tasks = {hotkey: group.create_task(self._answer(hotkey, call)) for hotkey in wanted}
            if weights is not None:
                await _cut_stragglers(tasks, weights, call.patient_until_s)
        return {
            hotkey: self._late(hotkey) if task.cancelled() else task.result()
            for hotkey, task in tasks.items()
        }

    async def _answer(self, hotkey: Hotkey, call: _Call) -> StepResponse | PanelError:
        """One expert's answer or its error, and what follows for the next call."""
        client = self._clients.get(hotkey)
        if client is None:
            return PeerUnavailable("left the panel")
        if asyncio.get_running_loop().time() < self._rests_until_s.get(hotkey, 0.0):
            return PeerResting("resting after a failure")
        try:
            response = await self._ask(client, call)
        except (PeerError, WireError, AuthError) as error:
            return self._failed(hotkey, error)
        self._failures.pop(hotkey, None)
        for sequence in call.sequences:
            sequence.set_held(hotkey, len(sequence.ids))
        return response

    async def _ask(self, client: ExpertClient, call: _Call) -> StepResponse:
        """One step; if the expert holds less than we believed, once more from what it holds."""
        try:
            return await self._step(client, call)
        except UnknownBase as error:
            for sequence, held in zip(call.sequences, error.held_tokens, strict=True):
                sequence.set_held(client.hotkey, held)
        try:
            return await self._step(client, call)
        except UnknownBase:
            for sequence in call.sequences:
                sequence.set_held(client.hotkey, 0)
            raise

    async def _step(self, client: ExpertClient, call: _Call) -> StepResponse:
        """One request, timed from when it is on its way."""
        loop, hotkey = asyncio.get_running_loop(), client.hotkey
        request = self._request(hotkey, call)
        tokens = sum(s.end - min(s.base_len, s.first_law) + 1 for s in request.sequences)
        patience_s = self._paces.patience_s(hotkey, tokens)
        call.patient_until_s.pop(hotkey, None)

        def on_its_way() -> None:
            call.patient_until_s[hotkey] = loop.time() + patience_s

        response = await client.step(
            request, timeout_s=deadline_s(self._base_s, tokens), on_its_way=on_its_way
        )
        if (until_s := call.patient_until_s.get(hotkey)) is not None:
            self._paces.took(hotkey, tokens, loop.time() - (until_s - patience_s))
        return response

    def _request(self, hotkey: Hotkey, call: _Call) -> StepRequest:
        """What this expert lacks; experts that hold the same share one encoded request."""
        held = tuple(sequence.held_by(hotkey) for sequence in call.sequences)
        if held not in call.requests:
            steps = [
                SequenceStep(s.session, n, base_hash(s.ids[:n]), s.ids[n:], first=call.first)
                for s, n in zip(call.sequences, held, strict=True)
            ]
            call.requests[held] = StepRequest(tuple(steps), self._want)
        return call.requests[held]

    def _late(self, hotkey: Hotkey) -> PanelError:
        self._paces.late(hotkey)
        return self._failed(hotkey, PeerLate("it was time to go on without it"))

    def _failed(self, hotkey: Hotkey, error: PanelError) -> PanelError:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._rests_until_s.get(hotkey, 0.0):  # else a call beside this one has counted
            failures = self._failures.get(hotkey, 0)
            self._failures[hotkey] = failures + 1
            rest_s = self._rest_s * 2 ** min(failures, MAX_REST_DOUBLINGS)
            self._rests_until_s[hotkey] = now_s + rest_s
        return error


async def _cut_stragglers(
    tasks: Mapping[Hotkey, asyncio.Task[StepResponse | PanelError]],
    weights: Mapping[Hotkey, float],
    patient_until_s: Mapping[Hotkey, float],
) -> None:
    """Return when all tasks are done, the late ones cancelled.

    Late is who has not answered PATIENCE times as long after the start as it took until the
    answers weighed at least what was still to come. However much it weighs, late is also who has
    taken much longer than it usually does (`patient_until_s`) and PATIENCE times as long as
    those that have answered.
    """
    loop = asyncio.get_running_loop()
    start_s, limit_s, waiting = loop.time(), inf, set(tasks.values())
    others_s = inf  # so long we wait for anybody when the others took so long
    while waiting:
        cut_s = {
            task: min(limit_s, max(others_s, patient_until_s.get(hotkey, inf)))
            for hotkey, task in tasks.items()
            if task in waiting
        }
        until_s = min(cut_s.values())
        if others_s < inf and any(
            task in waiting and hotkey not in patient_until_s for hotkey, task in tasks.items()
        ):  # it waits for a connection: look again, its time may begin
            until_s = min(until_s, loop.time() + LEAST_PATIENCE_S)
        left_s = None if until_s == inf else until_s - loop.time()
        done, waiting = await asyncio.wait(
            waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            late = {task for task in waiting if cut_s[task] <= until_s}
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            waiting -= late
        if any(isinstance(task.result(), StepResponse) for task in done):
            others_s = start_s + PATIENCE * (loop.time() - start_s)
        given, to_come = 0.0, 0.0
        for hotkey, task in tasks.items():
            if task in waiting:
                to_come += weights.get(hotkey, 0.0)
            elif not task.cancelled() and isinstance(task.result(), StepResponse):
                given += weights.get(hotkey, 0.0)
        if limit_s == inf and given > 0 and given >= to_come:
            took_s = loop.time() - start_s
            limit_s = start_s + max(PATIENCE * took_s, took_s + LEAST_PATIENCE_S)
