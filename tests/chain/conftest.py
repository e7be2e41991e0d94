"""A real chain for whoever needs one: the embedded one, sealing a block per transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from moesubnet.chain.client import ChainClient
from moesubnet.chain.devchain.service import DevChain


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


@pytest.fixture
async def live() -> AsyncIterator[LiveChain]:
    async with (
        DevChain.open(seal="instant") as dev,
        dev.serve() as server,
        await ChainClient.connect(server.url, timeout_s=30) as client,
    ):
        yield LiveChain(dev, client)
