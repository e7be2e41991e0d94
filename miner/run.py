"""A miner's life: load the spec, join the subnet, load the model, serve, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moesubnet.chain.client import ChainClient
from moesubnet.chain.metagraph import MetagraphCache
from moesubnet.chain.wallet import is_uri, load_coldkey, split_spec, wallets_root
from moesubnet.engine.base import Engine
from moesubnet.engine.named import check_engine, load_engines
from moesubnet.engine.open_weights import check_offer
from moesubnet.errors import CallRejected, ChainError, ConfigError, FetchError
from moesubnet.host.interrupt import stop_event
from moesubnet.miner.app import build_app
from moesubnet.miner.expert import Expert
from moesubnet.miner.opening import may_open
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.roll import NextSpec
from moesubnet.spec.source import find_spec
from moesubnet.types import Axon, Hotkey, Metagraph, NetUid, Signer
from moesubnet.units import format_rao
from moesubnet.wire.addresses import published_ip
from moesubnet.wire.listening import serve
from moesubnet.wire.said import is_said

log = logging.getLogger(__name__)

DRAIN_S = 10.0
ANNOUNCE_CHECK_S = 1.0
ANNOUNCE_RETRY_S = 15.0


@dataclass(frozen=True, slots=True)
class Seat:
    """One expert of a miner: a hotkey, what it serves of the model, and where."""

    signer: Signer
    hotkey_spec: str  # as typed
    adapter: str | None
    name: str  # empty: as the server calls its model
    port: int
    external_port: int | None
    weights_url: str | None = None  # where everybody finds what it serves

    @property
    def hotkey(self) -> Hotkey:
        return Hotkey(self.signer.ss58_address)


@dataclass(frozen=True, slots=True)
class MinerConfig:
    """Everything `moesubnet miner run` needs to know."""

    chain_url: str
    netuid: NetUid
    seats: tuple[Seat, ...]
    coldkey_spec: str | None  # pays the registration; by default the hotkey's wallet
    max_price_rao: int  # for the registration
    model: str
    engine: str
    engine_options: Mapping[str, str]  # those that were given
    threads: int
    spec_dir: Path | None
    host: str
    external_ip: str | None
    price_rao_per_mtoken: int
    queue_tokens: int
    allow_private: bool  # addresses of the owner's spec, and of validators' sheets


async def run_miner(config: MinerConfig) -> None:
    """Serve until SIGINT or SIGTERM, then answer what is under way.

    Raises ConfigError, SpecError, EngineError, WalletError or ChainError before it serves.
    """
    public_ip = published_ip(config.external_ip, config.host)
    async with contextlib.AsyncExitStack() as stack:
        chain = await stack.enter_async_context(await ChainClient.connect(config.chain_url))
        metagraph = await chain.metagraph(config.netuid)
        spec = await find_spec(config.spec_dir, metagraph, allow_private=config.allow_private)
        payers = [await _payer(chain, config, seat, metagraph) for seat in config.seats]
        await asyncio.to_thread(_check, config, spec)
        for seat, payer in zip(config.seats, payers, strict=True):
            if payer is not None:  # before the model is loaded, which may take minutes
                await _register(chain, config, seat, payer)
        engines = await asyncio.to_thread(_load, config, spec)
        metagraphs = MetagraphCache(chain, config.netuid)
        await metagraphs.refresh()
        served = [
            (seat, *await _open(config, seat, engine, spec, metagraphs, stack))
            for seat, engine in zip(config.seats, engines, strict=True)
        ]
        stopped = stop_event()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(metagraphs.run())]
            for seat, expert, port in served:
                axon = Axon(public_ip, seat.external_port or port)
                announcing = _keep_announced(chain, metagraphs, config, seat, expert, axon)
                tasks.append(group.create_task(announcing))
            await stopped.wait()
            for task in tasks:
                task.cancel()
        log.info("stopping: no new requests; those under way have %.0f s", DRAIN_S)


def _check(config: MinerConfig, spec: LoadedSpec) -> None:
    for seat in config.seats:
        own = {} if seat.adapter is None else {"adapter": seat.adapter}
        check_engine(config.engine, config.model, spec, **own, **config.engine_options)


def _load(config: MinerConfig, spec: LoadedSpec) -> list[Engine]:
    adapters = [seat.adapter for seat in config.seats]
    options = config.engine_options
    return load_engines(
        config.engine, config.model, spec, adapters, threads=config.threads, **options
    )


async def _open(
    config: MinerConfig,
    seat: Seat,
    engine: Engine,
    spec: LoadedSpec,
    metagraphs: MetagraphCache,
    stack: contextlib.AsyncExitStack,
) -> tuple[Expert, int]:
    """Serve an expert until the stack is left; it and the port that it listens on."""
    if (close := getattr(engine, "close", None)) is not None:
        stack.push_async_callback(asyncio.to_thread, close)
    name = seat.name or getattr(engine, "model_name", "") or engine.name
    log.info("model=%s engine=%s sha256=%s", name, engine.name, engine.commitment)
    if seat.weights_url is not None:
        await _check_open(seat.weights_url, engine.commitment)
    expert = Expert(
        engine,
        spec,
        metagraphs,
        hotkey=seat.hotkey,
        name=name,
        price_rao_per_mtoken=config.price_rao_per_mtoken,
        queue_tokens=config.queue_tokens,
    )
    stack.push_async_callback(expert.close)
    app = build_app(expert, seat.signer, metagraphs)
    listening = await serve(app, config.host, seat.port, grace_s=DRAIN_S)
    stack.push_async_callback(listening.close)
    log.info("serving host=%s port=%d hotkey=%s", config.host, listening.port, seat.hotkey)
    return expert, listening.port


async def _check_open(url: str, commitment: str) -> None:
    """Whoever comes for the weights must find them. Raises ConfigError."""
    try:
        size_bytes = await check_offer(url, commitment, allow_private=True)
    except FetchError as error:
        raise ConfigError(f"--open {url} does not offer what is served here: {error}") from error
    log.info(
        "open: %s offers the weights, %d bytes; the card says so once this expert is a senior",
        url,
        size_bytes,
    )


async def _payer(
    chain: ChainClient, config: MinerConfig, seat: Seat, metagraph: Metagraph
) -> str | None:
    """Whose coldkey will buy a slot; None if the hotkey has one. ConfigError says who else can."""
    if seat.hotkey in metagraph.by_hotkey:
        return None
    payer = config.coldkey_spec or _own_wallet(seat.hotkey_spec)
    if payer is None:
        price = format_rao(await chain.burn_price_rao(config.netuid))
        raise ConfigError(
            f"{seat.hotkey} is not registered on subnet {config.netuid}. Where its coldkey is, "
            f"register it ({price} now):\n"
            f"  moesubnet register --netuid {config.netuid} --hotkey {seat.hotkey} "
            f"--wallet COLDKEY --chain {config.chain_url}"
        )
    return payer


async def _register(chain: ChainClient, config: MinerConfig, seat: Seat, payer: str) -> None:
    price_rao = await chain.burn_price_rao(config.netuid)
    if price_rao > config.max_price_rao:
        raise ConfigError(
            f"a slot on subnet {config.netuid} costs {format_rao(price_rao)} now, more than "
            f"{format_rao(config.max_price_rao)}: wait until the price has fallen, or raise "
            "--max-price"
        )
    log.info("registering hotkey=%s price=%s", seat.hotkey, format_rao(price_rao))
    coldkey = await asyncio.to_thread(load_coldkey, payer)
    # The price of the block that takes it is paid; others may buy until then.
    receipt = await chain.register(config.netuid, seat.hotkey, coldkey, config.max_price_rao)
    final = "yes" if receipt.is_final else "not yet"
    log.info("registered hotkey=%s block=%d final=%s", seat.hotkey, receipt.block, final)


def _own_wallet(hotkey_spec: str) -> str | None:
    """The wallet of the hotkey, if its coldkey lies on this machine."""
    if is_uri(hotkey_spec):
        return None
    name, _ = split_spec(hotkey_spec)
    return name if (wallets_root() / name / "coldkey").is_file() else None


async def _keep_announced(
    chain: ChainClient,
    metagraphs: MetagraphCache,
    config: MinerConfig,
    seat: Seat,
    expert: Expert,
    axon: Axon,
) -> None:
    """Publish the axon, and which model this is, whenever the chain has another one; follow the
    subnet's spec; say what only a person can repair."""

    def checked(spec: LoadedSpec) -> LoadedSpec:
        expert.check_can_follow(spec)
        return spec

    next_spec = NextSpec(
        expert.spec, checked, folder=config.spec_dir, allow_private=config.allow_private
    )
    said: set[str] = set()
    hidden_url, asked_epoch = seat.weights_url, -1  # while weights may not be shown

    def say_once(problem: str) -> None:
        if problem not in said:
            said.add(problem)
            log.error(problem)

    while True:
        pause_s = ANNOUNCE_CHECK_S
        try:
            metagraph = metagraphs.current()
            neuron = metagraph.by_hotkey.get(seat.hotkey)
            next_spec.see(metagraph)
            if (spec := next_spec.take(metagraph.epoch_index)) is not None:
                expert.follow(spec)
            if neuron is None:
                say_once(f"{seat.hotkey} has lost its slot: restart the miner to register again")
            elif neuron.axon != axon:
                await chain.serve_axon(config.netuid, axon.ip, axon.port, seat.signer)
                log.info("announced uid=%d ip=%s port=%d", neuron.uid, axon.ip, axon.port)
                await metagraphs.refresh()
            elif hidden_url is not None and asked_epoch < metagraph.epoch_index:
                asked_epoch = metagraph.epoch_index
                what = seat.hotkey, expert.card.model_commitment
                if await may_open(chain, metagraph, *what, config.allow_private):
                    expert.open(hidden_url)
                    log.info("open: the card says that the weights are at %s", hidden_url)
                    hidden_url = None
            elif metagraph.has_models and not is_said(expert.card, neuron.model):
                sha256, is_open = expert.card.model_commitment, expert.card.weights_url is not None
                await chain.commit_model(config.netuid, sha256, is_open, seat.signer)
                kind = "open" if is_open else "private"
                log.info("committed uid=%d sha256=%s %s", neuron.uid, sha256, kind)
                await metagraphs.refresh()
        except ChainError as error:
            if isinstance(error, CallRejected) and error.is_of_address:
                where = f"{axon.ip}:{axon.port}"
                raise ConfigError(f"the chain does not take {where}: {error}") from error
            log.warning("announcing: %s; trying again", error)
            pause_s = ANNOUNCE_RETRY_S
        await asyncio.sleep(pause_s)
