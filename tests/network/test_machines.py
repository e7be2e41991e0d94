"""Nodes on several machines, each a network namespace, started as docs/network.md says.

They need root, `ip` and the node's binary (scripts/build-node).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from moesubnet.chain.client import ChainClient
from moesubnet.chain.network.plan import Node, find_binary, make_network
from moesubnet.chain.network.run import free_ports
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import ConfigError
from moesubnet.host.supervisor import Process, Supervisor
from moesubnet.types import Coldkey
from moesubnet.units import RAO_PER_TOKEN

from .test_nodes import QUIET_BLOCKS, Nodes

try:
    BINARY = find_binary(None)
except ConfigError:
    pytest.skip("no node here: build it with scripts/build-node", allow_module_level=True)
if os.geteuid() != 0 or shutil.which("ip") is None:
    pytest.skip("network namespaces need root and `ip`", allow_module_level=True)

P2P_PORT = 30333  # the same on every machine, as in the document
DOCUMENT = Path(__file__).parents[2] / "docs" / "network.md"
CLONE_NEWNET = 0x40000000


def ip(*commands: str) -> None:
    subprocess.run(
        ("ip", "-batch", "-"), input="\n".join(commands), text=True, check=True, timeout=30
    )


@dataclass(frozen=True)
class Machine:
    """A host of the test's own: a namespace with one cable to its site's switch."""

    namespace: str
    address: str

    def connect(self, address: str, port: int) -> socket.socket:
        """A TCP connection from this machine. Raises OSError."""
        future: Future[socket.socket] = Future()

        def dial() -> None:  # in a thread of its own, which dies in the namespace it moved to
            try:
                with Path("/run/netns", self.namespace).open() as handle:
                    if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                future.set_result(socket.create_connection((address, port), timeout=5))
            except OSError as error:
                future.set_exception(error)

        threading.Thread(target=dial).start()
        return future.result(timeout=10)


class Machines(list[Machine]):
    """Four machines at two sites, two each, with one cable between the sites."""

    def __init__(self, tag: str) -> None:
        super().__init__(Machine(f"{tag}n{i}", f"10.231.7.{i + 1}") for i in range(4))
        self._cable = f"{tag}c"
        self._sites = (f"{tag}s0", f"{tag}s1")

    def build(self) -> None:
        ends = (self._cable, f"{self._cable}x")
        ip(
            *(f"link add {site} up type bridge" for site in self._sites),
            f"link add {ends[0]} type veth peer name {ends[1]}",
            *(f"link set {e} master {s} up" for e, s in zip(ends, self._sites, strict=True)),
        )
        for index, machine in enumerate(self):
            name, plug, site = machine.namespace, f"{machine.namespace}v", self._sites[index // 2]
            ip(
                f"netns add {name}",
                f"link add {plug} master {site} up type veth peer name eth0 netns {name}",
            )
            for command in (f"addr add {machine.address}/24 dev eth0", "link set eth0 up"):
                ip_in = ("ip", "-n", name, *command.split())
                subprocess.run(ip_in, check=True, timeout=30)
            subprocess.run(("ip", "-n", name, "link", "set", "lo", "up"), check=True, timeout=30)

    def cut(self) -> None:
        ip(f"link set {self._cable} down")

    def mend(self) -> None:
        ip(f"link set {self._cable} up")

    def clear(self) -> None:
        for machine in self:
            subprocess.run(("ip", "netns", "del", machine.namespace), check=False, timeout=30)
        for link in (self._cable, *self._sites):
            subprocess.run(("ip", "link", "del", link), check=False, timeout=30)


@pytest.fixture
def machines() -> Iterator[Machines]:
    made = Machines(f"moe{os.getpid() % 100_000}")
    try:
        made.build()
    except subprocess.CalledProcessError as error:
        made.clear()
        pytest.skip(f"no network namespaces here: {error}")
    yield made
    made.clear()


def documented_command(root: Path, node: Node, first: str) -> tuple[str, ...]:
    """ExecStart of the document's systemd unit, with this machine's paths and addresses."""
    found = re.search(r"ExecStart=((?:.*\\\n)*.*)", DOCUMENT.read_text())
    assert found, "docs/network.md has a unit"
    line = found[1].replace("\\\n", " ")
    for name, here in {
        "/usr/local/bin/moesubnet-node": str(BINARY),
        "/var/lib/moesubnet/chain-spec.json": str(root / "chain-spec.json"),
        "/var/lib/moesubnet/node": str(root / node.name),
        "ALICES-NODE": node.name,
        "/ip4/FIRST-MACHINE/tcp/30333/p2p/PEER-ID": first,
    }.items():
        assert name in line, name
        line = line.replace(name, here)
    return tuple(shlex.split(line))


async def relay(
    machine: Machine, port: int, reader: asyncio.StreamReader, out: asyncio.StreamWriter
) -> None:
    """One connection of the test's, carried to the RPC that a machine keeps to itself."""
    with contextlib.suppress(OSError):
        far = await asyncio.to_thread(machine.connect, "127.0.0.1", port)
        far.setblocking(False)
        far_reader, far_out = await asyncio.open_connection(sock=far)

        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while chunk := await source.read(65_536):
                    sink.write(chunk)
                    await sink.drain()
            sink.close()

        await asyncio.gather(carry(reader, far_out), carry(far_reader, out))
    out.close()


@pytest.fixture
async def network(machines: Machines, tmp_path: Path) -> AsyncIterator[Nodes]:
    """The document's steps on four machines; `rpc_url` of each node leads to its loopback."""
    async with contextlib.AsyncExitStack() as stack:
        ports = free_ports(4)
        made = make_network(tmp_path, "development", [P2P_PORT] * 4, ports)
        first = f"/ip4/{machines[0].address}/tcp/{P2P_PORT}/p2p/{made.nodes[0].peer_id}"
        for machine, port in zip(machines, ports, strict=True):
            door = await asyncio.start_server(partial(relay, machine, port), "127.0.0.1", port)
            stack.callback(door.close)
        supervisor = await stack.enter_async_context(Supervisor(lambda *_: None))
        timeout = aiohttp.ClientTimeout(total=5)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        for machine, node in zip(machines, made.nodes, strict=True):
            command = documented_command(tmp_path, node, first)
            # A node answers only who calls it by its own port, so the relay's is the same.
            rpc_port = ("--rpc-port", str(node.rpc_port))
            argv = ("ip", "netns", "exec", machine.namespace, *command, *rpc_port)
            log = tmp_path / f"{node.name}.log"
            await supervisor.start(Process(node.name, argv, log, keep=False))
        yield Nodes(made, supervisor, http)


async def block_hash(network: Nodes, node: Node, number: int) -> str:
    body = {"jsonrpc": "2.0", "id": 1, "method": "chain_getBlockHash", "params": [number]}
    url = f"http://127.0.0.1:{node.rpc_port}"
    async with network.http.post(url, json=body) as response:
        return str((await response.json())["result"])


async def test_four_machines_agree_and_one_chain_survives_a_cut_cable(
    network: Nodes, machines: Machines
) -> None:
    nodes = network.network.nodes
    await network.until(lambda p: p.finalized >= 3 and p.peers == 3)
    with pytest.raises(OSError):
        machines[1].connect(
            machines[0].address, nodes[0].rpc_port
        )  # a validator's RPC is its own affair

    alice, bob = keypair_from_uri("//Alice"), Coldkey(keypair_from_uri("//Bob//cold").ss58_address)
    async with await ChainClient.connect(nodes[3].rpc_url, timeout_s=30) as chain:
        paid = await chain.transfer(bob, 5 * RAO_PER_TOKEN, alice)
    await network.until(lambda p: p.finalized >= paid.block)

    machines.cut()
    await asyncio.sleep(3)  # votes under way
    stuck = max(p.finalized for p in await network.look() if p)
    height = max(p.best for p in await network.look() if p)
    seen = await network.until(lambda p: p.best > height + QUIET_BLOCKS)
    assert {p.finalized for p in seen} == {stuck}  # neither half is more than two thirds
    forked = height + QUIET_BLOCKS
    assert await block_hash(network, nodes[0], forked) != await block_hash(
        network, nodes[2], forked
    )

    machines.mend()
    await network.until(lambda p: p.finalized > forked + QUIET_BLOCKS and p.peers == 3)
    hashes = {await block_hash(network, node, forked) for node in nodes}
    assert len(hashes) == 1, "one fork won everywhere"
