"""Asking many experts about the same sequences in lockstep: how router, validator and distiller
move through text.

The caller owns the sequences; the panel remembers how much of each every expert holds and sends
the rest, so an expert that failed, restarted or just joined catches up by itself. An expert can
be slow, dead, wrong or lying: it loses its own answer and nobody else's. All times are the event
loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Protocol

from numpy.typing import ArrayLike

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
from moesubnet.wire.ahead import Ahead
from moesubnet.wire.line import Line
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.patience import LEAST_PATIENCE_S, Paces, cut_stragglers, deadline_s
from moesubnet.wire.protocol import (
    SequenceStep,
    StepRequest,
    StepResponse,
    Want,
    base_hash,
)

PanelError = PeerError | WireError | AuthError
_Requests = dict[tuple[object, ...], StepRequest]  # by what an expert lacks, commits to and owes
MAX_REST_DOUBLINGS = 5
CLOSE_TIMEOUT_S = 2.0  # nobody waits for much to hear that something is over


class Asked(Protocol):
    """Whoever answers steps: a miner over HTTP (`client.ExpertClient`), a recording, a simulation.

    An answer is checked and normalised by whoever implements this: `StepResponse.from_bytes` does
    it for what strangers send.
    """

    @property
    def hotkey(self) -> Hotkey: ...

    @property
    def commits(self) -> bool:
        """Whether it commits to the tails of laws of which it lists a part."""
        ...

    async def step(
        self,
        request: StepRequest,
        *,
        timeout_s: float,
        on_its_way: Callable[[], None] = lambda: None,
    ) -> StepResponse:
        """on_its_way: called when the request leaves, after any wait for a place of our own.

        Raises PeerError, WireError, AuthError; UnknownBase where it holds less than the base.
        """
        ...

    async def close_sessions(self, sessions: Sequence[str], *, timeout_s: float) -> None:
        """Say that these sessions are over. Raises PeerError."""
        ...


@dataclass(slots=True)
class _Call:
    """One `advance` or `reveal`."""

    sequences: Sequence[PanelSequence]
    build: Callable[[Asked], StepRequest]
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    patient_until_s: dict[Hotkey, float] = field(default_factory=dict)  # of those on their way


class Panel:
    """A set of experts. `clients` is read anew at each call and may change between calls.

    base_s: how long one expert may take for a call that asks nothing of it; what it has to read,
    catching up included, adds to that (`deadline_s`). rest_s: how long an expert that failed is
    left alone, doubling with each failure in a row up to 32 times; 0 asks it every time. want:
    `committed` of those alone whose cards say that they commit. paces: what is known of the
    experts' speed; share one among all panels of a process. lines: the prompts at each expert,
    shared likewise; with them, an expert may take for a prompt as long as for all that it was sent
    before, `held_s` at most or what its own length allows.
    """

    def __init__(
        self,
        clients: Mapping[Hotkey, Asked],
        *,
        base_s: float,
        want: Want,
        rest_s: float = 0.0,
        paces: Paces | None = None,
        lines: Mapping[Hotkey, Line] | None = None,
        held_s: float = 0.0,
    ) -> None:
        self._clients = clients
        self._base_s = base_s
        self._paces = paces or Paces()
        self._lines, self._held_s = lines, held_s
        self._want, self._uncommitted = want, replace(want, committed=False)
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
        least_patience_s: float = LEAST_PATIENCE_S,
        further: Mapping[Hotkey, int] = MappingProxyType({}),
        ahead: Ahead | None = None,
    ) -> dict[Hotkey, StepResponse | PanelError]:
        """Append ids to each sequence, then ask every expert (or `members`) for the laws.

        Rows are those of positions `first` … len(ids); None asks only for the law of the next
        token. The ids are appended whatever the experts do. Cancelling cancels every request.
        weights: what each one's answer is worth; with it, who is late by the measure of those
        that hold the greater part, and by `least_patience_s` at least, or by its own, is cut off
        with PeerLate. Without, all have until the deadline. further: how many tokens an expert
        should go on with by itself. ahead: how it should draw them; what one expert drew and read
        of the one sequence is appended to it.
        """
        for sequence, ids in zip(sequences, append, strict=True):
            sequence.append(ids)
        wanted = list(self._clients if members is None else members)
        requests: _Requests = {}

        def build(client: Asked) -> StepRequest:
            more = further.get(client.hotkey, 0)
            return self._request(client, sequences, first, more, ahead if more else None, requests)

        call = _Call(sequences, build)
        async with asyncio.TaskGroup() as group:
            tasks = {hotkey: group.create_task(self._answer(hotkey, call)) for hotkey in wanted}
            if weights is not None:
                await cut_stragglers(tasks, weights, call.patient_until_s, least_patience_s)
        return {
            hotkey: self._late(hotkey) if task.cancelled() else task.result()
            for hotkey, task in tasks.items()
        }

    async def reveal(self, sequences: Sequence[PanelSequence]) -> dict[Hotkey, PanelError]:
        """Ask everybody for the leaves that are owed, and for nothing else: at the end of a walk
        (append its last token to the sequence first), or once more for what did not come.

        The errors of those who did not show theirs, which is final; `PanelSequence.said` has what
        the others showed.
        """

        async def ask(hotkey: Hotkey) -> StepResponse | PanelError:
            owing = [s for s in sequences if s.owed(hotkey)]
            call = _Call(owing, lambda client: self._reveals(client, owing))
            return await self._answer(hotkey, call, rested=True)

        debtors = [h for h in self._clients if any(s.owed(h) for s in sequences)]
        async with asyncio.TaskGroup() as group:
            tasks = {hotkey: group.create_task(ask(hotkey)) for hotkey in debtors}
        answers = {hotkey: task.result() for hotkey, task in tasks.items()}
        failed = {h: a for h, a in answers.items() if not isinstance(a, StepResponse)}
        for sequence in sequences:
            sequence.give_up(failed)
        return failed

    async def _answer(
        self, hotkey: Hotkey, call: _Call, *, rested: bool = False
    ) -> StepResponse | PanelError:
        """One expert's answer or its error, and what follows for the next call."""
        client = self._clients.get(hotkey)
        if client is None:
            return PeerUnavailable("left the panel")
        until_s = self._rests_until_s.get(hotkey)
        if until_s is not None and not rested and call.loop.time() < until_s:
            return PeerResting("resting after a failure")
        try:
            request, response = await self._ask(client, call)
        except (PeerError, WireError, AuthError) as error:
            return self._failed(hotkey, error)
        for sequence, step in zip(call.sequences, request.sequences, strict=True):
            sequence.set_held(hotkey, step.end)
        try:
            _settle(hotkey, call.sequences, response)
        except BadReveal as error:
            return self._failed(hotkey, error)
        if request.ahead is not None:
            for sequence, rows in zip(call.sequences, response.rows, strict=True):
                sequence.append(rows.further[:-1])
                sequence.set_held(hotkey, len(sequence.ids))
        self._failures.pop(hotkey, None)
        return response

    async def _ask(self, client: Asked, call: _Call) -> tuple[StepRequest, StepResponse]:
        """One step; if the expert holds less than we believed, once more from what it holds."""
        try:
            return await self._step(client, call)
        except UnknownBase as error:
            for sequence, held in zip(call.sequences, error.held_tokens, strict=True):
                sequence.set_missing(client.hotkey, held)
        try:
            return await self._step(client, call)
        except UnknownBase:
            for sequence in call.sequences:
                sequence.set_held(client.hotkey, 0)
            raise

    async def _step(self, client: Asked, call: _Call) -> tuple[StepRequest, StepResponse]:
        """One request, timed from when it is on its way."""
        loop, hotkey, request = call.loop, client.hotkey, call.build(client)
        tokens = request.tokens
        patience_s = self._paces.patience_s(hotkey, tokens)
        call.patient_until_s.pop(hotkey, None)

        def on_its_way() -> None:
            call.patient_until_s[hotkey] = loop.time() + patience_s

        alone_s = deadline_s(self._base_s, tokens)
        send = partial(client.step, request)
        line = None if self._lines is None else self._lines[hotkey]
        if line is None:
            response = await send(timeout_s=alone_s, on_its_way=on_its_way)
        elif request.is_prompt:
            response = await line.send(
                send, tokens, alone_s=alone_s, most_s=self._held_s, on_its_way=on_its_way
            )
        else:
            response = await send(timeout_s=line.beside_s(alone_s), on_its_way=on_its_way)
        if (until_s := call.patient_until_s.get(hotkey)) is not None:
            took_s = loop.time() - (until_s - patience_s)
            if request.ahead is None:  # which takes as long as it is given
                self._paces.took(hotkey, tokens, took_s)
            response = StepResponse(response.rows, response.proof, took_s)
        return request, response

    def _late(self, hotkey: Hotkey) -> PanelError:
        self._paces.late(hotkey)
        return self._failed(hotkey, PeerLate("it was time to go on without it"))

    def _request(
        self,
        client: Asked,
        sequences: Sequence[PanelSequence],
        first: int | None,
        further: int,
        ahead: Ahead | None,
        requests: _Requests,
    ) -> StepRequest:
        """What this expert lacks and owes; those alike in that share one encoded request."""
        bases = tuple((s.held_by(client.hotkey), s.parent_at(client.hotkey)) for s in sequences)
        owed = tuple(sequence.owed(client.hotkey) for sequence in sequences)
        want = self._want if client.commits else self._uncommitted
        key = (want.committed, bases, owed, further)
        if key not in requests:
            steps = [
                SequenceStep(
                    s.session,
                    n,
                    base_hash(s.ids[:n]),
                    s.ids[n:],
                    first=first,
                    reveal=reveal,
                    parent=parent,
                    further=further,
                )
                for s, (n, parent), reveal in zip(sequences, bases, owed, strict=True)
            ]
            requests[key] = StepRequest(tuple(steps), want, ahead)
        return requests[key]

    def _reveals(self, client: Asked, owing: Sequence[PanelSequence]) -> StepRequest:
        """A step of each sequence that brings no ids and asks for no rows."""
        steps = []
        for sequence in owing:
            owed = sequence.owed(client.hotkey)
            assert owed is not None
            base = sequence.ids[: owed[0]]
            steps.append(
                SequenceStep(
                    sequence.session,
                    len(base),
                    base_hash(base),
                    base[:0],
                    first=len(base) + 1,
                    reveal=owed,
                )
            )
        return StepRequest(tuple(steps), replace(self._want, committed=True))

    async def close(self, sequences: Sequence[PanelSequence]) -> None:
        """Tell every expert that holds any of these that they are over; never fails."""

        async def tell(client: Asked) -> None:
            names = [s.session for s in sequences if s.is_open_at(client.hotkey)]
            if names:
                with contextlib.suppress(PeerError):
                    await client.close_sessions(names, timeout_s=CLOSE_TIMEOUT_S)

        await asyncio.gather(*map(tell, list(self._clients.values())))

    def _failed(self, hotkey: Hotkey, error: PanelError) -> PanelError:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._rests_until_s.get(hotkey, 0.0):  # else a call beside this one has counted
            failures = self._failures.get(hotkey, 0)
            self._failures[hotkey] = failures + 1
            rest_s = self._rest_s * 2 ** min(failures, MAX_REST_DOUBLINGS)
            self._rests_until_s[hotkey] = now_s + rest_s
        return error


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
