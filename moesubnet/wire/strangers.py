"""HTTP with strangers, who say what they like and as slowly: the transport below every client.

Literal addresses only, no redirects, proxies, cookies or compression, bytes counted while they
stream, deadlines on connecting, silence and the whole; whatever goes wrong is an error of
`moesubnet.errors`.
"""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NoReturn

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import BaseModel, Field
from yarl import URL

from moesubnet import __version__
from moesubnet.errors import PeerError, PeerRefused, PeerUnavailable, WireError
from moesubnet.types import Axon
from moesubnet.wire.lanes import LENGTH_BYTES
from moesubnet.wire.signing import OFF_LOOP_BYTES
from moesubnet.wire.strict_json import parse_as

CONNECT_TIMEOUT_S = 3.0
MAX_SMALL_BYTES = 16_384  # errors, cards
MAX_LINE_BYTES = 2**18
MAX_CONNECTIONS = 512  # callers ask less at once
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")


class _NoDns(AbstractResolver):
    """Axons are literal addresses; a name to resolve is a mistake or an attack."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> NoReturn:
        raise OSError("names are never resolved")

    async def close(self) -> None:
        return


def open_http_session() -> aiohttp.ClientSession:
    """A session for strangers. Share one among all clients of a process, and close it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=_NoDns(), use_dns_cache=False, limit=MAX_CONNECTIONS
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "User-Agent": f"moesubnet/{__version__}"},
        auto_decompress=False,
        trust_env=False,
        max_line_size=8_190,
        max_field_size=8_190,
    )


async def get_public(
    http: aiohttp.ClientSession, axon: Axon, path: str, *, max_bytes: int, timeout_s: float
) -> bytes:
    """An unsigned GET of at most `max_bytes`; run `check_axon` on the address first.

    Raises PeerUnavailable, PeerRefused, WireError.
    """
    async with open_response(http, axon, "GET", path, b"", {}, timeout_s) as response:
        return bytes(await read_body(response, max_bytes))


@asynccontextmanager
async def open_response(
    http: aiohttp.ClientSession,
    axon: Axon,
    method: str,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    timeout_s: float,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A response of status 200; every transport error is a PeerError."""
    timeout = aiohttp.ClientTimeout(
        total=max(timeout_s, 0.001),  # zero would mean forever
        sock_connect=CONNECT_TIMEOUT_S,
        sock_read=timeout_s,
    )
    try:
        async with http.request(
            method,
            URL(axon.url + path, encoded=True),
            data=io.BytesIO(body) if len(body) > OFF_LOOP_BYTES else body or None,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            if response.status != 200:
                raise await _refusal(response)
            yield response
    except TimeoutError:
        raise PeerUnavailable(f"no answer within {timeout_s:.1f} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise PeerUnavailable(f"connection failed: {type(error).__name__}") from error


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytearray:
    """The whole body; WireError as soon as it is, or says that it will be, larger."""
    if (response.content_length or 0) > max_bytes:
        raise WireError(f"an answer of more than {max_bytes} bytes")
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > max_bytes:
            raise WireError(f"an answer of more than {max_bytes} bytes")
    return data


async def read_frames(response: aiohttp.ClientResponse, max_bytes: int) -> AsyncIterator[bytearray]:
    """What comes with its length before it; WireError when all is more than `max_bytes`, or ends
    in the middle."""
    pending, whole = bytearray(), 0
    async for chunk in response.content.iter_any():
        pending += chunk
        whole += len(chunk)
        if whole > max_bytes:
            raise WireError(f"an answer of more than {max_bytes} bytes")
        while len(pending) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(pending[:LENGTH_BYTES], "little")
            if len(pending) < end:
                break
            frame = pending[LENGTH_BYTES:end]
            del pending[:end]
            yield frame
    if pending:
        raise WireError("the answer ends in the middle of a frame")


async def read_lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body's lines, each with its newline; WireError for one that is too long or cut."""
    pending = bytearray()
    async for chunk in response.content.iter_any():
        searched = len(pending)
        pending += chunk
        while (newline := pending.find(b"\n", searched)) >= 0:
            yield bytes(pending[: newline + 1])
            del pending[: newline + 1]
            searched = 0
        if len(pending) > MAX_LINE_BYTES:
            raise WireError("a line of the stream is too long")
    if pending:
        raise WireError("the stream ends in the middle of a line")


async def _refusal(response: aiohttp.ClientResponse) -> PeerError:
    """The error for another status."""
    try:
        body = bytes(await read_body(response, MAX_SMALL_BYTES))
    except WireError:
        body = b""
    return PeerRefused(response.status, code_of(body))


def code_of(body: bytes) -> str:
    """A peer's error code, only if it looks like one."""
    try:
        code = ErrorBody.read(body).error
    except ValueError:
        code = ""
    return code if _ERROR_CODE.fullmatch(code) else ""


class ErrorBody(BaseModel):
    error: str = ""
    held_tokens: list[int] = Field(default=[], max_length=4_096)

    @classmethod
    def read(cls, body: bytes) -> ErrorBody:
        """Raises ValueError. In a lane, or through a router, it may be as long as an answer."""
        if len(body) > MAX_SMALL_BYTES:
            raise ValueError("too long for an error")
        return parse_as(cls, body)
