"""A real chain for whoever needs one: embedded, sealing a block per transaction, or a node."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from moesubnet.chain.client import ChainClient
from moesubnet.chain.devchain.service import DevChain
from moesubnet.chain.network.plan import Network
from moesubnet.chain.network.run import free_ports
from moesubnet.errors import ChainUnavailable
from moesubnet.supervisor import Supervisor

NODE_SLOT_S = 0.5


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
        dev.serve() as server,
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
