"""The spec that the chain names is found in a folder, at a file: URL, or over HTTP."""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from moesubnet.errors import SpecError
from moesubnet.spec.content import MAX_SPEC_BYTES, LoadedSpec
from moesubnet.spec.source import find_spec
from moesubnet.types import Axon, BlockNumber, Coldkey, Hotkey, Metagraph, NetUid
from moesubnet.wire.addresses import check_axon


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
    """URL of an owner's server, its files (to tamper with), and what was asked of it, and where:
    it listens on all of this machine's addresses."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path / "cache"))
    files = {path.name: path.read_bytes() for path in tiny_spec.root.iterdir()}
    asked: list[str] = []

    async def serve(request: web.Request) -> web.Response:
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        asked.append(f"{address}/{request.match_info['name']}")
        if request.match_info["name"] not in files:
            raise web.HTTPFound("http://127.0.0.1:1/elsewhere")
        response = web.Response(body=files[request.match_info["name"]])
        response.force_close()  # each file is fetched over a connection of its own
        return response

    app = web.Application()
    app.router.add_get("/spec/{name}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "0.0.0.0", 0)
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
    ("sha256", "url"),
    [
        (None, None),
        ("ab" * 32, ""),
        ("ab" * 32, "ftp://x/y"),
        ("ab" * 32, "http://[x"),
        ("ab" * 32, "http://x:99999"),
    ],
)
async def test_nothing_to_find(sha256: str | None, url: str | None) -> None:
    with pytest.raises(SpecError, match="--spec FOLDER"):
        await find_spec(None, metagraph(sha256, url))


async def test_it_is_fetched_once(
    published: tuple[str, dict[str, bytes], list[str]], tiny_spec: LoadedSpec
) -> None:
    url, files, asked = published
    for _ in range(2):
        found = await find_spec(None, metagraph(tiny_spec.sha256, url), allow_private=True)
        assert found.sha256 == tiny_spec.sha256
        assert found.root != tiny_spec.root
    assert sorted(asked) == sorted(f"127.0.0.1/{name}" for name in files)


@pytest.mark.parametrize("name", ["spec.json", "tokenizer.json", "unigram.npy"])
async def test_an_altered_file_is_refused_and_may_be_repaired(
    published: tuple[str, dict[str, bytes], list[str]], tiny_spec: LoadedSpec, name: str
) -> None:
    url, files, _ = published
    honest = files[name]
    files[name] = honest + b" "
    wanted = metagraph(hashlib.sha256(files["spec.json"].strip() + b"\n").hexdigest(), url)
    with pytest.raises(SpecError, match="another file than the one that its hash names"):
        await find_spec(None, wanted, allow_private=True)
    files[name] = honest
    assert (await find_spec(None, wanted, allow_private=True)).sha256 == tiny_spec.sha256


async def test_redirects_and_absent_servers_are_errors(
    published: tuple[str, dict[str, bytes], list[str]], tiny_spec: LoadedSpec
) -> None:
    url, files, _ = published
    del files["spec.json"]
    with pytest.raises(SpecError, match="302"):
        await find_spec(None, metagraph(tiny_spec.sha256, url), allow_private=True)
    with pytest.raises(SpecError, match="cannot fetch"):
        await find_spec(
            None, metagraph(tiny_spec.sha256, "http://127.0.0.1:1/spec"), allow_private=True
        )


async def test_an_endless_file_is_given_up_at_its_limit(
    published: tuple[str, dict[str, bytes], list[str]], tiny_spec: LoadedSpec
) -> None:
    url, files, _ = published
    files["spec.json"] = bytes(MAX_SPEC_BYTES + 1)
    with pytest.raises(SpecError, match="larger than"):
        await find_spec(None, metagraph(tiny_spec.sha256, url), allow_private=True)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "127.1", "0.0.0.0"]
)
async def test_an_owner_s_url_does_not_lead_to_this_machine(
    published: tuple[str, dict[str, bytes], list[str]], tiny_spec: LoadedSpec, host: str
) -> None:
    url, _, asked = published
    with pytest.raises(SpecError, match="--spec FOLDER"):
        await find_spec(None, metagraph(tiny_spec.sha256, url.replace("127.0.0.1", host)))
    assert asked == []


class Resolver(AbstractResolver):
    """Answers each question with the next list of addresses, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: int = socket.AF_INET
    ) -> list[ResolveResult]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(hostname=host, host=ip, port=port, family=family, proto=0, flags=0)
            for ip in answer
        ]

    async def close(self) -> None:
        return


def name_the_owner(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """owner.example resolves to `answers`, no cache; 127.0.0.2 stands for a public address."""
    connector = partial(aiohttp.TCPConnector, resolver=Resolver(*answers), use_dns_cache=False)
    monkeypatch.setattr("aiohttp.TCPConnector", connector)

    def check(axon: Axon, *, allow_private: bool) -> None:
        if axon.ip != "127.0.0.2":
            check_axon(axon, allow_private=allow_private)

    monkeypatch.setattr("moesubnet.wire.addresses.check_axon", check)


needs_loopback_net = pytest.mark.skipif(
    sys.platform != "linux", reason="127.0.0.2 is an address of this machine on Linux only"
)


@needs_loopback_net
@pytest.mark.parametrize("addresses", [["127.0.0.2"], ["127.0.0.1", "127.0.0.2"]])
async def test_a_name_is_reached_at_its_public_addresses_only(
    published: tuple[str, dict[str, bytes], list[str]],
    tiny_spec: LoadedSpec,
    monkeypatch: pytest.MonkeyPatch,
    addresses: list[str],
) -> None:
    url, files, asked = published
    name_the_owner(monkeypatch, addresses)
    named = metagraph(tiny_spec.sha256, url.replace("127.0.0.1", "owner.example"))
    assert (await find_spec(None, named)).sha256 == tiny_spec.sha256
    assert sorted(asked) == sorted(f"127.0.0.2/{name}" for name in files)


@needs_loopback_net
async def test_a_name_that_turns_private_between_two_files_is_not_followed(
    published: tuple[str, dict[str, bytes], list[str]],
    tiny_spec: LoadedSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, _, asked = published
    name_the_owner(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    named = metagraph(tiny_spec.sha256, url.replace("127.0.0.1", "owner.example"))
    with pytest.raises(SpecError, match="not public"):
        await find_spec(None, named)
    assert asked == ["127.0.0.2/spec.json"]


async def test_a_name_of_the_cloud_s_credentials_is_refused_even_on_a_local_network(
    published: tuple[str, dict[str, bytes], list[str]],
    tiny_spec: LoadedSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name_the_owner(monkeypatch, ["169.254.169.254"])
    named = metagraph(tiny_spec.sha256, "http://owner.example/spec")
    with pytest.raises(SpecError, match="cannot be connected to"):
        await find_spec(None, named, allow_private=True)
