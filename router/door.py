"""Who gets into the router, how much at once, and how a refusal looks."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from moesubnet.router import openai_api as api
from moesubnet.router.billing import RATE_HEADERS, Billing
from moesubnet.router.keys import Key
from moesubnet.router.ledger import Usage
from moesubnet.router.metrics import ANSWERING_PATHS, Metrics
from moesubnet.router.page import PATHS
from moesubnet.router.repeats import Repeatable
from moesubnet.wire.addresses import names_loopback, split_url
from moesubnet.wire.bodies import Bodies
from moesubnet.wire.limits import address_key
from moesubnet.wire.server import is_local

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 2**20
MAX_READING_BYTES = 64 * 2**20  # of all bodies that are arriving
BODY_TIMEOUT_S = 20.0
OPEN_PATHS = PATHS | {"/healthz"}  # to everybody, key or not
ARRIVED_S: web.RequestKey[float] = web.RequestKey("arrived_s", float)  # time.monotonic()
ORIGIN: web.RequestKey[str] = web.RequestKey("origin", str)  # of a page that may call
EXPOSED_HEADERS = ", ".join(
    [
        "retry-after",
        "x-request-id",
        "idempotent-replayed",
        "x-moesubnet-experts",
        "x-moesubnet-overhead-ms",
        *RATE_HEADERS,
    ]
)
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
USED: web.RequestKey[Usage] = web.RequestKey("used", Usage)  # once it is over
STARTED: web.RequestKey[bool] = web.RequestKey("started", bool)  # a stream has begun
IDEMPOTENCY_KEY = "Idempotency-Key"
REPEATABLE: web.RequestKey[Repeatable] = web.RequestKey("repeatable", Repeatable)
KEY: web.RequestKey[Key] = web.RequestKey("key", Key)  # the caller's, if it is of the ledger


@dataclass(slots=True)
class Admission:
    """How many choices may be written and how much may arrive at once; the rest come back later."""

    max_running: int
    running: int = field(default=0)
    _bodies: Bodies = field(default_factory=lambda: Bodies(MAX_READING_BYTES, BODY_TIMEOUT_S))

    async def parsed(self, request: web.Request, kind: type[api.RequestT]) -> api.RequestT:
        """The body as a request. Raises ApiError 408 for one that trickles, 429 when too much is
        arriving, in all or from this key or address, and as `parse_request` does."""
        try:
            async with self._bodies.read(request, sender(request), MAX_BODY_BYTES) as body:
                if IDEMPOTENCY_KEY in request.headers:
                    request[REPEATABLE] = _repeatable(request, body)
                return api.parse_request(kind, body)
        except web.HTTPRequestTimeout:
            text = f"The request body did not arrive within {BODY_TIMEOUT_S:.0f} s."
            raise api.ApiError(408, text, code="request_timeout") from None
        except web.HTTPServiceUnavailable:
            raise _at_capacity() from None
        except web.HTTPBadRequest:
            raise api.ApiError(400, "The request body is broken.") from None

    @contextlib.contextmanager
    def places(self, choices: int) -> Iterator[None]:
        """Hold one for each choice; a request larger than the router holds all.

        Raises ApiError 429 when too few are free.
        """
        places = min(choices, max(1, self.max_running))
        if self.running + places > self.max_running:
            raise _at_capacity()
        self.running += places
        try:
            yield
        finally:
            self.running -= places


def sender(request: web.Request) -> str:
    """By whom a request takes its share of what is scarce: a key of the ledger, or an address."""
    key = request.get(KEY)
    return address_key(request.remote) if key is None else f"key {key.id}"


def _repeatable(request: web.Request, body: bytes) -> Repeatable:
    """The request under the name that its caller gave it. Raises ApiError 400."""
    name = request.headers[IDEMPOTENCY_KEY]
    if not 0 < len(name) <= 255:
        text = "An Idempotency-Key has 1 to 255 characters."
        raise api.ApiError(400, text, param=IDEMPOTENCY_KEY, code="invalid_value")
    if KEY not in request:
        text = "Answers are kept under an Idempotency-Key for keys of `moesubnet router key` only."
        raise api.ApiError(400, text, param=IDEMPOTENCY_KEY, code="unsupported_parameter")
    digest = hashlib.sha256(request.path.encode() + b"\0" + body).hexdigest()
    return Repeatable(hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest(), digest)


def _at_capacity() -> api.ApiError:
    return api.ApiError(
        429,
        "The router is at capacity. Please retry shortly.",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_s=1.0,
    )


def _error_response(error: api.ApiError) -> web.Response:
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(error.body, status=error.status, headers=headers)


def measured(metrics: Metrics) -> Middleware:
    """Count requests by route and status, note when each came, name it, and log what was asked of
    the models: who, how much and how long, never text."""

    @web.middleware
    async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[ARRIVED_S] = time.monotonic()
        request[REQUEST_ID] = f"req_{secrets.token_hex(12)}"
        resource = request.match_info.route.resource
        path, status = "other" if resource is None else resource.canonical, "closed"
        try:
            response = await handler(request)
            status = str(response.status)
            return response
        finally:
            metrics.requests.labels(path, status).inc()
            if path in ANSWERING_PATHS:
                _log_request(request, path, status)

    return measure


def _log_request(request: web.Request, path: str, status: str) -> None:
    key, used = request.get(KEY), request.get(USED, Usage("-"))
    log.info(
        "request id=%s path=%s status=%s key=%s model=%s prompt_tokens=%d completion_tokens=%d "
        "rao=%d seconds=%.3f",
        request[REQUEST_ID],
        path,
        status,
        "-" if key is None else key.id,
        used.model,
        used.prompt_tokens,
        used.completion_tokens,
        used.rao,
        time.monotonic() - request[ARRIVED_S],
    )


async def say_id(request: web.Request, response: web.StreamResponse) -> None:
    """A request's name in our log, where OpenAI's clients look for it."""
    if REQUEST_ID in request:
        response.headers["x-request-id"] = request[REQUEST_ID]


def cross_origin(origins: Sequence[str]) -> Middleware:
    """Which pages may call from a browser: those of `origins` (`*`: all), those of this machine,
    and our own where it shows a key.

    A browser sends simple requests for any page without asking first, so a page that somebody
    opens beside a router on loopback could use it; a name that is made to point here (DNS
    rebinding) is of the same origin, and has no key.
    """
    allowed = frozenset(origins)

    @web.middleware
    async def cross(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is None:
            return await handler(request)
        if not allowed & {origin, "*"}:
            is_own = split_url(origin).netloc == request.host and "Authorization" in request.headers
            if not is_own and not names_loopback(origin):
                return _error_response(
                    api.ApiError(
                        403,
                        "Pages from elsewhere may not use this router; see --allow-origin.",
                        code="origin_not_allowed",
                    )
                )
            return await handler(request)
        request[ORIGIN] = origin
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return web.Response(status=204)
        return await handler(request)

    return cross


async def say_origin(request: web.Request, response: web.StreamResponse) -> None:
    """The headers by which a browser knows that a page may read the answer."""
    origin = request.get(ORIGIN)
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Methods"] = "GET, POST"
        asked = request.headers.get("Access-Control-Request-Headers")
        response.headers["Access-Control-Allow-Headers"] = asked or "authorization, content-type"
        response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
        response.headers["Access-Control-Max-Age"] = "600"
        response.headers["Vary"] = "Origin"


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure before the first byte leaves in OpenAI's shape."""
    try:
        return await handler(request)
    except api.ApiError as error:
        return _error_response(error)
    except api.UNAVAILABLE as error:
        return _error_response(api.unavailable(error))
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
        if request.get(STARTED):
            raise
        log.exception("failed id=%s path=%s", request[REQUEST_ID], request.path)
        text = "The router failed on this request."
        return _error_response(api.ApiError(500, text, kind="server_error", code="internal_error"))


def bearer_auth(api_keys: Sequence[str], billing: Billing | None = None) -> Middleware:
    """Let in who has one of `api_keys`, which spend without limit, or a key of the ledger, which
    is then `request[KEY]`; while there are none of either, everybody."""
    # Digests have one length, so that timing tells nothing about a key's either.
    digests = tuple(hashlib.sha256(key.encode()).digest() for key in api_keys)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_open = not digests and not (billing is not None and await billing.has_keys())
        is_ours = request.path in OPEN_PATHS or (request.path == "/metrics" and is_local(request))
        if (is_open and request.path != "/metrics") or is_ours:
            return await handler(request)
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        given = hashlib.sha256(secret.strip().encode(errors="surrogateescape")).digest()
        # Compare with every key, so that timing tells nothing about which one was near.
        is_known = sum(hmac.compare_digest(given, digest) for digest in digests) > 0
        if not is_known and billing is not None and scheme.lower() == "bearer":
            key = await billing.key_of(secret.strip())
            if key is not None:
                request[KEY], is_known = key, True
        if scheme.lower() != "bearer" or not is_known:
            raise api.ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
        return await handler(request)

    return check
