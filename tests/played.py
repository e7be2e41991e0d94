"""A model whose passes take a time of their own, on a clock that does not wait (`virtual_time`)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from moesubnet.engine.base import Query
from moesubnet.wire.protocol import StepRows, Want

PASS_S, STREAM_S, TOKEN_S = 0.055, 0.0085, 0.0032  # as SmolLM2-135M takes on a CPU


@dataclass
class Played:
    """An engine. A pass takes `pass_s`, `stream_s` for each sequence and `token_s` for each token
    of one after the first; its laws are even.

    Attributes: steps, sequences of each pass of one token each; prompts, tokens of each other.
    """

    pass_s: float = PASS_S
    stream_s: float = STREAM_S
    token_s: float = TOKEN_S
    vocab_size: int = 4
    context_tokens: int = 4_096
    name: str = "played"
    commitment: str = "ab" * 32
    caches: bool = True
    steps: list[int] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    busy_s: float = 0.0
    read: dict[str, int] = field(default_factory=dict)

    def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        even = -np.log(self.vocab_size)
        shapes = [(len(q.ids) - q.first + 1, self.vocab_size) for q in batch]
        self.read |= {query.session: len(query.ids) + 1 for query in batch}
        return [
            q.answer(np.full(shape, even, np.float32), want)
            for q, shape in zip(batch, shapes, strict=True)
        ]

    def forget(self, session: str) -> None:
        self.read.pop(session, None)

    def takes_s(self, batch: Sequence[Query]) -> float:
        new = sum(len(q.ids) + 1 - min(self.read.get(q.session, 0), q.first) for q in batch)
        (self.prompts if new > len(batch) else self.steps).append(max(new, len(batch)))
        takes_s = self.pass_s + self.stream_s * len(batch) + self.token_s * (new - len(batch))
        self.busy_s += takes_s
        return takes_s


class Thread(Executor):
    """What the batcher believes to be the engine's thread: one thing after the other."""

    def __init__(self, engine: Played) -> None:
        self._engine = engine
        self._waiting: deque[tuple[Callable[[], Any], float, Future[Any]]] = deque()
        self._runner: asyncio.Task[None] | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        takes_s = self._engine.takes_s(args[0]) if fn.__name__ == "_compute" else 0.0
        self._waiting.append((partial(fn, *args), takes_s, future))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.get_running_loop().create_task(self._run())
        return future

    async def _run(self) -> None:
        while self._waiting:
            work, takes_s, future = self._waiting.popleft()
            result = work()
            await asyncio.sleep(takes_s)
            if not future.cancelled():
                future.set_result(result)
