"""The router's HTTP face: authentication, admission, and OpenAI's endpoints over a `Service`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Sequence,
)
from dataclasses import dataclass, field

from aiohttp import web

from moesubnet.router import openai_api as api
from moesubnet.router.service import Choice, Delta, Job, Service, run_all

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 2**20
MAX_READING_BYTES = 64 * 2**20  # of all bodies that are arriving
BODY_TIMEOUT_S = 20.0
WRITE_TIMEOUT_S = 30.0  # for a reader that takes nothing off a full connection
SERVICE: web.AppKey[Service] = web.AppKey("service")
_STARTED: web.RequestKey[bool] = web.RequestKey("started", bool)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Admission:
    """How many requests may run and how much may arrive at once; the rest are told to come back."""

    max_running: int
    running: int = field(default=0)
    reading_bytes: int = field(default=0)

    async def body(self, request: web.Request) -> bytes:
        """Raises ApiError 408 for a body that trickles, 429 when too much is arriving."""
        size = min(request.content_length or MAX_BODY_BYTES, MAX_BODY_BYTES)
        if self.reading_bytes + size > MAX_READING_BYTES:
            raise _at_capacity()
        self.reading_bytes += size
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await request.read()
        except TimeoutError:
            text = f"The request body did not arrive within {BODY_TIMEOUT_S:.0f} s."
            raise api.ApiError(408, text, code="request_timeout") from None
        finally:
            self.reading_bytes -= size

    @contextlib.contextmanager
    def slot(self):  # type: ignore[no-untyped-def]
        """Hold one place. Raises ApiError 429 when all are taken."""
        if self.running >= self.max_running:
            raise _at_capacity()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1


def _at_capacity() -> api.ApiError:
    return api.ApiError(
        429,
        "The router is at capacity. Please retry shortly.",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_s=1.0,
    )


def build_app(
    service: Service, *, api_keys: Sequence[str] = (), max_running: int = 64
) -> web.Application:
    """The aiohttp application. Without `api_keys` everyone is served: bind it to loopback."""
    app = web.Application(
        middlewares=[_errors, _bearer_auth(tuple(api_keys))], client_max_size=MAX_BODY_BYTES
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


def _error_response(error: api.ApiError) -> web.Response:
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(error.body, status=error.status, headers=headers)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure before the first byte leaves in OpenAI's shape."""
    try:
        return await handler(request)
    except api.ApiError as error:
        return _error_response(error)
    except web.HTTPRequestEntityTooLarge:
        text = f"The request body is larger than {MAX_BODY_BYTES} bytes."
        return _error_response(api.ApiError(413, text, code="request_too_large"))
    except web.HTTPMethodNotAllowed as error:
        text = f"{request.path} does not allow {request.method}."
        response = _error_response(api.ApiError(405, text, code="method_not_allowed"))
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response
    except web.HTTPException as error:
        text = f"Unknown request URL: {request.method} {request.path}."
        return _error_response(api.ApiError(error.status, text, code="unknown_url"))
    except Exception:  # a bug of ours; a stream that has begun can only be cut
        if request.get(_STARTED):
            raise
        log.exception("failed path=%s", request.path)
        text = "The router failed on this request."
        return _error_response(api.ApiError(500, text, kind="server_error", code="internal_error"))


def _bearer_auth(api_keys: tuple[str, ...]):  # type: ignore[no-untyped-def]
    # Digests have one length, so that timing tells nothing about a key's either.
    digests = tuple(hashlib.sha256(key.encode()).digest() for key in api_keys)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if digests and request.path != "/healthz":
            scheme, _, key = request.headers.get("Authorization", "").partition(" ")
            given = hashlib.sha256(key.strip().encode(errors="surrogateescape")).digest()
            # Compare with every key, so that timing tells nothing about which one was near.
            known = sum(hmac.compare_digest(given, digest) for digest in digests)
            if scheme.lower() != "bearer" or not known:
                raise api.ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
        return await handler(request)

    return check


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
        if len(body.prompts()) * body.n > api.MAX_PROMPTS:
            raise api.ApiError(400, "Too many prompts × n for one request.", param="prompt")
        with admission.slot():
            prompts = [await service.prompt_ids(prompt) for prompt in body.prompts()]
            top, firsts = body.logprobs or 0, itertools.count(0, body.n)
            jobs = [service.jobs(body, ids, body.max_tokens, top, next(firsts)) for ids in prompts]
            shape = _CompletionShape(body.model, with_logprobs=body.logprobs is not None)
            return await _answer(request, service, body, jobs, shape, sum(map(len, prompts)))

    return handle


def _chat(admission: Admission) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        service = request.app[SERVICE]
        body = api.parse_request(api.ChatRequest, await admission.body(request))
        with admission.slot():
            ids = await service.chat_ids(body.messages)
            limit = body.completion_limit or service.room(ids)
            top = (body.top_logprobs or 0) if body.logprobs else 0
            jobs = [service.jobs(body, ids, limit, top)]
            shape = _ChatShape(body.model, with_logprobs=body.logprobs)
            return await _answer(request, service, body, jobs, shape, len(ids))

    return handle


class _Shape(ABC):
    """How an answer is written down; the two endpoints differ in nothing else."""

    object = ""
    chunk_object = ""
    prefix = ""

    def __init__(self, model: str, *, with_logprobs: bool) -> None:
        self.model = model
        self.with_logprobs = with_logprobs
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created_s = int(time.time())

    def envelope(self, kind: str) -> api.JsonObject:
        return {"id": self.id, "object": kind, "created": self.created_s, "model": self.model}

    @abstractmethod
    def choice(self, index: int, text: str, delta: Delta | Choice) -> api.JsonObject:
        """A whole choice."""

    def opening(self, index: int) -> api.JsonObject | None:
        """A first chunk, where the endpoint has one."""
        return None

    @abstractmethod
    def chunk_choice(self, index: int, delta: Delta) -> api.JsonObject:
        """A piece of a choice."""


class _CompletionShape(_Shape):
    object = chunk_object = "text_completion"
    prefix = "cmpl"

    def choice(self, index: int, text: str, delta: Delta | Choice) -> api.JsonObject:
        logprobs = api.completion_logprobs(delta.tokens) if self.with_logprobs else None
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": delta.finish_reason,
        }

    def chunk_choice(self, index: int, delta: Delta) -> api.JsonObject:
        return self.choice(index, delta.text, delta)


class _ChatShape(_Shape):
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prefix = "chatcmpl"

    def _logprobs(self, delta: Delta | Choice) -> api.JsonObject | None:
        return api.chat_logprobs(delta.tokens) if self.with_logprobs else None

    def choice(self, index: int, text: str, delta: Delta | Choice) -> api.JsonObject:
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(delta),
            "finish_reason": delta.finish_reason,
        }

    def opening(self, index: int) -> api.JsonObject | None:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk_choice(self, index: int, delta: Delta) -> api.JsonObject:
        return {
            "index": index,
            "delta": {"content": delta.text} if delta.text else {},
            "logprobs": self._logprobs(delta) if delta.tokens else None,
            "finish_reason": delta.finish_reason,
        }


async def _answer(
    request: web.Request,
    service: Service,
    body: api.Sampling,
    jobs: Sequence[Sequence[Job]],
    shape: _Shape,
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
    shape: _Shape,
    prompt_tokens: int,
) -> web.StreamResponse:
    """Server-sent events. A failure after the first byte is an `error` event, then the end."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    try:
        # The first delta is awaited before the status line, so early failures keep their status.
        first = await anext(deltas)
        request[_STARTED] = True
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
    shape: _Shape,
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
