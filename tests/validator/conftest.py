"""A chain in memory with the rules of ours, and experts behind real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from substrateinterface import Keypair

from moesubnet.chain.client import Epoch, LastReveal, WeightCommit
from moesubnet.chain.weights import weights_commit_hash
from moesubnet.errors import CallRejected, EngineError, UnknownBase
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate_sync import GateSync
from moesubnet.spec.roll import NextSpec
from moesubnet.types import Axon, Coldkey, Hotkey, Metagraph, Neuron
from moesubnet.validator.checkbook import Checkbook
from moesubnet.validator.loop import Validator
from moesubnet.validator.measure import Measurement
from moesubnet.validator.pool import ONE_WINDOW, TextPool
from moesubnet.validator.serve import Health, Metrics, build_app
from moesubnet.validator.shapes import Shapes
from moesubnet.validator.state import State
from moesubnet.wire.commitment import proof_bytes
from moesubnet.wire.listening import serve
from moesubnet.wire.nonces import NonceStore
from moesubnet.wire.protocol import (
    CloseRequest,
    ExpertCard,
    StepLimits,
    StepRequest,
    StepResponse,
    base_hash,
)
from moesubnet.wire.roster import Roster
from moesubnet.wire.routers import Routers
from moesubnet.wire.server import BODY, auth_middleware, lane_route, public
from moesubnet.wire.strangers import get_public, open_http_session
from tests.step_answers import answer_to
from tests.validator.nodes import RouterNode
from tests.validator.open_experts import offer, replayed  # noqa: F401  # fixtures

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))  # adversaries

TEMPO = 30


@dataclass
class FakeChain:
    """The ChainClient contract, with the pallet's rules for commits and reveals.

    What is submitted is included in the next block. `block` moves only when a test says so.
    """

    tempo: int = TEMPO
    block: int = 0
    commit_reveal: bool = True
    reveal_period_epochs: int = 1
    spec_sha256: str | None = None
    spec_url: str | None = None
    spec_epoch: int | None = None
    block_seconds: float = 0.01
    epoch_index: int = 0
    last_epoch_block: int = 0
    neurons: list[Neuron] = field(default_factory=list)
    queues: dict[str, list[WeightCommit]] = field(default_factory=dict)
    reveals: dict[str, list[LastReveal]] = field(default_factory=dict)
    rows: dict[str, list[tuple[list[int], list[int]]]] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)  # names of errors for the next calls
    lost_calls: int = 0  # this many calls are swallowed by the network
    has_models: bool = False  # whether it keeps what hotkeys say of their models
    has_drand: bool = False  # as on a subtensor network: the chain opens votes itself
    voted_at: dict[str, int] = field(default_factory=dict)  # block of the last plain vote
    timelocked: dict[int, dict[str, tuple]] = field(default_factory=dict)  # by epoch and hotkey
    begun_s: dict[int, float] = field(default_factory=dict)  # of epochs; of others it is not told

    def next_block(self) -> None:
        self.block += 1
        if self.block - self.last_epoch_block >= self.tempo:
            self.last_epoch_block, self.epoch_index = self.block, self.epoch_index + 1
            for hotkey, row in self.timelocked.pop(self.epoch_index - 1, {}).items():
                self.rows.setdefault(hotkey, []).append(row)

    def add(self, signer: Keypair, axon: Axon | None = None, stake_rao: int = 10**12) -> None:
        uid = len(self.neurons)
        self.neurons.append(
            Neuron(
                uid, Hotkey(signer.ss58_address), Coldkey("c"), axon, stake_rao,
                0, 0, 0, 0, 0, True, stake_rao > 0, 0, uid,
            )
        )  # fmt: skip

    async def epoch_begun_s(self, netuid, epoch):
        return self.begun_s.get(epoch)

    async def epoch(self, netuid):
        return Epoch(
            self.block, self.tempo, self.epoch_index, self.last_epoch_block,
            self.last_epoch_block + self.tempo, self.block - self.last_epoch_block,
            self.reveal_period_epochs,
        )  # fmt: skip

    async def metagraph(self, netuid, block_hash=None):
        return Metagraph(
            netuid, self.block, "0x", self.tempo, self.epoch_index, self.last_epoch_block,
            self.last_epoch_block + self.tempo, Hotkey("o"), Coldkey("o"), self.commit_reveal,
            self.spec_sha256, self.spec_url, tuple(self.neurons), self.spec_epoch,
            self.reveal_period_epochs, self.has_models,
        )  # fmt: skip

    async def metagraph_at(self, netuid, block):
        return await self.metagraph(netuid)

    async def serve_axon(self, netuid, ip, port, hotkey):
        self._refuse()
        for uid, neuron in enumerate(self.neurons):
            if neuron.hotkey == hotkey.ss58_address:
                self.neurons[uid] = Neuron(
                    *(
                        Axon(ip, port) if name == "axon" else getattr(neuron, name)
                        for name in Neuron.__slots__
                    )
                )

    async def last_reveal(self, netuid, hotkey):
        return (self.reveals.get(hotkey) or [None])[-1]

    async def last_vote_block(self, netuid, hotkey):
        return self.voted_at.get(hotkey)

    async def timelocked_commits(self, netuid, epoch):
        return frozenset(self.timelocked.get(epoch, ()))

    async def commit_timelocked(self, netuid, uids, values, version_key, hotkey):
        if await self._sent():
            now = (await self.epoch(netuid)).epoch_now
            self.timelocked.setdefault(now, {})[hotkey.ss58_address] = (list(uids), list(values))

    async def weight_commits(self, netuid, hotkey):
        return tuple(self.queues.get(hotkey, ()))

    async def commit_weights(self, netuid, uids, values, salt, version_key, hotkey):
        if not await self._sent():
            return
        now = (await self.epoch(netuid)).epoch_now
        digest = weights_commit_hash(hotkey.public_key, netuid, uids, values, salt, version_key)
        due = now + self.reveal_period_epochs
        commit = WeightCommit("0x" + digest.hex(), now, self.block + 1, due)
        self.queues.setdefault(hotkey.ss58_address, []).append(commit)

    async def reveal_weights(self, netuid, uids, values, salt, version_key, hotkey):
        if not await self._sent():
            return
        now = (await self.epoch(netuid)).epoch_now
        queue = self.queues.get(hotkey.ss58_address, [])
        digest = weights_commit_hash(hotkey.public_key, netuid, uids, values, salt, version_key)
        found = [commit for commit in queue if commit.commit_hash == "0x" + digest.hex()]
        if not queue:
            raise CallRejected("NoWeightsCommitFound")
        if not found:
            raise CallRejected("InvalidRevealCommitHashNotMatch")
        if now != found[0].reveal_epoch:
            early = now < found[0].reveal_epoch
            raise CallRejected("RevealTooEarly" if early else "ExpiredWeightCommit")
        self.queues[hotkey.ss58_address] = queue[queue.index(found[0]) + 1 :]
        sheet = b"".join(word.to_bytes(2, "little") for word in salt[:16]).hex()
        reveal = LastReveal(found[0].epoch, sheet)
        self.reveals.setdefault(hotkey.ss58_address, []).append(reveal)
        self.rows.setdefault(hotkey.ss58_address, []).append((list(uids), list(values)))

    async def set_weights(self, netuid, uids, values, version_key, hotkey):
        if await self._sent():
            self.rows.setdefault(hotkey.ss58_address, []).append((list(uids), list(values)))
            self.voted_at[hotkey.ss58_address] = self.block + 1

    async def _sent(self) -> bool:
        self._refuse()
        if self.lost_calls:
            self.lost_calls -= 1
            await asyncio.Event().wait()
        return True

    def _refuse(self) -> None:
        if self.refusals:
            raise CallRejected(self.refusals.pop(0))


class FakeExpert:
    """A miner whose engine is `law(ids) -> log-law [V]`; keeps every id that it was ever sent."""

    def __init__(self, signer, spec, law):
        self.signer, self.spec, self.law = signer, spec, law
        self.hotkey = Hotkey(signer.ss58_address)
        self.sessions: dict[str, np.ndarray] = {}
        self.fails = False
        self.fails_on = None  # texts that begin with these ids
        self.card_fails = False
        self.in_thread = False  # whether its law may take its time
        self.requests = []
        self.closed = []  # the sessions of each call that said so
        self.callers = []  # whose hotkeys asked, beside `requests`
        self.commits, self.withholds = False, False
        self.commitment, self.weights_url = "0" * 64, None
        self.tails = {}  # by session: position and tree of the newest law

    async def start(self):
        limits = StepLimits(self.spec.spec.vocab_size, self.spec.spec.context_tokens)

        @public
        async def card(request):
            if self.card_fails:
                raise web.HTTPServiceUnavailable
            body = ExpertCard(
                hotkey=self.hotkey, spec_sha256=self.spec.sha256, name="fake", engine="fake",
                model_commitment=self.commitment, weights_url=self.weights_url,
                context_tokens=64, vocab_size=limits.vocab_size, max_sequences=64, version="0",
                price_rao_per_mtoken=0, commits=self.commits,
            )  # fmt: skip
            return web.Response(text=body.model_dump_json(), content_type="application/json")

        async def step(caller, body):
            if self.fails:
                raise EngineError("told to fail")
            asked = StepRequest.from_bytes(body, limits)
            self.requests.append(asked)
            self.callers.append(caller)
            rows = []
            for sequence in asked.sequences:
                of = sequence.parent or sequence.session
                held = self.sessions.get(of, np.empty(0, np.uint32))
                if base_hash(held[: sequence.base_len]) != sequence.base_hash:
                    raise UnknownBase(tuple(0 for _ in asked.sequences))
                ids = np.concatenate(
                    [held[: sequence.base_len], sequence.append_ids, sequence.draft_ids]
                )
                begin = ids[: len(self.fails_on)] if self.fails_on is not None else ids
                if np.array_equal(begin, self.fails_on):
                    raise EngineError("told to fail")
                self.sessions[sequence.session] = ids
                asked_of = [ids[:p] for p in range(sequence.first_law, sequence.end + 1)]
                if self.in_thread:
                    laws = await asyncio.to_thread(_each, self.law, asked_of)
                else:
                    laws = [self.law(prefix) for prefix in asked_of]
                laws = np.array(laws, np.float32).reshape(len(laws), limits.vocab_size)
                proof = self._show(sequence)
                answer = answer_to(sequence, laws, asked.want)
                if answer.bound is not None:
                    self.tails[sequence.session] = sequence.end, answer.bound
                rows.append(replace(answer, proof=proof, further=self._going_on(ids, sequence)))
            return StepResponse(tuple(rows)).to_bytes()

        door = auth_middleware(
            self.signer, nonces=NonceStore(), callers=lambda _: None,
            max_body_bytes=limits.max_body_bytes,
        )  # fmt: skip
        app = web.Application(middlewares=[door])
        app.router.add_get("/v1/expert", card)
        app.router.add_post("/v1/step", lane_route(self.signer, step))
        app.router.add_post("/v1/close", self.close)
        self.server = await serve(app, "127.0.0.1", 0, grace_s=0.1)
        self.axon = Axon("127.0.0.1", self.server.port)
        return self

    def _going_on(self, ids, sequence):
        text = ids
        for _ in range(sequence.further):
            text = np.append(text, np.uint32(np.argmax(self.law(text))))
        return text[len(ids) :]

    async def close(self, request):
        self.closed.append(CloseRequest.model_validate_json(request[BODY]).sessions)
        return web.json_response({})

    def _show(self, sequence):
        if sequence.reveal is None:
            return None
        position, token_id = sequence.reveal
        kept, tail = self.tails.get(sequence.session, (-1, None))
        if kept != position or self.withholds:
            return bytes(proof_bytes(self.spec.spec.vocab_size))
        return tail.open(token_id)


def _each(law, prefixes):
    return [law(prefix) for prefix in prefixes]


@pytest.fixture(autouse=True)
def patient_validator(monkeypatch):
    """On a busy machine one that answers at once may be late by what the others took."""
    monkeypatch.setattr("moesubnet.validator.walks.PATIENCE_S", 60.0)


@pytest.fixture(scope="session")
def new_chain():
    return FakeChain


@pytest.fixture
async def start_expert(tiny_spec):
    """`await start_expert(uri, law)` → a running FakeExpert."""
    running = []

    async def start(uri, law):
        expert = FakeExpert(Keypair.create_from_uri(uri, ss58_format=42), tiny_spec, law)
        running.append(await expert.start())
        return expert

    yield start
    for expert in running:
        await expert.server.close()


@pytest.fixture(scope="session")
def keypair():
    return lambda uri: Keypair.create_from_uri(uri, ss58_format=42)


@pytest.fixture(scope="session")
def make_documents():
    """Synthetic texts of `kinds` kinds over 300 tokens: document hash → ids."""

    def build(count=40, tokens=200, kinds=3, seed=0):
        rng = np.random.default_rng(seed)
        laws = kind_laws(kinds)
        documents = {}
        for index in range(count):
            ids = rng.choice(300, tokens, p=laws[index % kinds]).astype(np.uint32)
            documents[hashlib.sha256(ids.tobytes()).digest()] = ids
        return documents

    return build


def kind_laws(kinds):
    return np.random.default_rng(99).dirichlet(np.full(300, 0.05), size=kinds) * 0.95 + 0.05 / 300


@pytest.fixture(scope="session")
def laws():
    return kind_laws(3)


@pytest.fixture
async def measure(tmp_path, tiny_spec, new_chain, keypair, make_documents):
    """`await measure(experts)` → (measurement, state, chain); one epoch's helpers."""
    opened = []

    async def build(experts, documents=None, routers=(), twice=False):
        """routers: (signer, axon) of each. twice: a prefix a batch is."""
        chain, signer = new_chain(), keypair("//Validator")
        chain.add(signer)
        for router in routers:
            chain.add(*router)
        for expert in experts:
            chain.add(expert.signer, expert.axon)
        http = open_http_session()
        state = State(tmp_path / "validator.sqlite3")
        book = Checkbook(tmp_path / "checks.sqlite3", Hotkey(signer.ss58_address))
        opened.append((http, state, book))
        known = Roster(
            http,
            signer,
            spec_sha256=tiny_spec.sha256,
            vocab_size=tiny_spec.spec.vocab_size,
            allow_private=True,
        )
        await known.refresh(await chain.metagraph(1))
        pool = TextPool(documents or make_documents())
        baseline = Unigram.build(np.concatenate(list(make_documents().values())), 300)
        measurement = Measurement(
            state,
            Hotkey(signer.ss58_address),
            pool,
            tiny_spec.spec.tokenizer.sha256,
            baseline,
            known,
            GateSync(chain, http, tmp_path / "sheets"),
            Metrics(),
            Shapes.fixed(ONE_WINDOW),
            Routers(
                http, signer, spec_sha256=tiny_spec.sha256, vocab_size=300, min_stake_rao=1,
                allow_private=True,
            ),
            book if twice else None,
        )  # fmt: skip
        return measurement, state, chain, known

    yield build
    for http, state, book in opened:
        await http.close()
        state.close()
        book.close()


class Node:
    """A validator with its axon, driven block by block."""

    def __init__(self, path, chain, signer, spec, documents):
        self.path, self.chain, self.signer, self.spec = path, chain, signer, spec
        self.documents = documents
        self.is_open = False

    async def start(self):
        self.http = open_http_session()
        self.state = State(self.path / "validator.sqlite3")
        self.health, self.metrics = Health(), Metrics()
        app = build_app(self.signer, self.state, self.health, self.metrics)
        self.server = await serve(app, "127.0.0.1", 0, grace_s=0.1)
        self.axon = Axon("127.0.0.1", self.server.port)
        sheets = self.path / "sheets"
        self.gates = GateSync(self.chain, self.http, sheets, allow_private=True)
        self.validator = Validator(
            self.chain,
            1,
            self.signer,
            NextSpec(self.spec, self._measurement, folder=None, allow_private=False),
            self.axon,
            self.state,
            self._measurement(self.spec),
            sheets,
            self.health,
            self.metrics,
            walks_per_epoch=16,
        )
        self.is_open = True
        return self

    def _measurement(self, spec):
        return Measurement(
            self.state,
            Hotkey(self.signer.ss58_address),
            TextPool(self.documents),
            spec.spec.tokenizer.sha256,
            Unigram.build(np.concatenate(list(self.documents.values())), 300),
            Roster(
                self.http,
                self.signer,
                spec_sha256=spec.sha256,
                vocab_size=spec.spec.vocab_size,
                allow_private=True,
            ),
            self.gates,
            self.metrics,
            Shapes.fixed(ONE_WINDOW),
        )

    async def block(self):
        async with asyncio.TaskGroup() as walking:  # this chain waits for the walks
            await self.validator.on_block(walking)

    async def get(self, path):
        return await get_public(self.http, self.axon, path, max_bytes=2**23, timeout_s=5.0)

    async def close(self):
        if not self.is_open:
            return
        self.is_open = False
        await self.server.close()
        await self.http.close()
        self.state.close()


@pytest.fixture
async def open_node():
    """`await open_node(path, chain, signer, spec, documents)` → a running Node."""
    opened = []

    async def start(*arguments):
        opened.append(await Node(*arguments).start())
        return opened[-1]

    yield start
    for node in opened:
        await node.close()


@pytest.fixture
async def start_node(tiny_spec, keypair):
    running = []

    async def start(name, experts):
        running.append(await RouterNode(keypair(f"//{name}"), tiny_spec, experts).start())
        return running[-1]

    yield start
    for one in running:
        await one.close()
