"""The experts to measure: whoever on the metagraph shows a card of this subnet's spec."""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from moesubnet.errors import PeerError, WireError
from moesubnet.spec.content import LoadedSpec
from moesubnet.types import Hotkey, Metagraph, Neuron, Signer
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.limits import Backoff

CARD_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class Experts:
    """Clients by hotkey. Once met, an expert is asked as long as it is registered: one that
    hides its card must not look better than one that fails to answer.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        signer: Signer,
        spec: LoadedSpec,
        *,
        allow_private: bool,
    ) -> None:
        self._http = http
        self._signer = signer
        self._spec = spec
        self._allow_private = allow_private
        self.clients: dict[Hotkey, ExpertClient] = {}
        self._backoff = Backoff()

    async def refresh(self, metagraph: Metagraph) -> None:
        """Ask every neuron with an axon for its card, more rarely whoever shows none; forget those
        that left the subnet."""
        for hotkey in [known for known in self.clients if known not in metagraph.by_hotkey]:
            del self.clients[hotkey]
        others = [
            neuron
            for neuron in metagraph.neurons
            if neuron.hotkey != self._signer.ss58_address and neuron.axon is not None
        ]
        self._backoff.keep_only({(neuron.hotkey, neuron.axon) for neuron in others})
        async with asyncio.TaskGroup() as group:
            for neuron in others:
                if self._backoff.is_due((neuron.hotkey, neuron.axon)):
                    group.create_task(self._meet(neuron))

    async def _meet(self, neuron: Neuron) -> None:
        assert neuron.axon is not None
        known = self.clients.get(neuron.hotkey)
        try:
            client = ExpertClient(
                self._http,
                self._signer,
                neuron.hotkey,
                neuron.axon,
                vocab_size=self._spec.spec.vocab_size,
                allow_private=self._allow_private,
            )
            card = await client.card(timeout_s=CARD_TIMEOUT_S)
        except (PeerError, WireError) as error:
            # Validators and routers have axons and no cards; miners may be starting.
            log.debug("no card uid=%d reason=%s", neuron.uid, error)
            self._backoff.failed((neuron.hotkey, neuron.axon))
            return
        if card.spec_sha256 != self._spec.sha256:
            log.info("expert uid=%d serves another spec; not asked", neuron.uid)
            self._backoff.failed((neuron.hotkey, neuron.axon))
            self.clients.pop(neuron.hotkey, None)
            return
        self._backoff.answered((neuron.hotkey, neuron.axon))
        if known is None:
            log.info("expert uid=%d hotkey=%s name=%r met", neuron.uid, neuron.hotkey, card.name)
        if known is None or known.axon != neuron.axon:
            self.clients[neuron.hotkey] = client
        else:
            known.commits = card.commits
