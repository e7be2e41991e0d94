"""The spec that the chain names is found in a folder, at a file: URL, or over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from moesubnet.errors import SpecError
from moesubnet.spec import LoadedSpec
from moesubnet.spec_source import find_spec
from moesubnet.types import BlockNumber, Coldkey, Hotkey, Metagraph, NetUid


def metagraph(sha256: str | None, url: str | None) -> Metagraph:
    return Metagraph(
        netuid=NetUid(1),
        block=BlockNumber(1),
        block_hash="0x00",
        tempo_blocks=30,
        epoch_index=0,
        last_epoch_block=BlockNumber(0),
        next_epoch_block=BlockNumber(30),
        owner_hotkey=Hotkey("owner"),
        owner_coldkey=Coldkey("owner"),
        commit_reveal=True,
        spec_sha256=sha256,
        spec_url=url,
        neurons=(),
    )


@pytest.fixture
async def published(
    tiny_spec: LoadedSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[str, dict[str, bytes], list[str]]]:
    """URL of an owner's server, its files (to tamper with), and what was asked of it."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path / "cache"))
    files = {path.name: path.read_bytes() for path in tiny_spec.root.iterdir()}
    asked: list[str] = []

    async def serve(request: web.Request) -> web.Response:
        asked.append(request.match_info["name"])
        if request.match_info["name"] not in files:
            raise web.HTTPFound("http://127.0.0.1:1/elsewhere")
        return web.Response(body=files[request.match_info["name"]])

    app = web.Application()
    app.router.add_get("/spec/{name}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield f"http://127.0.0.1:{port}/spec", files, asked
    await runner.cleanup()


async def test_a_folder_must_be_the_one_on_chain(tiny_spec: LoadedSpec) -> None:
    found = await find_spec(tiny_spec.root, metagraph(tiny_spec.sha256, None))
    assert found.sha256 == tiny_spec.sha256
    with pytest.raises(SpecError, match="the chain says"):
        await find_spec(tiny_spec.root, metagraph("ab" * 32, None))


async def test_a_file_url(tiny_spec: LoadedSpec) -> None:
    url = tiny_spec.root.resolve().as_uri()
    found = await find_spec(None, metagraph(tiny_spec.sha256, url))
    assert found.root == tiny_spec.root.resolve()


@pytest.mark.parametrize(
    ("sha256", "url"), [(None, None), ("ab" * 32, ""), ("ab" * 32, "ftp://x/y")]
)
async def test_nothing_to_find(sha256: str | None, url: str | None) -> None:
    with pytest.raises(SpecError, match="--spec FOLDER"):
        await find_spec(None, metagraph(sha256, url))


async def test_it_is_fetched_once(
    published: tuple[str, dict[str, bytes], list[str]], tiny_spec: LoadedSpec
) -> None:
    url, files, asked = published
    for _ in range(2):
        found = await find_spec(None, metagraph(tiny_spec.sha256, url))
        assert found.sha256 == tiny_spec.sha256
        assert found.root != tiny_spec.root
    assert sorted(asked) == sorted(files)


@pytest.mark.parametrize("name", ["spec.json", "tokenizer.json", "unigram.npy"])
async def test_an_altered_file_is_refused_and_may_be_repaired(
    published: tuple[str, dict[str, bytes], list[str]], tiny_spec: LoadedSpec, name: str
) -> None:
    url, files, _ = published
    honest = files[name]
    files[name] = honest + b" "
    wanted = metagraph(hashlib.sha256(files["spec.json"].strip() + b"\n").hexdigest(), url)
    with pytest.raises(SpecError, match="not the file that the chain names"):
        await find_spec(None, wanted)
    files[name] = honest
    assert (await find_spec(None, wanted)).sha256 == tiny_spec.sha256


async def test_redirects_and_absent_servers_are_errors(
    published: tuple[str, dict[str, bytes], list[str]], tiny_spec: LoadedSpec
) -> None:
    url, files, _ = published
    del files["spec.json"]
    with pytest.raises(SpecError, match="302"):
        await find_spec(None, metagraph(tiny_spec.sha256, url))
    with pytest.raises(SpecError, match="cannot fetch"):
        await find_spec(None, metagraph(tiny_spec.sha256, "http://127.0.0.1:1/spec"))
