"""The router's life: load the spec, follow the chain, serve until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from moesubnet.chain.client import ChainClient
from moesubnet.chain.metagraph import MetagraphCache
from moesubnet.errors import CallRejected, ChainError, ConfigError, MoesubnetError
from moesubnet.host.garbage import settle
from moesubnet.host.interrupt import stop_event
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.gate_sync import GateSync
from moesubnet.router.app import build_app
from moesubnet.router.billing import Billing
from moesubnet.router.database import open_database
from moesubnet.router.experts import ExpertBook
from moesubnet.router.ledger import Ledger
from moesubnet.router.metrics import Metrics
from moesubnet.router.mixed import MixtureModel
from moesubnet.router.model import STUDENT, Model
from moesubnet.router.node import build_node
from moesubnet.router.service import Service
from moesubnet.router.tracing import open_provider
from moesubnet.router.usage import UsageBook
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.roll import NextSpec
from moesubnet.spec.source import find_spec
from moesubnet.types import Axon, Hotkey, Metagraph, NetUid, Signer
from moesubnet.wire.addresses import is_loopback, published_ip
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.listening import serve
from moesubnet.wire.roster import Roster
from moesubnet.wire.strangers import open_http_session

log = logging.getLogger(__name__)

REFRESH_S = 5.0
ANNOUNCE_S = 30.0
LOOKS = 12  # for experts of a new spec, before requests are refused rather than served by the old
DRAIN_S = 10.0
MIXTURE = "mixture"


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """Everything `moesubnet router run` needs to know."""

    chain_url: str
    netuid: int
    signer: Signer
    spec_dir: Path | None
    state_dir: Path
    host: str
    port: int
    node_host: str
    node_port: int | None  # none: validators are not served
    external_ip: str | None
    api_keys: Sequence[str]
    accounts: str | Path  # an SQLite file or postgresql://…
    origins: Sequence[str]
    allow_private: bool
    deadline_s: float
    top_k: int
    max_running: int
    student_dir: Path | None


@dataclass(frozen=True, slots=True)
class Served:
    """What is served under one spec. Requests end under the one that they began with."""

    spec: LoadedSpec
    book: ExpertBook
    mixture: MixtureModel
    models: dict[str, Model]
    service: Service


@dataclass
class Offers:
    """What new requests get, and what comes after it while its experts are being met."""

    current: Served
    coming: Served | None = None
    looks: int = 0  # for the experts of `coming`

    async def refresh(self, metagraph: Metagraph, next_spec: NextSpec[Served]) -> None:
        """Meet experts; go over to the spec that holds as soon as one serves it. Until then the
        experts of the old one are asked: they answer whatever their cards say."""
        next_spec.see(metagraph)
        if (made := next_spec.take(metagraph.epoch_index)) is not None:
            self.coming, self.looks = made, 0
        if self.coming is None:
            await self.current.book.refresh(metagraph)
            return
        await self.coming.book.refresh(metagraph)
        self.looks += 1
        if self.coming.book.known() or self.looks >= LOOKS:
            self.current, self.coming = self.coming, None


def check_exposure(host: str, api_keys: Sequence[str], *, has_keys: bool = False) -> None:
    """Raises ConfigError for a listening address that strangers reach without an API key.

    has_keys: the ledger has some, so that everybody must show one."""
    if not all(api_keys):
        raise ConfigError("an API key is empty: every caller without one would be let in")
    if not is_loopback(host) and not api_keys and not has_keys:
        raise ConfigError(
            f"refusing to listen on {host} without an API key: anybody could spend your stake's "
            "access. Make one with `moesubnet router key new NAME`, pass --api-key (or set "
            "MOESUBNET_API_KEYS), or bind 127.0.0.1"
        )


async def run_router(config: RouterConfig) -> None:
    """Serve until SIGINT or SIGTERM, then finish the running streams."""
    async with contextlib.AsyncExitStack() as stack:
        tracing = open_provider()
        if tracing is not None:  # it sends the last spans, and may wait for whom it sends them to
            stack.push_async_callback(asyncio.to_thread, tracing.shutdown)
        router = Hotkey(config.signer.ss58_address)
        billing = Billing(Ledger(open_database(config.accounts), router))
        stack.push_async_callback(billing.close)
        check_exposure(config.host, config.api_keys, has_keys=await billing.has_keys())
        chain = await stack.enter_async_context(await ChainClient.connect(config.chain_url))
        netuid = NetUid(config.netuid)
        metagraph = await chain.metagraph(netuid)
        spec = await find_spec(config.spec_dir, metagraph, allow_private=config.allow_private)
        _warn_if_poor(metagraph, config.signer, spec)

        http = await stack.enter_async_context(open_http_session())
        cache = MetagraphCache(chain, netuid)
        await cache.refresh()
        gates = GateSync(
            chain,
            http,
            config.state_dir / "sheets",
            allow_private=config.allow_private,
            grain=spec.spec.grain,
        )
        metrics, usage = Metrics(), UsageBook(config.signer, netuid)

        def offered(spec: LoadedSpec) -> Served:
            return _served(config, http, gates, metrics, spec)

        offers = Offers(offered(spec))
        next_spec = NextSpec(
            spec, offered, folder=config.spec_dir, allow_private=config.allow_private
        )
        app = build_app(
            lambda: offers.current.service,
            api_keys=config.api_keys,
            billing=billing,
            origins=config.origins,
            max_running=config.max_running,
            ratings=usage,
            tracing=tracing,
        )
        # Closed after the listener: a student closed under open streams would be started again.
        engines = await stack.enter_async_context(contextlib.AsyncExitStack())
        listening = await serve(app, config.host, config.port, grace_s=DRAIN_S)
        stack.push_async_callback(listening.close)
        log.info("router listens on http://%s:%d/v1", config.host, listening.port)
        axon = await _open_node(config, stack, cache, offers, usage)

        def turn(epoch: int) -> None:
            usage.turn(epoch, metrics.outcomes(), metrics.lengths())

        settle()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(cache.run()),
                group.create_task(billing.run()),
                group.create_task(_follow(cache, gates, offers, next_spec, turn)),
                group.create_task(_announce(chain, config, cache, axon)),
                group.create_task(_offer_student(config, offers, engines)),
            ]
            await stop_event().wait()
            for task in tasks:
                task.cancel()


async def _open_node(
    config: RouterConfig,
    stack: contextlib.AsyncExitStack,
    cache: MetagraphCache,
    offers: Offers,
    usage: UsageBook,
) -> Axon | None:
    """Listen for validators, where they may come; the address to publish."""
    if config.node_port is None:
        return None
    public_ip = published_ip(config.external_ip, config.node_host)

    def expert(hotkey: Hotkey) -> ExpertClient | None:
        known = offers.current.book.known().get(hotkey)
        return known.met.client if known is not None else None

    node = build_node(config.signer, cache, lambda: offers.current.spec, expert, usage.summary)
    listening = await serve(node, config.node_host, config.node_port)
    stack.push_async_callback(listening.close)
    log.info("node for validators listens on %s:%d", listening.host, listening.port)
    return Axon(public_ip, listening.port)


async def _announce(
    chain: ChainClient, config: RouterConfig, cache: MetagraphCache, axon: Axon | None
) -> None:
    """Say on chain where the node is, if it says something else."""
    is_announced = False
    while axon is not None:
        try:
            neuron = cache.current().by_hotkey.get(Hotkey(config.signer.ss58_address))
            if neuron is None:
                log.warning("no slot on the subnet: no validator finds this router's node")
            elif neuron.axon != axon:
                if is_announced:
                    log.error(
                        "somebody else publishes an address for this hotkey, which has one: a "
                        "validator's or miner's key serves users without --node-port"
                    )
                await chain.serve_axon(NetUid(config.netuid), axon.ip, axon.port, config.signer)
                log.info("announced uid=%d at %s", neuron.uid, axon.url)
                is_announced = True
                await cache.refresh()
        except ChainError as error:
            if isinstance(error, CallRejected) and error.is_of_address:
                log.error("no validator finds this router's node at %s: %s", axon.url, error)
                return
            log.warning("announcing: %s; trying again", error)
        await asyncio.sleep(ANNOUNCE_S)


def _served(
    config: RouterConfig,
    http: aiohttp.ClientSession,
    gates: GateSync,
    metrics: Metrics,
    spec: LoadedSpec,
) -> Served:
    roster = Roster(
        http,
        config.signer,
        spec_sha256=spec.sha256,
        vocab_size=spec.spec.vocab_size,
        allow_private=config.allow_private,
    )
    book = ExpertBook(roster, metrics=metrics)
    mixture = MixtureModel(
        book,
        lambda: gates.gate,
        load_baseline(spec),
        vocab_size=spec.spec.vocab_size,
        deadline_s=config.deadline_s,
        top_k=config.top_k,
    )
    models: dict[str, Model] = {MIXTURE: mixture}
    service = Service(spec, models, metrics, lambda: [item.sheet for item in gates.sheets])
    return Served(spec, book, mixture, models, service)


async def _follow(
    cache: MetagraphCache,
    gates: GateSync,
    offers: Offers,
    next_spec: NextSpec[Served],
    turn: Callable[[int], None],
) -> None:
    """Keep the experts, the gate and the spec in step with the chain. turn: an epoch has begun."""
    epoch = -1
    while True:
        try:
            metagraph = cache.current()
            await offers.refresh(metagraph, next_spec)
            turn(metagraph.epoch_index)
            if metagraph.epoch_index != epoch:
                gates.grain = offers.current.spec.spec.grain
                await gates.refresh(metagraph)
                epoch = metagraph.epoch_index
        except ChainError as error:
            log.warning("chain: %s; going on with the experts known", error)
        await asyncio.sleep(REFRESH_S)


async def _offer_student(
    config: RouterConfig,
    offers: Offers,
    stack: contextlib.AsyncExitStack,
) -> None:
    """Offer the student as soon as its folder holds a finished model, and each newer one; and ask
    it, beside other work, how well it guesses what validators asked experts."""
    if config.student_dir is None:
        return
    from moesubnet.engine.worker import EngineProcess
    from moesubnet.router.student import StudentModel

    manifest = config.student_dir / "manifest.json"
    student: StudentModel | None = None
    offered: bytes | None = None
    offer = offers.current
    while True:
        if offer is not offers.current:
            offer, student, offered = offers.current, None, None
        found = None
        with contextlib.suppress(FileNotFoundError):
            found = manifest.read_bytes()
        if found is not None and found != offered:
            try:
                engine = await EngineProcess.start(config.student_dir, offer.spec)
            except MoesubnetError as error:
                log.warning("student not offered: %s", error)
            else:
                stack.push_async_callback(engine.close)
                if student is None:
                    student = StudentModel(engine, load_baseline(offer.spec).law)
                    offer.models[STUDENT] = student
                    offer.mixture.student = student
                else:
                    replaced, student.engine = student.engine, engine
                    await replaced.close()
                log.info("student offered as model '%s', and drafts for the mixture", STUDENT)
            offered = found
        if student is not None:
            try:
                await offer.service.past.ask(student)
            except MoesubnetError as error:
                log.warning("the page's history of the student: %s", error)
        await asyncio.sleep(REFRESH_S)


def _warn_if_poor(metagraph: Metagraph, signer: Signer, spec: LoadedSpec) -> None:
    own = metagraph.by_hotkey.get(signer.ss58_address)  # type: ignore[call-overload]
    needed_rao = spec.spec.min_caller_stake_rao
    if own is None or own.stake_rao < needed_rao:
        log.warning(
            "miners answer only hotkeys with at least %d rao of stake on this subnet; %s has %d. "
            "Register and stake: moesubnet register …; moesubnet stake add …",
            needed_rao,
            signer.ss58_address,
            own.stake_rao if own else 0,
        )
