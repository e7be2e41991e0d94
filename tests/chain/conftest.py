"""A real chain for whoever needs one: embedded, sealing a block per transaction, or a node.

`live` is a client's, in the test's own event loop; `moesubnet` types commands, whose chain lives on
a thread of its own: commands run event loops themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from moesubnet.chain.client import ChainClient
from moesubnet.chain.commands.app import add_commands
from moesubnet.chain.commands.console import ask_chain
from moesubnet.chain.devchain.server import serve_chain
from moesubnet.chain.devchain.service import DevChain
from moesubnet.chain.network.plan import Network
from moesubnet.chain.network.run import free_ports
from moesubnet.errors import ChainUnavailable, MoesubnetError
from moesubnet.host.supervisor import Supervisor

NODE_SLOT_S = 0.5

T = TypeVar("T")


@dataclass(frozen=True)
class LiveChain:
    """The chain, a client of it, and how to let time pass."""

    dev: DevChain
    client: ChainClient

    async def until_block(self, number: int) -> None:
        while self.dev.head.block.number < number:
            await self.dev.produce_block()

    async def blocks(self, count: int) -> None:
        await self.until_block(self.dev.head.block.number + count)


@contextlib.asynccontextmanager
async def embedded() -> AsyncIterator[LiveChain]:
    async with (
        DevChain.open(seal="instant") as dev,
        serve_chain(dev) as server,
        await ChainClient.connect(server.url, timeout_s=30) as client,
    ):
        yield LiveChain(dev, client)


@pytest.fixture
async def live() -> AsyncIterator[LiveChain]:
    async with embedded() as chain:
        yield chain


@dataclass(frozen=True)
class LiveNode:
    """A client of a real node, where time passes by itself."""

    client: ChainClient

    async def until_block(self, number: int) -> None:
        async for head in self.client.heads():
            if head.number >= number:
                return


@pytest.fixture(params=["embedded", "node"])
async def any_live(
    request: pytest.FixtureRequest, tmp_path: Path, make_fast_network: Callable[..., Network]
) -> AsyncIterator[LiveChain | LiveNode]:
    if request.param == "embedded":
        async with embedded() as chain:
            yield chain
        return
    binary = request.getfixturevalue("node_binary")
    network = make_fast_network(tmp_path, free_ports(1), slot_s=NODE_SLOT_S)
    (node,) = network.nodes
    async with Supervisor(lambda *_: None) as supervisor:
        process = network.process(binary, node)
        process.keep = False  # one that dies is a failure
        await supervisor.start(process)
        while True:
            assert process.alive, process.last_lines()
            try:
                client = await ChainClient.connect(node.rpc_url, timeout_s=5)
                break
            except ChainUnavailable:
                continue
        async with client:
            yield LiveNode(client)


@dataclass(frozen=True)
class ChainThread:
    """A chain whose event loop runs on another thread."""

    url: str
    dev: DevChain
    loop: asyncio.AbstractEventLoop

    def blocks(self, count: int) -> None:
        """Let time pass."""
        for _ in range(count):
            asyncio.run_coroutine_threadsafe(self.dev.produce_block(), self.loop).result(30)


class Commands:
    """`moesubnet …`, typed."""

    def __init__(self, chain: ChainThread) -> None:
        self.chain = chain
        self.app = typer.Typer(pretty_exceptions_enable=False)
        add_commands(self.app)

    def __call__(self, *words: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(self.app, words, input=typed)

    def says(self, *words: str) -> str:
        """What it prints, and that it succeeds."""
        result = self(*words)
        assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
        return result.output

    def tells(self, *words: str) -> Any:
        """The one JSON object that it prints, with or without success."""
        return json.loads(self(*words, "--json").stdout)

    def fails(self, kind: type[MoesubnetError], *words: str) -> str:
        """The text of the error that ends it."""
        result = self(*words)
        assert isinstance(result.exception, kind), f"{result.output}\n{result.exception!r}"
        return str(result.exception)

    def ask(self, question: Callable[[ChainClient], Awaitable[T]]) -> T:
        return ask_chain(self.chain.url, question)


@pytest.fixture(scope="module")
def chain_thread() -> Iterator[ChainThread]:
    started: list[tuple[ChainThread, asyncio.Event]] = []
    ready = threading.Event()

    async def serve() -> None:
        async with DevChain.open(seal="instant") as dev, serve_chain(dev) as server:
            stop = asyncio.Event()
            started.append((ChainThread(server.url, dev, asyncio.get_running_loop()), stop))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(30)
    chain, stop = started[0]
    yield chain
    chain.loop.call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture
def moesubnet(
    chain_thread: ChainThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Commands:
    monkeypatch.setenv("MOESUBNET_CHAIN", chain_thread.url)
    monkeypatch.setenv("BT_WALLET_PATH", str(tmp_path / "wallets"))
    for name in ("BT_WALLET_PASSWORD", "BT_WALLET_PASSWORD_FILE", "BT_WALLET"):
        monkeypatch.delenv(name, raising=False)
    return Commands(chain_thread)
