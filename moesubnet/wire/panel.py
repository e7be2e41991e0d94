"""Asking many experts about the same sequences in lockstep: how router, validator and distiller
move through text.

The caller owns the sequences; the panel remembers how much of each every expert holds and sends
the rest, so an expert that failed, restarted or just joined catches up by itself. An expert can
be slow, dead, wrong or lying: it loses its own answer and nobody else's (`hearing`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from numpy.typing import ArrayLike

from moesubnet.errors import PeerError
from moesubnet.types import Hotkey
from moesubnet.wire.ahead import Ahead
from moesubnet.wire.asked import Asked, PanelError
from moesubnet.wire.hearing import Hearing, Question, Rests
from moesubnet.wire.line import Line
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.patience import LEAST_PATIENCE_S, Paces
from moesubnet.wire.protocol import SequenceStep, StepRequest, StepResponse, Want, base_hash

_Requests = dict[tuple[object, ...], StepRequest]  # by what an expert lacks, commits to and owes
CLOSE_TIMEOUT_S = 2.0  # nobody waits for much to hear that something is over


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
        self._want, self._uncommitted = want, replace(want, committed=False)
        self._how = Hearing(clients, base_s, paces or Paces(), Rests(rest_s), lines, held_s)

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

        return await Question(
            self._how,
            sequences,
            wanted,
            build,
            weights=weights,
            least_patience_s=least_patience_s,
        ).answers()

    async def reveal(self, sequences: Sequence[PanelSequence]) -> dict[Hotkey, PanelError]:
        """Ask everybody for the leaves that are owed, and for nothing else: at the end of a walk
        (append its last token to the sequence first), or once more for what did not come.

        The errors of those who did not show theirs, which is final; `PanelSequence.said` has what
        the others showed.
        """

        def owing(hotkey: Hotkey) -> list[PanelSequence]:
            return [sequence for sequence in sequences if sequence.owed(hotkey)]

        async def ask(hotkey: Hotkey, owed: Sequence[PanelSequence]) -> StepResponse | PanelError:
            question = Question(
                self._how, owed, [hotkey], lambda client: self._reveals(client, owed), rested=True
            )
            return (await question.answers())[hotkey]

        debtors = {hotkey: owed for hotkey in self._clients if (owed := owing(hotkey))}
        async with asyncio.TaskGroup() as group:
            tasks = {h: group.create_task(ask(h, owed)) for h, owed in debtors.items()}
        answers = {hotkey: task.result() for hotkey, task in tasks.items()}
        failed = {h: a for h, a in answers.items() if not isinstance(a, StepResponse)}
        for sequence in sequences:
            sequence.give_up(failed)
        return failed

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
