"""Steps through a router: a validator's question under the hotkey that users' questions come from.

`POST /v1/relay/{expert}?timeout_ms=…` of a router's node takes a validator's signed step and sends
it to the expert as one of its own; the expert's answer comes back as it is, with nonce and receipt,
so whoever has them can check that the expert signed exactly this for this router.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import aiohttp

from moesubnet.errors import (
    AuthError,
    MalformedAuth,
    PeerError,
    PeerRefused,
    PeerUnavailable,
    RelayLost,
    UnknownBase,
    WireError,
)
from moesubnet.types import Axon, Hotkey, Metagraph, NetUid, Signer
from moesubnet.wire.client import MAX_SMALL_BYTES, ExpertClient, open_response, read_body
from moesubnet.wire.frames import CONTENT_TYPE
from moesubnet.wire.lanes import MAX_RECEIPT_BYTES, verify_step
from moesubnet.wire.limits import Backoff
from moesubnet.wire.panel import Asked
from moesubnet.wire.protocol import (
    Proof,
    RouterCard,
    StepRequest,
    StepResponse,
    max_answer_bytes,
)
from moesubnet.wire.signing import RECEIPT, sha256_of
from moesubnet.wire.usage import MAX_USAGE_BYTES, Usage

STATUS = "X-Moesubnet-Relayed-Status"
NONCE = "X-Moesubnet-Relayed-Nonce"
RELAYED_RECEIPT = "X-Moesubnet-Relayed-Receipt"
LOST = 502  # the router asked, and no proven answer came
CARD_TIMEOUT_S = 5.0
MAX_ROUTERS = 64  # of the largest stakes
EXTRA_S = 2.0  # for the way to the router and back
_NONCE = re.compile(r"[1-9][0-9]{0,19}")
_RELAYED = re.compile(rf"0x(?:[0-9a-f]{{2}}){{1,{MAX_RECEIPT_BYTES}}}")

log = logging.getLogger(__name__)


class RelayClient(ExpertClient):
    """Talks to one router's node."""

    async def router_card(self, *, timeout_s: float) -> RouterCard:
        """Raises PeerError, WireError."""
        return await self._card("/v1/router", RouterCard, timeout_s)

    async def relay(
        self,
        expert: Hotkey,
        request: StepRequest,
        *,
        timeout_s: float,
        on_its_way: Callable[[], None] = lambda: None,
    ) -> StepResponse:
        """A step to `expert` through this router; as `ExpertClient.step`.

        Raises RelayLost where nothing is known of the expert, PeerUnavailable where the router
        says that no answer came, else as `step` does.
        """
        async with self._places:
            on_its_way()
            status, data, nonce, receipt = await self._relay_once(expert, request, timeout_s)
        asked, given = hashlib.sha256(request.to_bytes()).digest(), await sha256_of(data)
        try:
            verify_step(receipt, asked, status, given, nonce, expert, self.hotkey)
        except AuthError as error:
            raise RelayLost(f"the router brings what the expert did not sign: {error}") from None
        proof = Proof.of(request, nonce, receipt, data, sender=self.hotkey)
        return await self._decoded(request, status, data, proof)

    async def _relay_once(
        self, expert: Hotkey, request: StepRequest, timeout_s: float
    ) -> tuple[int, bytes, int, bytes]:
        """The expert's status (200 or 409), body, the nonce and the receipt, all unproven."""
        path = f"/v1/relay/{expert}?timeout_ms={max(1, round(1_000 * timeout_s))}"
        body = request.to_bytes()
        headers, request_sha256 = self._sign(path, body, CONTENT_TYPE)
        try:
            async with open_response(
                self._http, self.axon, "POST", path, body, headers, timeout_s + EXTRA_S
            ) as response:
                data = await read_body(
                    response, max_answer_bytes(request, self._vocab_size) + MAX_SMALL_BYTES
                )
                given = response.headers
            self._check_receipt(given.get(RECEIPT, ""), 200, request_sha256, await sha256_of(data))
            if (
                given.get(STATUS) not in ("200", "409")
                or not _NONCE.fullmatch(given.get(NONCE, ""))
                or int(given[NONCE]) >= 2**63  # where the expert is in league with its router
                or not _RELAYED.fullmatch(given.get(RELAYED_RECEIPT, ""))
            ):
                raise MalformedAuth("not what a relay brings")
        except PeerRefused as error:
            if error.status == LOST:
                raise PeerUnavailable("no answer, says a router") from None
            raise RelayLost(f"the router refuses: {error}") from error
        except (PeerError, WireError, AuthError) as error:
            raise RelayLost(f"the router: {error}") from error
        receipt = bytes.fromhex(given[RELAYED_RECEIPT][2:])
        return int(given[STATUS]), bytes(data), int(given[NONCE]), receipt


class Relayed:
    """One expert in one walk, asked through the first of `relays` that works, and when none does
    directly. `panel.Asked`."""

    def __init__(self, expert: Asked, relays: Sequence[RelayClient]) -> None:
        self.hotkey = expert.hotkey
        self._expert = expert
        self._relays = list(relays)

    @property
    def commits(self) -> bool:
        return self._expert.commits

    @property
    def sender(self) -> Hotkey | None:
        """Whose hotkey asks; None: our own."""
        return self._relays[0].hotkey if self._relays else None

    async def step(
        self,
        request: StepRequest,
        *,
        timeout_s: float,
        on_its_way: Callable[[], None] = lambda: None,
    ) -> StepResponse:
        while self._relays:
            relay = self._relays[0]
            try:
                return await relay.relay(
                    self.hotkey, request, timeout_s=timeout_s, on_its_way=on_its_way
                )
            except RelayLost as error:
                if self._relays[0] is relay:
                    self._relays.pop(0)
                log.debug("relay=%s expert=%s reason=%s", relay.hotkey, self.hotkey, error)
                if any(sequence.base_len for sequence in request.sequences):
                    # Sessions belong to senders: the next one begins from nothing.
                    raise UnknownBase((0,) * len(request.sequences)) from error
        return await self._expert.step(request, timeout_s=timeout_s, on_its_way=on_its_way)

    async def close_sessions(self, sessions: Sequence[str], *, timeout_s: float) -> None:
        if not self._relays:
            await self._expert.close_sessions(sessions, timeout_s=timeout_s)


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
        self._http = http
        self._signer = signer
        self._spec_sha256 = spec_sha256
        self._vocab_size = vocab_size
        self._min_stake_rao = min_stake_rao
        self._allow_private = allow_private
        self._found: dict[Hotkey, _Found] = {}
        self._backoff = Backoff()
        self._drawn = 0

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
            and neuron.hotkey != self._signer.ss58_address
        }
        could = dict(itertools.islice(could.items(), MAX_ROUTERS))
        self._found = {
            hotkey: _Found(found.client, could[hotkey].stake_rao)
            for hotkey, found in self._found.items()
            if hotkey in could and found.client.axon == could[hotkey].axon
        }
        self._backoff.keep_only({(n.hotkey, n.axon) for n in could.values()})
        async with asyncio.TaskGroup() as group:
            for neuron in could.values():
                assert neuron.axon is not None
                is_known = neuron.hotkey in self._found
                if not is_known and self._backoff.is_due((neuron.hotkey, neuron.axon)):
                    group.create_task(self._meet(neuron.hotkey, neuron.axon, neuron.stake_rao))

    def draw(self, lots: Random) -> list[RelayClient]:
        """Two routers for a walk, the second in case the first is lost; fewer where there are not
        so many. By stake, so that cheap hotkeys do not become the way of most probes; every other
        walk evenly, so that nobody is asked through one router only."""
        left = dict(self._found)
        self._drawn += 1
        chosen: list[RelayClient] = []
        while left and len(chosen) < 2:
            weights = [f.stake_rao if self._drawn % 2 else 1 for f in left.values()]
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
            except (PeerError, WireError, AuthError) as error:
                log.debug("no usage of router=%s reason=%s", hotkey, error)
                return None
            is_asked = (usage.netuid, usage.epoch) == (netuid, epoch)
            return (usage, found.stake_rao) if is_asked else None

        given = await asyncio.gather(*(ask(h, found) for h, found in self._found.items()))
        return [one for one in given if one is not None]

    async def _meet(self, hotkey: Hotkey, axon: Axon, stake_rao: int) -> None:
        try:
            client = RelayClient(
                self._http,
                self._signer,
                hotkey,
                axon,
                vocab_size=self._vocab_size,
                allow_private=self._allow_private,
            )
            card = await client.router_card(timeout_s=CARD_TIMEOUT_S)
        except (PeerError, WireError) as error:
            log.debug("no router's card hotkey=%s reason=%s", hotkey, error)
            self._backoff.failed((hotkey, axon))
            return
        if card.spec_sha256 != self._spec_sha256:
            self._backoff.failed((hotkey, axon))
            return
        self._backoff.answered((hotkey, axon))
        log.info("router hotkey=%s met", hotkey)
        self._found[hotkey] = _Found(client, stake_rao)


def through(
    experts: Mapping[Hotkey, Asked], relays: Sequence[RelayClient]
) -> dict[Hotkey, Relayed]:
    """All experts for one walk."""
    return {hotkey: Relayed(expert, relays) for hotkey, expert in experts.items()}
