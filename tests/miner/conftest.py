"""A real miner on a real socket, over any engine, with the chain played by a fixed metagraph."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from substrateinterface import Keypair

from moesubnet.engine.base import Engine, LogProbs, Query
from moesubnet.miner.app import build_app
from moesubnet.miner.expert import Expert
from moesubnet.spec.content import LoadedSpec
from moesubnet.types import Axon, BlockNumber, Coldkey, Hotkey, Metagraph, NetUid, Neuron, Uid
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.listening import serve
from moesubnet.wire.protocol import SequenceStep, StepRows, Want, base_hash
from moesubnet.wire.strangers import open_http_session

MINER = Keypair.create_from_uri("//Miner")
ALICE, BOB, POOR = (Keypair.create_from_uri(uri) for uri in ("//Alice", "//Bob", "//Poor"))
STAKES_RAO = {"//Miner": 0, "//Alice": 900 * 10**9, "//Bob": 100 * 10**9, "//Poor": 5}


def neuron(uid: int, uri: str, stake_rao: int) -> Neuron:
    return Neuron(
        uid=Uid(uid),
        hotkey=Hotkey(Keypair.create_from_uri(uri).ss58_address),
        coldkey=Coldkey(Keypair.create_from_uri(uri + "//cold").ss58_address),
        axon=None,
        stake_rao=stake_rao,
        incentive_u16=0,
        dividends_u16=0,
        consensus_u16=0,
        validator_trust_u16=0,
        emission_rao=0,
        active=stake_rao > 0,
        validator_permit=stake_rao > 0,
        last_update_block=BlockNumber(0),
        registered_at_block=BlockNumber(0),
    )


def metagraph_of(neurons: Sequence[Neuron]) -> Metagraph:
    return Metagraph(
        netuid=NetUid(1),
        block=BlockNumber(100),
        block_hash="0x00",
        tempo_blocks=30,
        epoch_index=3,
        last_epoch_block=BlockNumber(90),
        next_epoch_block=BlockNumber(120),
        owner_hotkey=neurons[0].hotkey,
        owner_coldkey=neurons[0].coldkey,
        commit_reveal=True,
        spec_sha256=None,
        spec_url=None,
        neurons=tuple(neurons),
    )


@dataclass
class FixedMetagraph:
    metagraph: Metagraph = field(
        default_factory=lambda: metagraph_of(
            [neuron(uid, uri, stake) for uid, (uri, stake) in enumerate(STAKES_RAO.items())]
        )
    )

    def current(self) -> Metagraph:
        return self.metagraph


@dataclass
class FakeEngine:
    """Laws that depend on every id before them; can be held up, and counts its batches."""

    vocab_size: int = 300
    context_tokens: int = 64
    name: str = "fake"
    commitment: str = "ab" * 32
    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[list[Query]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        self.batches.append(list(batch))
        assert self.gate.wait(30)
        return [query.answer(self.laws(query.ids, query.first_law), want) for query in batch]

    def laws(self, ids: np.ndarray, first: int) -> LogProbs:
        rows = []
        for position in range(first, len(ids) + 1):
            seed = [position, *ids[:position].tolist()]
            weights = np.random.default_rng(seed).random(self.vocab_size) + 0.01
            rows.append(np.log(weights / weights.sum()))
        return np.array(rows, dtype=np.float32)

    def forget(self, session: str) -> None:
        self.forgotten.append(session)


@dataclass
class Served:
    """A miner that listens, and how to call it."""

    expert: Expert
    port: int
    _stack: AsyncExitStack

    async def client(self, keypair: Keypair) -> ExpertClient:
        http = await self._stack.enter_async_context(open_http_session())
        return ExpertClient(
            http,
            keypair,
            Hotkey(MINER.ss58_address),
            Axon("127.0.0.1", self.port),
            vocab_size=self.expert.limits.vocab_size,
            allow_private=True,
        )


@pytest.fixture
async def serve_miner(tiny_spec: LoadedSpec) -> AsyncIterator[Callable[..., object]]:
    """`await serve_miner(engine, metagraphs=…, **options of Expert)` → Served."""
    async with AsyncExitStack() as stack:

        async def start(
            engine: Engine,
            metagraphs: FixedMetagraph | None = None,
            stop_ids: tuple[int, ...] = (0,),
            **options: object,
        ) -> Served:
            says = tiny_spec.spec.model_copy(update={"stop_ids": stop_ids})
            spec = replace(tiny_spec, spec=says)
            metagraphs = metagraphs or FixedMetagraph()
            expert = Expert(
                engine,
                spec,
                metagraphs,
                hotkey=Hotkey(MINER.ss58_address),
                name="test",
                **options,  # type: ignore[arg-type]
            )
            stack.push_async_callback(expert.close)
            app = build_app(expert, MINER, metagraphs)
            listening = await serve(app, "127.0.0.1", 0, grace_s=0.1)
            stack.push_async_callback(listening.close)
            return Served(expert, listening.port, stack)

        yield start


def u32(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.uint32)


def step_of(
    session: str,
    base: np.ndarray,
    append: np.ndarray,
    draft: np.ndarray | None = None,
    first: int | None = None,
    parent: str = "",
) -> SequenceStep:
    drafted = u32() if draft is None else draft
    return SequenceStep(session, len(base), base_hash(base), append, drafted, first, parent=parent)
