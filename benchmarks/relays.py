"""What probes through routers cost: CPU of validator, router and miner for one answer.

One validator with its own code and its state on disk, routers' nodes and miners behind real
sockets: routers in a process each, all miners in one, each on a port of its own. Only the miners'
engine is played: its laws are fixed and take no time. So the processes share the machine's cores;
the validator's own CPU is what it needs to keep up. Prints one Markdown row.

    python benchmarks/relays.py [--miners 256] [--walks 64] [--routers 3] [--vocab 2048]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import multiprocessing
import os
import pstats
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
from lanes import Played, spec_of
from neurons import subnet
from substrateinterface import Keypair

from moesubnet.miner.app import build_app
from moesubnet.miner.expert import Expert
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import uniform_gate
from moesubnet.router.node import build_node
from moesubnet.types import Axon, Hotkey, Metagraph
from moesubnet.validator.measure import Measurement
from moesubnet.validator.pool import ONE_WINDOW, WINDOW_TOKENS, TextPool
from moesubnet.validator.serve import Metrics
from moesubnet.validator.shapes import Shapes
from moesubnet.validator.state import State
from moesubnet.wire.listening import serve
from moesubnet.wire.roster import Roster
from moesubnet.wire.routers import Routers
from moesubnet.wire.strangers import open_http_session

BATCHES = 4  # of an epoch, as the validator's loop has them
VALIDATOR = "//Validator"


def key(uri: str) -> tuple[Keypair, Hotkey]:
    signer = Keypair.create_from_uri(uri)
    return signer, Hotkey(signer.ss58_address)


def everybody(axons: Mapping[str, Axon]) -> Metagraph:
    hotkeys = {key(uri)[1]: axon for uri, axon in axons.items()}
    return subnet({key(VALIDATOR)[1]: None, **hotkeys}, [key(VALIDATOR)[1]])


def mine(uris: list[str], routers: list[str], vocab_size: int, ports: Any) -> None:
    """Miners until the process is ended."""

    async def run() -> None:
        known = subnet({key(uri)[1]: None for uri in [VALIDATOR, *routers, *uris]})
        chain: Any = SimpleNamespace(current=lambda: known)
        found = {}
        for i, uri in enumerate(uris):
            signer, hotkey = key(uri)
            engine: Any = Played(vocab_size, 0.0, i)
            expert = Expert(engine, spec_of(vocab_size), chain, hotkey=hotkey, name=uri)
            found[uri] = (await serve(build_app(expert, signer, chain), "127.0.0.1", 0)).port
        ports.put(found)
        await asyncio.Event().wait()

    asyncio.run(run())


def route(uri: str, miners: dict[str, Axon], vocab_size: int, ports: Any) -> None:
    """A router's node until the process is ended."""

    async def run() -> None:
        signer, _ = key(uri)
        metagraph = everybody(miners)
        chain: Any = SimpleNamespace(current=lambda: metagraph)
        async with open_http_session() as http:
            roster = Roster(
                http, signer, spec_sha256="0" * 64, vocab_size=vocab_size, allow_private=True
            )
            await roster.refresh(metagraph)
            clients = roster.clients
            node = build_node(
                signer, chain, lambda: spec_of(vocab_size), clients.get, lambda _: None
            )
            ports.put({uri: (await serve(node, "127.0.0.1", 0)).port})
            await asyncio.Event().wait()

    asyncio.run(run())


async def walk(arguments: argparse.Namespace, axons: dict[str, Axon], folder: Path) -> int:
    """An epoch's walks; how many answers came."""
    vocab, signer, spec = arguments.vocab, key(VALIDATOR)[0], spec_of(arguments.vocab)
    rng = np.random.default_rng(0)
    shapes = Shapes.public(4_096) if arguments.as_users else Shapes.fixed(ONE_WINDOW)
    texts = arguments.walks * (8 if arguments.as_users else 1)
    documents = {
        secrets.token_bytes(32): rng.integers(0, vocab, 8 * WINDOW_TOKENS).astype(np.uint32)
        for _ in range(texts)
    }

    async def refresh(_: Metagraph) -> None:
        return

    gates: Any = SimpleNamespace(gate=uniform_gate(), refresh=refresh, sheets=[])
    async with open_http_session() as http:
        state = State(folder / "validator.sqlite3")
        metrics = Metrics()
        measurement = Measurement(
            state,
            key(VALIDATOR)[1],
            TextPool(documents),
            "ab" * 32,
            Unigram(np.full(vocab, -np.log(vocab), np.float32)),
            Roster(
                http,
                signer,
                spec_sha256=spec.sha256,
                vocab_size=spec.spec.vocab_size,
                allow_private=True,
            ),
            gates,
            metrics,
            shapes,
            Routers(
                http, signer, spec_sha256=spec.sha256, vocab_size=vocab, min_stake_rao=1,
                allow_private=True,
            ),
        )  # fmt: skip
        for _ in range(BATCHES):
            walks = arguments.walks // BATCHES
            await measurement.run(await measurement.open_batches(everybody(axons), walks))
            print(f"{psutil.Process().memory_info().rss / 2**20:.0f} MB", flush=True)
        state.close()
        return int(metrics.answers.labels("valid")._value.get())


def cpu_s(processes: list[Any]) -> float:
    return sum(sum(psutil.Process(p.pid).cpu_times()[:2]) for p in processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--miners", type=int, default=256)
    parser.add_argument("--walks", type=int, default=64, help="in an epoch")
    parser.add_argument("--routers", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=2_048)
    parser.add_argument("--as-users", action="store_true", help="walks of users' lengths")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ports: Any = context.Queue()
    uris = [f"//Miner{i}" for i in range(arguments.miners)]
    names = [f"//Router{i}" for i in range(arguments.routers)]
    miners = [context.Process(target=mine, args=(uris, names, arguments.vocab, ports), daemon=True)]
    routers: list[Any] = []
    with contextlib.ExitStack() as stack:
        miners[0].start()
        stack.callback(miners[0].terminate)
        axons = {uri: Axon("127.0.0.1", port) for uri, port in ports.get().items()}
        for name in names:
            routers.append(
                context.Process(
                    target=route, args=(name, axons, arguments.vocab, ports), daemon=True
                )
            )
            routers[-1].start()
            stack.callback(routers[-1].terminate)
        nodes = {}
        for _ in names:
            nodes |= {uri: Axon("127.0.0.1", port) for uri, port in ports.get().items()}
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        before = time.perf_counter(), time.process_time(), cpu_s(routers), cpu_s(miners)
        profile = cProfile.Profile(time.process_time)
        if arguments.profile:
            profile.enable()
        answers = asyncio.run(walk(arguments, {**axons, **nodes}, Path(folder)))
        profile.disable()
        after = time.perf_counter(), time.process_time(), cpu_s(routers), cpu_s(miners)
        wall_s, own_s, router_s, miner_s = (b - a for a, b in zip(before, after, strict=True))
    if arguments.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
    print("| answers | wall, s | validator CPU, s | ms an answer: validator | routers | miners |")
    print("|---|---|---|---|---|---|")
    each = " | ".join(f"{s / answers * 1e3:.3f}" for s in (own_s, router_s, miner_s))
    print(f"| {answers:,} | {wall_s:.1f} | {own_s:.1f} | {each} |")
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
