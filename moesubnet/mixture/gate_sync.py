"""Keeping the gate: fetch the score sheets that validators revealed, and fit on them.

The chain says which sheet a validator revealed last (`LastReveal`), the sheet names the one
before it, so its hash vouches for its whole history. What was verified once is kept on disk by
hash. Everyone who refreshes in epoch e fits on the sheets of epochs e − 11 … e − 2, which were
revealed by the start of e, and so gets the same gate.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import aiohttp

from moesubnet.errors import FrameError, PeerError, WireError
from moesubnet.mixture.gate import Gate, WeightedSheet, fit, uniform_gate
from moesubnet.mixture.sheet import MAX_SHEET_BYTES, Sheet
from moesubnet.mixture.sheet_cache import KeptSheet, SheetCache, verified
from moesubnet.mixture.watched import silenced
from moesubnet.types import Axon, BlockNumber, Hotkey, Metagraph, NetUid, Neuron
from moesubnet.units import TOKENS, Grain
from moesubnet.wire.addresses import check_axon
from moesubnet.wire.strangers import get_public

SHEET_EPOCHS = 20  # of which sheets are read
FIT_EPOCHS = 10  # on which a gate is fit: in older ones who came since was not there to be heard
FETCH_TIMEOUT_S = 5.0
REFRESH_TIMEOUT_S = 15.0  # for all of them
FETCHES_AT_ONCE = 8

log = logging.getLogger(__name__)


class RevealedSheet(Protocol):
    """`moesubnet.chain.client.LastReveal`."""

    @property
    def epoch(self) -> int: ...

    @property
    def sheet_sha256(self) -> str | None: ...


class RevealReader(Protocol):
    """What is asked of the chain."""

    async def last_reveal(self, netuid: NetUid, hotkey: Hotkey) -> RevealedSheet | None: ...

    async def metagraph_at(self, netuid: NetUid, block: BlockNumber) -> Metagraph | None: ...


class GateSync:
    """The gate of the current epoch. Call `refresh` once an epoch; `gate` is uniform before."""

    def __init__(
        self,
        chain: RevealReader,
        http: aiohttp.ClientSession,
        cache_dir: Path,
        *,
        allow_private: bool = False,
        grain: Grain = TOKENS,
    ) -> None:
        """grain: of the subnet's spec; it may be set when another holds."""
        self._chain = chain
        self._http = http
        self._cache = SheetCache(cache_dir)
        self._allow_private = allow_private
        self.grain = grain
        self.gate: Gate = uniform_gate(grain=grain)
        self.sheets: list[WeightedSheet] = []  # everything revealed, the newest epoch included
        self.silenced: dict[Hotkey, str] = {}  # validators whose sheets are left out, and why

    async def refresh(self, metagraph: Metagraph) -> Gate:
        """Fetch what is new and fit again. Raises ChainError; a peer's failure costs its sheet.

        Who is registered, who may vote and with how much stake is taken from the epoch's first
        block, so that all fit the same gate whenever in the epoch they ask.
        """
        first = await self._at_first_block(metagraph)
        self.sheets = await fetch_revealed_sheets(
            self._chain,
            first,
            self._http,
            self._cache,
            allow_private=self._allow_private,
            axons={neuron.hotkey: neuron.axon for neuron in metagraph.neurons},
        )
        newest = _newest_known(first)
        settled = [item for item in self.sheets if item.sheet.epoch <= newest]
        self.silenced = await asyncio.to_thread(silenced, settled)
        for validator, reason in self.silenced.items():
            log.warning("no say for validator %s: %s", validator, reason)
        oldest = newest - FIT_EPOCHS + 1
        settled = [
            item
            for item in settled
            if item.sheet.validator not in self.silenced and oldest <= item.sheet.epoch
        ]
        self.gate = await asyncio.to_thread(fit, settled, first.by_hotkey.keys(), self.grain)
        log.info(
            "gate=%s epoch=%d sheets=%d",
            self.gate.sha256.hex()[:16],
            metagraph.epoch_index,
            len(settled),
        )
        return self.gate

    async def _at_first_block(self, metagraph: Metagraph) -> Metagraph:
        if not metagraph.last_epoch_block:  # no epoch has run
            return metagraph
        first = await self._chain.metagraph_at(metagraph.netuid, metagraph.last_epoch_block)
        if first is None:
            log.warning(
                "the node has forgotten block %d, in which this epoch began: the gate is fit on "
                "block %d and may differ a little from others'",
                metagraph.last_epoch_block,
                metagraph.block,
            )
        return first or metagraph


def _newest_known(metagraph: Metagraph) -> int:
    """The newest epoch of which all sheets were revealed when this one began: committed in e − 2,
    revealed in e − 1, known to all at the start of e; longer ago where votes stay secret longer."""
    return metagraph.epoch_index - metagraph.reveal_period_epochs - 1


async def fetch_revealed_sheets(
    chain: RevealReader,
    metagraph: Metagraph,
    http: aiohttp.ClientSession,
    cache: SheetCache,
    *,
    allow_private: bool = False,
    axons: Mapping[Hotkey, Axon | None] | None = None,
) -> list[WeightedSheet]:
    """Every sheet of the last epochs that a validator of `metagraph` revealed, with its stake.

    axons: where they are now, if that may be elsewhere than at that block. Unreachable validators
    count with what the cache holds of them, and what cannot be kept does not count. Raises
    ChainError.
    """
    oldest = _newest_known(metagraph) - SHEET_EPOCHS + 1
    known = await asyncio.to_thread(cache.known, metagraph.netuid, oldest)
    slots = asyncio.Semaphore(FETCHES_AT_ONCE)

    async def fetch(axon: Axon, digest: str) -> Sheet:
        path, most = f"/v1/sheet/{digest}", MAX_SHEET_BYTES
        body = await get_public(http, axon, path, max_bytes=most, timeout_s=FETCH_TIMEOUT_S)
        return await asyncio.to_thread(verified, body, digest)

    async def follow(neuron: Neuron, axon: Axon, epoch: int, digest: str) -> None:
        try:
            check_axon(axon, allow_private=allow_private)
            async with slots:
                await fetch_history(neuron, axon, epoch, digest)
        except (PeerError, WireError) as error:
            log.info("sheet of=%s not fetched reason=%s", neuron.hotkey, error)

    async def fetch_history(neuron: Neuron, axon: Axon, epoch: int, digest: str) -> None:
        newest = True
        while epoch >= oldest and int(digest, 16):
            sheet = known.get(digest) or await fetch(axon, digest)
            in_order = sheet.epoch == epoch if newest else sheet.epoch < epoch
            if (sheet.netuid, sheet.validator) != (metagraph.netuid, neuron.hotkey) or not in_order:
                raise FrameError("another subnet's, validator's or epoch's sheet")
            if isinstance(sheet, Sheet) and (kept := await asyncio.to_thread(cache.keep, sheet)):
                known[digest] = kept
            epoch, digest, newest = sheet.epoch, sheet.previous_sha256.hex(), False

    voters = [n for n in metagraph.neurons if n.validator_permit and n.stake_rao > 0]
    reveals = [(n, await chain.last_reveal(metagraph.netuid, n.hotkey)) for n in voters]
    with contextlib.suppress(TimeoutError):  # what came in time counts; the rest comes next time
        async with asyncio.timeout(REFRESH_TIMEOUT_S), asyncio.TaskGroup() as group:
            for neuron, reveal in reveals:
                axon = neuron.axon if axons is None else axons.get(neuron.hotkey)
                if reveal and (digest := reveal.sheet_sha256) and axon:
                    group.create_task(follow(neuron, axon, reveal.epoch, digest))
    return [
        WeightedSheet(sheet, neuron.stake_rao)
        for neuron, reveal in reveals
        if reveal is not None
        for sheet in _told(reveal, {d: s for d, s in known.items() if s.validator == neuron.hotkey})
        if sheet.epoch >= oldest
    ]


def _told(reveal: RevealedSheet, known: Mapping[str, KeptSheet]) -> Iterator[KeptSheet]:
    """Of what is known of a validator's sheets the history that its last reveal tells, the newest
    first; where a link is missing the next older one that is known. So whoever tells another
    history with each reveal is heard once an epoch, too. (The cache may also hold sheets of the
    same keys on another chain.)"""
    digest, before = reveal.sheet_sha256, reveal.epoch + 1
    older = {d: s for d, s in known.items() if s.epoch < reveal.epoch or d == digest}
    while older := {d: sheet for d, sheet in older.items() if sheet.epoch < before}:
        newest = min(older, key=lambda d: (-older[d].epoch, d))
        sheet = older.get(digest or "") or older[newest]
        yield sheet
        digest, before = sheet.previous_sha256.hex(), sheet.epoch
