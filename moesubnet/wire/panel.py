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
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
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
from moesubnet.wire.patience import LEAST_PATIENCE_S, Awaited, Paces, deadline_s
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

    def step(
        self,
        request: StepRequest,
        *,
        timeout_s: float,
        on_its_way: Callable[[], None] = lambda: None,
    ) -> Awaitable[StepResponse]:
        """on_its_way: called when the request leaves, after any wait for a place of our own.

        Raises PeerError, WireError, AuthError; UnknownBase where it holds less than the base.
        """
        ...

    async def close_sessions(self, sessions: Sequence[str], *, timeout_s: float) -> None:
        """Say that these sessions are over. Raises PeerError."""
        ...


@dataclass(slots=True)
class _Call:
    """One `advance` or `reveal`: what it asks, and what has come of it."""

    sequences: Sequence[PanelSequence]
    build: Callable[[Asked], StepRequest]
    asked: Sequence[Hotkey]
    weights: Mapping[Hotkey, float] | None = None
    least_patience_s: float = LEAST_PATIENCE_S
    answers: dict[Hotkey, StepResponse | PanelError] = field(default_factory=dict)
    under_way: dict[Hotkey, asyncio.Future[StepResponse]] = field(default_factory=dict)
    awaited: Awaited = field(init=False)

    def __post_init__(self) -> None:
        self.awaited = Awaited(
            self.asked, self.weights, self.least_patience_s, lambda h: self.under_way[h].cancel()
        )

    def settle(self, hotkey: Hotkey, answer: StepResponse | PanelError) -> None:
        self.answers[hotkey] = answer
        self.awaited.came(hotkey, has_answered=isinstance(answer, StepResponse))


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

        return await self._hear(_Call(sequences, build, wanted, weights, least_patience_s))

    async def reveal(self, sequences: Sequence[PanelSequence]) -> dict[Hotkey, PanelError]:
        """Ask everybody for the leaves that are owed, and for nothing else: at the end of a walk
        (append its last token to the sequence first), or once more for what did not come.

        The errors of those who did not show theirs, which is final; `PanelSequence.said` has what
        the others showed.
        """

        def owing(hotkey: Hotkey) -> list[PanelSequence]:
            return [sequence for sequence in sequences if sequence.owed(hotkey)]

        async def ask(hotkey: Hotkey, owed: Sequence[PanelSequence]) -> StepResponse | PanelError:
            call = _Call(owed, lambda client: self._reveals(client, owed), [hotkey])
            return (await self._hear(call, rested=True))[hotkey]

        debtors = {hotkey: owed for hotkey in self._clients if (owed := owing(hotkey))}
        async with asyncio.TaskGroup() as group:
            tasks = {h: group.create_task(ask(h, owed)) for h, owed in debtors.items()}
        answers = {hotkey: task.result() for hotkey, task in tasks.items()}
        failed = {h: a for h, a in answers.items() if not isinstance(a, StepResponse)}
        for sequence in sequences:
            sequence.give_up(failed)
        return failed

    async def _hear(
        self, call: _Call, *, rested: bool = False
    ) -> dict[Hotkey, StepResponse | PanelError]:
        """Each one's answer or its error. No task for each: they are counted as they come."""
        try:
            for hotkey in call.asked:
                self._ask(hotkey, call, rested=rested)
            await call.awaited.over
        finally:
            if left := set(call.under_way.values()):
                for sent in left:
                    sent.cancel()
                await asyncio.wait(left)
        answers = call.answers
        return {h: answers[h] if h in answers else self._late(h) for h in call.asked}

    def _ask(self, hotkey: Hotkey, call: _Call, *, rested: bool) -> None:
        client = self._clients.get(hotkey)
        until_s = self._rests_until_s.get(hotkey)
        if client is None:
            call.settle(hotkey, PeerUnavailable("left the panel"))
        elif until_s is not None and not rested and call.awaited.loop.time() < until_s:
            call.settle(hotkey, PeerResting("resting after a failure"))
        else:
            self._send(client, call)

    def _send(self, client: Asked, call: _Call, *, is_again: bool = False) -> None:
        """One request, timed from when it is on its way."""
        loop, hotkey, request = call.awaited.loop, client.hotkey, call.build(client)
        tokens, patient_until_s = request.tokens, call.awaited.patient_until_s
        patience_s = self._paces.patience_s(hotkey, tokens)
        patient_until_s.pop(hotkey, None)

        def on_its_way() -> None:
            patient_until_s[hotkey] = loop.time() + patience_s

        alone_s = deadline_s(self._base_s, tokens)
        line = None if self._lines is None else self._lines[hotkey]
        if line is not None and request.is_prompt:
            sent: Awaitable[StepResponse] = line.send(
                partial(client.step, request),
                tokens,
                alone_s=alone_s,
                most_s=self._held_s,
                on_its_way=on_its_way,
            )
        else:
            timeout_s = alone_s if line is None else line.beside_s(alone_s)
            sent = client.step(request, timeout_s=timeout_s, on_its_way=on_its_way)
        call.under_way[hotkey] = future = asyncio.ensure_future(sent)
        future.add_done_callback(partial(self._came, client, call, request, patience_s, is_again))

    def _came(
        self,
        client: Asked,
        call: _Call,
        request: StepRequest,
        patience_s: float,
        is_again: bool,
        sent: asyncio.Future[StepResponse],
    ) -> None:
        hotkey, error = client.hotkey, None if sent.cancelled() else sent.exception()
        del call.under_way[hotkey]
        if call.awaited.over.done() or sent.cancelled():
            call.awaited.came(hotkey, has_answered=False)
            return
        try:
            if error is None:
                response = self._timed(hotkey, call, request, patience_s, sent.result())
                call.answers[hotkey] = self._taken(hotkey, call.sequences, request, response)
            elif isinstance(error, UnknownBase):
                self._missing(client, call, error, is_again=is_again)
            elif isinstance(error, PeerError | WireError | AuthError):
                call.answers[hotkey] = self._failed(hotkey, error)
            else:
                call.awaited.fail(error)
        finally:
            if hotkey not in call.under_way:
                answer = call.answers.get(hotkey)
                call.awaited.came(hotkey, has_answered=isinstance(answer, StepResponse))

    def _missing(self, client: Asked, call: _Call, error: UnknownBase, *, is_again: bool) -> None:
        """It holds less than we believed, and is asked once more from what it holds."""
        for sequence, held in zip(call.sequences, error.held_tokens, strict=True):
            if is_again:
                sequence.set_held(client.hotkey, 0)
            else:
                sequence.set_missing(client.hotkey, held)
        if is_again:
            call.answers[client.hotkey] = self._failed(client.hotkey, error)
        else:
            self._send(client, call, is_again=True)

    def _timed(
        self,
        hotkey: Hotkey,
        call: _Call,
        request: StepRequest,
        patience_s: float,
        response: StepResponse,
    ) -> StepResponse:
        """With how long it took."""
        until_s = call.awaited.patient_until_s.get(hotkey)
        if until_s is None:
            return response
        took_s = call.awaited.loop.time() - (until_s - patience_s)
        if request.ahead is None:  # which takes as long as it is given
            self._paces.took(hotkey, request.tokens, took_s)
        return StepResponse(response.rows, response.proof, took_s)

    def _taken(
        self,
        hotkey: Hotkey,
        sequences: Sequence[PanelSequence],
        request: StepRequest,
        response: StepResponse,
    ) -> StepResponse | PanelError:
        """An answer, once the sequences know of it."""
        for sequence, step in zip(sequences, request.sequences, strict=True):
            sequence.set_held(hotkey, step.end)
        try:
            _settle(hotkey, sequences, response)
        except BadReveal as error:
            return self._failed(hotkey, error)
        if request.ahead is not None:
            for sequence, rows in zip(sequences, response.rows, strict=True):
                sequence.append(rows.further[:-1])
                sequence.set_held(hotkey, len(sequence.ids))
        self._failures.pop(hotkey, None)
        return response

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
