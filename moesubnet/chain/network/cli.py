"""`moesubnet chain network`: a chain of several validators on this machine."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.errors import ConfigError
from moesubnet.host.paths import data_dir, held_alone

if TYPE_CHECKING:
    from moesubnet.chain.network.plan import Network
    from moesubnet.chain.network.run import Progress

LOG_EVERY_S = 60.0  # where the output is not a terminal


def network(
    validators: Annotated[int, typer.Option(min=1, max=32, help="Nodes that make blocks.")] = 4,
    preset: Annotated[
        str, typer.Option(help="Genesis: development (1 s blocks) or local (12 s).")
    ] = "development",
    base_path: Annotated[
        Path | None, typer.Option(help="Where it lives.  [default: the user's data folder]")
    ] = None,
    rpc_port: Annotated[
        int,
        typer.Option(
            min=0, max=65_000, help="Of the first node; the next ones follow. 0 picks free ones."
        ),
    ] = 9944,
    node: Annotated[
        Path | None,
        typer.Option(help="The node's binary.  [default: scripts/build-node's]"),
    ] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Write keys and chain spec, start nothing.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the network, start over.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a second.")] = False,
) -> None:
    """Run a chain of several real nodes here.

    Aura makes blocks, GRANDPA makes them final.

    Each node has keys and a folder of its own and talks to the others through libp2p. With four,
    one may be down and blocks still become final; with two down blocks go on and wait for
    finality. Ctrl-C stops all nodes; the next start goes on from there.

    Example: moesubnet chain network --validators 4
    """
    from moesubnet.chain.network.plan import find_binary

    root = base_path or data_dir("chain", "network")
    binary = None if prepare_only else find_binary(node)
    with held_alone(root, f"another process runs the network in {root}"):
        if fresh:
            _delete(root)
        made = _open(root, validators, preset, rpc_port)
        if binary is None:
            typer.echo(f"{made.spec_path} and {len(made.nodes)} nodes' folders beside it")
            return
        report = _Report(made, as_json=as_json)
        asyncio.run(_run(made, binary, report))


def _open(root: Path, validators: int, preset: str, rpc_port: int) -> Network:
    """The network that stands in `root`, or a new one."""
    from moesubnet.chain.network.plan import load_network, make_network
    from moesubnet.chain.network.run import free_ports

    found = load_network(root)
    if found is None:
        ports = free_ports(2 * validators)
        rpc_ports = range(rpc_port, rpc_port + validators) if rpc_port else ports[validators:]
        return make_network(root, preset, ports[:validators], tuple(rpc_ports))
    if len(found.nodes) != validators or found.preset != preset:
        raise ConfigError(
            f"{root} holds a {found.preset} network of {len(found.nodes)} validators: "
            "say so, add --fresh to start over, or choose another --base-path"
        )
    return found


def _delete(root: Path) -> None:
    from moesubnet.chain.network.plan import PLAN_FILE, SPEC_FILE, load_network

    found = load_network(root)
    if found is not None:
        (root / PLAN_FILE).unlink()
        (root / SPEC_FILE).unlink(missing_ok=True)
        for each in found.nodes:
            shutil.rmtree(found.base_path(each))


async def _run(made: Network, binary: Path, report: _Report) -> None:
    from moesubnet.chain.network.run import run_network
    from moesubnet.host.interrupt import until_stopped

    await until_stopped(run_network(made, binary, report.notify, report.progress))


class _Report:
    """Heights once a second on one line, or JSON lines; and what happens to nodes."""

    def __init__(self, made: Network, *, as_json: bool) -> None:
        self._made = made
        self._as_json = as_json
        self._is_final = False
        self._said_s = -LOG_EVERY_S
        self._wipe = "\r\x1b[K" if sys.stdout.isatty() else ""

    def notify(self, name: str, text: str) -> None:
        if self._as_json:
            print(json.dumps({"event": "node", "name": name, "text": text}), flush=True)
        else:
            print(f"{self._wipe}{name}: {text}", flush=True)

    def progress(self, nodes: dict[str, Progress | None]) -> None:
        known = [p for p in nodes.values() if p is not None]
        best = max((p.best for p in known), default=0)
        final = max((p.finalized for p in known), default=0)
        if self._as_json:
            row = {"event": "block", "best": best, "finalized": final, "up": len(known)}
            print(json.dumps(row), flush=True)
            return
        if final > 0 and not self._is_final:
            self._is_final = True
            print(self._wipe + self._what_to_try(), flush=True)
        line = f"block {best}, final {final}, {len(known)} of {len(nodes)} nodes answer"
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="", flush=True)
        elif time.monotonic() - self._said_s >= LOG_EVERY_S:
            self._said_s = time.monotonic()
            print(line, flush=True)

    def _what_to_try(self) -> str:
        urls = "\n".join(f"  {each.name}  {each.rpc_url}" for each in self._made.nodes)
        return (
            f"{len(self._made.nodes)} validators agree on the chain of {self._made.spec_path}\n"
            f"{urls}\n"
            f"  moesubnet subnet metagraph --chain {self._made.nodes[0].rpc_url}\n"
            f"  logs: {self._made.root / 'logs'}"
        )
