"""Meeting a neuron of the metagraph: a client for its address, and the card that it shows."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Generic, TypeVar

import aiohttp

from moesubnet.errors import AuthError, PeerError, PeerUnavailable, WireError
from moesubnet.types import Axon, Hotkey, Signer
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.limits import Backoff
from moesubnet.wire.protocol import Card

CARD_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


C = TypeVar("C", bound=ExpertClient)
K = TypeVar("K", bound=Card)


class Meetings(Generic[C, K]):
    """With neurons of one kind. show: asks one for its card, with so many seconds to answer."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        signer: Signer,
        kind: type[C],
        show: Callable[[C, float], Awaitable[K]],
        *,
        spec_sha256: str,
        vocab_size: int,
        allow_private: bool,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http, self._signer = http, signer
        self._kind, self._show = kind, show
        self._spec_sha256, self._vocab_size = spec_sha256, vocab_size
        self._allow_private = allow_private
        self._backoff = Backoff(clock_s=clock_s)

    def keep_only(self, where: Collection[tuple[Hotkey, Axon]]) -> None:
        """Forget the failures of who is not there any more."""
        self._backoff.keep_only(set(where))

    def is_due(self, hotkey: Hotkey, axon: Axon) -> bool:
        """Whoever shows no card is asked more and more rarely."""
        return self._backoff.is_due((hotkey, axon))

    async def meet(self, hotkey: Hotkey, axon: Axon, known: C | None = None) -> tuple[C, K] | None:
        """None where it shows no card of this spec. known: a client of its, kept while it stays
        where it was."""
        try:
            client = known if known is not None and known.axon == axon else self._new(hotkey, axon)
        except PeerUnavailable as error:
            if self._backoff.is_new((hotkey, axon)):
                log.info("hotkey=%s is not asked: %s: %s", hotkey, axon.ip, error)
            self._backoff.failed((hotkey, axon))
            return None
        try:
            card = await self._show(client, CARD_TIMEOUT_S)
        except (PeerError, WireError, AuthError) as error:
            # Others have axons and no such cards; these may be starting.
            log.debug("no card hotkey=%s reason=%s", hotkey, error)
            self._backoff.failed((hotkey, axon))
            return None
        if card.spec_sha256 != self._spec_sha256:
            log.info("hotkey=%s serves another spec", hotkey)
            self._backoff.failed((hotkey, axon))
            return None
        self._backoff.answered((hotkey, axon))
        return client, card

    def _new(self, hotkey: Hotkey, axon: Axon) -> C:
        """Raises PeerUnavailable where its address may not be used."""
        return self._kind(
            self._http,
            self._signer,
            hotkey,
            axon,
            vocab_size=self._vocab_size,
            allow_private=self._allow_private,
        )
