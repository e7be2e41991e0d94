"""The router's HTTP face: authentication, admission, and OpenAI's endpoints over a `Service`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST

from moesubnet.router import openai_api as api
from moesubnet.router.answering import ACCOUNT, BILLING, answer, may_use
from moesubnet.router.billing import Billing, rate_headers
from moesubnet.router.chat import ChatRequest
from moesubnet.router.door import (
    KEY,
    Admission,
    bearer_auth,
    cross_origin,
    errors,
    measured,
    say_id,
    say_origin,
    sender,
)
from moesubnet.router.feedback import RATINGS, feedback
from moesubnet.router.page import add_page
from moesubnet.router.response_shape import ResponseShape
from moesubnet.router.responses import ResponsesRequest
from moesubnet.router.service import Service
from moesubnet.router.shapes import ChatShape, CompletionShape
from moesubnet.router.tracing import traced
from moesubnet.router.usage import UsageBook

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SERVICE: web.AppKey[Callable[[], Service]] = web.AppKey("service")


def build_app(
    service: Callable[[], Service],
    *,
    api_keys: Sequence[str] = (),
    billing: Billing | None = None,
    origins: Sequence[str] = (),
    max_running: int = 64,
    ratings: UsageBook | None = None,
    tracing: TracerProvider | None = None,
) -> web.Application:
    """The aiohttp application. Without keys of either kind everyone is served: bind it to loopback.

    service: the one for a request that comes now.
    api_keys: spend without limit and are not metered; the keys of `billing` have budgets.
    ratings: where keys' ratings of answers are kept.
    tracing: makes a span of every request; see `tracing.open_provider`.
    origins: whose pages may call from a browser, `*` for every page.
    """
    app = web.Application(
        middlewares=[
            measured(service().metrics),
            *([] if tracing is None else [traced(tracing)]),
            cross_origin(origins),
            errors,
            bearer_auth(api_keys, billing),
        ],
    )
    app[SERVICE] = service
    app.on_response_prepare.append(_say_rates)
    app.on_response_prepare.append(say_origin)
    app.on_response_prepare.append(say_id)
    admission = Admission(max_running)

    async def live(_: web.Request) -> web.Response:
        """Counts for the page. Not part of OpenAI's API."""
        return web.json_response(service().live() | {"running": admission.running})

    service().metrics.watch(
        lambda: admission.running, lambda: service().health()["experts_serving"]
    )
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
        if ratings is not None:
            app[RATINGS] = ratings
            app.router.add_post("/v1/feedback", feedback(admission))
    app.router.add_post("/v1/completions", _completions(admission))
    app.router.add_post("/v1/chat/completions", _chat(admission))
    app.router.add_post("/v1/responses", _responses(admission))
    return app


async def _healthz(request: web.Request) -> web.Response:
    status = request.app[SERVICE]().health()
    return web.json_response(status, status=200 if status["ready"] else 503)


def _model_object(name: str, service: Service) -> api.JsonObject:
    """With the unit that is counted wherever OpenAI's words say tokens, and whether it chats."""
    said = {"id": name, "object": "model", "created": service.started_s, "owned_by": "moesubnet"}
    return said | {"unit": service.spec.unit, "chats": service.spec.chats}


async def _models(request: web.Request) -> web.Response:
    service = request.app[SERVICE]()
    names = [name for name in service.models() if may_use(request, name)]
    data = [_model_object(name, service) for name in names]
    return web.json_response({"object": "list", "data": data})


async def _model(request: web.Request) -> web.Response:
    service = request.app[SERVICE]()
    name = request.match_info["model"]
    service.require_model(name)
    return web.json_response(_model_object(name, service))


async def _epochs(request: web.Request) -> web.Response:
    """What the revealed score sheets say of past epochs. Not part of OpenAI's API."""
    return web.json_response(await request.app[SERVICE]().past.told())


async def _metrics(request: web.Request) -> web.Response:
    """For Prometheus on this machine, or a caller with a key."""
    text = request.app[SERVICE]().metrics.text()
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _own_key(request: web.Request) -> web.Response:
    """A key's budget, limits and use, for whoever holds it. Not part of OpenAI's API."""
    if KEY not in request:
        raise api.ApiError(404, "This caller has no key of the ledger.", code="no_key")
    return web.json_response(await request.app[BILLING].describe(request[KEY]))


async def _say_rates(request: web.Request, response: web.StreamResponse) -> None:
    account = request.get(ACCOUNT)
    if account is not None:
        response.headers.update(rate_headers(account, int(time.time())))


async def _experts(request: web.Request) -> web.Response:
    """Which experts are asked right now, and how they do. Not part of OpenAI's API."""
    return web.json_response({"experts": request.app[SERVICE]().expert_table()})


def _completions(admission: Admission) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        service = request.app[SERVICE]()
        body = await admission.parsed(request, api.CompletionRequest)
        choices = len(body.prompts()) * body.n
        if choices > api.MAX_PROMPTS:
            raise api.ApiError(400, "Too many prompts × n for one request.", param="prompt")
        with admission.places(choices):
            prompts = [await service.prompts.ids(prompt, body.source) for prompt in body.prompts()]
            top, firsts = body.logprobs or 0, itertools.count(0, body.n)
            echo = body.echo_kind
            jobs = [
                service.jobs(body, ids, body.max_tokens, top, next(firsts), echo=echo)
                for ids in prompts
            ]
            shape = CompletionShape(body, choices, with_logprobs=body.logprobs is not None)
            return await answer(request, service, jobs, shape, stream=body.stream)

    return handle


def _chat(admission: Admission) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        service = request.app[SERVICE]()
        body = await admission.parsed(request, ChatRequest)
        with admission.places(body.n):
            ids, manner = await service.conversation(body, sender(request))
            limit = body.token_limit or service.room(ids)
            top = (body.top_logprobs or 0) if body.logprobs else 0
            jobs = [service.jobs(body, ids, limit, top, manner=manner)]
            shape = ChatShape(body, body.n, with_logprobs=body.logprobs)
            return await answer(request, service, jobs, shape, stream=body.stream)

    return handle


def _responses(admission: Admission) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        service = request.app[SERVICE]()
        body = await admission.parsed(request, ResponsesRequest)
        with admission.places(1):
            ids, manner = await service.conversation(body, sender(request))
            limit = body.max_output_tokens or service.room(ids)
            jobs = [service.jobs(body, ids, limit, 0, manner=manner)]
            return await answer(request, service, jobs, ResponseShape(body), stream=body.stream)

    return handle
