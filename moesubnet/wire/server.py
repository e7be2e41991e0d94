"""The server side of the wire on aiohttp.web: who may call, how much, and signed answers.

Every route is authenticated unless its handler is marked `@public` or `@loopback_only`. Handlers
find the proven sender in `request[CALLER]` and the raw body in `request[BODY]`; they raise errors
of `moesubnet.errors`, and strangers only ever see a constant code. The order is the
defence: size and header checks, then policy, then the body, then the signature, then parsing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from moesubnet.errors import (
    AuthError,
    BadSignature,
    EngineError,
    Forbidden,
    MalformedAuth,
    MoesubnetError,
    Overloaded,
    ReplayedRequest,
    StaleMetagraph,
    StaleRequest,
    UnknownBase,
    WireError,
    WrongReceiver,
)
from moesubnet.types import Hotkey, MetagraphSource, Signer
from moesubnet.wire.addresses import is_loopback
from moesubnet.wire.bodies import Bodies
from moesubnet.wire.frames import CONTENT_TYPE
from moesubnet.wire.lanes import Given, Lane, pack_answers
from moesubnet.wire.limits import RateLimiter, address_key
from moesubnet.wire.nonces import NonceStore
from moesubnet.wire.protocol import GenerateChunk, StreamReceipt
from moesubnet.wire.signing import (
    RECEIPT,
    Caller,
    off_loop,
    prove_claim,
    read_claim,
    sha256_of,
    sign_receipt,
)

CALLER = web.RequestKey("caller", Caller)
BODY = web.RequestKey("body", bytes)
_STARTED = web.RequestKey("started", web.StreamResponse)
_SIGNED = web.RequestKey("signed", bool)  # the answer has its receipts already
BODY_TIMEOUT_S = 10.0
MAX_UNPROVEN_BYTES = 2**27
GATHER_S = 0.002  # from one to the next, for one receipt over what is ready together
MAX_HELD_BYTES = 2**27  # answers of one lane that its caller has not taken

# First match wins. 401: prove who you are. 403: we know, and no. 409, 400: the caller's mistake.
_STATUS: tuple[tuple[type[MoesubnetError], int, str], ...] = (
    (Forbidden, 403, "forbidden"),
    (MalformedAuth, 401, "malformed_auth"),
    (WrongReceiver, 401, "wrong_receiver"),
    (StaleRequest, 401, "stale_request"),
    (BadSignature, 401, "bad_signature"),
    (ReplayedRequest, 401, "replayed_request"),
    (AuthError, 401, "unauthorized"),
    (WireError, 400, "malformed_request"),
    (UnknownBase, 409, "unknown_base"),
    (Overloaded, 429, "too_many_requests"),
    (StaleMetagraph, 503, "stale_metagraph"),
    (EngineError, 503, "engine_unavailable"),
)

# Of a body that could not be read (`Bodies`).
_BODY_ERRORS = {400: "malformed_request", 408: "body_incomplete", 413: "too_large", 503: "busy"}

CallerPolicy = Callable[[Hotkey], None]
log = logging.getLogger(__name__)


def stake_gate(
    metagraphs: MetagraphSource,
    min_caller_stake_rao: Callable[[], int],
    has_open_session: Callable[[Hotkey], bool] = lambda _: False,
) -> CallerPolicy:
    """A policy: registered and staked callers only; else Forbidden.

    While the metagraph is stale nobody new is let in (StaleMetagraph), open sessions go on.
    """

    def check(caller: Hotkey) -> None:
        try:
            neuron = metagraphs.current().by_hotkey.get(caller)
        except StaleMetagraph:
            if has_open_session(caller):
                return
            raise
        if neuron is None or neuron.stake_rao < min_caller_stake_rao():
            raise Forbidden("the caller is not registered or has too little stake")

    return check


def public(handler: Handler) -> Handler:
    """Mark a GET handler as open to everyone, rate-limited by address."""
    handler.moesubnet_access = "public"  # type: ignore[attr-defined]
    return handler


def loopback_only(handler: Handler) -> Handler:
    """Mark a GET handler as answering this machine only, and not through a proxy on it."""
    handler.moesubnet_access = "loopback"  # type: ignore[attr-defined]
    return handler


def auth_middleware(
    own_signer: Signer,
    *,
    nonces: NonceStore,
    callers: CallerPolicy,
    max_body_bytes: int,
    public_limiter: RateLimiter | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Middleware:
    """The one door of a neuron's server. `public_limiter` None: 10 a second, bursts of 50."""
    own_hotkey = Hotkey(own_signer.ss58_address)
    unproven = Bodies(MAX_UNPROVEN_BYTES, BODY_TIMEOUT_S)
    limiter = public_limiter or RateLimiter(rate_per_s=10.0, burst=50.0)

    async def enter(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.match_info.http_exception is not None:
            return _refuse(request, request.match_info.http_exception.status, "no_such_route")
        access = getattr(request.match_info.handler, "moesubnet_access", "signed")
        if access != "signed":
            return await unsigned(request, handler, access)
        unsized = request.body_exists and request.content_length is None
        if unsized or "Content-Encoding" in request.headers:
            return _refuse(request, 411, "length_required")
        if (request.content_length or 0) > max_body_bytes:
            return _refuse(request, 413, "too_large")
        try:
            claim = read_claim(request.headers, own_hotkey, clock_ns())
            callers(claim.sender)
            async with unproven.read(request, address_key(request.remote), max_body_bytes) as body:
                now_ns = clock_ns()
                caller = prove_claim(claim, request.method, request.raw_path, body, now_ns, nonces)
        except MoesubnetError as error:
            log.debug("refused remote=%s reason=%s", request.remote, type(error).__name__)
            return _refuse(request, *_status_of(error))
        except web.HTTPException as error:
            return _refuse(request, error.status, _BODY_ERRORS[error.status])
        request[CALLER], request[BODY] = caller, body
        response = await _answer(request, handler)
        return response if _SIGNED in request else await receipted(response, caller)

    async def unsigned(request: web.Request, handler: Handler, access: str) -> web.StreamResponse:
        if request.body_exists:
            return _refuse(request, 413, "too_large")
        if access == "loopback" and not is_local(request):
            return _refuse(request, 403, "forbidden")
        if access == "public" and not limiter.take(address_key(request.remote)):
            return _refuse(request, 429, "too_many_requests")
        return await _answer(request, handler)

    async def receipted(response: web.StreamResponse, caller: Caller) -> web.StreamResponse:
        """Sign a finished response; streams and lanes have signed themselves."""
        if not response.prepared:
            body = (response.body or b"") if isinstance(response, web.Response) else None
            assert isinstance(body, bytes | bytearray), "signed routes answer with bytes"
            digest = await sha256_of(body)
            response.headers[RECEIPT] = sign_receipt(
                own_signer, response.status, caller.request_sha256, digest, caller.hotkey
            )
        return response

    return web.middleware(enter)


class SignedStream:
    """Answers a signed request with chunks as lines, then one line with the receipt."""

    def __init__(self, request: web.Request, signer: Signer) -> None:
        self._request = request
        self._signer = signer
        self._hasher = hashlib.sha256()
        self.response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        request[_STARTED] = self.response

    async def send(self, chunk: GenerateChunk) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        line = chunk.model_dump_json(exclude_defaults=True).encode() + b"\n"
        self._hasher.update(line)
        await self.response.write(line)

    async def finish(self) -> web.StreamResponse:
        """Call after the chunk with a finish reason; return its value from the handler."""
        caller = self._request[CALLER]
        digest = self._hasher.digest()
        receipt = sign_receipt(self._signer, 200, caller.request_sha256, digest, caller.hotkey)
        await self.response.write(StreamReceipt(receipt=receipt).model_dump_json().encode() + b"\n")
        await self.response.write_eof()
        return self.response


def lane_route(
    signer: Signer,
    step: Callable[[Hotkey, bytes], Awaitable[bytes]],
    told: Callable[[int], None] = lambda _: None,
) -> Handler:
    """The handler of a route that lanes go to. step: answers one step's body, by whom; what it
    raises is that step's status, and the others' are what they are. told: each step's status."""

    async def answered(caller: Hotkey, place: int, body: bytes) -> Given:
        try:
            return Given(place, 200, await step(caller, body))
        except MoesubnetError as error:
            held = error.held_tokens if isinstance(error, UnknownBase) else None
            status, code = _status_of(error)
            return Given(place, status, _error_body(code, held))
        except Exception:
            log.exception("failed on a step")
            return Given(place, 500, _error_body("internal"))

    async def handle(request: web.Request) -> web.StreamResponse:
        caller = request[CALLER]
        body = request[BODY]
        query = request.raw_path.partition("?")[2]
        lane = await off_loop(len(body), Lane.from_bytes, body, query)
        request[_STARTED] = response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
        request[_SIGNED] = True
        held_bytes = 0  # in answers that are ready and not taken

        async def held(place: int, body: bytes) -> Given:
            nonlocal held_bytes
            given = await answered(caller.hotkey, place, body)
            if held_bytes and held_bytes + len(given.body) > MAX_HELD_BYTES:
                status, code = _status_of(Overloaded())
                given = Given(place, status, _error_body(code))
            held_bytes += len(given.body)
            told(given.status)
            return given

        async def packed(done: Iterable[asyncio.Task[Given]]) -> bytes:
            given = sorted((task.result() for task in done), key=lambda g: g.place)
            size = sum(len(g.body) for g in given)
            return await off_loop(
                size, pack_answers, given, lane, caller.nonce_ns, caller.hotkey, signer
            )

        left = {asyncio.create_task(held(place, body)) for place, body in enumerate(lane.steps)}
        try:
            while left:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                more = done
                while left and more:  # those of the same batch come now, one after the other
                    more, left = await asyncio.wait(
                        left, timeout=GATHER_S, return_when=asyncio.FIRST_COMPLETED
                    )
                    done |= more
                if left and not response.prepared:
                    await response.prepare(request)
                if response.prepared:
                    await response.write(await packed(done))
                    held_bytes -= sum(len(task.result().body) for task in done)
            if response.prepared:
                await response.write_eof()
                return response
        except ConnectionResetError:  # the caller has left
            return response
        finally:  # also where the caller has left: what nobody waits for is not computed
            for task in left:
                task.cancel()
        return web.Response(body=await packed(done), content_type=CONTENT_TYPE)

    return handle


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The handler's response, its errors as constant codes. Bugs stay visible: 500 and a log."""
    try:
        return await handler(request)
    except UnknownBase as error:
        response = _error(409, "unknown_base", held_tokens=error.held_tokens)
    except MoesubnetError as error:
        log.info("failed path=%s reason=%s", request.path, error)
        response = _error(*_status_of(error))
    except web.HTTPException as error:
        response = _error(error.status, error.reason.lower().replace(" ", "_"))
    started: web.StreamResponse | None = request.get(_STARTED)
    if started is not None and started.prepared:
        return started  # too late for a status: the stream ends without its receipt
    return response


def _status_of(error: MoesubnetError) -> tuple[int, str]:
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return status, code
    return 500, "internal"


def _error(status: int, code: str, held_tokens: tuple[int, ...] | None = None) -> web.Response:
    body = _error_body(code, held_tokens)
    return web.Response(status=status, body=body, content_type="application/json")


def _error_body(code: str, held_tokens: tuple[int, ...] | None = None) -> bytes:
    body = {"error": code} | ({} if held_tokens is None else {"held_tokens": held_tokens})
    return json.dumps(body).encode()


def _refuse(request: web.Request, status: int, code: str) -> web.Response:
    """An answer before the body was read: the connection closes instead of draining it."""
    response = _error(status, code)
    if request.body_exists and not request.content.is_eof():
        response.force_close()
    return response


def is_local(request: web.Request) -> bool:
    """Whether a request comes from this machine, and not through a proxy on it."""
    forwarded = {"Forwarded", "X-Forwarded-For", "X-Real-IP"} & set(request.headers)
    return is_loopback(request.remote or "") and not forwarded
