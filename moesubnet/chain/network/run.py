"""Starts a network's nodes, waits until they agree, and keeps them running."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from moesubnet.chain.network.plan import HOST, Network, Node
from moesubnet.errors import ConfigError
from moesubnet.host.supervisor import Supervisor

FINALITY_TIMEOUT_S = 120.0
POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What one node says: heights, and with how many it talks."""

    best: int
    finalized: int
    peers: int


async def ask(http: aiohttp.ClientSession, node: Node) -> Progress | None:
    """None while the node does not answer."""
    try:
        best, final, health = await asyncio.gather(
            _rpc(http, node, "chain_getHeader"),
            _finalized(http, node),
            _rpc(http, node, "system_health"),
        )
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    return Progress(int(best["number"], 16), int(final["number"], 16), int(health["peers"]))


async def run_network(
    network: Network,
    binary: Path,
    notify: Callable[[str, str], None],
    on_progress: Callable[[dict[str, Progress | None]], None],
) -> None:
    """Run every node until cancelled; `on_progress` hears about each once a second.

    Raises ConfigError when nothing becomes final within two minutes.
    """
    async with Supervisor(notify) as supervisor, _session() as http:
        for node in network.nodes:
            await supervisor.start(network.process(binary, node))
        started_s, is_final = time.monotonic(), False
        while True:
            answers = await asyncio.gather(*(ask(http, node) for node in network.nodes))
            progress = {n.name: a for n, a in zip(network.nodes, answers, strict=True)}
            is_final = is_final or any(a is not None and a.finalized > 0 for a in answers)
            if not is_final and time.monotonic() - started_s > FINALITY_TIMEOUT_S:
                first = supervisor.processes[network.nodes[0].name]
                raise ConfigError(
                    f"no block became final within {FINALITY_TIMEOUT_S:.0f} s; "
                    f"{first.log} ends with\n{first.last_lines(3)}"
                )
            on_progress(progress)
            await asyncio.sleep(POLL_S)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))


async def _finalized(http: aiohttp.ClientSession, node: Node) -> dict[str, Any]:
    block_hash = await _rpc(http, node, "chain_getFinalizedHead")
    header: dict[str, Any] = await _rpc(http, node, "chain_getHeader", block_hash)
    return header


async def _rpc(http: aiohttp.ClientSession, node: Node, method: str, *params: object) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    async with http.post(f"http://{HOST}:{node.rpc_port}", json=body) as response:
        return (await response.json())["result"]
