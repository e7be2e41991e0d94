"""Joins what callers ask at the same time into one batch after another for the engine.

While a batch runs, the next one gathers. A batch of steps waits a moment for the streams that are
about to be back (`Returns`), else nobody waits for one to fill. Callers take turns, so one with
many requests delays the others by one request each round. Work has two classes: steps of a few
tokens, and prompts. They take turns too, and of prompts a batch reads no more than takes as long
as a few steps, so that a long one delays steps by that and not by its length. Texts of one caller
that begin together are read before the first of them goes on, or each would be written a few
passes ahead of the next. The engine has a thread of its own and is never called from anywhere else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from moesubnet.engine.base import Engine, Query
from moesubnet.errors import EngineError
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import StepRows, Want, is_short
from moesubnet.wire.returns import Returns

MAX_BATCH_SEQUENCES = 256
MAX_BATCH_VALUES = 1 << 25  # float32 log-probabilities in one batch's answer: 128 MiB
LEAST_CHUNK_TOKENS, FIRST_CHUNK_TOKENS, MOST_CHUNK_TOKENS = 32, 256, 2_048  # of prompts a batch
# A chunk that took longer than so many steps is followed by a smaller one. Small ones are dear (a
# token of a model of 135 M parameters costs 5.8 ms in chunks of 32, 3.8 in 128, 3.2 in 256), so
# they are for when steps come in between.
CHUNK_STEPS, ALONE_CHUNK_STEPS, LEAST_ALONE_TOKENS = 5, 16, 128
MOST_CHUNK_S = 1.0  # however long steps take: a router waits some seconds for each of them
LATELY_S = 2.0


@dataclass(slots=True, eq=False)
class _Job:
    """What one call asks, and how far it is answered.

    read: for each query, how many of its inputs (the context token, then its ids) the engine has.
    leaves: whether the answer leaves the house.
    """

    caller: Hotkey
    queries: Sequence[Query]
    want: Want
    read: list[int]
    answer: asyncio.Future[list[StepRows]]
    leaves: bool
    rows: list[list[StepRows]] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = [[] for _ in self.queries]

    @property
    def row_count(self) -> int:
        return sum(len(query.ids) - query.first + 1 for query in self.queries)

    def values(self, vocab_size: int) -> int:
        """How many log-probabilities its answer holds at most."""
        return self.row_count * self.want.width(vocab_size)

    @property
    def left(self) -> list[int]:
        """Of each query, the inputs that have not been read."""
        return [len(q.ids) + 1 - read for q, read in zip(self.queries, self.read, strict=True)]

    def pieces(self, tokens: int) -> list[tuple[int, Query]]:
        """What to ask next, by index of its query: up to `tokens` inputs, but a draft whole."""
        found = []
        for index, (query, left) in enumerate(zip(self.queries, self.left, strict=True)):
            size = min(tokens, left)
            if size > 0:
                read, end = self.read[index], len(query.ids)
                last = read + size - 1
                if end - query.draft <= last < end:  # a cut in the draft, or right before it
                    last = end if read == end - query.draft else end - query.draft - 1
                first = min(last, max(query.first, read))
                piece = replace(query, ids=query.ids[:last], first=first)
                found.append((index, piece if last == end else replace(piece, draft=0)))
                tokens -= size
        return found

    def take(self, index: int, piece: Query, rows: StepRows) -> None:
        """Note a piece's rows; of one that ends before `first` its last law was not asked for."""
        self.read[index] = len(piece.ids) + 1
        if self.queries[index].first <= len(piece.ids):
            self.rows[index].append(rows)

    def settle(self, error: BaseException | None = None) -> bool:
        """Answer if all is read, or with the error; whether nothing is left to do."""
        if self.answer.done():  # its caller has gone
            return True
        if error is not None:
            self.answer.set_exception(error)
        elif not any(self.left):
            self.answer.set_result([StepRows.joined(parts) for parts in self.rows])
        return self.answer.done()


_Pieces = list[tuple[_Job, list[tuple[int, Query]]]]


class _Turns:
    """Waiting jobs. Callers take turns, and so do a caller's jobs that are not done at once."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hotkey, deque[_Job]] = OrderedDict()

    def add(self, job: _Job, *, is_next: bool = False) -> None:
        """is_next: before its caller's other jobs."""
        jobs = self._waiting.setdefault(job.caller, deque())
        (jobs.appendleft if is_next else jobs.append)(job)

    def of(self, caller: Hotkey) -> Iterable[_Job]:
        """A caller's jobs."""
        return (job for job in self._waiting.get(caller, ()) if not job.answer.done())

    def all(self) -> Iterable[_Job]:
        return (job for caller in self._waiting for job in self.of(caller))

    def head(self) -> _Job | None:
        """The next job whose caller has not left."""
        while self._waiting:
            caller, queue = next(iter(self._waiting.items()))
            while queue and queue[0].answer.done():
                queue.popleft()
            if queue:
                return queue[0]
            del self._waiting[caller]
        return None

    def pop(self) -> None:
        """Take the head away; its caller's turn comes again after the others'."""
        caller, queue = self._waiting.popitem(last=False)
        queue.popleft()
        if queue:
            self._waiting[caller] = queue


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
        self._steps, self._prompts = _Turns(), _Turns()
        self._in_chunks = getattr(engine, "caches", False)
        self._held: Callable[[Query], int] | None = getattr(engine, "held", None)
        self._chunk_tokens = FIRST_CHUNK_TOKENS
        self._stepped_s = -LATELY_S
        self._returns = Returns()
        self._begun_s: OrderedDict[str, float] = OrderedDict()  # when a session's prompt was read
        self._came = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None

    async def rows(
        self,
        caller: Hotkey,
        queries: Sequence[Query],
        want: Want,
        known: Sequence[int] | None = None,
        *,
        leaves: bool = True,
    ) -> list[StepRows]:
        """See `Engine.rows`; sessions must be distinct from those of every call under way.

        known: how many ids of each query the engine should hold; None for none. leaves: False
        where we go on from the answer ourselves, which says nothing of how soon callers are back.
        """
        loop = asyncio.get_running_loop()
        self._returns.came((query.session for query in queries), loop.time())
        held = known or [0] * len(queries)
        new = [len(query.ids) - k for k, query in zip(held, queries, strict=True)]
        if self._held is not None and not is_short(new):
            # It may go on from what another session has read: a chat's next turn does.
            found = await loop.run_in_executor(self._thread, list, map(self._held, queries))
            held = list(map(max, held, found))
        read = [min(k, query.first_law) for k, query in zip(held, queries, strict=True)]
        job = _Job(caller, queries, want, read, loop.create_future(), leaves)
        (self._steps if is_short(job.left) else self._prompts).add(job)
        self._came.set()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await job.answer

    def forget(self, session: str) -> None:
        """See `Engine.forget`; done between batches."""
        self._returns.forget(session)
        self._begun_s.pop(session, None)
        self._came.set()
        self._thread.submit(self._engine.forget, session)

    async def close(self) -> None:
        """Let what is waiting be answered, then end the thread."""
        if self._runner is not None:
            await self._runner
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            is_put_off = self._steps_wait_for_prompts(loop.time())
            steps: _Pieces = []
            if not is_put_off:
                await self._wait_for_those_about_to_be_back()
                since_s = loop.time()
                steps = self._next_steps()
                await self._answer(steps)
            if steps:
                self._stepped_s = loop.time()
                self._returns.took(self._stepped_s - since_s)
                self._leave(steps)
                if not all(job.leaves for job, _ in steps):
                    await asyncio.sleep(0)  # who goes on in the house is back at once
            prompts = self._next_prompts()
            begin_s = loop.time()
            await self._answer(prompts)
            now_s = loop.time()
            self._fit_chunk(now_s - begin_s, begin_s > self._stepped_s + LATELY_S)
            for session in self._leave(prompts):
                self._begun_s[session] = now_s
                self._begun_s.move_to_end(session)
            if not steps and not prompts:
                return

    def _leave(self, batch: _Pieces) -> list[str]:
        """Note the sessions of a batch that have been answered, and may be back."""
        jobs = (job for job, _ in batch if job.leaves and job.answer.done())
        sessions = [query.session for job in jobs for query in job.queries]
        self._returns.left(sessions, asyncio.get_running_loop().time())
        return sessions

    def _steps_wait_for_prompts(self, now_s: float) -> bool:
        """Whether none has a step but texts that have just begun, and short ones of their callers'
        are about to. They wait as long as a chunk of prompts may take where nobody has a step."""
        most_s = min(ALONE_CHUNK_STEPS * self._returns.parted_s, MOST_CHUNK_S)
        while self._begun_s and next(iter(self._begun_s.values())) + most_s <= now_s:
            self._begun_s.popitem(last=False)
        waiting = list(self._steps.all())
        return bool(waiting) and all(
            any(sum(other.left) <= FIRST_CHUNK_TOKENS for other in self._prompts.of(job.caller))
            and all(query.session in self._begun_s for query in job.queries)
            for job in waiting
        )

    async def _wait_for_those_about_to_be_back(self) -> None:
        loop = asyncio.get_running_loop()
        while self._steps.head() and (due_s := self._returns.due_s(loop.time())) > loop.time():
            self._came.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due_s):
                    await self._came.wait()

    def _next_steps(self) -> _Pieces:
        """Whole jobs that want the same, as far as a batch holds."""
        batch: _Pieces = []
        sequences = values = 0
        while (job := self._steps.head()) is not None:
            sequences += len(job.queries)
            values += job.values(self._engine.vocab_size)
            if batch and (sequences > MAX_BATCH_SEQUENCES or values > MAX_BATCH_VALUES):
                break
            if batch and job.want != batch[0][0].want:
                break
            self._steps.pop()
            batch.append((job, list(enumerate(job.queries))))
        return batch

    def _next_prompts(self) -> _Pieces:
        """Jobs that want the same, of one chunk together, or a part of one; a whole job where a
        part costs as much. A chunk is not filled up with parts, each of which is a pass."""
        batch: _Pieces = []
        tokens, values = self._chunk_tokens, 0
        while tokens > 0 and (job := self._prompts.head()) is not None:
            values += job.values(self._engine.vocab_size)
            if batch and (values > MAX_BATCH_VALUES or job.want != batch[0][0].want):
                break
            left = sum(job.left)
            if batch and left > tokens:
                break
            self._prompts.pop()
            batch.append((job, job.pieces(tokens if self._in_chunks else left)))
            tokens -= left
        return batch

    def _fit_chunk(self, took_s: float, is_alone: bool) -> None:
        """Halve what took too long, double what was full and short."""
        step_s = self._returns.parted_s  # 0: nothing is known yet
        most_s = (ALONE_CHUNK_STEPS if is_alone else CHUNK_STEPS) * step_s or MOST_CHUNK_S
        most_s = min(most_s, MOST_CHUNK_S)
        least = LEAST_ALONE_TOKENS if is_alone else LEAST_CHUNK_TOKENS
        if took_s > most_s:
            self._chunk_tokens = max(least, self._chunk_tokens // 2)
        elif step_s and took_s < most_s / 2 and self._prompts.head():
            self._chunk_tokens = min(MOST_CHUNK_TOKENS, self._chunk_tokens * 2)

    async def _answer(self, batch: _Pieces) -> None:
        """Compute the pieces; jobs that are not done by that wait for their next turn."""
        if not batch:
            return
        queries = [query for _, pieces in batch for _, query in pieces]
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        computing = loop.run_in_executor(self._thread, self._compute, queries, batch[0][0].want)
        [laws] = await asyncio.gather(computing, return_exceptions=True)
        if isinstance(laws, BaseException):
            if len(batch) == 1:
                batch[0][0].settle(laws)
                return
            for part in batch:  # one caller's request must not spoil the others'
                await self._answer([part])
            return
        self._on_batch(len(queries), loop.time() - start_s)
        given = iter(laws)
        for job, pieces in batch:
            for index, piece in pieces:
                job.take(index, piece, next(given))
            if not job.settle():  # what is nearly read has its answer before the next begins
                self._prompts.add(job, is_next=sum(job.left) <= self._chunk_tokens)

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
    if rows.ends is not None and bool((np.diff(rows.ends, prepend=0) < 1).any()):
        raise EngineError("the engine gave a row in which no token has a probability")
    if len(rows.draft_logprobs) != query.draft:
        raise EngineError("the engine gave no log-probability for each draft id")
    if not (np.isfinite(rows.logprobs).all() and np.isfinite(rows.draft_logprobs).all()):
        raise EngineError("the engine's log-probabilities are not finite")
