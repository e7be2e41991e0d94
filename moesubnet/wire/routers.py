"""The routers of a subnet, as a validator finds and draws them."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from typing import Protocol

import aiohttp

from moesubnet.errors import AuthError, PeerError, WireError
from moesubnet.types import Axon, Hotkey, Metagraph, NetUid, Signer
from moesubnet.wire.meeting import CARD_TIMEOUT_S, Meetings
from moesubnet.wire.relay import RelayClient
from moesubnet.wire.usage import MAX_USAGE_BYTES, Usage

MAX_ROUTERS = 64  # of the largest stakes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    client: RelayClient
    stake_rao: int


class Drawing(Protocol):
    """What a validator asks of `Routers`."""

    async def refresh(self, metagraph: Metagraph, experts: Collection[Hotkey]) -> None: ...

    def draw(self, lots: Random) -> list[RelayClient]: ...

    async def usage(self, netuid: NetUid, epoch: int) -> list[tuple[Usage, int]]: ...


class Routers:
    """The routers of a subnet: who on the metagraph shows a router's card and has the stake that
    experts ask of callers."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        signer: Signer,
        *,
        spec_sha256: str,
        vocab_size: int,
        min_stake_rao: int,
        allow_private: bool,
    ) -> None:
        self._own_hotkey = signer.ss58_address
        self._min_stake_rao = min_stake_rao
        self._found: dict[Hotkey, _Found] = {}
        self._meetings = Meetings(
            http,
            signer,
            RelayClient,
            lambda client, timeout_s: client.router_card(timeout_s=timeout_s),
            spec_sha256=spec_sha256,
            vocab_size=vocab_size,
            allow_private=allow_private,
        )
        self._drawn = 0
        self._turns: list[Hotkey] = []  # who is still to come before all have

    @property
    def hotkeys(self) -> Collection[Hotkey]:
        return self._found.keys()

    async def refresh(self, metagraph: Metagraph, experts: Collection[Hotkey]) -> None:
        """Ask everybody with enough stake who is no expert for a router's card, once; more rarely
        whoever shows none. A router that was met is one as long as it stays where it is: walks
        leave it by themselves when it does not answer."""
        could = {
            neuron.hotkey: neuron
            for neuron in sorted(metagraph.neurons, key=lambda n: -n.stake_rao)
            if neuron.axon is not None
            and neuron.stake_rao >= self._min_stake_rao
            and neuron.hotkey not in experts
            and neuron.hotkey != self._own_hotkey
        }
        could = dict(itertools.islice(could.items(), MAX_ROUTERS))
        self._found = {
            hotkey: _Found(found.client, could[hotkey].stake_rao)
            for hotkey, found in self._found.items()
            if hotkey in could and found.client.axon == could[hotkey].axon
        }
        self._meetings.keep_only([(n.hotkey, n.axon) for n in could.values() if n.axon])
        async with asyncio.TaskGroup() as group:
            for neuron in could.values():
                assert neuron.axon is not None
                is_known = neuron.hotkey in self._found
                if not is_known and self._meetings.is_due(neuron.hotkey, neuron.axon):
                    group.create_task(self._meet(neuron.hotkey, neuron.axon, neuron.stake_rao))

    def draw(self, lots: Random) -> list[RelayClient]:
        """Two routers for a walk, the second in case the first is lost; fewer where there are not
        so many. By stake, so that cheap hotkeys do not become the way of most probes; every other
        walk goes through each in turn, so that no expert is asked through one router only."""
        left = dict(self._found)
        first: list[Hotkey] = []
        self._drawn += 1
        if left and self._drawn % 2 == 0:
            self._turns = [hotkey for hotkey in self._turns if hotkey in left]
            self._turns = self._turns or lots.sample(sorted(left), len(left))
            first = [self._turns.pop()]
        chosen = [left.pop(hotkey).client for hotkey in first]
        while left and len(chosen) < 2:
            weights = [found.stake_rao for found in left.values()]
            [hotkey] = lots.choices(list(left), weights if any(weights) else None)
            chosen.append(left.pop(hotkey).client)
        return chosen

    async def usage(self, netuid: NetUid, epoch: int) -> list[tuple[Usage, int]]:
        """What each router says that it saw in an epoch, with its stake; who says nothing is left
        out."""

        async def ask(hotkey: Hotkey, found: _Found) -> tuple[Usage, int] | None:
            try:
                data = await found.client.get_public(
                    f"/v1/usage/{epoch}", max_bytes=MAX_USAGE_BYTES, timeout_s=CARD_TIMEOUT_S
                )
                usage = Usage.proven(data, hotkey)
            except WireError as error:
                log.warning("router=%s is not heard on its users: %s", hotkey, error)
                return None
            except (PeerError, AuthError) as error:
                log.debug("no usage of router=%s reason=%s", hotkey, error)
                return None
            is_asked = (usage.netuid, usage.epoch) == (netuid, epoch)
            return (usage, found.stake_rao) if is_asked else None

        given = await asyncio.gather(*(ask(h, found) for h, found in self._found.items()))
        return [one for one in given if one is not None]

    async def _meet(self, hotkey: Hotkey, axon: Axon, stake_rao: int) -> None:
        if (found := await self._meetings.meet(hotkey, axon)) is not None:
            log.info("router hotkey=%s met", hotkey)
            self._found[hotkey] = _Found(found[0], stake_rao)
