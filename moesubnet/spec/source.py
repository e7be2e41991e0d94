"""Finding the spec that the chain names: in a folder, at the owner's URL, or fetched before."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

from moesubnet.errors import SpecError
from moesubnet.host.paths import cache_dir
from moesubnet.spec.content import MAX_SPEC_BYTES, LoadedSpec, load_spec, parse_spec
from moesubnet.wire.addresses import checked_sockets

if TYPE_CHECKING:
    import aiohttp

    from moesubnet.types import Metagraph

MAX_FILE_BYTES = 1 << 30
FETCH_TIMEOUT_S = 600.0


async def find_spec(
    folder: Path | None, metagraph: Metagraph, *, allow_private: bool = False
) -> LoadedSpec:
    """The spec that `metagraph` names, from `folder` or else from the URL on chain.

    The URL names the folder of spec.json: `file:`, `http:` or `https:`. The owner is a stranger:
    public addresses only unless `allow_private`, whatever its names resolve to, and everything
    fetched is checked against the hash on chain and kept. Raises SpecError.
    """
    sha256, url = metagraph.spec_sha256, metagraph.spec_url
    if folder is not None:
        return load_spec(folder, sha256)
    if sha256 is None or not url:
        raise SpecError(
            f"subnet {metagraph.netuid} has no spec on chain yet: pass --spec FOLDER, "
            "or wait until its owner publishes one"
        )
    parts = urlsplit(url)
    if parts.scheme == "file":
        return load_spec(Path(unquote(parts.path)), sha256)
    if parts.scheme not in ("http", "https"):
        raise SpecError(f"cannot fetch the spec from {url!r}: pass --spec FOLDER")
    root = cache_dir("specs", sha256.removeprefix("0x"))
    if not (root / "spec.json").is_file():
        base_url, digest = url.rstrip("/") + "/", sha256.removeprefix("0x")
        await fetch_spec(base_url, digest, root, allow_private=allow_private)
    return load_spec(root, sha256)


async def fetch_spec(base_url: str, sha256: str, root: Path, *, allow_private: bool) -> None:
    """Download the files, spec.json last, so that a folder with one is complete."""
    import aiohttp

    try:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                socket_factory=checked_sockets(allow_private=allow_private)
            ),
            timeout=aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S, connect=20.0, sock_read=30.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
        ) as http:
            unproven = root / "spec.json.part"
            await _download(http, base_url + "spec.json", unproven, sha256, MAX_SPEC_BYTES)
            spec = parse_spec(unproven.read_bytes(), base_url + "spec.json")
            for file in spec.files:
                path, url = root / file.path, urljoin(base_url, file.path)
                await _download(http, url, path, file.sha256, MAX_FILE_BYTES)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise SpecError(
            f"cannot fetch the spec from {base_url}: {error or type(error).__name__}. "
            "If you have it, pass --spec FOLDER"
        ) from error
    os.replace(unproven, root / "spec.json")


async def _download(
    http: aiohttp.ClientSession, url: str, path: Path, sha256: str, max_bytes: int
) -> None:
    """A file of this hash; SpecError as soon as it is too large or turns out to be another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    digest, size = hashlib.sha256(), 0
    async with http.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise SpecError(f"{url} answered {response.status}")
        with temporary.open("wb") as handle:
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > max_bytes:
                    raise SpecError(f"{url} is larger than {max_bytes} bytes")
                digest.update(chunk)
                handle.write(chunk)
    if digest.hexdigest() != sha256:
        raise SpecError(f"{url} is not the file that the chain names")
    os.replace(temporary, path)
