"""A miner's HTTP server: thin routes over `Expert`. No request is logged, least of all its ids."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST

from moesubnet.errors import FrameError
from moesubnet.miner.expert import Expert
from moesubnet.spec.content import LoadedSpec
from moesubnet.types import MetagraphSource, Signer
from moesubnet.wire.lanes import LANE_PATH
from moesubnet.wire.nonces import NonceStore
from moesubnet.wire.protocol import CloseRequest, GenerateRequest
from moesubnet.wire.server import (
    BODY,
    CALLER,
    SignedStream,
    auth_middleware,
    lane_route,
    loopback_only,
    public,
    stake_gate,
)
from moesubnet.wire.strict_json import parse_as

MAX_GENERATE_BYTES = 2**20  # 65,536 ids of ten digits, and the rest


def build_app(expert: Expert, signer: Signer, metagraphs: MetagraphSource) -> web.Application:
    """All routes of a miner behind one door (`auth_middleware`)."""

    async def close(request: web.Request) -> web.StreamResponse:
        try:
            wanted = parse_as(CloseRequest, request[BODY])
        except ValueError:
            raise FrameError("the body is not a CloseRequest") from None
        await expert.forget(request[CALLER].hotkey, wanted)
        return web.json_response({})

    async def generate(request: web.Request) -> web.StreamResponse:
        if len(request[BODY]) > MAX_GENERATE_BYTES:
            raise FrameError("the body is too large for a GenerateRequest")
        try:
            wanted = parse_as(GenerateRequest, request[BODY])
        except ValueError:
            raise FrameError("the body is not a GenerateRequest") from None
        stream = SignedStream(request, signer)
        try:
            async with aclosing(expert.generate(request[CALLER].hotkey, wanted)) as chunks:
                async for chunk in chunks:
                    await stream.send(chunk)
            return await stream.finish()
        except ConnectionResetError:  # the caller has left; so the model stops
            return stream.response

    @public
    async def card(_: web.Request) -> web.StreamResponse:
        return web.json_response(text=expert.card.model_dump_json(exclude_none=True))

    @public
    async def healthz(_: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok", "spec_sha256": expert.spec.sha256})

    @loopback_only
    async def metrics(_: web.Request) -> web.StreamResponse:
        return web.Response(
            body=expert.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    @public
    async def blob(request: web.Request) -> web.StreamResponse:
        path = _spec_files(expert.spec).get(request.match_info["sha256"])
        if path is None:
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})

    door = auth_middleware(
        signer,
        nonces=NonceStore(),
        callers=stake_gate(
            metagraphs,
            lambda: expert.spec.spec.min_caller_stake_rao,
            expert.has_open_session,
        ),
        max_body_bytes=expert.limits.max_body_bytes,
    )
    app = web.Application(middlewares=[_count(expert), door])

    def told(status: int) -> None:
        expert.metrics.answers.labels(LANE_PATH, str(status)).inc()

    app.router.add_post(LANE_PATH, lane_route(signer, expert.step, told))
    app.router.add_post("/v1/close", close)
    app.router.add_post("/v1/generate", generate)
    app.router.add_get("/v1/expert", card)
    app.router.add_get("/v1/blob/{sha256:[0-9a-f]{64}}", blob)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metrics)
    return app


def _count(expert: Expert) -> Middleware:
    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "other"
        if (route, response.status) != (LANE_PATH, 200):  # its steps are counted, each by itself
            expert.metrics.answers.labels(route, str(response.status)).inc()
        return response

    return count


def _spec_files(spec: LoadedSpec) -> dict[str, Path]:
    """The files of the spec by SHA-256: whoever joins the subnet may fetch them here."""
    return {spec.sha256: spec.root / "spec.json"} | {
        f.sha256: spec.path(f) for f in spec.spec.files
    }
