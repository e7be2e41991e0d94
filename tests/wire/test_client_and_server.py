"""Client and middleware over real sockets: the good path, and strangers at both ends."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from substrateinterface import Keypair

from moesubnet.errors import (
    AuthError,
    BadDistribution,
    ConfigError,
    EngineError,
    Forbidden,
    FrameError,
    PeerRefused,
    PeerUnavailable,
    StaleMetagraph,
    UnknownBase,
    WireError,
)
from moesubnet.host.log import set_up_logging
from moesubnet.types import Hotkey
from moesubnet.wire.departures import MOST_UNDER_WAY
from moesubnet.wire.frames import CONTENT_TYPE
from moesubnet.wire.limits import RateLimiter
from moesubnet.wire.listening import serve
from moesubnet.wire.nonces import NonceStore
from moesubnet.wire.protocol import (
    ExpertCard,
    GenerateChunk,
    GenerateRequest,
    SequenceStep,
    StepRequest,
    StepResponse,
    StepRows,
    Want,
    base_hash,
)
from moesubnet.wire.server import (
    BODY,
    SignedStream,
    auth_middleware,
    loopback_only,
    public,
    stake_gate,
)
from moesubnet.wire.signing import RECEIPT, sign_request, signed_text, verify_receipt
from moesubnet.wire.strangers import open_http_session
from tests.step_answers import laned

V = 40
ALICE, BOB, EVE = (Keypair.create_from_uri(uri) for uri in ("//Alice", "//Bob", "//Eve"))
ALICE_HOTKEY, BOB_HOTKEY = Hotkey(ALICE.ss58_address), Hotkey(BOB.ss58_address)
EMPTY = np.empty(0, np.uint32)


def one_step(append: int = 3, want: Want | None = None) -> StepRequest:
    ids = np.arange(append, dtype=np.uint32)
    return StepRequest((SequenceStep("s", 0, base_hash(EMPTY), ids),), want or Want("full"))


def uniform_answer(append: int = 3) -> bytes:
    return StepResponse((StepRows(append, np.full((1, V), -np.log(V), np.float32)),)).to_bytes()


@public
async def healthz(request: web.Request) -> web.Response:
    return web.json_response({"ok": True})


@loopback_only
async def metrics(request: web.Request) -> web.Response:
    return web.Response(text="up 1\n")


def door(**changed: Any) -> Any:
    settings: dict[str, Any] = {
        "nonces": NonceStore(),
        "callers": lambda _: None,
        "max_body_bytes": 10_000,
    } | changed
    return auth_middleware(BOB, **settings)


async def bob(stage: Any, step: Any, **changed: Any) -> Any:
    """A neuron of Bob's whose /v1/step is `step`; Alice's client of it, and its port."""
    app = web.Application(middlewares=[door(**changed)])
    app.router.add_post("/v1/step", step)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metrics)
    listening = await stage.serve(app)
    return await stage.client("//Bob", listening.port), listening.port


async def ok(request: web.Request) -> web.Response:
    """To whatever it is; in a lane, if it is one."""
    if "root" in request.query:
        return await laned(request, uniform_answer(), ALICE, BOB)
    return web.Response(body=uniform_answer(), content_type=CONTENT_TYPE)


async def post(
    port: int, body: bytes = b"x", headers: dict[str, str] | None = None, **changed: Any
) -> tuple[int, dict[str, Any], Any]:
    """A raw POST /v1/step: status, JSON body, headers. Signed by Alice unless headers are given."""
    nonce_ns = time.time_ns() + changed.pop("nonce_offset_ns", 0)
    if headers is None:
        headers = sign_request(ALICE, "POST", "/v1/step", body, BOB_HOTKEY, nonce_ns)
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            f"http://127.0.0.1:{port}/v1/step", data=body, headers=headers, **changed
        ) as response,
    ):
        raw = await response.read()
        parsed = json.loads(raw) if response.content_type == "application/json" else {}
        return response.status, parsed, response.headers


async def raw_exchange(port: int, data: bytes, timeout_s: float = 5.0) -> bytes:
    """What the server says to these bytes until it closes or falls silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        writer.write(data)
        async with asyncio.timeout(timeout_s):
            while piece := await reader.read(65_536):
                answer += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return answer


# The good path.


async def test_a_step_over_a_real_socket(stage: Any) -> None:
    expert, client = await stage.expert("//Bob")
    response = await client.step(one_step(), timeout_s=5)
    assert response.rows[0].logprobs.shape == (1, V)
    np.testing.assert_allclose(np.exp(response.rows[0].logprobs).sum(), 1, atol=1e-5)
    (held,) = expert.held
    assert held == (ALICE_HOTKEY, "s")


async def test_waiting_for_our_own_calls_is_no_part_of_the_deadline(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesubnet.wire.client.MAX_PROMPTS", 1)
    running = most = 0

    async def step(request: web.Request) -> web.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.3)
        running -= 1
        return await ok(request)

    client, _ = await bob(stage, step)
    await asyncio.gather(*(client.step(one_step(40), timeout_s=1.5) for _ in range(8)))
    assert most == 1


@pytest.mark.parametrize("append", [3, 40], ids=["lane", "prompt"])
async def test_what_comes_too_late_for_its_signature_is_signed_anew(
    stage: Any, append: int
) -> None:
    late_ns = iter([11_000_000_000])  # as if the first one had been so long on its way
    client, _ = await bob(stage, ok, clock_ns=lambda: time.time_ns() + next(late_ns, 0))
    assert len((await client.step(one_step(append), timeout_s=5)).rows) == 1
    assert next(late_ns, None) is None


async def test_a_clock_that_is_wrong_is_asked_no_third_time(stage: Any) -> None:
    asked = 0

    def ahead_ns() -> int:
        nonlocal asked
        asked += 1
        return time.time_ns() + 11_000_000_000

    client, _ = await bob(stage, ok, clock_ns=ahead_ns)
    with pytest.raises(PeerRefused) as refused:
        await client.step(one_step(), timeout_s=5)
    assert refused.value.is_stale
    assert asked == 2


async def test_each_attempt_has_its_own_nonce(stage: Any) -> None:
    nonces: list[str] = []

    async def step(request: web.Request) -> web.Response:
        nonces.append(request.headers["X-Bittensor-Nonce"])
        return await ok(request)

    client, _ = await bob(stage, step)
    await asyncio.gather(*(client.step(one_step(40), timeout_s=5) for _ in range(20)))
    assert len(set(nonces)) == 20


async def test_a_large_request_and_answer(stage: Any) -> None:
    async def step(request: web.Request) -> web.Response:
        assert len(request[BODY]) > 2**21
        rows = StepRows(600_000, np.full((1, 300_000), -np.log(300_000), np.float32))
        return await laned(request, StepResponse((rows,)).to_bytes("f32"), ALICE, BOB)

    app = web.Application(middlewares=[door(max_body_bytes=2**23)])
    app.router.add_post("/v1/step", step)
    client = await stage.client("//Bob", (await stage.serve(app)).port, vocab_size=300_000)
    ids = np.zeros(600_000, np.uint32)
    request = StepRequest((SequenceStep("s", 0, base_hash(EMPTY), ids),), Want("full"))
    assert (await client.step(request, timeout_s=20)).rows[0].logprobs.shape == (1, 300_000)


# Who may call.


async def test_strangers_get_constant_codes_and_no_signature(stage: Any) -> None:
    _, port = await bob(stage, ok)
    now_ns = time.time_ns()
    good = sign_request(ALICE, "POST", "/v1/step", b"x", BOB_HOTKEY, now_ns)
    cases = [
        ({}, "malformed_auth"),
        (good | {"X-Bittensor-Signature": ""}, "malformed_auth"),
        (good | {"X-Bittensor-Receiver": ALICE_HOTKEY}, "wrong_receiver"),
        (good | {"X-Bittensor-Nonce": "1"}, "stale_request"),
        (good | {"X-Bittensor-Nonce": str(now_ns + 1)}, "bad_signature"),
        (good | {"X-Bittensor-Hotkey": EVE.ss58_address}, "bad_signature"),
    ]
    for headers, code in cases:
        status, body, answered = await post(port, headers=headers)
        assert (status, body) == (401, {"error": code})
        assert RECEIPT not in answered


async def test_a_captured_request_cannot_be_replayed(stage: Any) -> None:
    _, port = await bob(stage, ok)
    headers = sign_request(ALICE, "POST", "/v1/step", b"x", BOB_HOTKEY, time.time_ns())
    assert (await post(port, headers=headers))[0] == 200
    assert (await post(port, headers=headers))[:2] == (401, {"error": "replayed_request"})


async def test_a_captured_request_cannot_be_replayed_by_sending_its_body_slowly(
    stage: Any,
) -> None:
    """Headers arrive fresh; the body only after the replay store has forgotten the nonce."""
    clock = [time.time_ns() + 1]
    _, port = await bob(
        stage, ok, clock_ns=lambda: clock[0], nonces=NonceStore(retention_s=24, started_ns=0)
    )
    headers = sign_request(ALICE, "POST", "/v1/step", b"xy", BOB_HOTKEY, clock[0])
    assert (await post(port, b"xy", headers))[0] == 200
    head = "POST /v1/step HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in headers.items()
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + b"\r\nx")
    await writer.drain()
    await asyncio.sleep(0.2)
    clock[0] += 30_000_000_000
    writer.write(b"y")
    assert b"stale_request" in await reader.read(4_096)
    writer.close()


async def test_the_body_target_and_query_are_bound(stage: Any) -> None:
    _, port = await bob(stage, ok)
    headers = sign_request(ALICE, "POST", "/v1/step", b"x", BOB_HOTKEY, time.time_ns())
    assert (await post(port, b"y", headers))[1] == {"error": "bad_signature"}
    assert (await post(port, b"x", headers, params={"a": "1"}))[1] == {"error": "bad_signature"}


async def test_a_repeated_header_is_refused(stage: Any) -> None:
    _, port = await bob(stage, ok)
    headers = sign_request(ALICE, "POST", "/v1/step", b"x", BOB_HOTKEY, time.time_ns())
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    for extra in (f"x-bittensor-hotkey: {ALICE_HOTKEY}", "X-BITTENSOR-NONCE: 1"):
        request = (
            f"POST /v1/step HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n{lines}{extra}\r\n\r\n"
        )
        assert b"malformed_auth" in await raw_exchange(port, request.encode() + b"x", 0.5)


def metagraph(**stakes_rao: int) -> Any:
    neurons = {name: SimpleNamespace(stake_rao=stake) for name, stake in stakes_rao.items()}
    return SimpleNamespace(by_hotkey=neurons)


class Metagraphs:
    def __init__(self, current: Any) -> None:
        self.value = current

    def current(self) -> Any:
        if self.value is None:
            raise StaleMetagraph("old")
        return self.value


async def test_only_registered_and_staked_callers_come_in_and_others_cost_nothing(
    stage: Any,
) -> None:
    graph = Metagraphs(metagraph(**{ALICE_HOTKEY: 10}))
    client, port = await bob(stage, ok, callers=stake_gate(graph, lambda: 10))
    await client.step(one_step(), timeout_s=5)
    for stakes in ({ALICE_HOTKEY: 9}, {EVE.ss58_address: 99}):
        graph.value = metagraph(**stakes)
        with pytest.raises(PeerRefused) as refused:
            await client.step(one_step(), timeout_s=5)
        assert refused.value.status == 403
    # Refused from the headers alone: the answer comes although the body never does.
    headers = sign_request(ALICE, "POST", "/v1/step", b"xy", BOB_HOTKEY, time.time_ns())
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST /v1/step HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n{lines}\r\n"
    assert b" 403 " in await raw_exchange(port, request.encode())


def test_a_stale_metagraph_lets_nobody_new_in_but_open_sessions_go_on() -> None:
    open_sessions = {"a"}
    check = stake_gate(Metagraphs(None), lambda: 10, lambda hotkey: hotkey in open_sessions)
    check(Hotkey("a"))
    with pytest.raises(StaleMetagraph):
        check(Hotkey("b"))
    fresh = stake_gate(
        Metagraphs(metagraph(b=10)), lambda: 10, lambda hotkey: hotkey in open_sessions
    )
    fresh(Hotkey("b"))
    with pytest.raises(Forbidden):  # a fresh metagraph decides alone
        fresh(Hotkey("a"))


async def test_a_stale_metagraph_answers_503(stage: Any) -> None:
    client, _ = await bob(stage, ok, callers=stake_gate(Metagraphs(None), lambda: 0))
    with pytest.raises(PeerRefused, match="503: stale_metagraph"):
        await client.step(one_step(), timeout_s=5)


# Sizes, shapes and public routes.


async def test_an_oversize_body_is_refused_before_it_is_read(stage: Any) -> None:
    client, port = await bob(stage, ok, max_body_bytes=100)
    with pytest.raises(PeerRefused) as refused:
        await client.step(one_step(100), timeout_s=5)
    assert refused.value.status == 413
    head = b"POST /v1/step HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n"
    assert b" 413 " in await raw_exchange(port, head)


async def test_chunked_and_compressed_bodies_are_refused(stage: Any) -> None:
    _, port = await bob(stage, ok)
    chunked = b"POST /v1/step HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    assert b" 411 " in await raw_exchange(port, chunked)
    headers = sign_request(ALICE, "POST", "/v1/step", b"x", BOB_HOTKEY, time.time_ns())
    status, body, _ = await post(port, headers=headers | {"Content-Encoding": "gzip"})
    assert (status, body) == (411, {"error": "length_required"})


async def test_unknown_routes_and_methods_are_404_and_405(stage: Any) -> None:
    _, port = await bob(stage, ok)
    async with aiohttp.ClientSession() as http:
        for method, path, status in (
            ("GET", "/", 404),
            ("POST", "/v1/none", 404),
            ("GET", "/v1/step", 405),
            ("POST", "/healthz", 405),
        ):
            url = f"http://127.0.0.1:{port}{path}"
            async with http.request(method, url, data=b"x") as response:
                assert response.status == status
                assert await response.json() == {"error": "no_such_route"}


async def test_public_routes_need_no_signature_but_are_rate_limited(stage: Any) -> None:
    client, port = await bob(stage, ok, public_limiter=RateLimiter(0.0, 3.0))
    for _ in range(3):
        raw = await client.get_public("/healthz", max_bytes=100, timeout_s=5)
        assert json.loads(raw) == {"ok": True}
    with pytest.raises(PeerRefused, match="429: too_many_requests"):
        await client.get_public("/healthz", max_bytes=100, timeout_s=5)
    with_body = b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    assert b" 413 " in await raw_exchange(port, with_body, 0.5)


async def test_metrics_answer_this_machine_only(stage: Any) -> None:
    client, port = await bob(stage, ok)
    assert await client.get_public("/metrics", max_bytes=100, timeout_s=5) == b"up 1\n"
    proxied = b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 8.8.8.8\r\n\r\n"
    assert b" 403 " in await raw_exchange(port, proxied, 0.5)


@pytest.mark.parametrize("size", [100, 10_000, 200_000])
async def test_garbage_on_the_port_is_answered_or_dropped_and_service_goes_on(
    stage: Any, size: int
) -> None:
    client, port = await bob(stage, ok)
    for data in (os.urandom(size), b"GET " + b"/" * size, b"\r\n" * size, b"\0" * size):
        answer = await raw_exchange(port, data, 0.3)
        assert answer == b"" or b" 400 " in answer or b" 404 " in answer
    await client.step(one_step(), timeout_s=5)


async def test_garbage_on_the_port_cannot_fill_the_log(stage: Any, monkeypatch: Any) -> None:
    _, port = await bob(stage, ok)
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    set_up_logging("info")
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    logging.getLogger().addHandler(handler)
    try:
        for data in (b"\0" * 500, b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000 + b"\r\n\r\n"):
            assert b" 400 " in await raw_exchange(port, data, 0.5)
    finally:
        logging.getLogger().removeHandler(handler)
    assert records == []


async def test_garbage_bodies_from_a_real_caller_are_400(stage: Any) -> None:
    _, port = await bob(stage, parse)
    for body in (b"", b"x", os.urandom(500)):
        status, parsed, headers = await post(port, body)
        assert (status, parsed) == (400, {"error": "malformed_request"})
        assert RECEIPT in headers


async def parse(request: web.Request) -> web.Response:
    raise FrameError(f"a secret: {request[BODY]!r}")


# Errors of a handler, and their receipts.


def raising(error: Exception) -> Any:
    async def step(request: web.Request) -> web.Response:
        raise error

    return step


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (EngineError("secret path /home/me"), 503, "engine_unavailable"),
        (web.HTTPTooManyRequests(text="secret"), 429, "too_many_requests"),
        (FrameError("secret"), 400, "malformed_request"),
        (Forbidden("secret"), 403, "forbidden"),
    ],
)
async def test_errors_have_constant_texts_and_receipts(
    stage: Any, error: Exception, status: int, code: str
) -> None:
    client, port = await bob(stage, raising(error))
    nonce_ns = time.time_ns()
    headers = sign_request(ALICE, "POST", "/v1/step", b"x", BOB_HOTKEY, nonce_ns)
    got, body, answered = await post(port, b"x", headers)
    assert (got, body) == (status, {"error": code})
    text = signed_text("POST", "/v1/step", b"x", nonce_ns, ALICE_HOTKEY, BOB_HOTKEY)
    digest = hashlib.sha256(json.dumps(body).encode()).digest()
    request_sha256 = hashlib.sha256(text).digest()
    verify_receipt(answered[RECEIPT], status, request_sha256, digest, BOB_HOTKEY, ALICE_HOTKEY)
    with pytest.raises(PeerRefused, match=f"{status}: {code}"):
        await client.step(one_step(), timeout_s=5)


async def test_an_unknown_base_says_what_is_held(stage: Any) -> None:
    _, client = await stage.expert("//Bob")
    ids = np.arange(6, dtype=np.uint32)
    step = SequenceStep("s", 4, base_hash(ids[:4]), ids[4:])
    with pytest.raises(UnknownBase) as unknown:
        await client.step(StepRequest((step,), Want("full")), timeout_s=5)
    assert unknown.value.held_tokens == (0,)


@pytest.mark.parametrize("held", [(-1,), (5,), (2**70,), (), (0, 0)])
async def test_a_lie_about_held_tokens_is_a_wire_error(stage: Any, held: tuple[int, ...]) -> None:
    said = json.dumps({"error": "unknown_base", "held_tokens": held}).encode()

    async def step(request: web.Request) -> web.Response:
        return await laned(request, said, ALICE, BOB, status=409)

    client, _ = await bob(stage, step)
    ids = np.arange(6, dtype=np.uint32)
    step = SequenceStep("s", 4, base_hash(ids[:4]), ids[4:])
    with pytest.raises(WireError):
        await client.step(StepRequest((step,), Want("full")), timeout_s=5)


# A hostile server.


async def hostile(stage: Any, step: Any) -> Any:
    """Alice's client of a server at Bob's address that does as it likes."""
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", step)
    return await stage.client("//Bob", (await stage.serve(app)).port)


async def test_an_answer_without_a_receipt_is_refused(stage: Any) -> None:
    async def step(request: web.Request) -> web.Response:
        return web.Response(body=uniform_answer())

    client = await hostile(stage, step)
    with pytest.raises((AuthError, WireError)):
        await client.step(one_step(), timeout_s=5)


def flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


@pytest.mark.parametrize("spoil", ["body", "signer", "caller", "old"])
async def test_an_altered_spliced_or_repeated_answer_is_refused(stage: Any, spoil: str) -> None:
    kept: list[bytes] = []

    async def step(request: web.Request) -> web.Response:
        good = await laned(
            request,
            uniform_answer(),
            EVE if spoil == "caller" else ALICE,
            EVE if spoil == "signer" else BOB,
            spoil=flipped if spoil == "body" else lambda frame: frame,
        )
        assert isinstance(good.body, bytes)
        kept.append(good.body)
        return web.Response(body=kept[0])

    client = await hostile(stage, step)
    if spoil == "old":
        await client.step(one_step(), timeout_s=5)
    with pytest.raises(AuthError):
        await client.step(one_step(), timeout_s=5)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", FrameError),
        (os.urandom(300), FrameError),
        (uniform_answer()[:-2], FrameError),
        (StepResponse((StepRows(3, np.zeros((1, V), np.float32)),)).to_bytes(), BadDistribution),
        (StepResponse((StepRows(3, np.zeros((2, V), np.float32)),)).to_bytes(), FrameError),
        (bytes(2**20), WireError),
    ],
)
async def test_a_signed_lie_is_a_wire_error(stage: Any, body: bytes, error: type) -> None:
    async def step(request: web.Request) -> web.Response:
        return await laned(request, body, ALICE, BOB)

    client = await hostile(stage, step)
    with pytest.raises(error):
        await client.step(one_step(), timeout_s=5)


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(65_536))


@pytest.mark.parametrize("tokens", [3, 40])
async def test_an_answer_stands_whatever_comes_after_it(stage: Any, tokens: int) -> None:
    async def step(request: web.Request) -> web.Response:
        body = uniform_answer(tokens)
        return await laned(request, body, ALICE, BOB, spoil=lambda frame: frame + b"junk of theirs")

    client, _ = await bob(stage, step)
    assert (await client.step(one_step(tokens), timeout_s=5)).rows


@pytest.mark.parametrize("tokens", [3, 40])
async def test_who_holds_back_the_end_of_its_answers_holds_nobody(stage: Any, tokens: int) -> None:
    leaves = asyncio.Event()

    async def step(request: web.Request) -> web.StreamResponse:
        whole = await laned(request, uniform_answer(tokens), ALICE, BOB)
        assert isinstance(whole.body, bytes)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(whole.body)
        await leaves.wait()
        return response

    client = await hostile(stage, step)
    async with asyncio.timeout(60):
        for _ in range(2 * MOST_UNDER_WAY):
            assert (await client.step(one_step(tokens), timeout_s=600)).rows
    leaves.set()


async def test_an_endless_answer_is_cut_at_the_cap(stage: Any) -> None:
    client = await hostile(stage, endless)
    with pytest.raises(WireError, match="more than"):
        await client.step(one_step(), timeout_s=5)
    with pytest.raises(WireError, match="more than"):
        await client.get_public("/v1/blob", max_bytes=100_000, timeout_s=5)


async def test_a_compressed_answer_is_not_unpacked(stage: Any) -> None:
    async def bomb(request: web.Request) -> web.Response:
        response = web.Response(body=bytes(10_000_000))
        response.enable_compression(web.ContentCoding.gzip, strategy=0)
        response.headers["Content-Encoding"] = "gzip"
        return response

    client = await hostile(stage, bomb)
    raw = await client.get_public("/x", max_bytes=50_000, timeout_s=5)
    assert raw[:2] == b"\x1f\x8b"


async def test_redirects_are_not_followed(stage: Any) -> None:
    hits: list[str] = []

    async def step(request: web.Request) -> web.Response:
        hits.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    client = await hostile(stage, step)
    with pytest.raises(PeerRefused) as refused:
        await client.step(one_step(), timeout_s=5)
    assert refused.value.status == 307
    assert hits == ["/v1/step"]


async def test_a_proxy_in_the_environment_is_ignored(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    _, client = await stage.expert("//Bob")
    await client.step(one_step(), timeout_s=5)


async def test_names_are_never_resolved() -> None:
    async with open_http_session() as http:
        with pytest.raises((aiohttp.ClientError, OSError)):
            await http.get("http://localhost:1/")


@pytest.mark.parametrize("silence", ["accept", "headers", "body"])
async def test_a_silent_peer_costs_the_deadline_and_no_more(stage: Any, silence: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if silence == "body":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx")
        elif silence == "headers":
            writer.write(b"HTTP/1.1 200")
        await reader.read()  # until the client gives up
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    client = await stage.client("//Bob", server.sockets[0].getsockname()[1])
    start_s = asyncio.get_running_loop().time()
    with pytest.raises(PeerUnavailable):
        await client.step(one_step(), timeout_s=0.3)
    assert asyncio.get_running_loop().time() - start_s < 2
    server.close()
    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        os.urandom(1_000),
    ],
)
async def test_broken_http_is_a_peer_error(stage: Any, reply: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_000)
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    client = await stage.client("//Bob", server.sockets[0].getsockname()[1])
    with pytest.raises((PeerUnavailable, PeerRefused)):
        await client.step(one_step(), timeout_s=2)
    server.close()


async def test_nobody_listening_is_unavailable(stage: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = await stage.client("//Bob", port)
    with pytest.raises(PeerUnavailable):
        await client.step(one_step(), timeout_s=2)


async def test_an_idle_connection_closed_under_us_is_retried_with_a_fresh_nonce(
    stage: Any,
) -> None:
    nonces: list[str] = []

    async def step(request: web.Request) -> web.Response:
        nonces.append(request.headers["X-Bittensor-Nonce"])
        if len(nonces) == 2:
            assert request.transport is not None
            request.transport.close()
        return await laned(request, uniform_answer(), ALICE, BOB)

    client = await hostile(stage, step)
    await client.step(one_step(), timeout_s=5)
    await client.step(one_step(), timeout_s=5)
    assert len(set(nonces)) == 3


async def test_a_peers_error_text_is_shown_only_if_it_is_a_code(stage: Any) -> None:
    texts = [b'{"error": "too_busy"}', b'{"error": "\\u001b[31m"}', b"<html>", b'{"error": 3}']

    async def step(request: web.Request) -> web.Response:
        return web.Response(status=500, body=texts.pop(0))

    client = await hostile(stage, step)
    for shown in ("500: too_busy", "500", "500", "500"):
        with pytest.raises(PeerRefused) as refused:
            await client.step(one_step(), timeout_s=5)
        assert str(refused.value) == shown


async def test_a_card_must_be_well_formed_and_its_own(stage: Any) -> None:
    card = ExpertCard(
        hotkey=BOB_HOTKEY,
        spec_sha256="0" * 64,
        model_commitment="1" * 64,
        name="prose",
        context_tokens=256,
        vocab_size=V,
        max_sequences=64,
        engine="fake",
        version="1",
        price_rao_per_mtoken=0,
    )
    bodies = [
        card.model_dump_json(),
        card.model_copy(update={"hotkey": ALICE_HOTKEY}).model_dump_json(),
        card.model_dump_json().replace("256", "-1"),
        "[]",
        "x" * 20_000,
    ]

    async def serve_card(request: web.Request) -> web.Response:
        return web.Response(text=bodies.pop(0))

    client = await hostile(stage, serve_card)
    assert await client.card(timeout_s=5) == card
    while bodies:
        with pytest.raises(WireError):
            await client.card(timeout_s=5)


# Streams.


async def stream_of(
    stage: Any, spoil: Callable[[list[bytes]], list[bytes]] | None = None
) -> AsyncIterator[GenerateChunk]:
    chunks = [GenerateChunk(ids=[i], logprobs=[-1.5]) for i in range(3)]
    chunks.append(GenerateChunk(finish_reason="length"))

    async def generate(request: web.Request) -> web.StreamResponse:
        stream = SignedStream(request, BOB)
        for chunk in chunks:
            await stream.send(chunk)
        return await stream.finish()

    app = web.Application(middlewares=[door()])
    app.router.add_post("/v1/generate", generate)
    honest = await stage.serve(app)
    port = honest.port
    if spoil is not None:

        async def relay(request: web.Request) -> web.Response:
            async with (
                aiohttp.ClientSession() as http,
                http.post(
                    f"http://127.0.0.1:{honest.port}{request.path}",
                    data=await request.read(),
                    headers={k: v for k, v in request.headers.items() if k.startswith("X-")},
                ) as response,
            ):
                lines = (await response.read()).splitlines(keepends=True)
            return web.Response(body=b"".join(spoil(lines)))

        man_in_the_middle = web.Application()
        man_in_the_middle.router.add_post("/v1/generate", relay)
        port = (await stage.serve(man_in_the_middle)).port
    client = await stage.client("//Bob", port)
    request = GenerateRequest(prompt_ids=[1, 2], max_tokens=3)
    return client.generate(request, timeout_s=5)  # type: ignore[no-any-return]


async def test_a_stream_arrives_whole_and_receipted(stage: Any) -> None:
    chunks = [chunk async for chunk in await stream_of(stage)]
    assert [chunk.ids for chunk in chunks] == [[0], [1], [2], []]
    assert chunks[-1].finish_reason == "length"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[:-1],
        lambda lines: lines[:-2],
        lambda lines: lines[:1] + lines[2:],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [lines[0].replace(b"-1.5", b"-1.4"), *lines[1:]],
        lambda lines: [*lines[:3], lines[3].replace(b"length", b"stop"), lines[4]],
        lambda lines: [*lines[:-1], lines[-1].replace(b"0x", b"0y")],
        lambda lines: [lines[0], *lines],
        lambda lines: [lines[0].replace(b"[0]", b"[40]"), *lines[1:]],
        lambda lines: [lines[0].replace(b"[0]", b"[0,1,2,3]"), *lines[1:]],
        lambda lines: [lines[0].replace(b"[-1.5]", b"[]"), *lines[1:]],
        lambda lines: [b"{}\n", *lines],
        lambda lines: [b"x" * 300_000],
        lambda lines: [b"garbage\n", *lines],
        lambda lines: [lines[0][:-1]],
        lambda lines: [],
    ],
)
async def test_an_altered_or_cut_stream_is_refused(
    stage: Any, spoil: Callable[[list[bytes]], list[bytes]]
) -> None:
    with pytest.raises((AuthError, WireError)):
        async for _ in await stream_of(stage, spoil):
            pass


async def test_a_stream_whose_engine_dies_ends_without_a_receipt(stage: Any) -> None:
    async def generate(request: web.Request) -> web.StreamResponse:
        stream = SignedStream(request, BOB)
        await stream.send(GenerateChunk(ids=[1], logprobs=[-1.0]))
        raise EngineError("out of memory")

    app = web.Application(middlewares=[door()])
    app.router.add_post("/v1/generate", generate)
    client = await stage.client("//Bob", (await stage.serve(app)).port)
    stream = client.generate(GenerateRequest(prompt_ids=[], max_tokens=3), timeout_s=5)
    assert (await anext(stream)).ids == [1]
    with pytest.raises(AuthError):
        await anext(stream)


async def test_a_stream_can_be_left_early(stage: Any) -> None:
    async with aclosing(await stream_of(stage)) as stream:  # type: ignore[type-var]
        async for chunk in stream:
            assert chunk.ids == [0]
            break


# Listening.


async def test_a_taken_port_is_a_config_error(stage: Any) -> None:
    listening = await stage.serve(web.Application())
    with pytest.raises(ConfigError, match="cannot listen"):
        await serve(web.Application(), "127.0.0.1", listening.port)


async def test_a_body_that_never_comes_is_given_up(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesubnet.wire.server.BODY_TIMEOUT_S", 0.2)
    _, port = await bob(stage, ok)
    headers = sign_request(ALICE, "POST", "/v1/step", b"xy", BOB_HOTKEY, time.time_ns())
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST /v1/step HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n{lines}\r\nx"
    assert b" 408 " in await raw_exchange(port, request.encode())


async def slow_body(port: int, claimed: int, sent: bytes, address: str) -> asyncio.StreamWriter:
    """An unfinished body under a copied staked hotkey, from a loopback address."""
    headers = sign_request(ALICE, "POST", "/v1/step", b"", BOB_HOTKEY, time.time_ns())
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /v1/step HTTP/1.1\r\nHost: a\r\nContent-Length: {claimed}\r\n{lines}\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    writer.write(head.encode() + sent)
    await writer.drain()
    return writer


needs_loopback_net = pytest.mark.skipif(
    sys.platform != "linux", reason="127.0.0.2 is an address of this machine on Linux only"
)


async def test_a_claimed_length_that_never_comes_takes_nothing_from_anybody(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesubnet.wire.server.MAX_UNPROVEN_BYTES", 5_000)
    client, port = await bob(stage, ok)
    slow = [await slow_body(port, 4_900, b"x", "127.0.0.1") for _ in range(50)]
    await asyncio.sleep(0.2)
    await client.step(one_step(), timeout_s=5)
    for writer in slow:
        writer.close()


@needs_loopback_net
async def test_an_address_full_of_slow_bodies_cannot_stop_another_caller(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesubnet.wire.server.MAX_UNPROVEN_BYTES", 40_000)
    _, port = await bob(stage, ok)
    slow = [await slow_body(port, 9_999, bytes(500), "127.0.0.2") for _ in range(50)]
    await asyncio.sleep(0.2)
    assert (await post(port, bytes(7_000)))[0] == 200  # from 127.0.0.1
    assert (await post(port, bytes(8_000)))[:2] == (503, {"error": "busy"})
    for writer in slow:
        writer.close()
    await asyncio.sleep(0.2)
    assert (await post(port, bytes(8_000)))[0] == 200  # what the other held came back


async def test_a_connection_that_says_nothing_is_closed(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesubnet.wire.listening.IDLE_TIMEOUT_S", 0.3)
    _, port = await bob(stage, ok)
    for said in (b"", b"POST /v1/step HT", b"POST /v1/step HTTP/1.1\r\nHost: a\r\n"):
        start_s = asyncio.get_running_loop().time()
        assert b" 200 " not in await raw_exchange(port, said)
        assert asyncio.get_running_loop().time() - start_s < 3


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has it")
async def test_who_takes_no_byte_of_an_answer_is_cut_off(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesubnet.wire.listening.IDLE_TIMEOUT_S", 0.3)
    ended = asyncio.Event()

    @public
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(2**20))
        finally:
            ended.set()

    app = web.Application(middlewares=[door()])
    app.router.add_get("/endless", endless)
    _, writer = await asyncio.open_connection("127.0.0.1", (await stage.serve(app)).port)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.wait_for(ended.wait(), 20)
    writer.close()


@needs_loopback_net
async def test_however_many_connections_some_addresses_open_the_next_one_gets_its_part(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesubnet.wire.listening.MAX_CONNECTIONS", 64)
    client, port = await bob(stage, ok)
    pairs, held = [], []
    for host in (2, 3, 4):
        address = (f"127.0.0.{host}", 0)
        opened = [
            await asyncio.open_connection("127.0.0.1", port, local_addr=address) for _ in range(40)
        ]
        await asyncio.sleep(0.2)
        held.append(sum(not reader.at_eof() for reader, _ in opened))
        pairs += opened
    assert held == [16, 12, 9]
    await client.step(one_step(), timeout_s=5)
    for _, writer in pairs:
        writer.close()


async def test_too_many_connections_of_one_address_are_closed(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesubnet.wire.listening.MAX_CONNECTIONS", 5)
    _, port = await bob(stage, ok)
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
    await asyncio.sleep(0.2)
    closed = sum(reader.at_eof() for reader, _ in pairs)
    assert closed == 3
    for _, writer in pairs:
        writer.close()
