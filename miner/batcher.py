"""Joins what callers ask at the same time into one batch after another for the engine.

While a batch runs, the next one gathers; nobody waits for a batch to fill. Callers take turns, so
one with many requests delays the others by one request each round. The engine has a thread of its
own and is never called from anywhere else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from moesubnet.engine.base import Engine, Query
from moesubnet.errors import EngineError
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import StepRows, Want

MAX_BATCH_SEQUENCES = 256
MAX_BATCH_VALUES = 1 << 25  # float32 log-probabilities in one batch's answer: 128 MiB


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    queries: Sequence[Query]
    want: Want
    answer: asyncio.Future[list[StepRows]]

    @property
    def rows(self) -> int:
        return sum(len(query.ids) - query.first + 1 for query in self.queries)


class Batcher:
    """Runs one engine. Use it inside one event loop; `close` when no caller is left.

    on_batch: told (sequences, seconds) after every batch.
    """

    def __init__(
        self, engine: Engine, on_batch: Callable[[int, float], None] = lambda *_: None
    ) -> None:
        self._engine = engine
        self._on_batch = on_batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._waiting: OrderedDict[Hotkey, deque[_Job]] = OrderedDict()
        self._runner: asyncio.Task[None] | None = None

    async def rows(self, caller: Hotkey, queries: Sequence[Query], want: Want) -> list[StepRows]:
        """See `Engine.rows`; sessions must be distinct from those of every call under way."""
        job = _Job(queries, want, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(caller, deque()).append(job)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await job.answer

    def forget(self, session: str) -> None:
        """See `Engine.forget`; done between batches."""
        self._thread.submit(self._engine.forget, session)

    async def close(self) -> None:
        """Let what is waiting be answered, then end the thread."""
        if self._runner is not None:
            await self._runner
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        while jobs := self._next_batch():
            await self._answer(jobs)

    def _next_batch(self) -> list[_Job]:
        """One job of each caller in turn, the longest unserved first, as far as a batch holds and
        they want the same."""
        jobs: list[_Job] = []
        sequences = values = 0
        while self._waiting:
            caller, queue = next(iter(self._waiting.items()))
            while queue and queue[0].answer.done():  # its caller has left
                queue.popleft()
            if not queue:
                del self._waiting[caller]
                continue
            sequences += len(queue[0].queries)
            values += queue[0].rows * queue[0].want.width(self._engine.vocab_size)
            if jobs and (sequences > MAX_BATCH_SEQUENCES or values > MAX_BATCH_VALUES):
                break
            if jobs and queue[0].want != jobs[0].want:
                break
            jobs.append(queue.popleft())
            if queue:
                self._waiting.move_to_end(caller)
            else:
                del self._waiting[caller]
        return jobs

    async def _answer(self, jobs: Sequence[_Job]) -> None:
        queries = [query for job in jobs for query in job.queries]
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        running = self._thread.submit(self._compute, queries, jobs[0].want)
        await asyncio.wait([asyncio.wrap_future(running)])
        if running.exception() is not None and len(jobs) > 1:
            for job in jobs:  # one caller's request must not spoil the others'
                await self._answer([job])
            return
        self._on_batch(len(queries), loop.time() - start_s)
        begin = 0
        for job in jobs:
            _settle(job.answer, running, begin, begin + len(job.queries))
            begin += len(job.queries)

    def _compute(self, queries: Sequence[Query], want: Want) -> list[StepRows]:
        answers = self._engine.rows(queries, want)
        if len(answers) != len(queries):
            raise EngineError(f"the engine answered {len(answers)} of {len(queries)} queries")
        for query, rows in zip(queries, answers, strict=True):
            _check(query, rows, want, self._engine.vocab_size)
        return answers


def _check(query: Query, rows: StepRows, want: Want, vocab_size: int) -> None:
    """Raises EngineError, in words for who wrote the engine."""
    count = len(query.ids) - query.first + 1
    if want.kind == "full" and rows.logprobs.shape != (count, vocab_size):
        raise EngineError(f"the engine's rows are not float32 {(count, vocab_size)}")
    if (rows.ids is None) != (want.kind == "full") or rows.count != count:
        raise EngineError(f"the engine's answer is not {count} rows of what was wanted, {want}")
    if len(rows.draft_logprobs) != query.draft:
        raise EngineError("the engine gave no log-probability for each draft id")
    if not (np.isfinite(rows.logprobs).all() and np.isfinite(rows.draft_logprobs).all()):
        raise EngineError("the engine's log-probabilities are not finite")


def _settle(
    answer: asyncio.Future[list[StepRows]], done: Future[list[StepRows]], begin: int, end: int
) -> None:
    if answer.done():  # its caller has gone
        return
    error = done.exception()
    if error is None:
        answer.set_result(done.result()[begin:end])
    else:
        answer.set_exception(error)
