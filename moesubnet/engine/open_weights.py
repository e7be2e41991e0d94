"""Weights that their owner offers to everybody: where the files are, and that they are those that
the expert's commitment names.

An offer is the URL of a folder with a file SHA256SUMS, whose own hash is the commitment: what
`sha256sum config.json *.safetensors` prints in a model's folder, or `sha256sum *.gguf` of a split
GGUF file. Of a base with an adapter it is two lines, the hashes of base/SHA256SUMS and of
adapter/SHA256SUMS; of one GGUF file the URL names the file itself. So everything is known by its
hash before it is fetched.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moesubnet.engine.gguf_file import parts_of, resolve_file
from moesubnet.engine.model_folder import (
    ADAPTER_CONFIG,
    INDEX,
    model_files,
    resolve_adapter,
    resolve_model,
    sums,
)
from moesubnet.errors import ConfigError, FetchError
from moesubnet.host.paths import cache_dir, write_whole
from moesubnet.host.progress import OnProgress, Progress
from moesubnet.spec.content import file_sha256
from moesubnet.wire.downloads import download, open_downloads, size_of

if TYPE_CHECKING:
    import aiohttp

SUMS = "SHA256SUMS"
MAX_SUMS_BYTES = 65_536
MAX_FILES = 256
_FILE = re.compile(
    r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_.-]{0,120}\.(?:json|safetensors|gguf))"
)
_HASH = re.compile(r"[0-9a-f]{64}")
_PARTS = ("base", "adapter")


@dataclass(frozen=True, slots=True)
class Offered:
    """One file: its place below a folder, where it is served, its hash."""

    name: str
    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Weights:
    """On disk, as an engine takes them."""

    model: str
    adapter: str | None = None


def lay_out(model: str, adapter: str | None, out: Path) -> str:
    """Put into the folder `out`, which is made, what an offer of these weights has; the commitment.

    Files are linked where they lie on the same disk. Raises EngineError, ConfigError.
    """
    parts: dict[str, list[Path]]  # by their place in `out`
    if model.lower().endswith(".gguf"):
        if adapter is not None:
            raise ConfigError("a GGUF file is served without an adapter")
        parts = {"": parts_of(resolve_file(model))}
    elif adapter is None:
        parts = {"": model_files(resolve_model(model))}
    else:
        own = model_files(resolve_adapter(adapter), ADAPTER_CONFIG)
        parts = {"base": model_files(resolve_model(model)), "adapter": own}
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty")
    hashes = []
    for place, files in parts.items():
        (out / place).mkdir(parents=True, exist_ok=True)
        for file in files:
            _link(file.resolve(), out / place / file.name)
        if len(files) == 1:  # a GGUF file; its own hash is the commitment
            return file_sha256(files[0])
        hashes.append(_written(out / place / SUMS, sums(files)))
    if len(hashes) == 1:
        return hashes[0]
    return _written(out / SUMS, "".join(f"{sha256}\n" for sha256 in hashes))


def _link(file: Path, place: Path) -> None:
    try:
        place.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, place)


def _written(path: Path, text: str) -> str:
    """Its SHA-256."""
    path.write_text(text)
    return file_sha256(path)


async def check_offer(url: str, commitment: str, *, allow_private: bool) -> int:
    """Bytes of all files that `url` offers. Raises FetchError unless they are of the commitment."""
    async with open_downloads(allow_private=allow_private) as http:
        return sum(
            [await size_of(http, file.url) for file in await _offered(http, url, commitment)]
        )


async def fetch_weights(
    url: str,
    commitment: str,
    *,
    max_bytes: int,
    allow_private: bool,
    on_size: Callable[[int], None],
    on_progress: OnProgress,
    only_safetensors: bool = False,
) -> Weights:
    """Download what the commitment names, or what of it is missing. Raises FetchError."""
    folder = cache_dir("weights", commitment)
    async with open_downloads(allow_private=allow_private) as http:
        files = await _offered(http, url, commitment)
        if only_safetensors and files[0].name.endswith(".gguf"):
            raise FetchError(f"{url} offers a GGUF file, which is read by code that is not ours")
        sizes = [await size_of(http, file.url) for file in files]
        total, done, begun_s = sum(sizes), 0, time.monotonic()
        on_size(total)
        if total > max_bytes:
            raise FetchError(f"{url} offers {total:,} bytes, more than the {max_bytes:,} allowed")
        for file, size in zip(files, sizes, strict=True):

            def show(have: int, before: int = done) -> None:
                elapsed_s = time.monotonic() - begun_s
                on_progress(Progress("weights", (before + have) / max(total, 1), None, elapsed_s))

            path = folder / file.name
            await download(http, file.url, path, file.sha256, size, redirects=True, on_bytes=show)
            done += size
    await asyncio.to_thread(_write_indices, folder)
    if files[0].name.endswith(".gguf"):
        return Weights(str(folder / files[0].name))
    if files[0].name.startswith("base/"):
        return Weights(str(folder / "base"), str(folder / "adapter"))
    return Weights(str(folder))


def _write_indices(folder: Path) -> None:
    """Of a model in several files, which of them holds what: transformers asks for it, no
    commitment names it, and the files say it. Raises FetchError."""
    from safetensors import SafetensorError, safe_open

    for place in (folder, folder / "base"):
        weights: dict[str, str] = {}
        for file in sorted(place.glob("model-*-of-*.safetensors")):
            try:
                with safe_open(file, framework="np") as opened:
                    weights |= dict.fromkeys(opened.keys(), file.name)
            except SafetensorError as error:
                raise FetchError(f"{file.name} is no safetensors file ({error})") from error
        if weights:
            write_whole(place / INDEX, json.dumps({"metadata": {}, "weight_map": weights}))


def give_tokenizer(weights: Weights, tokenizer: Path) -> None:
    """A fetched folder has none: no commitment names it, and it is the subnet's."""
    if Path(weights.model).is_dir():
        shutil.copyfile(tokenizer, Path(weights.model) / "tokenizer.json")


async def _offered(http: aiohttp.ClientSession, url: str, commitment: str) -> list[Offered]:
    """All files, a model's or base's before an adapter's."""
    if url.lower().endswith(".gguf"):
        return [Offered("model.gguf", url, commitment)]
    lines = await _sums(http, url, commitment)
    if len(lines) == 2 and all(map(_HASH.fullmatch, lines)):
        found = []
        for part, sha256 in zip(_PARTS, lines, strict=True):
            inner = f"{url.rstrip('/')}/{part}"
            found += [
                Offered(f"{part}/{file.name}", file.url, file.sha256)
                for file in _files(await _sums(http, inner, sha256), inner)
            ]
        return found
    return _files(lines, url)


async def _sums(http: aiohttp.ClientSession, url: str, sha256: str) -> list[str]:
    """The lines of a folder's SHA256SUMS, which has this hash itself."""
    with tempfile.TemporaryDirectory() as folder:
        path, where = Path(folder) / SUMS, f"{url.rstrip('/')}/{SUMS}"
        try:
            await download(http, where, path, sha256, MAX_SUMS_BYTES, redirects=True)
        except FetchError as error:
            raise FetchError(
                f"{error}. `moesubnet miner offer` writes it: {SUMS} is what `sha256sum "
                "config.json *.safetensors` prints in the model's folder, byte for byte"
            ) from error
        return path.read_text("utf-8", "replace").splitlines()


def _files(lines: list[str], url: str) -> list[Offered]:
    """Raises FetchError for names that are no model's."""
    matches = [_FILE.fullmatch(line) for line in lines]
    named = {match[2]: match[1] for match in matches if match is not None}
    if not 0 < len(named) == len(lines) <= MAX_FILES:
        raise FetchError(f"{url}/{SUMS} does not name a model's files, each once")
    return [Offered(name, f"{url.rstrip('/')}/{name}", sha256) for name, sha256 in named.items()]
