"""Files from strangers' web servers, each named by its hash beforehand.

Names may resolve to what they like: every address is checked when it is connected to. What has
come of a file is kept beside it (`.part`), and the next attempt goes on from there.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from moesubnet.errors import FetchError
from moesubnet.wire.addresses import checked_sockets

if TYPE_CHECKING:
    import aiohttp

READ_TIMEOUT_S = 30.0
MAX_REDIRECTS = 5  # hubs answer with the address of a store

OnBytes = Callable[[int], None]  # how much of a file is there now


@asynccontextmanager
async def open_downloads(
    *, allow_private: bool, total_s: float | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """A session for `download`. Inside, every failure of the network is a FetchError.

    total_s: for one file; without it only a server that falls silent is given up.
    """
    import aiohttp

    try:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                socket_factory=checked_sockets(allow_private=allow_private)
            ),
            timeout=aiohttp.ClientTimeout(total=total_s, connect=20.0, sock_read=READ_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
        ) as http:
            yield http
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise FetchError(str(error) or type(error).__name__) from error


async def size_of(http: aiohttp.ClientSession, url: str) -> int:
    """Bytes of a file, as its server says. Raises FetchError."""
    async with http.head(url, max_redirects=MAX_REDIRECTS, allow_redirects=True) as response:
        size = response.content_length
        if response.status != 200 or size is None:
            raise FetchError(f"{url} answered {response.status} and no size")
        return size


async def download(
    http: aiohttp.ClientSession,
    url: str,
    path: Path,
    sha256: str,
    max_bytes: int,
    *,
    redirects: bool = False,
    on_bytes: OnBytes = lambda _: None,
) -> None:
    """The file of this hash, if it is not at `path` already. Raises FetchError as soon as it is too
    large or turns out to be another."""
    part = path.with_name(path.name + ".part")
    there = await asyncio.to_thread(_read, path)
    if there is not None and there[0].hexdigest() == sha256:
        on_bytes(there[1])
        return
    begun = await asyncio.to_thread(_read, part)
    digest, size = begun or (hashlib.sha256(), 0)
    headers = {"Range": f"bytes={size}-"} if size else {}
    async with http.get(
        url, headers=headers, allow_redirects=redirects, max_redirects=MAX_REDIRECTS
    ) as response:
        if response.status == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
                raise FetchError(f"{url} goes on elsewhere than where it was asked to")
        elif response.status == 200:
            digest, size = hashlib.sha256(), 0
        elif response.status != 416:  # there is nothing after what we have
            raise FetchError(f"{url} answered {response.status}")
        with part.open("ab" if size else "wb") as handle:
            while response.status != 416 and (chunk := await response.content.read(2**20)):
                size += len(chunk)
                if size > max_bytes:
                    part.unlink()
                    raise FetchError(f"{url} is larger than {max_bytes} bytes")
                digest.update(chunk)
                handle.write(chunk)
                on_bytes(size)
    if digest.hexdigest() != sha256:
        part.unlink()
        raise FetchError(f"{url} is another file than the one that its hash names")
    os.replace(part, path)


def _read(path: Path) -> tuple[hashlib._Hash, int] | None:
    """What there is of a file, hashed, and its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256"), file.tell()
