"""Answering a request: hold its price, write its choices, whole or as a stream, settle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import replace

from aiohttp import web

from moesubnet.router import openai_api as api
from moesubnet.router.accounts import Account
from moesubnet.router.billing import Answered, Billing, Holding
from moesubnet.router.choices import Begun, Delta, Job, parts_of, receipts_of, usage_of
from moesubnet.router.door import ARRIVED_S, KEY, REPEATABLE, REQUEST_ID, STARTED, USED
from moesubnet.router.feedback import RATINGS
from moesubnet.router.ledger import Usage
from moesubnet.router.repeats import Answer
from moesubnet.router.service import Service, run_all
from moesubnet.router.shapes import Shape
from moesubnet.router.tracing import describe, note_first_token
from moesubnet.router.writing import provenance_headers

BILLING: web.AppKey[Billing] = web.AppKey("billing")
ACCOUNT: web.RequestKey[Account] = web.RequestKey("account", Account)  # after holding
EVENT_STREAM = "text/event-stream; charset=utf-8"
MAX_KEPT_BYTES = 2**20  # of an answer under an Idempotency-Key; a longer one is not repeated
WRITE_TIMEOUT_S = 30.0  # for a reader that takes nothing off a full connection

log = logging.getLogger(__name__)


def may_use(request: web.Request, model: str) -> bool:
    """Whether the caller's key is for this model."""
    key = request.get(KEY)
    return key is None or key.models is None or model in key.models


async def answer(
    request: web.Request,
    service: Service,
    jobs: Sequence[Sequence[Job]],
    shape: Shape,
    *,
    stream: bool,
) -> web.StreamResponse:
    """jobs: for each prompt its choices, all of one model."""
    arrived_s, model = request[ARRIVED_S], jobs[0][0].model
    prompt_tokens = sum(len(choices[0].prompt_ids) for choices in jobs)
    if not may_use(request, model):
        text = f"This key may not use the model '{model}'."
        raise api.ApiError(403, text, code="model_not_allowed", param="model")
    started: list[Begun] = []  # outlives the sessions: it says what they used
    holding: Holding | None = None
    async with contextlib.AsyncExitStack() as stack:
        key = request.get(KEY)

        def used() -> Usage:
            return usage_of(model, prompt_tokens, started)

        def end() -> None:
            request[USED] = whole = used()
            service.metrics.used(whole, charged=key is not None)
            describe(request, whole)
            if key is not None and (book := request.app.get(RATINGS)) is not None:
                book.answered(shape.id, key.id, whole.rao, parts_of(started))

        stack.callback(end)
        if key is not None:
            cost, repeatable = service.largest_cost(jobs), request.get(REPEATABLE)
            try:
                held = request.app[BILLING].held(
                    key, cost, lambda: replace(used(), receipts=receipts_of(started)), repeatable
                )
                holding = await stack.enter_async_context(held)
            except Answered as before:
                return _again(before.answer)
            request[ACCOUNT] = holding.account
        begun = await stack.enter_async_context(service.begin(jobs, arrived_s))
        started += begun
        if stream:
            deltas = _interleave([service.writer.run(choice) for choice in begun])
            keep = Kept() if REPEATABLE in request else None
            response = await _stream(request, deltas, begun, shape, prompt_tokens, keep)
            if holding is not None and keep is not None:
                holding.answer = keep.answer
            return response
        choices = await run_all(service.writer.complete(choice) for choice in begun)
        tokens = sum(len(choice.tokens) for choice in choices)
        headers = provenance_headers(begun, tokens) | _overhead(arrived_s, started)
        whole = web.json_response(shape.whole(choices, prompt_tokens), headers=headers)
        if (
            holding is not None
            and REPEATABLE in request
            and len(whole.text or "") <= MAX_KEPT_BYTES
        ):
            holding.answer = Answer("application/json", str(whole.text))
    return whole


def _again(answer: Answer) -> web.Response:
    """An answer that was given before."""
    kind, _, _ = answer.content_type.partition(";")
    headers = {"Idempotent-Replayed": "true", "Cache-Control": "no-cache"}
    return web.Response(text=answer.content, content_type=kind, charset="utf-8", headers=headers)


class Kept:
    """The frames of a stream as they were sent. answer: once it is whole, unless it is too long."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._bytes = 0
        self.answer: Answer | None = None

    def add(self, frame: bytes) -> None:
        self._bytes += len(frame)
        if self._bytes <= MAX_KEPT_BYTES:
            self._frames.append(frame)

    def end(self) -> None:
        if self._bytes <= MAX_KEPT_BYTES:
            self.answer = Answer(EVENT_STREAM, b"".join(self._frames).decode())


def _overhead(arrived_s: float, begun: Sequence[Begun]) -> dict[str, str]:
    """What the request took so far, less the time that experts took."""
    waited_s = max(choice.session.waited_s for choice in begun)
    overhead_s = time.monotonic() - arrived_s - waited_s
    return {"x-moesubnet-overhead-ms": f"{max(0.0, overhead_s) * 1e3:.1f}"}


async def _stream(
    request: web.Request,
    deltas: AsyncGenerator[tuple[int, Delta], None],
    begun: Sequence[Begun],
    shape: Shape,
    prompt_tokens: int,
    kept: Kept | None,
) -> web.StreamResponse:
    """Server-sent events. A failure after the first byte is an event, then the end."""
    response = web.StreamResponse(
        headers={"Content-Type": EVENT_STREAM, "Cache-Control": "no-cache"}
    )

    ready: list[tuple[int, Delta]] = []  # what leaves together

    async def write(frames: Iterable[bytes]) -> None:
        parts = list(frames)
        if kept is not None:
            for frame in parts:
                kept.add(frame)
        if parts:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await response.write(b"".join(parts))

    async def send() -> None:
        frames: list[bytes] = []
        for index, delta in ready:
            begun[index].sent(delta.tokens)
            frames += shape.piece(index, delta)
        ready.clear()
        await write(frames)

    try:
        try:
            # The first delta comes before the status line, so early failures keep their status.
            first = await anext(deltas)
            request[STARTED] = True
            note_first_token(request)
            response.headers.update(_overhead(request[ARRIVED_S], begun))
            await response.prepare(request)
            await write(shape.opening())
            async for index, delta in _chain(first, deltas):
                if not delta.is_empty:
                    ready.append((index, delta))
                if not delta.goes_on:
                    await send()
            await write(shape.closing(prompt_tokens, sum(choice.delivered for choice in begun)))
            if kept is not None:
                kept.end()
        except (api.ApiError, *api.UNAVAILABLE) as error:
            if not response.prepared:
                raise
            shown = error if isinstance(error, api.ApiError) else api.unavailable(error)
            log.warning("request id=%s broke off: %s", request[REQUEST_ID], error)
            await send()
            await write(shape.failure(shown))
    except ConnectionResetError:
        log.debug("a reader has left")
    except TimeoutError:
        log.debug("a reader takes nothing")
        if request.transport is not None:
            request.transport.abort()
    finally:
        await deltas.aclose()
    return response


async def _chain(
    first: tuple[int, Delta], rest: AsyncIterator[tuple[int, Delta]]
) -> AsyncIterator[tuple[int, Delta]]:
    yield first
    async for item in rest:
        yield item


async def _interleave(
    streams: Sequence[AsyncGenerator[Delta, None]],
) -> AsyncGenerator[tuple[int, Delta], None]:
    """(index, delta) of several streams as they come, each at most one ahead of the reader.

    The first failure of any is raised; whatever ends this ends them all.
    """
    if len(streams) == 1:
        async with contextlib.aclosing(streams[0]) as alone:
            async for piece in alone:
                yield 0, piece
        return

    async def step(index: int) -> tuple[int, Delta | None]:
        return index, await anext(streams[index], None)

    steps = {asyncio.create_task(step(index)) for index in range(len(streams))}
    try:
        while steps:
            done, _ = await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index, delta = task.result()
                steps.remove(task)
                if delta is not None:
                    steps.add(asyncio.create_task(step(index)))
                    yield index, delta
    finally:
        for task in steps:
            task.cancel()
        await asyncio.gather(*steps, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
