"""What one validator's own code costs an answer that comes through a router, and nothing else.

Routers and miners are played in the same process, their bodies fixed and all signatures real; the
CPU that they take is taken off, and there is no HTTP. So it tells the same on a busy machine, where
`relays.py` loses answers. Steps are stored on disk as the validator stores them.

    python benchmarks/answers.py [--miners 128] [--walks 16] [--vocab 2048]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from lanes import Played
from neurons import subnet
from relays import VALIDATOR, key

from moesubnet.host.garbage import settle
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import uniform_gate
from moesubnet.types import Axon, Hotkey
from moesubnet.validator.measure import Measurement
from moesubnet.validator.pool import ONE_WINDOW, WINDOW_TOKENS, TextPool
from moesubnet.validator.serve import Metrics
from moesubnet.validator.shapes import Shapes
from moesubnet.validator.state import State
from moesubnet.wire import client
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.lanes import Given, Lane, pack_answers, unpack_answers
from moesubnet.wire.protocol import StepResponse, StepRows
from moesubnet.wire.relay import Brought, Question, RelayClient
from moesubnet.wire.strangers import open_http_session

TOGETHER = 16  # answers in a frame
LENGTH_BYTES = 4


class Subnet:
    """Three routers, and miners that say the same to everybody."""

    def __init__(self, miners: int, vocab: int) -> None:
        self.experts = {key(f"//Miner{i}")[1]: key(f"//Miner{i}")[0] for i in range(miners)}
        self.routers = {key(f"//Router{i}")[1]: key(f"//Router{i}")[0] for i in range(3)}
        laws = (Played(vocab, 0.0, i).laws[:1] for i in range(miners))
        bodies = (StepResponse((StepRows(0, law),)).to_bytes() for law in laws)
        self.bodies = dict(zip(self.experts, bodies, strict=True))
        self.cpu_s = 0.0  # taken so far

    def carry(self, router: Hotkey, lane: Lane, nonce_ns: int) -> list[bytes]:
        """What a router's node brings for a lane of a validator's."""
        by_expert: dict[Hotkey, list[tuple[int, bytes]]] = defaultdict(list)
        for place, step in enumerate(lane.steps):
            question = Question.from_bytes(step)
            by_expert[question.expert].append((place, question.step))
        brought = []
        for expert, asked in by_expert.items():
            inner = Lane.of([step for _, step in asked])
            given = [Given(i, 200, self.bodies[expert]) for i in range(len(asked))]
            frame = pack_answers(given, inner, nonce_ns, router, self.experts[expert])
            proven = unpack_answers(frame[LENGTH_BYTES:], inner, nonce_ns, expert, router)
            for (place, _), (answer, receipt) in zip(asked, proven, strict=True):
                body = Brought(200, nonce_ns, receipt, answer.body).to_bytes()
                brought.append(Given(place, 200, body))
        caller, signer = key(VALIDATOR)[1], self.routers[router]
        frames = (
            pack_answers(brought[i : i + TOGETHER], lane, nonce_ns, caller, signer)
            for i in range(0, len(brought), TOGETHER)
        )
        return [frame[LENGTH_BYTES:] for frame in frames]

    @asynccontextmanager
    async def post(self, caller: Any, path: str, body: bytes, *_: object) -> AsyncIterator[Any]:
        """In place of `ExpertClient._post`."""
        _, signed = caller._sign(path, body)
        yield (caller.hotkey, path.partition("?")[2], body, signed.nonce_ns), signed

    async def frames(self, response: Any, _: int) -> AsyncIterator[bytearray]:
        """In place of `read_frames`."""
        router, query, body, nonce_ns = response
        await asyncio.sleep(0)
        since_s = time.process_time()
        frames = self.carry(router, Lane.from_bytes(body, query), nonce_ns)
        self.cpu_s += time.process_time() - since_s
        for frame in frames:
            yield bytearray(frame)
            await asyncio.sleep(0)


class Expert:
    """Who is asked through routers alone."""

    commits = False

    def __init__(self, hotkey: Hotkey) -> None:
        self.hotkey = hotkey


async def measured(played: Subnet, walks: int, vocab: int, folder: Path) -> tuple[int, float]:
    """Answers, and the validator's own CPU, s."""
    own, signer = key(VALIDATOR)[1], key(VALIDATOR)[0]
    ids = np.random.default_rng(0).integers(0, vocab, (walks, 8 * WINDOW_TOKENS))
    documents = {os.urandom(32): text.astype(np.uint32) for text in ids}
    metagraph = subnet({own: None, **dict.fromkeys(played.experts)}, [own])

    async def nothing(*_: object) -> list[Any]:
        return []

    gates: Any = SimpleNamespace(gate=uniform_gate(), refresh=nothing, sheets=[])
    clients = {hotkey: Expert(hotkey) for hotkey in played.experts}
    experts: Any = SimpleNamespace(clients=clients, cards={}, refresh=nothing)
    async with open_http_session() as http:
        relays = [
            RelayClient(
                http, signer, router, Axon("127.0.0.1", 1), vocab_size=vocab, allow_private=True
            )
            for router in played.routers
        ]
        routers: Any = SimpleNamespace(
            refresh=nothing, usage=nothing, draw=lambda lots: lots.sample(relays, 2)
        )
        state, metrics = State(folder / "validator.sqlite3"), Metrics()
        measurement = Measurement(
            state, own, TextPool(documents), "ab" * 32,
            Unigram(np.full(vocab, -np.log(vocab), np.float32)), experts, gates, metrics,
            Shapes.fixed(ONE_WINDOW), routers,
        )  # fmt: skip
        batches = await measurement.open_batches(metagraph, walks)
        settle()
        before_s = time.process_time() - played.cpu_s
        await measurement.run(batches)
        own_s = time.process_time() - played.cpu_s - before_s
        state.close()
    return int(metrics.answers.labels("valid")._value.get()), own_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--miners", type=int, default=128)
    parser.add_argument("--walks", type=int, default=16, help="all at once")
    parser.add_argument("--vocab", type=int, default=2_048)
    arguments = parser.parse_args()
    played = Subnet(arguments.miners, arguments.vocab)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(ExpertClient, "_post", lambda *call: played.post(*call)),
        patch.object(client, "read_frames", played.frames),
    ):
        answers, own_s = asyncio.run(
            measured(played, arguments.walks, arguments.vocab, Path(folder))
        )
    print(f"{answers:,} answers, {own_s:.1f} CPU-s, {own_s / answers * 1e3:.3f} ms each; "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
