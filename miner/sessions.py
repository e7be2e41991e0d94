"""What a miner remembers between steps: each caller's token ids, and recent answers for retries.

A session belongs to (sender, id), so nobody can touch another's. It holds ids only; the engine's
cache is a matter of speed and is told when a session is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from moesubnet.errors import UnknownBase
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
    """The ids of all open sessions; the oldest of the greediest caller go when memory ends.

    forget: called with the engine's name of each session that expires or is evicted.
    """

    def __init__(
        self,
        forget: Callable[[str], None],
        *,
        ttl_s: float = 300.0,
        budget_bytes: int = 64 << 20,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._forget = forget
        self._ttl_s = ttl_s
        self._budget_bytes = budget_bytes
        self._clock_s = clock_s
        self._callers: dict[Hotkey, OrderedDict[str, _Session]] = {}
        self._bytes: Counter[Hotkey] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._callers.values()))

    def has_open(self, caller: Hotkey) -> bool:
        self._expire()
        return caller in self._callers

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
        sessions = self._callers.setdefault(caller, OrderedDict())
        for step, sequence in zip(steps, ids, strict=True):
            old = sessions.pop(step.session, None)
            new = _Session(sequence, step.draft_start, self._clock_s())
            self._bytes[caller] += new.bytes - (old.bytes if old else 0)
            sessions[step.session] = new
        while self._bytes.total() > self._budget_bytes:
            self._drop_oldest(max(self._bytes, key=self._bytes.__getitem__))

    def close(self, caller: Hotkey, names: Collection[str]) -> None:
        """Drop sessions that their caller will not go on with; unknown names are fine."""
        for name in names:
            if name in self._callers.get(caller, ()):
                self._drop(caller, name)

    def _held(self, caller: Hotkey, step: SequenceStep) -> _Session | None:
        sessions = self._callers.get(caller)
        return None if sessions is None else sessions.get(step.base_session)

    def _base(self, caller: Hotkey, step: SequenceStep) -> Ids:
        session = self._held(caller, step)
        return np.empty(0, np.uint32) if session is None else session.ids[: step.base_len]

    def _known(self, caller: Hotkey, step: SequenceStep) -> int:
        """How much of a base is held: `base_len` when its hash agrees."""
        base = self._base(caller, step)
        if len(base) == step.base_len and base_hash(base) == step.base_hash:
            return step.base_len
        session = self._held(caller, step)
        if session is None or step.base_len <= session.firm_tokens:
            return 0  # these ids differ, nobody can say from where on
        return session.firm_tokens

    def _expire(self) -> None:
        oldest_s = self._clock_s() - self._ttl_s
        for caller, sessions in list(self._callers.items()):
            while sessions and next(iter(sessions.values())).used_s < oldest_s:
                self._drop_oldest(caller)

    def _drop_oldest(self, caller: Hotkey) -> None:
        self._drop(caller, next(iter(self._callers[caller])))

    def _drop(self, caller: Hotkey, name: str) -> None:
        self._bytes[caller] -= self._callers[caller].pop(name).bytes
        if not self._callers[caller]:
            del self._callers[caller], self._bytes[caller]
        self._forget(engine_session(caller, name))


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


class Exclusive:
    """Lets one step at a time into each session; a retry waits for the first try's answer."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._released = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, names: Collection[str]) -> AsyncIterator[None]:
        """All names are taken at once, so that two steps never wait for each other."""
        async with self._released:
            await self._released.wait_for(lambda: self._held.isdisjoint(names))
            self._held.update(names)
        try:
            yield
        finally:
            self._held.difference_update(names)
            async with self._released:
                self._released.notify_all()
