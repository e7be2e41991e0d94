"""Real nodes: they agree, survive each other's deaths, and accept the embedded chain's blocks.

They need the node's binary (scripts/build-node), which takes long to build; scripts/test says when
it is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from moesubnet.chain import calls
from moesubnet.chain.client import ChainClient
from moesubnet.chain.devchain.archive import export_blocks
from moesubnet.chain.devchain.server import serve_chain
from moesubnet.chain.devchain.service import DevChain
from moesubnet.chain.network.plan import Network, Node, chain_spec, find_binary, make_network
from moesubnet.chain.network.run import Progress, ask, free_ports
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import ConfigError
from moesubnet.host.supervisor import Supervisor
from moesubnet.types import Coldkey
from moesubnet.units import RAO_PER_TOKEN

try:
    BINARY = find_binary(None)
except ConfigError:
    pytest.skip("no node here: build it with scripts/build-node", allow_module_level=True)

TIMEOUT_S = 90.0
QUIET_BLOCKS = 6  # with blocks of a second: long enough to see that nothing becomes final


@dataclass
class Nodes:
    """A network whose nodes a test starts and kills one by one."""

    network: Network
    supervisor: Supervisor
    http: aiohttp.ClientSession
    down: set[Node] = field(default_factory=set)

    async def start(self, node: Node, *flags: str) -> None:
        process = self.network.process(BINARY, node)
        process.argv = (*process.argv, *flags)
        process.keep = False
        await self.supervisor.start(process)
        self.down.discard(node)

    async def kill(self, node: Node) -> None:
        running = self.supervisor.processes[node.name].running
        assert running is not None
        running.kill()
        await running.wait()
        self.down.add(node)

    async def look(self) -> list[Progress | None]:
        nodes = [node for node in self.network.nodes if node not in self.down]
        return list(await asyncio.gather(*(ask(self.http, node) for node in nodes)))

    async def until(self, enough: Callable[[Progress], bool]) -> list[Progress]:
        """What all living nodes say as soon as every one of them satisfies `enough`."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            seen = [progress for progress in await self.look() if progress is not None]
            up = len(self.network.nodes) - len(self.down)
            if len(seen) == up and all(map(enough, seen)):
                return seen
            if time.monotonic() > deadline_s:
                logs = [p.last_lines(4) for p in self.supervisor.processes.values()]
                raise AssertionError("\n".join((str(seen), *logs)))
            await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def stopped(network: Network) -> AsyncIterator[Nodes]:
    """A network that nobody has started yet."""
    timeout = aiohttp.ClientTimeout(total=5)
    async with (
        Supervisor(lambda *_: None) as supervisor,
        aiohttp.ClientSession(timeout=timeout) as http,
    ):
        yield Nodes(network, supervisor, http, set(network.nodes))


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    ports = free_ports(8)
    async with stopped(make_network(tmp_path, "development", ports[:4], ports[4:])) as made:
        for node in made.network.nodes:
            await made.start(node)
        yield made


async def test_four_validators_agree_lose_one_then_two_and_recover(nodes: Nodes) -> None:
    *_, third, fourth = nodes.network.nodes
    await nodes.until(lambda p: p.finalized >= 3 and p.peers == 3)

    await nodes.kill(fourth)
    height = max(p.best for p in await nodes.look() if p)
    await nodes.until(lambda p: p.finalized > height + 3)  # three of four are enough

    await nodes.kill(third)
    await asyncio.sleep(3)  # votes under way
    stuck = max(p.finalized for p in await nodes.look() if p)
    height = max(p.best for p in await nodes.look() if p)
    seen = await nodes.until(lambda p: p.best > height + QUIET_BLOCKS)  # blocks go on …
    assert {p.finalized for p in seen} == {stuck}  # … and nothing becomes final with two

    alice, receiver = keypair_from_uri("//Alice"), Coldkey(keypair_from_uri("//Zoe").ss58_address)
    async with await ChainClient.connect(nodes.network.nodes[0].rpc_url, timeout_s=30) as chain:
        receipt = await chain.transfer(receiver, RAO_PER_TOKEN, alice)
        assert not receipt.is_final
        waiting = asyncio.create_task(
            chain.transfer(receiver, RAO_PER_TOKEN, alice, wait="finalization")
        )
        await asyncio.sleep(3)
        assert not waiting.done()
        assert await chain.balance_rao(receiver) == 2 * RAO_PER_TOKEN

        await nodes.start(third)
        assert (await waiting).is_final
    await nodes.until(lambda p: p.finalized > height + QUIET_BLOCKS)
    await nodes.start(fourth)  # it catches up after `kill -9`
    await nodes.until(lambda p: p.finalized > height + QUIET_BLOCKS and p.peers == 3)


async def test_our_client_pays_and_registers_on_a_real_network(nodes: Nodes) -> None:
    await nodes.until(lambda p: p.finalized >= 1)
    alice, bob = keypair_from_uri("//Alice"), keypair_from_uri("//Bob//cold")
    url, other_url = (node.rpc_url for node in nodes.network.nodes[:2])
    async with await ChainClient.connect(url, timeout_s=30) as chain:
        receiver = Coldkey(bob.ss58_address)
        receipts = await asyncio.gather(
            *(chain.transfer(receiver, 5 * RAO_PER_TOKEN, alice) for _ in range(4))
        )
        height = max(receipt.block for receipt in receipts)
        assert await chain.balance_rao(receiver) == 20 * RAO_PER_TOKEN
    await nodes.until(lambda p: p.finalized >= height)
    async with await ChainClient.connect(other_url, timeout_s=30) as chain:
        assert await chain.balance_rao(receiver) == 20 * RAO_PER_TOKEN


async def test_a_call_of_a_fork_that_loses_is_executed_in_the_one_that_wins(
    tmp_path: Path, make_fast_network: Callable[..., Network]
) -> None:
    """Two validators that do not see each other make a fork each; then they meet."""
    network = make_fast_network(tmp_path, free_ports(2), slot_s=0.5)
    one, other = network.nodes
    alice, receiver = keypair_from_uri("//Alice"), Coldkey(keypair_from_uri("//Zoe").ss58_address)
    call = calls.transfer(receiver, RAO_PER_TOKEN)
    async with stopped(network) as nodes:
        await nodes.start(one, "--force-authoring")
        await nodes.until(lambda p: p.best >= 2)
        async with await ChainClient.connect(one.rpc_url, timeout_s=30) as chain:
            paying = asyncio.create_task(
                chain.submit(call, alice, wait="finalization", timeout_s=2 * TIMEOUT_S)
            )
            async for head in chain.heads():
                height = head.number  # at least where the call is
                if await chain.balance_rao(receiver):
                    break
            await nodes.kill(one)

            await nodes.start(other, "--force-authoring")
            await nodes.until(lambda p: p.best > height + QUIET_BLOCKS)
            assert not paying.done()
            await nodes.start(one)
            await nodes.until(lambda p: p.finalized > height + QUIET_BLOCKS)
            receipt = await paying
            assert receipt.is_final
            assert receipt.block > height + QUIET_BLOCKS, "its first block lost"
            assert await chain.balance_rao(receiver) == RAO_PER_TOKEN
            (account,) = await chain.query(("System.Account", alice.ss58_address))
            assert account["nonce"] == 1  # type: ignore[index]


async def node_command(*arguments: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        BINARY, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, complaints = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    assert process.returncode == 0, complaints.decode()
    return out


async def test_blocks_of_the_embedded_chain_import_with_equal_hashes(tmp_path: Path) -> None:
    async with DevChain.open(tmp_path / "embedded", seal=1.0) as dev:
        async with (
            serve_chain(dev) as server,
            await ChainClient.connect(server.url, timeout_s=30) as chain,
        ):
            alice = keypair_from_uri("//Alice")
            receiver = Coldkey(keypair_from_uri("//Bob//cold").ss58_address)
            for _ in range(3):
                await chain.transfer(receiver, RAO_PER_TOKEN, alice)
        file = tmp_path / "blocks"
        count = await dev.run(export_blocks, dev.chain, file, lambda done, total: None)
        head = dev.head.block
        genesis_hash = dev.genesis_hash

    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(chain_spec("development")))
    where = (
        *("--chain", str(spec), "--base-path", str(tmp_path / "node")),
        *("--state-pruning", "archive", "--blocks-pruning", "archive"),
    )
    await node_command("import-blocks", *where, "--binary", str(file))
    best = json.loads(await node_command("chain-info", *where))
    # Equal hashes: equal headers, so equal state roots, and every seal was accepted.
    assert count >= 3
    assert best["best_number"] == count
    assert best["best_hash"] == f"0x{head.hash.hex()}"
    assert best["genesis_hash"] == f"0x{genesis_hash.hex()}"
