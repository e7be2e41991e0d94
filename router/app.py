"""The router's HTTP face: authentication, admission, and OpenAI's endpoints over a `Service`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Sequence,
)

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST

from moesubnet.router import openai_api as api
from moesubnet.router.accounts import Account
from moesubnet.router.billing import Billing, rate_headers
from moesubnet.router.door import (
    ARRIVED_S,
    KEY,
    MAX_BODY_BYTES,
    STARTED,
    Admission,
    bearer_auth,
    errors,
    measured,
)
from moesubnet.router.ledger import Usage
from moesubnet.router.page import add_page
from moesubnet.router.service import Begun, Delta, Job, Service, run_all, usage_of
from moesubnet.router.shapes import ChatShape, CompletionShape, Shape

log = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 30.0  # for a reader that takes nothing off a full connection
SERVICE: web.AppKey[Service] = web.AppKey("service")
BILLING: web.AppKey[Billing] = web.AppKey("billing")
ACCOUNT: web.RequestKey[Account] = web.RequestKey("account", Account)  # after holding


def build_app(
    service: Service,
    *,
    api_keys: Sequence[str] = (),
    billing: Billing | None = None,
    max_running: int = 64,
) -> web.Application:
    """The aiohttp application. Without keys of either kind everyone is served: bind it to loopback.

    api_keys: spend without limit and are not metered; the keys of `billing` have budgets.
    """
    app = web.Application(
        middlewares=[measured(service.metrics), errors, bearer_auth(api_keys, billing)],
        client_max_size=MAX_BODY_BYTES,
    )
    app[SERVICE] = service
    app.on_response_prepare.append(_say_rates)
    admission = Admission(max_running)

    async def live(_: web.Request) -> web.Response:
        """Counts for the page. Not part of OpenAI's API."""
        return web.json_response(service.live() | {"running": admission.running})

    service.metrics.watch(lambda: admission.running, lambda: service.health()["experts_serving"])
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/v1/models", _models)
    app.router.add_get("/v1/models/{model}", _model)
    app.router.add_get("/v1/moesubnet/experts", _experts)
    app.router.add_get("/v1/moesubnet/epochs", _epochs)
    app.router.add_get("/v1/moesubnet/live", live)
    add_page(app)
    if billing is not None:
        app[BILLING] = billing
        app.router.add_get("/v1/key", _own_key)
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
    names = [name for name in service.models() if _may_use(request, name)]
    data = [_model_object(name, service.started_s) for name in names]
    return web.json_response({"object": "list", "data": data})


async def _model(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    name = request.match_info["model"]
    service.require_model(name)
    return web.json_response(_model_object(name, service.started_s))


async def _epochs(request: web.Request) -> web.Response:
    """What the revealed score sheets say of past epochs. Not part of OpenAI's API."""
    return web.json_response(await request.app[SERVICE].epochs())


async def _metrics(request: web.Request) -> web.Response:
    """For Prometheus on this machine, or a caller with a key."""
    text = request.app[SERVICE].metrics.text()
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _own_key(request: web.Request) -> web.Response:
    """A key's budget, limits and use, for whoever holds it. Not part of OpenAI's API."""
    if KEY not in request:
        raise api.ApiError(404, "This caller has no key of the ledger.", code="no_key")
    return web.json_response(await request.app[BILLING].describe(request[KEY]))


def _may_use(request: web.Request, model: str) -> bool:
    key = request.get(KEY)
    return key is None or key.models is None or model in key.models


async def _say_rates(request: web.Request, response: web.StreamResponse) -> None:
    account = request.get(ACCOUNT)
    if account is not None:
        response.headers.update(rate_headers(account, int(time.time())))


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
    arrived_s = request[ARRIVED_S]
    if not _may_use(request, body.model):
        text = f"This key may not use the model '{body.model}'."
        raise api.ApiError(403, text, code="model_not_allowed", param="model")
    started: list[Begun] = []  # outlives the sessions: it says what they used
    async with contextlib.AsyncExitStack() as stack:
        key = request.get(KEY)

        def used() -> Usage:
            return usage_of(body.model, prompt_tokens, started)

        stack.callback(lambda: service.metrics.used(used(), charged=key is not None))
        if key is not None:
            request[ACCOUNT] = await stack.enter_async_context(
                request.app[BILLING].held(key, service.largest_cost(jobs), used)
            )
        begun = await stack.enter_async_context(service.begin(jobs, arrived_s))
        started += begun
        if body.stream:
            deltas = _interleave([service.run(choice) for choice in begun])
            return await _stream(request, body, deltas, begun, shape, prompt_tokens)
        choices = await run_all(service.complete(choice) for choice in begun)
    answer = shape.envelope(shape.object)
    answer["choices"] = [shape.choice(i, choice.text, choice) for i, choice in enumerate(choices)]
    answer["usage"] = api.usage(prompt_tokens, sum(len(choice.tokens) for choice in choices))
    if body.moesubnet.provenance:
        answer["moesubnet"] = [api.provenance(choice.tokens) for choice in choices]
    headers = service.provenance_headers(choices) | _overhead(arrived_s, started)
    return web.json_response(answer, headers=headers)


def _overhead(arrived_s: float, begun: Sequence[Begun]) -> dict[str, str]:
    """What the request took so far, less the time that experts took."""
    waited_s = max(choice.session.waited_s for choice in begun)
    overhead_s = time.monotonic() - arrived_s - waited_s
    return {"x-moesubnet-overhead-ms": f"{max(0.0, overhead_s) * 1e3:.1f}"}


async def _stream(
    request: web.Request,
    body: api.Sampling,
    deltas: AsyncGenerator[tuple[int, Delta], None],
    begun: Sequence[Begun],
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
            response.headers.update(_overhead(request[ARRIVED_S], begun))
            await response.prepare(request)
            for index in range(len(begun)):
                if (opening := shape.opening(index)) is not None:
                    await _send(response, shape, [opening], body)
            async for index, delta in _chain(first, deltas):
                begun[index].delivered += len(delta.tokens)
                await _send(response, shape, [shape.chunk_choice(index, delta)], body, delta)
            if body.stream_options and body.stream_options.include_usage:
                completion_tokens = sum(choice.delivered for choice in begun)
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
