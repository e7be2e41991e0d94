"""Finding the spec that the chain names: in a folder, at the owner's URL, or fetched before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin

from moesubnet.errors import FetchError, SpecError
from moesubnet.host.paths import cache_dir
from moesubnet.spec.content import MAX_SPEC_BYTES, LoadedSpec, load_spec, parse_spec
from moesubnet.wire.addresses import split_url
from moesubnet.wire.downloads import download, open_downloads

if TYPE_CHECKING:
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
    parts = split_url(url)
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
    try:
        async with open_downloads(allow_private=allow_private, total_s=FETCH_TIMEOUT_S) as http:
            unproven = root / "spec.json.unproven"
            await download(http, base_url + "spec.json", unproven, sha256, MAX_SPEC_BYTES)
            spec = parse_spec(unproven.read_bytes(), base_url + "spec.json")
            for file in spec.files:
                path, url = root / file.path, urljoin(base_url, file.path)
                await download(http, url, path, file.sha256, MAX_FILE_BYTES)
    except FetchError as error:
        raise SpecError(
            f"cannot fetch the spec from {base_url}: {error}. If you have it, pass --spec FOLDER"
        ) from error
    os.replace(unproven, root / "spec.json")
