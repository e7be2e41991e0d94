"""What a miner remembers between steps: each caller's token ids, and recent answers for retries.

A session belongs to (sender, id), so nobody can touch another's. It holds ids only; the engine's
cache is a matter of speed and is told when a session is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from moesubnet.errors import UnknownBase
from moesubnet.miner.fair import FairStore
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import Ids, SequenceStep, base_hash

SESSION_OVERHEAD_BYTES = 512
MAX_ANSWER_SHARE = 4  # an answer above this part of the budget is not kept: retries recompute it


def engine_session(caller: Hotkey, session: str) -> str:
    """The name under which the engine knows a caller's session."""
    return f"{caller}/{session}"


@dataclass(slots=True)
class _Session:
    ids: Ids  # draft included
    firm_tokens: int  # of these the caller surely knows, whatever became of the draft
    used_s: float

    @property
    def bytes(self) -> int:
        return self.ids.nbytes + SESSION_OVERHEAD_BYTES


class SessionTable:
    """The ids of all open sessions.

    forget: called with the caller and name of each session that expires or is evicted.
    """

    def __init__(
        self,
        forget: Callable[[Hotkey, str], None],
        *,
        ttl_s: float = 300.0,
        budget_bytes: int = 64 << 20,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        self._clock_s = clock_s
        self._sessions: FairStore[_Session] = FairStore(budget_bytes, forget)

    def __len__(self) -> int:
        return len(self._sessions)

    def has_open(self, caller: Hotkey) -> bool:
        self._expire()
        return self._sessions.oldest(caller) is not None

    def extend(self, caller: Hotkey, steps: Sequence[SequenceStep]) -> list[Ids]:
        """The whole ids of each sequence, draft included; nothing is kept yet.

        Raises UnknownBase, with how many ids of each sequence are still held, if any base is not.
        """
        self._expire()
        known = [self._known(caller, step) for step in steps]
        if any(tokens < step.base_len for tokens, step in zip(known, steps, strict=True)):
            raise UnknownBase(tuple(known))
        return [
            np.concatenate((self._base(caller, step), step.append_ids, step.draft_ids))
            for step in steps
        ]

    def keep(self, caller: Hotkey, steps: Sequence[SequenceStep], ids: Sequence[Ids]) -> None:
        """Remember the sequences of a step that was answered."""
        for step, sequence in zip(steps, ids, strict=True):
            session = _Session(sequence, step.draft_start, self._clock_s())
            self._sessions.put(caller, step.session, session, session.bytes)

    def close(self, caller: Hotkey, names: Collection[str]) -> None:
        """Drop sessions that their caller will not go on with; unknown names are fine."""
        for name in names:
            self._sessions.drop(caller, name)

    def _base(self, caller: Hotkey, step: SequenceStep) -> Ids:
        session = self._sessions.get(caller, step.base_session)
        return np.empty(0, np.uint32) if session is None else session.ids[: step.base_len]

    def _known(self, caller: Hotkey, step: SequenceStep) -> int:
        """How much of a base is held: `base_len` when its hash agrees."""
        base = self._base(caller, step)
        if len(base) == step.base_len and base_hash(base) == step.base_hash:
            return step.base_len
        session = self._sessions.get(caller, step.base_session)
        if session is None or step.base_len <= session.firm_tokens:
            return 0  # these ids differ, nobody can say from where on
        return session.firm_tokens

    def _expire(self) -> None:
        oldest_s = self._clock_s() - self._ttl_s
        for caller in self._sessions.callers():
            while (session := self._sessions.oldest(caller)) and session.used_s < oldest_s:
                self._sessions.drop_oldest(caller)


class AnswerTable:
    """Recent answers by (caller, SHA-256 of the request's body): a retry gets the same bytes."""

    def __init__(self, budget_bytes: int = 16 << 20) -> None:
        self._budget_bytes = budget_bytes
        self._bytes = 0
        self._answers: OrderedDict[tuple[Hotkey, bytes], bytes] = OrderedDict()

    def get(self, caller: Hotkey, body_sha256: bytes) -> bytes | None:
        return self._answers.get((caller, body_sha256))

    def keep(self, caller: Hotkey, body_sha256: bytes, answer: bytes) -> None:
        if len(answer) > self._budget_bytes // MAX_ANSWER_SHARE:
            return
        replaced = self._answers.pop((caller, body_sha256), b"")
        self._answers[caller, body_sha256] = answer
        self._bytes += len(answer) - len(replaced)
        while self._bytes > self._budget_bytes:
            self._bytes -= len(self._answers.popitem(last=False)[1])


@dataclass(slots=True, eq=False)
class _Turn:
    names: frozenset[str]
    come: asyncio.Future[None]


class Exclusive:
    """Lets one step at a time into each session; a retry waits for the first try's answer.

    Each session has a line, and a step stands in those of all its sessions at once: it is its turn
    when it is the first in every one. So no two ever wait for each other.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[_Turn]] = {}

    @asynccontextmanager
    async def hold(self, names: Collection[str]) -> AsyncIterator[None]:
        turn = _Turn(frozenset(names), asyncio.get_running_loop().create_future())
        for name in turn.names:
            self._lines.setdefault(name, deque()).append(turn)
        try:
            if not self._is_first(turn):
                await turn.come
            yield
        finally:  # without awaiting: who is cancelled once more must not leave the others asleep
            self._leave(turn)

    def _is_first(self, turn: _Turn) -> bool:
        return all(self._lines[name][0] is turn for name in turn.names)

    def _leave(self, turn: _Turn) -> None:
        next_ = []
        for name in turn.names:
            line = self._lines[name]
            was_first = line[0] is turn
            line.remove(turn)
            if not line:
                del self._lines[name]
            elif was_first:
                next_.append(line[0])
        for other in next_:
            if not other.come.done() and self._is_first(other):
                other.come.set_result(None)
