"""What streams cost the router: lanes against one request a step, by the same run.

Real miners, a process each, on real sockets; only their engine is played: a batch takes a fixed
time whatever its size, as on a device that batches, and its laws are fixed. Streams draw from the
mixture and go on, in lockstep with nobody. Both ways take turns. CPU is the router process's
own, over answers, one an expert and token; nothing is drafted. Prints one Markdown table.

    python benchmarks/lanes.py [--vocab 2048] [--experts 4] [--batch-ms 15]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from neurons import book_of, subnet
from substrateinterface import Keypair

from moesubnet.engine.base import Query
from moesubnet.miner.app import build_app
from moesubnet.miner.expert import Expert
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import uniform_gate
from moesubnet.router.mixed import MixtureModel
from moesubnet.router.model import ALONE
from moesubnet.types import Axon, Hotkey
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.departures import Parcel
from moesubnet.wire.listening import serve
from moesubnet.wire.protocol import Proof, StepResponse, StepRows, Want, max_answer_bytes
from moesubnet.wire.strangers import open_http_session

PROMPT_TOKENS, SEED = 24, 0
STREAMS = (1, 16, 64)
ROUTER = Keypair.create_from_uri("//Router")
ROUTER_HOTKEY = Hotkey(ROUTER.ss58_address)


@dataclass
class Played:
    """An engine whose batches take `batch_s` and whose laws are one of a few."""

    vocab_size: int
    batch_s: float
    seed: int
    name: str = "played"
    context_tokens: int = 4_096
    commitment: str = "0" * 64
    caches: bool = True

    def __post_init__(self) -> None:
        logits = np.random.default_rng(self.seed).normal(scale=5.0, size=(8, self.vocab_size))
        logits -= np.log1p(np.arange(self.vocab_size))
        norm = np.logaddexp.reduce(logits, axis=1, keepdims=True)
        self.laws = (logits - norm).astype(np.float32)

    def rows(self, batch: list[Query], want: Want) -> list[StepRows]:
        time.sleep(self.batch_s)
        return [query.answer(self._law(query), want) for query in batch]

    def _law(self, query: Query) -> np.ndarray:
        return self.laws[np.arange(query.first_law, len(query.ids) + 1) % len(self.laws)]

    def forget(self, session: str) -> None:
        return


def spec_of(vocab_size: int) -> Any:
    inner = SimpleNamespace(
        vocab_size=vocab_size, context_tokens=4_096, min_caller_stake_rao=0, stop_ids=(), bos_id=0
    )
    return SimpleNamespace(sha256="0" * 64, spec=inner)


def mine(uri: str, vocab_size: int, batch_s: float, seed: int, ports: Any) -> None:
    """A miner until the process is ended."""

    async def run() -> None:
        signer = Keypair.create_from_uri(uri)
        hotkey = Hotkey(signer.ss58_address)
        chain: Any = SimpleNamespace(current=lambda: subnet({hotkey: None, ROUTER_HOTKEY: None}))
        engine: Any = Played(vocab_size, batch_s, seed)
        expert = Expert(engine, spec_of(vocab_size), chain, hotkey=hotkey, name=uri)
        listening = await serve(build_app(expert, signer, chain), "127.0.0.1", 0)
        ports.put((uri, listening.port))
        await asyncio.Event().wait()

    asyncio.run(run())


async def by_itself(
    client: ExpertClient, request: Any, *, timeout_s: float, on_its_way: Any = lambda: None
) -> StepResponse:
    """A step in a request of its own."""
    most = max_answer_bytes(request, client._vocab_size)
    parcel = Parcel(request.to_bytes(), most, timeout_s, on_its_way, stream="")
    async with client._places:
        on_its_way()
        await client._carry([parcel], lambda: None)
    status, body, nonce_ns, receipt = await parcel.answer
    return await client._decoded(request, status, body, Proof.of(request, nonce_ns, receipt, body))


async def stream(model: MixtureModel, tokens: int, seed: int) -> float:
    """When its first token came."""
    rng = np.random.default_rng(seed)
    session = model.open()
    prompt = rng.integers(0, model.baseline.law.logp.size, PROMPT_TOKENS).astype(np.uint32)
    forecast = await session.start(prompt)
    first_s = time.perf_counter()
    for _ in range(tokens):
        token = forecast.mixture.draw(1.0, 1.0, rng)
        forecast = await session.append(token, ALONE)
    return first_s


async def measure(model: MixtureModel, streams: int, tokens: int) -> tuple[float, float, float]:
    """CPU ms an answer of an expert, tokens a second, median seconds to the first token."""
    before = sum(expert.answers for expert in model.book.known().values())
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work = (stream(model, tokens, SEED + i) for i in range(streams))
    first_s = np.median(await asyncio.gather(*work)) - wall_s
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    answers = sum(expert.answers for expert in model.book.known().values()) - before
    return cpu_s / answers * 1e3, streams * tokens / wall_s, float(first_s)


async def compare(arguments: argparse.Namespace, axons: dict[Hotkey, Axon]) -> None:
    spec, vocab = spec_of(arguments.vocab), arguments.vocab
    print("| streams | | CPU ms an expert and token | tokens/s | first token, median s |")
    print("|---|---|---|---|---|")
    async with open_http_session() as http:
        book = await book_of(http, ROUTER, spec, axons)
        for streams in STREAMS:
            tokens = max(24, arguments.tokens // streams)
            for name in ("one request a step", "lanes"):
                baseline = Unigram(np.full(vocab, -np.log(vocab), np.float32))
                model = MixtureModel(
                    book, uniform_gate, baseline, vocab_size=vocab, deadline_s=30.0, top_k=8
                )
                model.paces.patience_s = lambda *_: 30.0  # type: ignore[method-assign]
                with patch.object(
                    ExpertClient, "step", ExpertClient.step if name == "lanes" else by_itself
                ):
                    await measure(model, streams, 4)
                    cpu_ms, per_s, first_s = await measure(model, streams, tokens)
                print(
                    f"| {streams} | {name} | {cpu_ms:.2f} | {per_s:.0f} | {first_s:.2f} |",
                    flush=True,
                )
        print(f"\nload {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=2_048)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--batch-ms", type=float, default=15.0)
    parser.add_argument("--tokens", type=int, default=1_600, help="of all streams together")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ports: Any = context.Queue()
    miners = [
        context.Process(
            target=mine,
            args=(f"//Miner{i}", arguments.vocab, arguments.batch_ms / 1e3, i, ports),
            daemon=True,
        )
        for i in range(arguments.experts)
    ]
    for miner in miners:
        miner.start()
    found = dict(ports.get() for _ in miners)
    axons = {
        Hotkey(Keypair.create_from_uri(uri).ss58_address): Axon("127.0.0.1", port)
        for uri, port in found.items()
    }
    try:
        asyncio.run(compare(arguments, axons))
    finally:
        for miner in miners:
            miner.terminate()


if __name__ == "__main__":
    main()
