"""What streams cost the router: lanes against one request a step, by the same run.

Real miners, a process each, on real sockets; only their engine is played: a batch takes a fixed
time whatever its size, as on a device that batches, and its laws are fixed. Streams draw from the
mixture and go on, in lockstep with nobody. Both ways take turns. CPU is the router process's
own, over tokens that the mixture wrote and over answers, one an expert and call; that of all
miners together stands beside it, for they share the machine. It is the model's (`MixtureModel`):
users' HTTP, the ledger and the text of tokens are not in it. Prints one Markdown table.

With --drafted streams are also written with a student, whose law is the mean of the experts' in
KNOWS of its mass. It is played in this process, and its CPU is taken off; what its pipe would cost
is not in it.

    python benchmarks/lanes.py [--vocab 2048] [--experts 4] [--batch-ms 15] [--drafted]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
from neurons import book_of, subnet
from substrateinterface import Keypair

from moesubnet.engine.base import Query
from moesubnet.engine.drafting import Continuation, draft
from moesubnet.host.garbage import settle
from moesubnet.miner.app import build_app
from moesubnet.miner.expert import Expert
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.drafting import Drawn, next_token
from moesubnet.mixture.gate import uniform_gate
from moesubnet.router.mixed import MixtureModel
from moesubnet.router.model import ALONE, Drawing
from moesubnet.router.student import StudentModel
from moesubnet.types import Axon, Hotkey
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.listening import serve
from moesubnet.wire.protocol import StepResponse, StepRows, Want
from moesubnet.wire.strangers import open_http_session

PROMPT_TOKENS, SEED = 24, 0
KNOWS = 0.75
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


class PlayedStudent:
    """Drafts from a law near the mean of the experts'; its rows are made once."""

    name, caches, commitment, context_tokens = "student", True, "0" * 64, 4_096

    def __init__(self, vocab_size: int, experts: int) -> None:
        self.vocab_size, self.cpu_s = vocab_size, 0.0
        *laws, other = (Played(vocab_size, 0.0, seed).laws for seed in range(experts + 1))
        mean = np.logaddexp.reduce(laws, axis=0) - np.log(experts)
        self._laws = np.logaddexp(mean + np.log(KNOWS), other + np.log1p(-KNOWS)).astype(np.float32)
        self._rows: dict[Want, list[StepRows]] = {}

    async def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        since_s = time.process_time()
        answers = self._answers(batch, want)
        self.cpu_s += time.process_time() - since_s
        return answers

    async def draft(self, query: Query, asked: Continuation, want: Want) -> Any:
        since_s = time.process_time()
        engine: Any = SimpleNamespace(rows=self._answers)
        [drafted] = draft(engine, [query], [asked], want)
        self.cpu_s += time.process_time() - since_s
        return drafted

    def forget(self, session: str) -> None:
        return

    def _answers(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        if want not in self._rows:
            self._rows[want] = [StepRows.of(0, law[None], want) for law in self._laws]
        known = self._rows[want]
        return [
            replace(
                StepRows.joined(
                    [known[at % len(known)] for at in range(query.first, len(query.ids) + 1)]
                ),
                first=query.first,
            )
            for query in batch
        ]


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
    parcel = client._parcel(request, timeout_s, on_its_way)
    async with client._places:
        on_its_way()
        await client._carry([parcel], lambda: None)
    answer: StepResponse = await parcel.answer
    return answer


@dataclass
class Seen:
    """What the streams of one way did."""

    first_s: list[float]
    kept: int = 0
    judged: int = 0  # drafts whose predecessors were kept


async def stream(model: MixtureModel, tokens: int, seed: int, seen: Seen) -> None:
    rng = np.random.default_rng(seed)
    session = model.open()
    prompt = rng.integers(0, model.baseline.law.logp.size, PROMPT_TOKENS).astype(np.uint32)
    how = Drawing(1.0, 1.0, tokens) if model.student else ALONE
    forecast = await session.start(prompt, how)
    seen.first_s.append(time.perf_counter())
    for left in range(tokens, 0, -1):
        m, drafts = forecast.mixture, forecast.drafts
        token = next_token(Drawn.of(m.log_drawn, m.law.ids, 1.0, 1.0), drafts, rng)
        if drafts:
            seen.judged += 1
            seen.kept += token == drafts[0].token_id
        forecast = await session.append(token, replace(how, left=left) if model.student else how)
    session.close()


def cpu_of(miners: Sequence[psutil.Process]) -> float:
    return sum(sum(miner.cpu_times()[:2]) for miner in miners)


async def measure(
    model: MixtureModel, streams: int, tokens: int, miners: Sequence[psutil.Process]
) -> str:
    """Cells: CPU ms a token and an answer, the miners' a token, tokens a second, median seconds to
    the first token, answers a token, and with a student how many drafts were kept."""
    theirs_s = cpu_of(miners)
    student: Any = model.student.engine if model.student else SimpleNamespace(cpu_s=0.0)
    before = sum(expert.answers for expert in model.book.known().values())
    seen, its_cpu_s = Seen([]), student.cpu_s
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(stream(model, tokens, SEED + i, seen) for i in range(streams)))
    first_s = float(np.median(seen.first_s)) - wall_s
    wall_s = time.perf_counter() - wall_s
    cpu_ms = (time.process_time() - cpu_s - (student.cpu_s - its_cpu_s)) * 1e3
    answers = sum(expert.answers for expert in model.book.known().values()) - before
    written = streams * tokens
    theirs_ms = (cpu_of(miners) - theirs_s) * 1e3 / written
    cells = [f"{cpu_ms / written:.2f}", f"{cpu_ms / answers:.2f}", f"{theirs_ms:.2f}"]
    cells.append(f"{written / wall_s:.0f}")
    cells += [f"{first_s:.2f}", f"{answers / written:.2f}"]
    cells.append(f"{seen.kept / seen.judged:.2f}" if seen.judged else "")
    return " | ".join(cells)


async def compare(
    arguments: argparse.Namespace, axons: dict[Hotkey, Axon], miners: Sequence[psutil.Process]
) -> None:
    spec, vocab = spec_of(arguments.vocab), arguments.vocab
    heads = ["streams", "", "CPU ms a token of the mixture", "an expert and call"]
    heads += ["miners' CPU ms a token", "tokens/s", "first token, median s", "answers a token"]
    heads.append("kept α")
    print(f"V = {vocab}, {arguments.experts} experts, load {os.getloadavg()[0]:.1f}\n")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    steps = {"one request a step": by_itself, "lanes": ExpertClient.step}
    if arguments.drafted:
        steps["lanes, drafted"] = ExpertClient.step
    async with open_http_session() as http:
        book = await book_of(http, ROUTER, spec, axons)
        settle()  # as `router run` does
        for streams in arguments.streams:
            tokens = max(24, arguments.tokens // streams)
            for name, step in steps.items():
                baseline = Unigram(np.full(vocab, -np.log(vocab), np.float32))
                model = MixtureModel(
                    book, uniform_gate, baseline, vocab_size=vocab, deadline_s=30.0, top_k=8
                )
                model.paces.patience_s = lambda *_: 30.0  # type: ignore[method-assign]
                if "drafted" in name:
                    student: Any = PlayedStudent(vocab, arguments.experts)
                    model.student = StudentModel(student)
                with patch.object(ExpertClient, "step", step):
                    await measure(model, streams, 4, miners)
                    cells = await measure(model, streams, tokens, miners)
                    print(f"| {streams} | {name} | {cells} |", flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=2_048)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--batch-ms", type=float, default=15.0)
    parser.add_argument("--tokens", type=int, default=1_600, help="of all streams together")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--drafted", action="store_true")
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
        asyncio.run(compare(arguments, axons, [psutil.Process(miner.pid) for miner in miners]))
    finally:
        for miner in miners:
            miner.terminate()


if __name__ == "__main__":
    main()
