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

from moesubnet.errors import AuthError, PeerError, WireError
from moesubnet.types import Axon, Hotkey, Metagraph, Neuron, Signer
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.limits import Backoff
from moesubnet.wire.protocol import ExpertCard

CARD_TIMEOUT_S = 5.0
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
        self._http = http
        self._signer = signer
        self._spec_sha256, self._vocab_size = spec_sha256, vocab_size
        self._allow_private = allow_private
        self._clock_s = clock_s
        self._met: dict[Hotkey, Met] = {}
        self._backoff = Backoff(clock_s=clock_s)

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
            if neuron.axon is not None and hotkey != self._signer.ss58_address
        }
        self._backoff.keep_only(set(axons.items()))
        async with asyncio.TaskGroup() as group:
            for hotkey, axon in axons.items():
                if self._is_due(hotkey, axon):
                    group.create_task(self._meet(neurons[hotkey], axon))

    def _is_due(self, hotkey: Hotkey, axon: Axon) -> bool:
        met = self._met.get(hotkey)
        is_known = met is not None and met.client.axon == axon
        if is_known and met is not None and self._clock_s() < met.asked_s + CARD_AGE_S:
            return False
        return self._backoff.is_due((hotkey, axon))

    async def _meet(self, neuron: Neuron, axon: Axon) -> None:
        hotkey, uid = neuron.hotkey, neuron.uid
        known = self._met.get(hotkey)
        try:
            if known is not None and known.client.axon == axon:
                client = known.client
            else:
                client = ExpertClient(
                    self._http,
                    self._signer,
                    hotkey,
                    axon,
                    vocab_size=self._vocab_size,
                    allow_private=self._allow_private,
                )
            card = await client.card(timeout_s=CARD_TIMEOUT_S)
        except (PeerError, WireError, AuthError) as error:
            # Validators and routers have axons and no cards; miners may be starting.
            log.debug("no card uid=%d reason=%s", uid, error)
            self._backoff.failed((hotkey, axon))
            return
        if card.spec_sha256 != self._spec_sha256:
            log.info("uid=%d serves another spec", uid)
            self._backoff.failed((hotkey, axon))
            return
        self._backoff.answered((hotkey, axon))
        if known is None:
            log.info("expert uid=%d hotkey=%s name=%r met", uid, hotkey, card.name)
        self._met[hotkey] = Met(neuron, client, card, self._clock_s())
