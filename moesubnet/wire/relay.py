"""Steps through a router: a validator's question under the hotkey that users' questions come from.

`POST /v1/relay` of a router's node takes a lane of a validator's steps, each with its expert, and
sends each to that expert beside the router's own; the expert's answer comes back as it is, with
nonce and receipt, so whoever has them can check that the expert signed exactly this for this
router.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from moesubnet.errors import (
    AuthError,
    FrameError,
    MalformedAuth,
    PeerError,
    PeerUnavailable,
    RelayLost,
    UnknownBase,
    WireError,
)
from moesubnet.types import Hotkey
from moesubnet.wire.asked import Asked
from moesubnet.wire.client import ExpertClient, read_card
from moesubnet.wire.departures import Departures, Parcel
from moesubnet.wire.lanes import MAX_RECEIPT_BYTES, verify_step
from moesubnet.wire.protocol import (
    Proof,
    RouterCard,
    StepRequest,
    StepResponse,
    max_answer_bytes,
)
from moesubnet.wire.signing import sha256_of

RELAY_PATH = "/v1/relay"
UNKNOWN, LOST = 404, 502  # no expert of this router's; it was asked, and no proven answer came
PLACE_S = 2.0  # so long a step waits at the router for its turn
EXTRA_S = 1.0 + PLACE_S  # with the way there and back
MOST_UNDER_WAY = 32  # lanes to one router
WINDOW_BYTES = 2**24  # of answers awaited from one router: it lets nobody have many times as much
_QUESTION = re.compile(rb"([1-9A-HJ-NP-Za-km-z]{47,48}) ([1-9][0-9]{0,5})\n")
_BROUGHT = struct.Struct("<HQH")  # status, nonce, length of the receipt

log = logging.getLogger(__name__)


class Question(NamedTuple):
    """What a lane to a router has in place of a step."""

    expert: Hotkey
    timeout_ms: int
    step: bytes

    def to_bytes(self) -> bytes:
        return f"{self.expert} {self.timeout_ms}\n".encode() + self.step

    @classmethod
    def from_bytes(cls, data: bytes) -> Question:
        """Raises FrameError; of the step nothing is looked at."""
        said = _QUESTION.match(data)
        if said is None:
            raise FrameError("no expert, or no number of milliseconds")
        return cls(Hotkey(said[1].decode()), int(said[2]), data[said.end() :])


class Brought(NamedTuple):
    """What a router brings: an expert's status (200 or 409), body, nonce and receipt, unproven.
    UNKNOWN or LOST: nothing."""

    status: int
    nonce_ns: int = 0
    receipt: bytes = b""
    body: bytes = b""

    def to_bytes(self) -> bytes:
        head = _BROUGHT.pack(self.status, self.nonce_ns, len(self.receipt))
        return head + self.receipt + self.body

    @classmethod
    def from_bytes(cls, data: bytes) -> Brought:
        """Raises MalformedAuth."""
        if len(data) < _BROUGHT.size:
            raise MalformedAuth("not what a relay brings")
        status, nonce_ns, length = _BROUGHT.unpack_from(data)
        middle = _BROUGHT.size + length
        brought = cls(status, nonce_ns, data[_BROUGHT.size : middle], data[middle:])
        if status in (UNKNOWN, LOST) and brought == cls(status):
            return brought
        if (
            status not in (200, 409)
            or not 0 < nonce_ns < 2**63  # others are of an expert in league with its router
            or not 0 < length <= min(MAX_RECEIPT_BYTES, len(data) - _BROUGHT.size)
        ):
            raise MalformedAuth("not what a relay brings")
        return brought


class RelayClient(ExpertClient):
    """Talks to one router's node. Steps of all walks, to all its experts, leave in its lanes."""

    _lane_path = RELAY_PATH

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As `ExpertClient`."""
        super().__init__(*args, **kwargs)
        # A user's step waits for others once, at the router. So does a walk's, or it would be late.
        self._departures = Departures(
            self._carry,
            most_under_way=MOST_UNDER_WAY,
            window_bytes=WINDOW_BYTES,
            waited_part=0.0,
        )

    async def router_card(self, *, timeout_s: float) -> RouterCard:
        """Raises PeerError, WireError."""
        return await read_card(self._http, self.hotkey, self.axon, RouterCard, timeout_s=timeout_s)

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
        question = Question(expert, max(1, round(1_000 * timeout_s)), request.to_bytes())
        most_bytes = max_answer_bytes(request, self._vocab_size) + MAX_RECEIPT_BYTES + 64
        parcel = Parcel(
            question.to_bytes(), most_bytes, timeout_s + EXTRA_S, on_its_way,
            stream=request.sequences[0].session, to=expert,
        )  # fmt: skip
        try:
            status, data, _, _ = await self._departures.step(parcel)
            brought = Brought.from_bytes(data if status == 200 else b"")
        except (PeerError, WireError, AuthError) as error:
            raise RelayLost(f"the router: {error}") from error
        if brought.status == UNKNOWN:
            raise RelayLost("the router does not ask it")
        if brought.status == LOST:
            raise PeerUnavailable("no answer, says a router")
        given = await sha256_of(brought.body)
        try:
            verify_step(
                brought.receipt, request.sha256, brought.status, given,
                brought.nonce_ns, expert, self.hotkey,
            )  # fmt: skip
        except AuthError as error:
            raise RelayLost(f"the router brings what the expert did not sign: {error}") from None
        proof = Proof.of(
            request, brought.nonce_ns, brought.receipt, brought.body, sender=self.hotkey
        )
        return await self._decoded(request, brought.status, brought.body, proof)


class Relayed:
    """One expert in one walk, asked through the first of `relays` that works, and when none does
    directly. `asked.Asked`."""

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


def asks_directly(client: Asked | None) -> bool:
    """Whether an expert knows by its sender who asks."""
    return client is not None and not (isinstance(client, Relayed) and client.sender is not None)


def through(
    experts: Mapping[Hotkey, Asked], relays: Sequence[RelayClient]
) -> dict[Hotkey, Relayed]:
    """All experts for one walk."""
    return {hotkey: Relayed(expert, relays) for hotkey, expert in experts.items()}
