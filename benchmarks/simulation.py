"""A whole subnet in one process, without sockets and without waiting: for economies.

The chain is the embedded one, so the real runtime; validators run their real loop, gate, sheets,
commits and reveals. Miners are laws (`Law`), recorded from models or adversaries of
`examples/adversaries`, behind the same protocol (`asked.Asked`) as miners over HTTP. Time is
virtual (`virtual_time`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from virtual_time import AtOnce

from moesubnet.chain.client import ChainClient
from moesubnet.chain.devchain.jsonrpc import Methods
from moesubnet.chain.devchain.rpc import Queries
from moesubnet.chain.devchain.service import DevChain
from moesubnet.chain.devchain.subscriptions import all_methods
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.engine.base import Query
from moesubnet.errors import PeerUnavailable, PoolSpent, UnknownBase
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import Gate
from moesubnet.mixture.gate_sync import GateSync
from moesubnet.mixture.sheet import MICRO, Sheet
from moesubnet.mixture.sheet_cache import AnySheet
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.roll import NextSpec
from moesubnet.types import Axon, Hotkey, Metagraph, NetUid
from moesubnet.units import RAO_PER_TOKEN
from moesubnet.validator.checkbook import FILE, Checkbook
from moesubnet.validator.loop import Validator
from moesubnet.validator.measure import Measurement
from moesubnet.validator.pool import ONE_WINDOW, TextPool
from moesubnet.validator.records import Batch, Phase, Window
from moesubnet.validator.scoring import recount
from moesubnet.validator.serve import Health, Metrics
from moesubnet.validator.shapes import Shape, Shapes
from moesubnet.validator.state import State
from moesubnet.validator.vouching import LOOKS_FILE, Looks
from moesubnet.validator.watching import Watcher
from moesubnet.validator.weights import VOUCHES_BYTES, salt_for
from moesubnet.wire.distributions import LOWEST, check_dense
from moesubnet.wire.lanes import LENGTH_BYTES, Given, Lane, pack_answers, unpack_answers
from moesubnet.wire.protocol import ExpertCard, Ids, StepRequest, StepResponse, base_hash
from moesubnet.wire.relay import RelayClient
from moesubnet.wire.responses import Proof
from moesubnet.wire.usage import Seen, Usage

Law = Callable[[Ids], npt.NDArray[np.floating]]  # ids before the token → log-law [V]
OnEpoch = Callable[[int, Sequence[Sheet]], None]  # as it begins, with all that is public
Votes = Callable[[Sheet, Sequence[Sheet]], Mapping[Hotkey, int]]

NETUID = NetUid(1)
BANK = "//Alice"  # owns the subnet; pays for every registration and stake
GENESIS_S = 1_800_000_000.0
MANY_CALLS = 10**6  # of each expert through each router
RATED_RAO = 1_000 * RAO_PER_TOKEN  # paid for answers that were rated
HONEST_S, JITTER_S = 0.02, 0.004  # a model answers in; the mean of what is added by chance
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # a disk would be waited for


@dataclass(frozen=True)
class Member:
    """A hotkey: a miner if it has a law, a validator if it has stake. Members register in their
    order at the beginning, or when epoch `joins` begins.

    votes: what a dishonest validator votes instead of its sheet's row: hotkey → u16, of that sheet
    and of those that are public.
    """

    name: str
    law: Law | None = None
    stake_tokens: int = 0
    joins: int = 0
    delay_s: float = HONEST_S  # of each answer, at least
    votes: Votes | None = None

    @property
    def uri(self) -> str:
        return f"//economy/{self.name}"

    @property
    def hotkey(self) -> Hotkey:
        return Hotkey(keypair_from_uri(self.uri).ss58_address)


class Simulated:
    """A member as validators meet it: `asked.Asked`. Sends what would come through the wire."""

    commits = False

    def __init__(self, member: Member, caller: Hotkey, *, signs: bool) -> None:
        """caller: who asks. signs: its answers, if they are to prefixes."""
        assert member.law is not None
        self.hotkey, self._caller, self._signs = member.hotkey, caller, signs
        self._signer = keypair_from_uri(member.uri)
        says = getattr(member.law, "to", None)  # to each caller (`adversaries.two_faced`)
        self._law, self._delay_s = says(caller) if says else member.law, member.delay_s
        self._chance = random.Random(member.name)
        self._sessions: dict[str, Ids] = {}

    async def close_sessions(self, sessions: Sequence[str], *, timeout_s: float) -> None:
        for name in sessions:
            self._sessions.pop(name, None)

    async def step(
        self,
        request: StepRequest,
        *,
        timeout_s: float,
        on_its_way: Callable[[], None] = lambda: None,
    ) -> StepResponse:
        on_its_way()
        await asyncio.sleep(self._delay_s + self._chance.expovariate(1 / JITTER_S))
        rows = []
        for step in request.sequences:
            held = self._sessions.get(step.session, np.empty(0, np.uint32))[: step.base_len]
            if base_hash(held) != step.base_hash:
                raise UnknownBase(tuple(0 for _ in request.sequences))
            ids = np.concatenate([held, step.append_ids, step.draft_ids])
            self._sessions[step.session] = ids
            if not self._answers(ids):
                raise PeerUnavailable("it does not answer")
            laws = [self._law(ids[:n]) for n in range(step.first_law, step.end + 1)]
            sent = np.clip(np.stack(laws), LOWEST, 0.0).astype(np.float16)
            query = Query(step.session, ids, step.first_row, len(step.draft_ids))
            rows.append(query.answer(check_dense(sent), request.want).bind())
        response = StepResponse(tuple(rows))
        if not self._signs or any(step.base_len for step in request.sequences):
            return response
        return replace(response, proof=self._proof(request, response))

    def _answers(self, ids: Ids) -> bool:
        """As its law says, if it is one that leaves calls (`adversaries.picky`)."""
        answers = getattr(self._law, "answers", None)
        return answers is None or answers(self._caller, ids)

    def _proof(self, request: StepRequest, response: StepResponse) -> Proof:
        """Only prefixes are signed: of walks nobody looks at receipts here."""
        lane, body, nonce_ns = Lane.of([request.to_bytes()]), response.to_bytes(), time.time_ns()
        packed = pack_answers([Given(0, 200, body)], lane, nonce_ns, self._caller, self._signer)
        frame = packed[LENGTH_BYTES:]
        [(_, receipt)] = unpack_answers(frame, lane, nonce_ns, self.hotkey, self._caller)
        return Proof.of(request, nonce_ns, receipt, body)


class FreeState(State):
    """A validator's that votes as `votes` says."""

    def __init__(self, path: Path, member: Member, public: Sequence[Sheet]) -> None:
        super().__init__(path)
        self._own_row, self._public = member.votes, public

    def close_epoch(
        self,
        sheet: Sheet,
        salt: Sequence[int],
        phase: Phase,
        batches: Sequence[Batch],
        receipts: bytes,
        reveal_period_epochs: int = 1,
    ) -> None:
        if self._own_row is not None:
            row = self._own_row(sheet, self._public)
            sheet = replace(sheet, row_u16=tuple(row.get(hotkey, 0) for hotkey in sheet.hotkeys))
            salt = (*salt_for(sheet)[: -VOUCHES_BYTES // 2], *salt[-VOUCHES_BYTES // 2 :])
            phase = Phase.PREPARED if any(sheet.row_u16) else Phase.LOST
        super().close_epoch(sheet, salt, phase, batches, receipts, reveal_period_epochs)


class InOrder(TextPool):
    """Draws what is free in the order in which it was given, so that economies of as many walks
    have the same text. What no sheet holds (prefixes that are asked twice, experts' own texts) is
    drawn from `held`, and where that is spent from its beginning again."""

    def __init__(self, documents: Mapping[bytes, npt.NDArray[np.uint32]]) -> None:
        super().__init__(documents)
        self.held: list[npt.NDArray[np.uint32]] = []

    def free_windows(self, used: Mapping[bytes, Set[int] | None]) -> int:
        return len(self._documents.keys() - used.keys())  # each is one

    def draw(
        self, shapes: Sequence[Shape], used: Mapping[bytes, Set[int] | None], seed: bytes
    ) -> list[Window]:
        if len(shapes) == 1 and self.held:
            self.held.append(ids := self.held.pop(0))
            return [Window(secrets.token_bytes(32), (0,), ids, shapes[0].prefix)]
        fresh = [d for d in self._documents if not used.get(d)]
        if not fresh:
            raise PoolSpent("no text is left")
        drawn = zip(fresh, shapes, strict=False)
        return [Window(d, (0,), self._documents[d], shape.prefix) for d, shape in drawn]


def asked_by(
    caller: Hotkey, members: Iterable[Member], *, signs: bool = False
) -> dict[Hotkey, Simulated]:
    """The miners among them, each with sessions of this caller's."""
    return {m.hotkey: Simulated(m, caller, signs=signs) for m in members if m.law}


class Present:
    """The members that are registered: `measure.Experts`."""

    def __init__(self, members: Iterable[Member], caller: Hotkey, *, signs: bool) -> None:
        self._all = asked_by(caller, members, signs=signs)
        self.clients: dict[Hotkey, Simulated] = {}
        self.cards: dict[Hotkey, ExpertCard] = {}  # nobody has one

    async def refresh(self, metagraph: Metagraph) -> None:
        self.clients = {h: asked for h, asked in self._all.items() if h in metagraph.by_hotkey}


class Lying:
    """`routers.Drawing` without a relay: routers that say what they saw, `part` of them by stake
    that so much of somebody's calls failed (which may be true), or (praises) that users like it,
    and nobody else. own: these are under the validators' own coldkey (as are all that register in
    an economy)."""

    def __init__(
        self,
        part: float,
        about: str,
        praises: bool = False,
        *,
        failed: float = 1.0,
        own: bool = False,
    ) -> None:
        self._part, self._about, self.praises = part, Member(about).hotkey, praises
        self._failed, self._own = failed, own
        self._experts: list[Hotkey] = []

    async def refresh(self, metagraph: Metagraph, experts: Collection[Hotkey]) -> None:
        self._experts = sorted(experts)

    def draw(self, lots: random.Random) -> list[RelayClient]:
        return []

    async def usage(self, netuid: NetUid, epoch: int) -> list[tuple[Usage, int]]:
        def said(router: str, lies: bool) -> Usage:
            rows = [self._seen(hotkey, lies) for hotkey in self._experts]
            name = rows[0].hotkey if self._own and lies and rows else router  # one that registered
            return Usage(netuid=netuid, epoch=max(0, epoch), router=name, rows=rows)

        stakes = [round(RAO_PER_TOKEN * 300 * part) for part in (self._part, 1 - self._part)]
        # Nobody's word counts for more than a third: the liars are as many as it takes.
        parts = [(True, stakes[0] // 3)] * 3 + [(False, stakes[1] // 3)] * 3
        return [(said(f"r{i}", lies), rao) for i, (lies, rao) in enumerate(parts) if rao]

    def _seen(self, hotkey: Hotkey, lies: bool) -> Seen:
        is_meant = hotkey == self._about
        if not lies or self.praises:
            # It pays its own router what it is heard for; little for itself keeps the mean low.
            heard = lies * RATED_RAO // (MANY_CALLS if is_meant else 1)
            return Seen(hotkey, MANY_CALLS, 0, 0, heard, heard if is_meant else -heard)
        failed = round(MANY_CALLS * self._failed) * is_meant
        return Seen(hotkey, MANY_CALLS - failed, 0, failed)


@dataclass(frozen=True)
class Router:
    """In a `RelayClient`'s place: brings a validator's steps to experts under its own hotkey."""

    hotkey: Hotkey
    experts: Mapping[Hotkey, Simulated]

    async def relay(
        self,
        expert: Hotkey,
        request: StepRequest,
        *,
        timeout_s: float,
        on_its_way: Callable[[], None] = lambda: None,
    ) -> StepResponse:
        asked = self.experts[expert]
        return await asked.step(request, timeout_s=timeout_s, on_its_way=on_its_way)


class Friends(Lying):
    """Three routers of equal stake, through which walks go by lot. Users' calls to one expert all
    fail, as the others say; the first one is its friend and does not say so. own: the others are
    the validators' own."""

    NAMES = ("router-0", "router-1", "router-2")

    def __init__(self, members: Collection[Member], about: str, *, own: bool = False) -> None:
        super().__init__(2 / 3, about, own=own)
        hotkeys = (Member(name).hotkey for name in self.NAMES)
        self._routers = [Router(hotkey, asked_by(hotkey, members)) for hotkey in hotkeys]

    def draw(self, lots: random.Random) -> list[RelayClient]:
        return lots.sample(self._routers, len(self._routers))  # type: ignore[arg-type]


class SharedGate(GateSync):
    """One gate for all validators, fitted once an epoch: they have the same sheets."""

    _epoch = -1

    async def refresh(self, metagraph: Metagraph) -> Gate:
        if metagraph.epoch_index != self._epoch:
            self._epoch = metagraph.epoch_index
            await super().refresh(metagraph)
        return self.gate


class Recounting(Watcher):
    """Looks at others' sheets without their receipts, as nobody's answers come through a wire."""

    async def _audit(self, sheet: AnySheet, *_: object) -> bool | None:
        whole = sheet.read()
        return None if whole is None else recount(whole).row_u16 != sheet.row_u16


class _Socket:
    """In a link's place of a WebSocket: asks the chain's RPC methods, which wait for nothing."""

    def __init__(self, methods: Methods) -> None:
        self._methods, self._answer = methods, ""

    def send(self, text: str) -> None:
        asked = self._methods.answer(text)
        try:
            asked.send(None)
        except StopIteration as answered:
            self._answer = answered.value or "{}"
        else:
            raise RuntimeError("the chain waits for something")

    def recv(self) -> str:
        return self._answer

    def settimeout(self, timeout_s: float) -> None: ...

    def abort(self) -> None: ...

    shutdown = abort


@contextlib.asynccontextmanager
async def direct_client(dev: DevChain) -> AsyncIterator[ChainClient]:
    """A chain client of an embedded chain in the same process, that waits where it asks."""
    client = ChainClient("ws://in-process", timeout_s=60.0)
    client._worker, dev._worker = AtOnce(), AtOnce(dev._worker)  # type: ignore[assignment]
    client._link._socket = _Socket(Methods(all_methods(Queries(dev), None)))
    client.block_seconds = await client._run(lambda link: link.block_seconds())
    async with client:
        yield client


@dataclass
class Ledger:
    """What an economy came to, by member's name and epoch of payment, and every sheet of it."""

    paid_rao: list[dict[str, int]] = field(default_factory=list)
    burnt_rao: dict[str, int] = field(default_factory=dict)
    sheets: list[Sheet] = field(default_factory=list)

    def tokens(self, name: str, since: int = 0) -> float:
        return sum(epoch.get(name, 0) for epoch in self.paid_rao[since:]) / RAO_PER_TOKEN

    def standing(self, hotkeys: Collection[Hotkey], since: int = 0) -> float:
        """Their mean standing in all sheets from that epoch on that have them; NaN for none."""
        found = [
            standing_ppm / MICRO
            for sheet in self.sheets
            if sheet.epoch >= since
            for hotkey, standing_ppm in zip(sheet.hotkeys, sheet.standing_ppm, strict=True)
            if hotkey in hotkeys
        ]
        return sum(found) / len(found) if found else float("nan")


async def play(
    members: Sequence[Member],
    texts: Mapping[str, npt.NDArray[np.uint32]],
    spec: LoadedSpec,
    baseline: Unigram,
    *,
    epochs: int,
    walks_per_epoch: int = 32,
    on_epoch: OnEpoch = lambda epoch, public: None,
    held: Mapping[str, npt.NDArray[np.uint32]] | None = None,
    routers: Lying | None = None,
    rules: Mapping[str, int] = MappingProxyType({}),
) -> Ledger:
    """Play `epochs` epochs, from an empty subnet on. Run it on virtual time.

    texts: by validator's name, its private text as walks u32 [N, 48]; held: the same, of what no
    sheet holds, if any such is asked. routers: whose praise counts, if it is. rules:
    hyperparameters that are set first.
    """
    ledger = Ledger()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY)))
        chain = DevChain.open(root / "chain", clock=lambda: GENESIS_S + loop.time())
        dev = await stack.enter_async_context(chain)
        client = await stack.enter_async_context(direct_client(dev))
        gates = SharedGate(client, None, root / "sheets")  # type: ignore[arg-type]
        validators = []
        for port, member in enumerate(m for m in members if m.stake_tokens):
            state = FreeState(root / member.name / "validator.sqlite3", member, ledger.sheets)
            stack.callback(state.close)
            pool = InOrder({sha256(ids.tobytes()).digest(): ids for ids in texts[member.name]})
            signer, metrics, health = keypair_from_uri(member.uri), Metrics(), Health()
            hotkey = Hotkey(signer.ss58_address)
            shapes = Shapes.fixed(ONE_WINDOW)  # no law here drafts
            book = None
            if held is not None:
                pool.held = list(held[member.name])
                book = Checkbook(root / member.name / FILE, hotkey)
                stack.callback(book.close)
            present = Present(members, hotkey, signs=book is not None)
            looks = Looks(root / member.name / LOOKS_FILE)
            stack.callback(looks.close)
            measurement = Measurement(
                state,
                hotkey,
                pool,
                spec.sha256,
                baseline,
                present,
                gates,
                metrics,
                shapes,
                routers,
                book,
                Recounting(client, None, hotkey, spec.sha256, looks, allow_private=True),  # type: ignore[arg-type]
            )
            same = NextSpec(spec, _unwanted, folder=None, allow_private=False)
            validators.append(
                Validator(
                    client,
                    NETUID,
                    signer,
                    same,
                    Axon("127.0.0.1", 1_000 + port),
                    state,
                    measurement,
                    root / "sheets",
                    health,
                    metrics,
                    walks_per_epoch,
                    routers is not None and routers.praises,
                )
            )
        if rules:
            await client.set_hyperparams(NETUID, rules, keypair_from_uri(BANK))
        await _join(client, [m for m in members if not m.joins], ledger)
        async with asyncio.TaskGroup() as running:  # a validator that fails ends the economy
            runs = [running.create_task(validator.run()) for validator in validators]
            await _watch(client, members, epochs, ledger, validators, on_epoch)
            for task in runs:
                task.cancel()
    return ledger


def _unwanted(spec: LoadedSpec) -> Measurement:
    raise AssertionError("nobody announces a spec here")


async def _join(client: ChainClient, members: Sequence[Member], ledger: Ledger) -> None:
    """Register in order, then stake."""
    bank = keypair_from_uri(BANK)
    price = await client.burn_price_rao(NETUID)
    limit_rao = max(price, RAO_PER_TOKEN) * 10**6
    await asyncio.gather(
        *(client.register(NETUID, m.hotkey, bank, limit_rao) for m in members),
    )
    ledger.burnt_rao |= dict.fromkeys((m.name for m in members), price)  # the first one's
    staking = [(m.hotkey, m.stake_tokens * RAO_PER_TOKEN) for m in members if m.stake_tokens]
    await asyncio.gather(*(client.add_stake(NETUID, h, rao, bank) for h, rao in staking))


async def _watch(
    client: ChainClient,
    members: Sequence[Member],
    epochs: int,
    ledger: Ledger,
    validators: Sequence[Validator],
    on_epoch: OnEpoch,
) -> None:
    """Write down each epoch's pay until `epochs` are over."""
    names = {member.hotkey: member.name for member in members}
    last = (await client.epoch(NETUID)).epoch_index
    first = last
    seen: set[bytes] = set()
    async for _ in client.heads():
        epoch = await client.epoch(NETUID)
        if epoch.epoch_index == last:
            continue
        last = epoch.epoch_index
        metagraph = await client.metagraph(NETUID)
        ledger.paid_rao.append({names[n.hotkey]: n.emission_rao for n in metagraph.neurons})
        for validator in validators:
            for body in reversed(validator.state.archive.public_sheets()):
                if (digest := sha256(body).digest()) not in seen:
                    seen.add(digest)
                    ledger.sheets.append(Sheet.from_bytes(body))
        on_epoch(last - first, ledger.sheets)
        if last - first >= epochs:
            return
        if joiners := [m for m in members if m.joins == last - first]:
            await _join(client, joiners, ledger)
