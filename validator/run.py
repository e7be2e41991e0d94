"""Starting a validator: check everything a person can get wrong, then run until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

from moesubnet.chain.client import ChainClient
from moesubnet.chain.timelock import load_timelock
from moesubnet.chain.weights import VoteScheme, vote_scheme
from moesubnet.errors import ConfigError
from moesubnet.host.garbage import settle
from moesubnet.host.interrupt import until_stopped
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.gate_sync import GateSync
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.prompt import PromptEncoder
from moesubnet.spec.roll import NextSpec
from moesubnet.spec.source import find_spec
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.types import Axon, Hotkey, Metagraph, NetUid, Signer
from moesubnet.validator.archive import Archive
from moesubnet.validator.checkbook import FILE, Checkbook
from moesubnet.validator.conversations import turns
from moesubnet.validator.forecast import Forecast
from moesubnet.validator.loop import Validator
from moesubnet.validator.measure import Measurement
from moesubnet.validator.pool import TextPool
from moesubnet.validator.replaying import Replaying
from moesubnet.validator.serve import Health, Metrics, build_app
from moesubnet.validator.shapes import Shapes
from moesubnet.validator.state import State, only_one
from moesubnet.validator.vouching import LOOKS_FILE, Looks
from moesubnet.validator.watching import Watcher
from moesubnet.wire.addresses import published_ip
from moesubnet.wire.listening import serve
from moesubnet.wire.roster import Roster
from moesubnet.wire.routers import Routers
from moesubnet.wire.strangers import open_http_session

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ValidatorConfig:
    """Everything `moesubnet validator run` needs to know."""

    chain_url: str
    netuid: NetUid
    signer: Signer
    hotkey_spec: str  # as typed, for advice
    spec_dir: Path | None
    text: str  # glob
    state_dir: Path
    host: str
    port: int
    external_ip: str | None
    allow_private: bool
    walks_per_epoch: int
    with_feedback: bool = False
    replay_gib: float = 0.0


async def run_validator(config: ValidatorConfig) -> None:
    """Until SIGINT or SIGTERM. Raises ConfigError, SpecError, ChainError at the start."""
    public_ip = published_ip(config.external_ip, config.host)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(only_one(config.state_dir))
        chain = await stack.enter_async_context(await ChainClient.connect(config.chain_url))
        metagraph = await chain.metagraph(config.netuid)
        _check_registered(config, metagraph)
        scheme = vote_scheme(commit_reveal=metagraph.commit_reveal, has_drand=chain.has_drand)
        if scheme == VoteScheme.TIMELOCKED:
            load_timelock()
            log.warning("votes are timelocked here: nothing on chain will name the score sheets")
        spec = await find_spec(config.spec_dir, metagraph, allow_private=config.allow_private)
        pool = await asyncio.to_thread(_load_pool, config.text, spec)
        state = State(config.state_dir / "validator.sqlite3")
        stack.callback(state.close)
        owner = f"{chain.genesis_hash} {config.netuid} {config.signer.ss58_address}"
        state.claim(owner, metagraph.epoch_index)
        state.same_windows(spec.sha256, spec.spec.windows_sha256)
        http = await stack.enter_async_context(open_http_session())
        health, metrics = Health(), Metrics()
        app = build_app(config.signer, state, health, metrics)
        listening = await serve(app, config.host, config.port)
        stack.push_async_callback(listening.close)
        log.info("validator listens on %s:%d", listening.host, listening.port)

        book = Checkbook(config.state_dir / FILE, Hotkey(config.signer.ss58_address))
        stack.callback(book.close)
        looks = Looks(config.state_dir / LOOKS_FILE)
        stack.callback(looks.close)
        sheets_dir = config.state_dir / "sheets"
        gates = GateSync(
            chain,
            http,
            sheets_dir,
            allow_private=config.allow_private,
            grain=spec.spec.grain,
        )

        def measurement(spec: LoadedSpec, pool: TextPool | None = None) -> Measurement:
            return Measurement(
                state,
                Hotkey(config.signer.ss58_address),
                pool or _load_pool(config.text, spec),
                spec.spec.windows_sha256,
                load_baseline(spec),
                Roster(
                    http,
                    config.signer,
                    spec_sha256=spec.sha256,
                    vocab_size=spec.spec.vocab_size,
                    allow_private=config.allow_private,
                ),
                gates,
                metrics,
                _shapes(spec),
                Routers(
                    http,
                    config.signer,
                    spec_sha256=spec.sha256,
                    vocab_size=spec.spec.vocab_size,
                    min_stake_rao=spec.spec.min_caller_stake_rao,
                    allow_private=config.allow_private,
                ),
                book,
                Watcher(
                    chain,
                    http,
                    Hotkey(config.signer.ss58_address),
                    spec.sha256,
                    looks,
                    allow_private=config.allow_private,
                ),
            )

        validator = Validator(
            chain,
            config.netuid,
            config.signer,
            NextSpec(spec, measurement, folder=config.spec_dir, allow_private=config.allow_private),
            Axon(public_ip, listening.port),
            state,
            measurement(spec, pool),
            sheets_dir,
            health,
            metrics,
            config.walks_per_epoch,
            config.with_feedback,
            _replaying(config, book),
        )
        settle()
        await until_stopped(validator.run())
        log.info("stopped; a committed vote is revealed when you start again before its epoch ends")


def _replaying(config: ValidatorConfig, book: Checkbook) -> Replaying | None:
    if not config.replay_gib:
        return None
    options = ["--chain", config.chain_url, "--netuid", str(config.netuid)]
    options += ["--state-dir", str(config.state_dir)]
    options += ["--spec", str(config.spec_dir)] if config.spec_dir is not None else []
    options += ["--allow-private"] if config.allow_private else []
    return Replaying(book, options, int(config.replay_gib * 2**30))


async def dry_run(config: ValidatorConfig) -> str:
    """What running would take, in words. Reads the chain, the spec and the state; sends nothing.

    Raises ConfigError, SpecError, ChainError for what would keep the validator from running, but
    for a hotkey that is not registered or staked yet.
    """
    async with await ChainClient.connect(config.chain_url) as chain:
        metagraph = await chain.metagraph(config.netuid)
        block_s = chain.block_seconds
    spec = await find_spec(config.spec_dir, metagraph, allow_private=config.allow_private)
    pool = await asyncio.to_thread(_load_pool, config.text, spec)
    path = config.state_dir / "validator.sqlite3"
    cut_by = {spec.sha256, spec.spec.windows_sha256}
    used = Archive.used_starts(path, cut_by) if path.exists() else {}
    hotkey = Hotkey(config.signer.ss58_address)
    neuron = metagraph.by_hotkey.get(hotkey)
    forecast = Forecast(
        windows=pool.free_windows(used),
        conversations=len(pool.conversations.free(used)),
        walks=config.walks_per_epoch,
        experts=sum(n.axon is not None and n.hotkey != hotkey for n in metagraph.neurons),
        vocab_size=spec.spec.vocab_size,
        shapes=_shapes(spec),
        grain=spec.spec.grain,
        epoch_s=(metagraph.next_epoch_block - metagraph.last_epoch_block) * block_s,
    )
    lines = [
        f"subnet     {config.netuid}, spec {spec.spec.name!r} of {spec.spec.vocab_size:,} tokens; "
        f"{forecast.experts} neurons have an address, taken for experts here",
        forecast.as_text(),
    ]
    if not forecast.epochs:
        lines.append("problem    less text than one epoch takes: give more under --text")
    if neuron is None:
        lines.append(f"problem    {hotkey} is not registered: moesubnet register")
    elif neuron.stake_rao == 0:
        lines.append("problem    no stake on this hotkey: its votes count nothing")
    return "\n".join([*lines, "nothing was sent, and no text was used"])


def _check_registered(config: ValidatorConfig, metagraph: Metagraph) -> None:
    hotkey = Hotkey(config.signer.ss58_address)
    neuron = metagraph.by_hotkey.get(hotkey)
    if neuron is None:
        raise ConfigError(
            f"{hotkey} is not registered on subnet {config.netuid}. Register and stake first:\n"
            f"  moesubnet register --netuid {config.netuid} --hotkey {config.hotkey_spec}\n"
            f"  moesubnet stake add --netuid {config.netuid} --hotkey {config.hotkey_spec} 1000"
        )
    if neuron.stake_rao == 0:
        log.warning("no stake on this hotkey: its votes count nothing until you add some")


def _shapes(spec: LoadedSpec) -> Shapes:
    return Shapes.public(spec.spec.context_tokens, spec.spec.grain)


def _load_pool(pattern: str, spec: LoadedSpec) -> TextPool:
    tokenizer = load_tokenizer(spec.tokenizer_path)
    encoder, limit = PromptEncoder(spec.spec, tokenizer), _shapes(spec).limit
    pool = TextPool.load(
        pattern,
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        spec.spec.grain,
        (lambda one: turns(one, encoder, limit)) if spec.spec.unit == "tokens" else None,
    )
    unit, windows = spec.spec.unit, pool.free_windows({})
    said = len(pool.conversations)
    log.info("private text: %d %s, %d windows, %d conversations", pool.tokens, unit, windows, said)
    return pool
