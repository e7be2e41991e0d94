"""What probes through routers cost: CPU of validator, router and miner for one answer.

One validator with its own code and its state on disk, routers' nodes and miners behind real
sockets: routers in a process each, all miners in one, each on a port of its own. Only the miners'
engine is played: its laws are fixed and take no time. So the processes share the machine's cores;
the validator's own CPU is what it needs to keep up. With --model the laws are those of a real model
on text of this machine, recorded first, at a few temperatures, their answers bound before anybody
asks: a miner of its own machine would have that work to itself. At last the epoch is closed as the
validator does it, and what proves it removed. Prints Markdown.

    python benchmarks/relays.py [--miners 256] [--walks 64] [--routers 3] [--vocab 2048]
    python benchmarks/relays.py --model GEMMA --miners 32 --walks 32
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import multiprocessing
import os
import pstats
import resource
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import recorded
from aiohttp.client_proto import ResponseHandler
from lanes import Played, spec_of
from neurons import subnet
from substrateinterface import Keypair
from turns import longest_turns

from moesubnet.host.garbage import settle
from moesubnet.miner.app import build_app
from moesubnet.miner.expert import Expert
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import uniform_gate
from moesubnet.router.node import build_node
from moesubnet.types import Axon, Hotkey, Metagraph
from moesubnet.validator.answers import AnswerFiles
from moesubnet.validator.loop import Validator
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
VALIDATOR, STATE = "//Validator", "validator.sqlite3"


@cache
def key(uri: str) -> tuple[Keypair, Hotkey]:
    signer = Keypair.create_from_uri(uri)
    return signer, Hotkey(signer.ss58_address)


def everybody(axons: Mapping[str, Axon]) -> Metagraph:
    hotkeys = {key(uri)[1]: axon for uri, axon in axons.items()}
    return subnet({key(VALIDATOR)[1]: None, **hotkeys}, [key(VALIDATOR)[1]])


def mine(
    uris: list[str], routers: list[str], vocab_size: int, laws: Path | None, ports: Any
) -> None:
    """Miners until the process is ended. laws: of a real model, if any."""

    async def run() -> None:
        known = subnet({key(uri)[1]: None for uri in [VALIDATOR, *routers, *uris]})
        chain: Any = SimpleNamespace(current=lambda: known)
        real = [recorded.Recorded(laws, t) for t in recorded.TEMPERATURES] if laws else []
        settle()
        found = {}
        for i, uri in enumerate(uris):
            signer, hotkey = key(uri)
            engine: Any = real[i % len(real)] if real else Played(vocab_size, 0.0, i)
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


async def walk(
    arguments: argparse.Namespace, axons: dict[str, Axon], laws: Path | None, folder: Path
) -> int:
    """An epoch's walks, and its close; how many answers came."""
    vocab, signer, spec = arguments.vocab, key(VALIDATOR)[0], spec_of(arguments.vocab)
    rng = np.random.default_rng(0)
    shapes = Shapes.public(4_096) if arguments.as_users else Shapes.fixed(ONE_WINDOW)
    texts = arguments.walks * (8 if arguments.as_users else 1)
    documents = {
        secrets.token_bytes(32): rng.integers(0, vocab, 8 * WINDOW_TOKENS).astype(np.uint32)
        for _ in range(texts)
    }
    if laws is not None:
        documents = recorded.documents(laws)

    async def refresh(_: Metagraph) -> None:
        return

    gates: Any = SimpleNamespace(gate=uniform_gate(), refresh=refresh, sheets=[])
    async with open_http_session() as http:
        state = State(folder / STATE)
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
        await close(state, measurement, everybody(axons))
        state.close()
        return int(metrics.answers.labels("valid")._value.get())


async def close(state: State, measurement: Measurement, metagraph: Metagraph) -> None:
    """The epoch's sheet, as the validator's loop makes it."""

    async def metagraph_of(_: object) -> Metagraph:
        return metagraph

    wall_s, cpu_s = time.perf_counter(), time.process_time()
    chain: Any = SimpleNamespace(metagraph=metagraph_of)
    next_spec: Any = SimpleNamespace(
        see=lambda _: None, current=SimpleNamespace(sha256="ab" * 32), problem=None
    )
    nothing: Any = SimpleNamespace(problems={})
    validator = Validator(
        chain, metagraph.netuid, key(VALIDATOR)[0], next_spec, Axon("127.0.0.1", 1), state,
        measurement, Path(), nothing, nothing,
    )  # fmt: skip
    await validator._close_epoch(metagraph.epoch_index)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    print(f"closed in {wall_s:.1f} s, {cpu_s:.1f} CPU-s")
    (sheet,) = state.archive.newest_sheets(1)
    receipts = state.archive.receipts(sheet.sha256) or b""
    print(f"sheet of {len(sheet.walk)} items and {len(sheet.hotkeys)} experts: "
          f"{len(sheet.to_bytes()):,} bytes; receipts {len(receipts):,}")  # fmt: skip


@contextlib.contextmanager
def counted_bytes() -> Iterator[Counter[str]]:
    """What this process sends and receives over TCP, HTTP included."""
    counted: Counter[str] = Counter()
    kind = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    write, received = kind.write, ResponseHandler.data_received

    def counting_write(transport: Any, data: bytes) -> None:
        counted["sent"] += len(data)
        write(transport, data)

    def counting_received(handler: ResponseHandler, data: bytes) -> None:
        counted["received"] += len(data)
        received(handler, data)

    with (
        patch.object(kind, "write", counting_write),
        patch.object(ResponseHandler, "data_received", counting_received),
    ):
        yield counted


def cpu_s(processes: list[Any]) -> float:
    return sum(sum(psutil.Process(p.pid).cpu_times()[:2]) for p in processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--miners", type=int, default=256)
    parser.add_argument("--walks", type=int, default=64, help="in an epoch")
    parser.add_argument("--routers", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=2_048)
    parser.add_argument("--as-users", action="store_true", help="walks of users' lengths")
    parser.add_argument("--model", help="a folder: laws of this model, and its vocabulary")
    parser.add_argument("--turns", action="store_true", help="time the loop's turns: costs CPU")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ports: Any = context.Queue()
    uris = [f"//Miner{i}" for i in range(arguments.miners)]
    names = [f"//Router{i}" for i in range(arguments.routers)]
    routers: list[Any] = []
    with contextlib.ExitStack() as stack:
        laws = None
        if arguments.model:
            laws = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            recording = context.Process(
                target=recorded.record, args=(arguments.model, laws, arguments.walks)
            )
            recording.start()
            recording.join()
            arguments.vocab = np.load(laws / recorded.LAWS, mmap_mode="r").shape[1]
        miners = [
            context.Process(
                target=mine, args=(uris, names, arguments.vocab, laws, ports), daemon=True
            )
        ]
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
        settle()  # as `validator run` does
        before = time.perf_counter(), time.process_time(), cpu_s(routers), cpu_s(miners)
        profile = cProfile.Profile(time.process_time)
        if arguments.profile:
            profile.enable()
        with longest_turns(5 if arguments.turns else 0) as turns, counted_bytes() as wire:
            answers = asyncio.run(walk(arguments, {**axons, **nodes}, laws, Path(folder)))
        profile.disable()
        after = time.perf_counter(), time.process_time(), cpu_s(routers), cpu_s(miners)
        wall_s, own_s, router_s, miner_s = (b - a for a, b in zip(before, after, strict=True))
        sizes = {path.name: path.stat().st_size for path in Path(folder).iterdir()}
        disk, kept = sum(sizes.values()), sum(n for at, n in sizes.items() if "answers" in at)
        begin_s = time.perf_counter()
        AnswerFiles(Path(folder) / STATE).keep_only(set())
        removed_ms = 1e3 * (time.perf_counter() - begin_s)
        print(f"{kept:,} bytes of answers removed in {removed_ms:.1f} ms")
    if arguments.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
    print("| answers | wall, s | validator CPU, s | ms an answer: validator | routers | miners |")
    print("|---|---|---|---|---|---|")
    each = " | ".join(f"{s / answers * 1e3:.3f}" for s in (own_s, router_s, miner_s))
    print(f"| {answers:,} | {wall_s:.1f} | {own_s:.1f} | {each} |")
    print(f"\nbytes an answer: sent {wire['sent'] / answers:,.0f}, "
          f"received {wire['received'] / answers:,.0f}, on disk {disk / answers:,.0f}; "
          f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MB")  # fmt: skip
    for name, longest in (
        ("turns of the loop, ms of CPU", turns.cpu),
        ("turns of the loop, ms of wall", turns.wall),
        ("collections of garbage, ms of CPU", turns.collecting),
    ):
        if longest:
            print(f"longest {name}:")
        for seconds, what in longest:
            print(f"- {seconds * 1e3:.1f} {what}")
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
