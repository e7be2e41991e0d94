"""The router's HTTP face: authentication, admission, and OpenAI's endpoints over a `Service`."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Sequence,
)

from aiohttp import web
from aiohttp.typedefs import Handler

from moesubnet.router import openai_api as api
from moesubnet.router.door import MAX_BODY_BYTES, STARTED, Admission, bearer_auth, errors
from moesubnet.router.service import Delta, Job, Service, run_all
from moesubnet.router.shapes import ChatShape, CompletionShape, Shape

log = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 30.0  # for a reader that takes nothing off a full connection
SERVICE: web.AppKey[Service] = web.AppKey("service")


def build_app(
    service: Service, *, api_keys: Sequence[str] = (), max_running: int = 64
) -> web.Application:
    """The aiohttp application. Without `api_keys` everyone is served: bind it to loopback."""
    app = web.Application(
        middlewares=[errors, bearer_auth(api_keys)], client_max_size=MAX_BODY_BYTES
    )
    app[SERVICE] = service
    admission = Admission(max_running)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/v1/models", _models)
    app.router.add_get("/v1/models/{model}", _model)
    app.router.add_get("/v1/moesubnet/experts", _experts)
    app.router.add_post("/v1/completions", _completions(admission))
    app.router.add_post("/v1/chat/completions", _chat(admission))
    return app


async def _healthz(request: web.Request) -> web.Response:
    status = request.app[SERVICE].health()
    return web.json_response(status, status=200 if status["ready"] else 503)


def _model_object(name: str, created_s: int) -> api.JsonObject:
    return {"id": name, "object": "model", "created": created_s, "owned_by": "moesubnet"}


async def _models(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    data = [_model_object(name, service.started_s) for name in service.models()]
    return web.json_response({"object": "list", "data": data})


async def _model(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    name = request.match_info["model"]
    service.require_model(name)
    return web.json_response(_model_object(name, service.started_s))


async def _experts(request: web.Request) -> web.Response:
    """Which experts are asked right now, and how they do. Not part of OpenAI's API."""
    return web.json_response({"experts": request.app[SERVICE].expert_table()})


def _completions(admission: Admission) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        service = request.app[SERVICE]
        body = api.parse_request(api.CompletionRequest, await admission.body(request))
        choices = len(body.prompts()) * body.n
        if choices > api.MAX_PROMPTS:
            raise api.ApiError(400, "Too many prompts × n for one request.", param="prompt")
        with admission.places(choices):
            prompts = [await service.prompt_ids(prompt) for prompt in body.prompts()]
            top, firsts = body.logprobs or 0, itertools.count(0, body.n)
            jobs = [service.jobs(body, ids, body.max_tokens, top, next(firsts)) for ids in prompts]
            shape = CompletionShape(body.model, with_logprobs=body.logprobs is not None)
            return await _answer(request, service, body, jobs, shape, sum(map(len, prompts)))

    return handle


def _chat(admission: Admission) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        service = request.app[SERVICE]
        body = api.parse_request(api.ChatRequest, await admission.body(request))
        with admission.places(body.n):
            ids = await service.chat_ids(body.messages)
            limit = body.completion_limit or service.room(ids)
            top = (body.top_logprobs or 0) if body.logprobs else 0
            jobs = [service.jobs(body, ids, limit, top)]
            shape = ChatShape(body.model, with_logprobs=body.logprobs)
            return await _answer(request, service, body, jobs, shape, len(ids))

    return handle


async def _answer(
    request: web.Request,
    service: Service,
    body: api.Sampling,
    jobs: Sequence[Sequence[Job]],
    shape: Shape,
    prompt_tokens: int,
) -> web.StreamResponse:
    """jobs: for each prompt its choices."""
    async with service.begin(jobs) as begun:
        if body.stream:
            deltas = _interleave([service.run(choice) for choice in begun])
            return await _stream(request, body, deltas, len(begun), shape, prompt_tokens)
        choices = await run_all(service.complete(choice) for choice in begun)
    answer = shape.envelope(shape.object)
    answer["choices"] = [shape.choice(i, choice.text, choice) for i, choice in enumerate(choices)]
    answer["usage"] = api.usage(prompt_tokens, sum(len(choice.tokens) for choice in choices))
    if body.moesubnet.provenance:
        answer["moesubnet"] = [api.provenance(choice.tokens) for choice in choices]
    return web.json_response(answer, headers=service.provenance_headers(choices))


async def _stream(
    request: web.Request,
    body: api.Sampling,
    deltas: AsyncGenerator[tuple[int, Delta], None],
    choices: int,
    shape: Shape,
    prompt_tokens: int,
) -> web.StreamResponse:
    """Server-sent events. A failure after the first byte is an `error` event, then the end."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    try:
        try:
            # The first delta comes before the status line, so early failures keep their status.
            first = await anext(deltas)
            request[STARTED] = True
            await response.prepare(request)
            for index in range(choices):
                if (opening := shape.opening(index)) is not None:
                    await _send(response, shape, [opening], body)
            completion_tokens = 0
            async for index, delta in _chain(first, deltas):
                completion_tokens += len(delta.tokens)
                await _send(response, shape, [shape.chunk_choice(index, delta)], body, delta)
            if body.stream_options and body.stream_options.include_usage:
                await _send(response, shape, [], body, usage=(prompt_tokens, completion_tokens))
            await _write(response, api.sse("[DONE]"))
        except api.ApiError as error:
            if not response.prepared:
                raise
            await _write(response, api.sse(error.body))
    except ConnectionResetError:
        log.debug("a reader has left")
    except TimeoutError:
        log.debug("a reader takes nothing")
        if request.transport is not None:
            request.transport.abort()
    finally:
        await deltas.aclose()
    return response


async def _send(
    response: web.StreamResponse,
    shape: Shape,
    choices: list[api.JsonObject],
    body: api.Sampling,
    delta: Delta | None = None,
    usage: tuple[int, int] | None = None,
) -> None:
    chunk = shape.envelope(shape.chunk_object)
    chunk["choices"] = choices
    if body.stream_options and body.stream_options.include_usage:
        chunk["usage"] = api.usage(*usage) if usage else None
    if delta is not None and body.moesubnet.provenance:
        chunk["moesubnet"] = api.provenance(delta.tokens)
    await _write(response, api.sse(chunk))


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(data)


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
