"""Chains that are away, mute, restarted, slow or another one: words in time, and nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSMsgType, web

from moesubnet.chain.client import ChainClient, Head, Receipt
from moesubnet.chain.devchain.server import serve_chain
from moesubnet.chain.devchain.service import DevChain
from moesubnet.chain.rpc.link import Link
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import CallRejected, ChainError, ChainUnavailable, ConfigError
from moesubnet.types import NetUid

if TYPE_CHECKING:
    from conftest import LiveChain

ALICE, CAROL = keypair_from_uri("//Alice"), keypair_from_uri("//Carol").ss58_address
TOKEN = 10**9

Respond = Callable[[dict[str, Any]], Any]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.asynccontextmanager
async def node(respond: Respond) -> AsyncIterator[str]:
    """A node whose every answer is `respond(request)`; None says nothing at all."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            if message.type == WSMsgType.TEXT:
                answer = respond(json.loads(message.data))
                if answer is not None:
                    await ws.send_str(answer if isinstance(answer, str) else json.dumps(answer))
        return ws

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_no_chain_is_said_in_time_and_with_the_way_out() -> None:
    started = time.monotonic()
    with pytest.raises(ChainUnavailable, match="moesubnet chain dev"):
        await ChainClient.connect(f"ws://127.0.0.1:{free_port()}", timeout_s=0.5)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("url", ["http://127.0.0.1:9944", "127.0.0.1:9944", ""])
async def test_an_address_that_is_no_websocket_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="ws://"):
        await ChainClient.connect(url)


async def test_a_mute_node_neither_hangs_nor_blocks_the_loop() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    async with node(lambda request: None) as url:
        ticking = asyncio.create_task(tick())
        with pytest.raises(ChainUnavailable):
            await ChainClient.connect(url, timeout_s=0.6)
        ticking.cancel()
    assert ticks > 2


@pytest.mark.parametrize(
    "answer",
    ["not json", "[]", "7", '{"id": 1}', '{"id": 1, "error": {}}', '{"id": 1, "result": 7}'],
)
async def test_a_node_that_talks_nonsense_is_a_chain_error(answer: str) -> None:
    async with node(lambda request: answer) as url:
        with pytest.raises(ChainError):
            await ChainClient.connect(url, timeout_s=0.5)


async def test_requests_after_close_fail_clearly_and_waits_end(live: LiveChain) -> None:
    client = await ChainClient.connect(live.client.url)
    heads: list[Head] = []

    async def follow() -> None:
        async for head in client.heads(poll_s=0.02):
            heads.append(head)

    following = asyncio.create_task(follow())
    while not heads:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    await client.close()
    await asyncio.wait_for(following, 5)
    assert len(heads) == 1
    with pytest.raises(ChainUnavailable, match="closed"):
        await client.head()
    with pytest.raises(ChainUnavailable, match="closed"):
        await client.transfer(CAROL, TOKEN, ALICE)
    await client.close()


async def test_closing_ends_a_request_that_nobody_answers() -> None:
    mute = False

    def respond(request: dict[str, Any]) -> Any:
        return None if mute else {"id": request["id"], "result": "0x00"}

    async with node(respond) as url:
        client = ChainClient(url, timeout_s=60)
        assert await client._run(lambda link: link.request("chain_getHead")) == "0x00"
        mute = True
        asking = asyncio.create_task(client.head())
        await asyncio.sleep(0.1)
        started = time.monotonic()
        await client.close()
        with pytest.raises(ChainUnavailable, match="closed"):
            await asking
        assert time.monotonic() - started < 5


async def test_heads_show_the_newest_block_and_never_twice(live: LiveChain) -> None:
    seen: list[int] = []
    async for head in live.client.heads(poll_s=0.01):
        seen.append(head.number)
        if head.number >= 9:
            break
        await live.blocks(3)
    assert seen == [0, 3, 6, 9]


async def test_a_call_survives_a_restart_that_forgets_the_pool(tmp_path: Path) -> None:
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        async with (
            DevChain.open(tmp_path, seal="manual") as dev,
            serve_chain(dev, port=port) as server,
        ):
            client = await stack.enter_async_context(await ChainClient.connect(server.url))
            await dev.produce_block()
            sending = asyncio.create_task(client.transfer(CAROL, TOKEN, ALICE))
            async with asyncio.timeout(10):
                while not dev.pool.ready():  # noqa: ASYNC110 - the pool has no event to wait for
                    await asyncio.sleep(0.01)
        heads = client.heads(poll_s=0.05)
        heading = asyncio.create_task(anext(heads))
        await asyncio.sleep(0.3)
        assert not sending.done()
        async with DevChain.open(tmp_path, seal="instant") as dev, serve_chain(dev, port=port):
            receipt = await asyncio.wait_for(sending, 30)
            assert receipt.block > 1
            assert await client.balance_rao(CAROL) == TOKEN
            assert (await asyncio.wait_for(heading, 30)).number >= 1
            await heads.aclose()


async def test_another_chain_on_the_same_port_is_refused(tmp_path: Path) -> None:
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        async with DevChain.open(seal="instant") as dev, serve_chain(dev, port=port) as server:
            client = await stack.enter_async_context(await ChainClient.connect(server.url))
        async with DevChain.open(preset="local", seal="manual") as dev, serve_chain(dev, port=port):
            for _ in range(2):
                with pytest.raises(ChainError, match="another chain"):
                    await client.metagraph(NetUid(1))


async def test_a_call_whose_place_was_taken_is_refused_not_awaited_forever(
    live: LiveChain,
) -> None:
    """The node swallows our transaction; another of the same key and nonce gets into a block."""
    from moesubnet.chain.rpc import submission
    from moesubnet.chain.rpc.extrinsics import Call

    call = Call("System", "remark", {"remark": "0x00"})
    lost = await live.client._run(lambda link: submission._sign(link, call, ALICE))
    await live.client.transfer(CAROL, TOKEN, ALICE)

    async def until_decided() -> Receipt:
        pending = lost
        while True:
            found = await live.client._run(lambda link, p=pending: submission.search(link, p))
            if isinstance(found, Receipt):
                return found
            pending = submission.replace(found, sent_at_s=0.0)  # reminders without the pause

    with pytest.raises(CallRejected) as refusal:
        await asyncio.wait_for(until_decided(), 20)
    assert refusal.value.name == "Stale"


async def test_waiting_for_a_block_has_an_end(tmp_path: Path) -> None:
    async with (
        DevChain.open(tmp_path, seal="manual") as dev,
        serve_chain(dev) as server,
        await ChainClient.connect(server.url) as client,
    ):
        from moesubnet.chain import calls

        with pytest.raises(ChainUnavailable, match="in no block after 1 s"):
            await client.submit(calls.transfer(CAROL, TOKEN), ALICE, timeout_s=1.0)


async def test_a_question_about_a_known_head_asks_for_nothing_else(
    live: LiveChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    await live.client.balance_rao(CAROL)
    asked: list[str] = []
    real = Link.request

    def recording(link: Link, method: str, *params: object) -> Any:
        asked.append(method)
        return real(link, method, *params)

    monkeypatch.setattr(Link, "request", recording)
    assert await live.client.balance_rao(CAROL) == 0
    assert asked == ["chain_getHead", "state_queryStorageAt"]
    await live.client.transfer(CAROL, TOKEN, ALICE)
    assert await live.client.balance_rao(CAROL) == TOKEN
