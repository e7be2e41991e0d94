"""The experts of a subnet: whoever on the metagraph has shown a card of its spec.

One roster for all who ask: router, validator, distiller.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp

from moesubnet.types import Axon, Hotkey, Metagraph, Neuron, Signer
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.meeting import Meetings
from moesubnet.wire.protocol import ExpertCard

CARD_AGE_S = 60.0  # then it is asked for again: prices change, miners start with other options

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Met:
    """One expert, as the last metagraph and its own last card have it."""

    neuron: Neuron
    client: ExpertClient  # another one when the expert has moved
    card: ExpertCard
    asked_s: float  # for the card


class Roster:
    """`refresh` follows the metagraph. Once met, an expert belongs to it as long as it is
    registered: one that hides its card must not look better than one that fails to answer."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        signer: Signer,
        *,
        spec_sha256: str,
        vocab_size: int,
        allow_private: bool,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own_hotkey = signer.ss58_address
        self._clock_s = clock_s
        self._met: dict[Hotkey, Met] = {}
        self._meetings = Meetings(
            http,
            signer,
            ExpertClient,
            lambda client, timeout_s: client.card(timeout_s=timeout_s),
            spec_sha256=spec_sha256,
            vocab_size=vocab_size,
            allow_private=allow_private,
            clock_s=clock_s,
        )

    @property
    def met(self) -> Mapping[Hotkey, Met]:
        return self._met

    @property
    def clients(self) -> dict[Hotkey, ExpertClient]:
        return {hotkey: met.client for hotkey, met in self._met.items()}

    @property
    def cards(self) -> dict[Hotkey, ExpertCard]:
        return {hotkey: met.card for hotkey, met in self._met.items()}

    async def refresh(self, metagraph: Metagraph) -> None:
        """Forget who left the subnet; ask for the cards of newcomers and of who has moved, and
        for old ones again; more and more rarely whoever shows none."""
        neurons = metagraph.by_hotkey
        self._met = {hotkey: met for hotkey, met in self._met.items() if hotkey in neurons}
        for hotkey, met in self._met.items():
            met.neuron = neurons[hotkey]
        axons = {
            hotkey: neuron.axon
            for hotkey, neuron in neurons.items()
            if neuron.axon is not None and hotkey != self._own_hotkey
        }
        self._meetings.keep_only(axons.items())
        async with asyncio.TaskGroup() as group:
            for hotkey, axon in axons.items():
                if self._is_due(hotkey, axon):
                    group.create_task(self._meet(neurons[hotkey], axon))

    def _is_due(self, hotkey: Hotkey, axon: Axon) -> bool:
        met = self._met.get(hotkey)
        is_known = met is not None and met.client.axon == axon
        if is_known and met is not None and self._clock_s() < met.asked_s + CARD_AGE_S:
            return False
        return self._meetings.is_due(hotkey, axon)

    async def _meet(self, neuron: Neuron, axon: Axon) -> None:
        known = self._met.get(neuron.hotkey)
        found = await self._meetings.meet(neuron.hotkey, axon, known.client if known else None)
        if found is None:
            return
        client, card = found
        if known is None:
            log.info("expert uid=%d hotkey=%s name=%r met", neuron.uid, neuron.hotkey, card.name)
        self._met[neuron.hotkey] = Met(neuron, client, card, self._clock_s())
