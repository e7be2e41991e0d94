"""Playing the miner: can it tell a validator's probes from users' calls before it answers?

A real miner's server, a real router that serves simulated users, and a validator's real walks
through that router's node, all over loopback. The miner writes down what it sees of each call:
headers, sizes, fields, the pattern of its session and of its neighbours, connection, time. Boosted
trees (scikit-learn) learn on the first half of the epochs which calls were probes, and are judged
on the second by balanced accuracy: 0.5 is guessing. Then the miner acts on it, and leaves sessions
that it takes for users': what it did not answer counts in its value and in its reliability, so it
is paid about the square of the part of probes that it answers.

    python benchmarks/miners_eye.py --spec FOLDER --epochs 160 --leak none|header|session|shape
                                    --users alike|chat|apart --validator-ms N --runs N

Users are not there yet, so they are assumed. `alike`: their prompts and answers are as long as the
walks', and each writes once. `chat`: as long too, but of ten one asks for two choices, one for one
expert's answer, one leaves half-way, and three go on for a second turn, after an eighth of an epoch
in the median (log-normal); they draw at temperatures 0, 0.7 and 1. `apart`: chats of other lengths
than walks have where nobody tells (log-normal, medians of 60 and 24 tokens); the router's summaries
tell. Everybody's text is of one law, which is the experts' too, so drafts are kept as often as a
good model's are. Walks and users come evenly, and go on from one epoch to the next; routers'
summaries are of all texts so far. All have one clock and one network here, unless `--validator-ms`
puts the validator so far (there and back) from the router: then times are a model's, on a clock
that the machine's load does not move (`Distances`). What content tells is in content.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np
import virtual_time
from aiohttp import web
from neurons import subnet
from substrateinterface import Keypair

from moesubnet.engine.base import Query
from moesubnet.errors import NobodyAnswers
from moesubnet.miner.app import build_app
from moesubnet.miner.expert import Expert
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.mixture.gate import uniform_gate
from moesubnet.router.experts import ExpertBook
from moesubnet.router.mixed import MixtureModel, MixtureSession
from moesubnet.router.model import ALONE, Drawing, Forecast
from moesubnet.router.node import build_node
from moesubnet.router.usage import UsageBook
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.types import Axon, Hotkey, Metagraph
from moesubnet.validator.choices import Scored
from moesubnet.validator.pool import ONE_WINDOW
from moesubnet.validator.probes import walk_batch
from moesubnet.validator.records import Batch
from moesubnet.validator.shapes import Ahead, Shape, Shapes
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.listening import serve
from moesubnet.wire.panel import Panel
from moesubnet.wire.protocol import StepRequest, StepResponse, want_for
from moesubnet.wire.relay import RelayClient, through
from moesubnet.wire.roster import Roster
from moesubnet.wire.strangers import open_http_session
from moesubnet.wire.usage import Usage

GROUPS = {
    "headers and sizes": (
        "headers", "header_bytes", "names", "body_bytes", "session_length", "session_letters",
        "session_odd",
        "nonce_digits", "sequences", "k", "drafts",
    ),
    "time and connection": (
        "epoch_s", "since_session_s", "mean_gap_s", "least_gap_s", "median_gap_s", "most_gap_s",
        "since_any_s",
        "since_before_s", "clock_ms", "port_seen",
    ),
    "shape of the session": (
        "nth", "first_tokens", "held", "appended", "rows", "further", "rolled_back", "is_fork",
        "has_forked", "begins_as_before", "further_than_before", "most_rows", "most_further",
        "drafted", "lost", "least_appended",
    ),
    "company": ("begun_lately", "alike_lately", "open_lately"),
}  # fmt: skip
FEATURES = tuple(name for names in GROUPS.values() for name in names)
LATELY_S = 0.5
LEAST = (0.5, 0.2, 0.1, 0.05, 0.02)
Told = tuple[np.ndarray, np.ndarray, list[str]]  # see `held_out`
WALKS, SPREAD_S = 8, 16.0  # an epoch, and how long it is; on the machine's own clock a second

_heard: ContextVar[dict[str, float]] = ContextVar("heard")


@dataclass(frozen=True, slots=True)
class Distances:
    """How long what is between hosts takes, there and back, and an engine; medians in ms. Of the
    experts that a text asks beside the miner the slowest is another each time, so it differs by the
    session (a logarithm's deviation of 0.5); a way by 0.1 each time, an answer by 0.25."""

    validator_ms: float  # from the router
    miner_ms: float = 20.0
    other_ms: float = 40.0
    answer_ms: float = 30.0
    lots: Random = field(default_factory=lambda: Random(1))

    async def way(self, ms: float) -> None:
        await asyncio.sleep(ms / 1_000 * self.lots.lognormvariate(0.0, 0.1))

    async def work(self) -> None:
        await asyncio.sleep(self.answer_ms / 1_000 * self.lots.lognormvariate(0.0, 0.25))

    def other(self, session: str) -> float:
        """ms to the slowest other expert that this text asks."""
        return self.other_ms * Random(session).lognormvariate(0.0, 0.5)


class FarRelay(RelayClient):
    """To a router that is not here."""

    distances: Distances | None = None

    async def relay(self, *args: object, **kwargs: object) -> StepResponse:
        if self.distances is None:
            return await super().relay(*args, **kwargs)  # type: ignore[arg-type]
        await self.distances.way(self.distances.validator_ms / 2)
        try:
            return await super().relay(*args, **kwargs)  # type: ignore[arg-type]
        finally:
            await self.distances.way(self.distances.validator_ms / 2)


class Pairs:
    """A language in which a token depends on the one before it. An engine that knows it."""

    name, commitment = "pairs", "0" * 64

    def __init__(self, spec: LoadedSpec) -> None:
        self.vocab_size, self.context_tokens = spec.spec.vocab_size, spec.spec.context_tokens
        rng = np.random.default_rng(5)
        self.laws = rng.dirichlet(np.full(self.vocab_size, 0.01), self.vocab_size) + 1e-6
        self.laws /= self.laws.sum(axis=1, keepdims=True)
        self._log_laws = np.log(self.laws).astype(np.float32)

    def rows(self, batch: list[Query], want: object) -> list[object]:
        return [
            q.answer(self._log_laws[np.append(0, q.ids)[q.first_law :]], want)  # type: ignore[arg-type]
            for q in batch
        ]

    def text(self, count: int, rng: np.random.Generator, last: int = 0) -> np.ndarray:
        ids = np.empty(count, np.uint32)
        for k in range(count):
            ids[k] = last = int(rng.choice(self.vocab_size, p=self.laws[last]))
        return ids

    def forget(self, session: str) -> None:
        return


@dataclass
class Heard:
    """Of one session, so far."""

    first: int  # tokens of its first call
    is_fork: bool
    further: int | None  # tokens than the newest session that begins as it does
    since_before_s: float  # that one's last call
    calls: int = 0
    end: int = 0
    asked_s: float = 0.0  # when last
    answered_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    has_forked: bool = False
    most_rows: int = 0
    most_further: int = 0
    drafted: int = 0
    lost: int = 0
    appended: list[int] = field(default_factory=list)  # with each call after the first


@dataclass
class Spy:
    """What the miner remembers, and its row of features for each call. What a call tells of its
    session is known with all that follow."""

    has_clock: bool = True  # that signatures are made by
    begun_s: float = 0.0
    calls: list[tuple[int, str, list[float]]] = field(default_factory=list)  # epoch, session
    epoch: int = 0
    sessions: dict[str, Heard] = field(default_factory=dict)
    _beginnings: dict[bytes, Heard] = field(default_factory=dict)  # by its first call's tokens
    _begun: list[tuple[float, int]] = field(default_factory=list)
    _open: dict[str, float] = field(default_factory=dict)  # when last, of sessions lately, in order
    _last_s: float = 0.0
    _ports: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    @web.middleware
    async def overhear(self, request: web.Request, handler: object) -> web.StreamResponse:
        headers = request.headers
        nonce = headers.get("X-Bittensor-Nonce", "0")
        peer = request.transport.get_extra_info("peername") if request.transport else None
        port = peer[1] if peer else 0
        self._ports[port] += 1
        _heard.set(
            {
                "headers": len(headers),
                "header_bytes": sum(len(k) + len(v) for k, v in headers.items()),
                "names": hash(tuple(headers)) % 9_973,
                "nonce_digits": float(nonce[-3:]),
                "clock_ms": (time.time_ns() - int(nonce)) / 1e6 if self.has_clock else 0.0,
                "port_seen": self._ports[port],
            }
        )
        return await handler(request)  # type: ignore[operator]

    def _before(self, ids: np.ndarray) -> Heard | None:
        """The session that goes on with these, the longest of such."""
        begins = (ids[:length].tobytes() for length in range(len(ids) - 1, 0, -1))
        return next((self._beginnings[b] for b in begins if b in self._beginnings), None)

    def note(self, request: StepRequest, body: bytes) -> None:
        step, now_s = request.sequences[0], asyncio.get_running_loop().time()
        session = self.sessions.get(step.session)
        self._begun = [(at, n) for at, n in self._begun if at > now_s - LATELY_S]
        while self._open and next(iter(self._open.values())) <= now_s - LATELY_S:
            del self._open[next(iter(self._open))]
        if session is None:
            before = None if step.base_len else self._before(step.append_ids)
            further = None if before is None else step.end - before.end
            since_s = -1.0 if before is None else now_s - before.asked_s
            session = self.sessions[step.session] = Heard(
                step.end, bool(step.parent), further, since_s
            )
            if not step.base_len:
                self._beginnings[step.append_ids.tobytes()] = session
            self._begun.append((now_s, step.end))
        else:
            session.appended.append(len(step.append_ids))
            if session.answered_s is not None:
                session.gaps_s.append(now_s - session.answered_s)
        if step.parent in self.sessions:
            self.sessions[step.parent].has_forked = True
        rolled_back = max(0, session.end - step.base_len)
        session.lost += rolled_back
        session.drafted += len(step.draft_ids)
        session.most_rows = max(session.most_rows, step.rows)
        session.most_further = max(session.most_further, step.further)
        gaps_s = session.gaps_s
        values = _heard.get() | {
            "body_bytes": len(body),
            "session_length": len(step.session),
            "session_letters": sum(c.isalpha() for c in step.session),
            "session_odd": sum(c not in "0123456789abcdef" for c in step.session),
            "sequences": len(request.sequences),
            "k": request.want.k or 0,
            "drafts": len(step.draft_ids),
            "epoch_s": now_s - self.begun_s,
            "since_session_s": gaps_s[-1] if gaps_s else -1.0,
            "mean_gap_s": np.mean(gaps_s) if gaps_s else -1.0,
            "least_gap_s": min(gaps_s, default=-1.0),
            "median_gap_s": np.median(gaps_s) if gaps_s else -1.0,
            "most_gap_s": max(gaps_s, default=-1.0),
            "since_any_s": now_s - self._last_s,
            "since_before_s": session.since_before_s,
            "nth": session.calls,
            "first_tokens": session.first,
            "held": step.base_len,
            "appended": len(step.append_ids),
            "rows": step.rows,
            "further": step.further,
            "rolled_back": rolled_back,
            "is_fork": session.is_fork,
            "has_forked": session.has_forked,
            "begins_as_before": session.further is not None,
            "further_than_before": -999 if session.further is None else session.further,
            "most_rows": session.most_rows,
            "most_further": session.most_further,
            "drafted": session.drafted,
            "lost": session.lost,
            "least_appended": min(session.appended, default=-1),
            "begun_lately": len(self._begun),
            "alike_lately": sum(n == session.first for _, n in self._begun),
            "open_lately": len(self._open),
        }
        session.calls, session.end, session.asked_s = session.calls + 1, step.end, now_s
        self._open.pop(step.session, None)
        self._open[step.session] = self._last_s = now_s
        self.calls.append((self.epoch, step.session, [float(values[name]) for name in FEATURES]))


class World:
    """A miner, a router with its node, and a validator; all keys known."""

    def __init__(
        self,
        spec: LoadedSpec,
        leak: str = "none",
        *,
        users: str = "chat",
        distances: Distances | None = None,
        seed: int = 0,
    ) -> None:
        """distances: None for none but the machine's own."""
        self.distances = distances
        self.spec, self.leak, self.rng = spec, leak, np.random.default_rng(seed)
        self.users, self.engine = users, Pairs(spec)
        names = ("Miner", "Other", "Router", "Validator")
        self.keys = {n: Keypair.create_from_uri(f"//{n}", ss58_format=42) for n in names}
        self.axons: dict[str, Axon] = {}
        self.spy, self.probes = Spy(distances is None), set[str]()
        self.shapes = Shapes.public(spec.spec.context_tokens)
        self.epoch_s = 1.0 if distances is None else SPREAD_S
        self.lots = Random(seed)

    def current(self) -> Metagraph:
        hotkeys = {name: Hotkey(key.ss58_address) for name, key in self.keys.items()}
        axons = {hotkey: self.axons.get(name) for name, hotkey in hotkeys.items()}
        return subnet(axons, [hotkeys["Validator"]])

    async def play(self, epochs: int) -> None:
        """Who has begun in an epoch goes on in the next one."""
        async with contextlib.AsyncExitStack() as stack:
            await self._open(stack)
            async with asyncio.TaskGroup() as begun:
                for epoch in range(epochs):
                    self.spy.epoch, self.spy.begun_s = epoch, asyncio.get_running_loop().time()
                    shapes = self._probes_shapes()
                    for chat in shapes.chats(shapes.draw(WALKS, self.lots), self.lots):
                        begun.create_task(self._walks(chat, shapes))
                    for _ in range(2 * WALKS):
                        begun.create_task(self._user(self._lengths()))
                    await asyncio.sleep(self.epoch_s)

    def _probes_shapes(self) -> Shapes:
        """As the router's summary makes them. It is of all texts so far: an epoch here has twenty,
        a chain's as many as a router serves in an hour."""
        if self.leak == "shape":
            return Shapes.fixed(ONE_WINDOW)
        usage = UsageBook(self.keys["Router"], 1)
        for epoch, lengths in enumerate(({}, self.model.book.metrics.lengths())):
            usage.turn(epoch, {}, lengths)
        said = Usage.proven(usage.summary(0) or b"", Hotkey(self.keys["Router"].ss58_address))
        return self.shapes.as_users([(said, 1)])

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        for name in ("Miner", "Other"):
            expert = Expert(
                self.engine, self.spec, self,  # type: ignore[arg-type]
                hotkey=Hotkey(self.keys[name].ss58_address), name=name,
            )  # fmt: skip
            expert.step = self._step_of(expert, name)  # type: ignore[method-assign]
            app = build_app(expert, self.keys[name], self)
            if name == "Miner":
                app.middlewares.insert(0, self.spy.overhear)
            await self._listen(stack, name, app)
        http = await stack.enter_async_context(open_http_session())
        roster = Roster(
            http,
            self.keys["Router"],
            spec_sha256=self.spec.sha256,
            vocab_size=self.spec.spec.vocab_size,
            allow_private=True,
        )
        book = ExpertBook(roster)
        await book.refresh(self.current())
        self.clients = roster.clients
        self.model = MixtureModel(
            book, uniform_gate, load_baseline(self.spec), vocab_size=self.spec.spec.vocab_size,
            deadline_s=5.0, top_k=8,
        )  # fmt: skip
        node = build_node(
            self.keys["Router"], self, lambda: self.spec, self.clients.get, lambda _: None
        )
        if self.leak == "header":
            _tell(self.clients[Hotkey(self.keys["Miner"].ss58_address)], self.probes)
        await self._listen(stack, "Router", node)
        other = await stack.enter_async_context(open_http_session())
        self.relay = FarRelay(
            other, self.keys["Validator"], Hotkey(self.keys["Router"].ss58_address),
            self.axons["Router"], vocab_size=self.spec.spec.vocab_size, allow_private=True,
        )  # fmt: skip
        self.relay.distances = self.distances

    def _step_of(self, expert: Expert, name: str) -> Callable[[Hotkey, bytes], Awaitable[bytes]]:
        """The expert's own, so far away; what the miner's is asked is written down."""
        answer, net = expert.step, self.distances

        async def step(caller: Hotkey, body: bytes) -> bytes:
            request = StepRequest.from_bytes(body, expert.limits)
            session, parent = request.sequences[0].session, request.sequences[0].parent
            if parent and not self.probes.isdisjoint((session, parent)):
                self.probes |= {session, parent}  # of a walk that forks
            if name == "Miner":
                self.spy.note(request, body)
            if net is not None:
                await net.work()
            answered = await answer(caller, body)
            if name == "Miner":
                self.spy.sessions[session].answered_s = asyncio.get_running_loop().time()
            if net is not None:
                await net.way(net.miner_ms if name == "Miner" else net.other(session))
            return answered

        return step

    async def _listen(
        self, stack: contextlib.AsyncExitStack, name: str, app: web.Application
    ) -> None:
        listening = await serve(app, "127.0.0.1", 0, grace_s=0.1)
        stack.push_async_callback(listening.close)
        self.axons[name] = Axon("127.0.0.1", listening.port)

    async def _walks(self, chat: Sequence[Shape], shapes: Shapes) -> None:
        """A chat's turns, as `Measurement` begins them."""
        text = self.engine.text(chat[-1].units, self.rng)
        waits_s = shapes.waits_s(len(chat), self.epoch_s, self.lots)
        for shape, wait_s in zip(chat, waits_s, strict=True):
            await asyncio.sleep(wait_s)
            ahead, scored = shapes.going_on(), shapes.draw_choice(self.lots)
            await self._walk(shape, text[None, : shape.units], ahead, scored)

    async def _walk(
        self, shape: Shape, ids: np.ndarray, ahead: Ahead | None, scored: Scored
    ) -> None:
        session = secrets.token_hex(16)
        if self.leak == "session":
            session, scored = f"{session[:-2]}zz", Scored.ALONE  # another choice has another name
        self.probes.add(session)
        batch = Batch(0, tuple(sorted(self.clients)), ids, shape.prefix, (session,), ())
        way = through(self.clients, [self.relay])
        panel = Panel(way, base_s=5.0, want=want_for(self.spec.spec.vocab_size))
        baseline = load_baseline(self.spec).law
        steps = walk_batch(
            [panel], batch, uniform_gate(), baseline, [way],
            ahead=ahead, scored=scored,
        )  # fmt: skip
        async for _ in steps:
            pass

    def _lengths(self) -> tuple[int, int]:
        """Of a user's prompt and answer."""
        room = self.spec.spec.context_tokens - 1
        if self.users == "apart":
            prompt, answer = (round(self.rng.lognormal(np.log(m), 0.8)) for m in (60, 24))
            prompt = min(max(prompt, 3), room - 40)
            return prompt, min(max(answer, 1), room - prompt)
        [shape] = self.shapes.draw(1, self.lots)
        return shape.prefix + BLIND_PROMPT_TOKENS, shape.steps - BLIND_PROMPT_TOKENS

    async def _user(self, lengths: tuple[int, int]) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, self.epoch_s))
        length, answer = lengths
        text = self.engine.text(length, self.rng)
        is_chat = self.users != "alike"
        turns = 2 if is_chat and self.lots.random() < 0.3 else 1
        for _ in range(turns):
            try:
                written = await self._turn(text, answer, is_chat=is_chat)
            except NobodyAnswers:  # a busy machine's users leave too
                break
            more = self.engine.text(self.lots.randint(4, 24), self.rng)
            text = np.concatenate([text, written, more])
            if len(text) + answer >= self.spec.spec.context_tokens:
                break
            await asyncio.sleep(self.epoch_s * self.rng.lognormal(np.log(0.125), 0.8))

    async def _turn(self, prompt: np.ndarray, answer: int, *, is_chat: bool) -> np.ndarray:
        """What was written. A chat is of any kind that a router serves."""
        kind, how = self.lots.random(), Drawing(left=max(1, answer))
        model = self.model
        if is_chat:
            how = Drawing(self.lots.choice((0.0, 0.7, 1.0)), left=max(1, answer))
            if kind < 0.1:
                model = self.model.mode("mixture:solo")[1]  # type: ignore[index]
        has_choices = is_chat and 0.1 <= kind < 0.2
        session = model.open()
        # A draft would make the choices alike.
        forecast = await session.start(prompt, ALONE if has_choices else how)
        sessions = [session, session.fork()] if has_choices else [session]
        leaves = is_chat and 0.2 <= kind < 0.3

        async def write(session: MixtureSession, forecast: Forecast) -> list[int]:
            written = []
            for left in range(answer - 1, -1, -1):
                token = forecast.mixture.draw(how.temperature, 1.0, self.rng)
                written.append(token)
                if not left or (leaves and len(written) > answer // 2):
                    break
                forecast = await session.append(token, replace(how, left=left))
            session.close(is_over=leaves)
            return written

        texts = await asyncio.gather(*(write(one, forecast) for one in sessions))
        return np.array(texts[0], np.uint32)


def _tell(client: ExpertClient, probes: Collection[str]) -> None:
    """A leak on purpose: a lane with a probe in it carries another User-Agent."""
    sign = client._sign

    def marked(path: str, body: bytes) -> tuple[dict[str, str], object]:
        headers, signed = sign(path, body)
        tells = any(session.encode() in body for session in probes)
        return headers | ({"User-Agent": "a validator"} if tells else {}), signed

    client._sign = marked  # type: ignore[method-assign]


def judged(world: World, columns: tuple[str, ...]) -> tuple[float, int]:
    """Balanced accuracy on the calls of the later half of epochs, and how many they are."""
    from sklearn.metrics import balanced_accuracy_score

    is_probe, chance, _ = held_out(world, columns)
    return float(balanced_accuracy_score(is_probe, chance > 0.5)), len(is_probe)


def error_of(told: Told, drawings: int = 300) -> float:
    """Standard error of the balanced accuracy: sessions drawn again, as calls of one are alike.
    What other texts to learn from would change is not in it."""
    is_probe, chance, names = told
    of, rng = np.unique(names, return_inverse=True)[1], np.random.default_rng(0)
    right = (chance > 0.5) == is_probe
    counts = np.stack([np.bincount(of, what) for what in (is_probe, is_probe & right, right)])
    counts = np.stack([counts[0], counts[1], np.bincount(of) - counts[0], counts[2] - counts[1]])
    drawn = rng.multinomial(len(counts[0]), np.full(len(counts[0]), 1 / len(counts[0])), drawings)
    probes, found, users, passed = counts @ drawn.T
    return float(np.std((found / probes + passed / users) / 2))


def refused(told: Told, least: float) -> tuple[float, float]:
    """What part of probes' and of users' calls a miner answers that leaves a session at its first
    call that is a probe's with a chance under `least`."""
    is_probe, chance, sessions = told
    left: set[str] = set()
    answered = np.zeros(len(is_probe), np.bool_)
    for k, session in enumerate(sessions):
        if chance[k] < least:
            left.add(session)
        answered[k] = session not in left
    return float(answered[is_probe].mean()), float(answered[~is_probe].mean())


def held_out(world: World, columns: tuple[str, ...] = FEATURES) -> Told:
    """Of calls in the later half of epochs: whether a probe's, the chance of it that trees give
    which learnt on the earlier half, the session."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    epochs = np.array([epoch for epoch, *_ in world.spy.calls])
    rows = np.array([row for *_, row in world.spy.calls])
    rows = rows[:, [FEATURES.index(name) for name in columns]]
    is_probe = np.array([session in world.probes for _, session, _ in world.spy.calls])
    learnt = epochs < (epochs.max() + 1) / 2
    trees = HistGradientBoostingClassifier(class_weight="balanced", random_state=0)
    with threadpool_limits(1):
        trees.fit(rows[learnt], is_probe[learnt])
        chance = trees.predict_proba(rows[~learnt])[:, 1]
    sessions = [
        name for (_, name, _), early in zip(world.spy.calls, learnt, strict=True) if not early
    ]
    return is_probe[~learnt], chance, sessions


async def by_its_clock(playing: Awaitable[None]) -> None:
    """Everybody reads the loop's clock: routers and validators measure what they wait for."""
    time.monotonic = asyncio.get_running_loop().time
    await playing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--leak", choices=("none", "header", "session", "shape"), default="none")
    parser.add_argument("--users", choices=("alike", "chat", "apart"), default="chat")
    parser.add_argument("--validator-ms", type=float, metavar="N")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="of so many epochs each")
    arguments = parser.parse_args()
    spec, far_ms, worlds = load_spec(arguments.spec), arguments.validator_ms, []
    for seed in range(arguments.runs):
        net = None if far_ms is None else Distances(far_ms, lots=Random(seed))
        worlds.append(World(spec, arguments.leak, users=arguments.users, distances=net, seed=seed))
        if net is None:
            asyncio.run(worlds[-1].play(arguments.epochs))
        else:
            virtual_time.run(by_its_clock(worlds[-1].play(arguments.epochs)))
    world = worlds[0]
    for other in worlds[1:]:
        world.spy.calls += other.spy.calls
        world.probes |= other.probes
    print("| what is looked at | balanced accuracy | held-out calls |")
    print("|---|---|---|")
    for name, columns in {**GROUPS, "everything": FEATURES}.items():
        accuracy, calls = judged(world, columns)
        print(f"| {name} | {accuracy:.3f} ± {error_of(held_out(world, columns)):.3f} | {calls:,} |")
    print("\n| leaves a session under a chance of | probes answered | users answered | paid |")
    print("|---|---|---|---|")
    told = held_out(world)
    for least in LEAST:
        probes, others = refused(told, least)
        print(f"| {least} | {probes:.0%} | {others:.0%} | {probes**2:.0%} |")


if __name__ == "__main__":
    sys.exit(main())
