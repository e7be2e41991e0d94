"""Whom a panel asks, and what may come instead of an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from moesubnet.errors import AuthError, PeerError, WireError
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import StepRequest, StepResponse

PanelError = PeerError | WireError | AuthError


class Asked(Protocol):
    """Whoever answers steps: a miner over HTTP (`client.ExpertClient`), a recording, a simulation.

    An answer is checked and normalised by whoever implements this: `StepResponse.from_bytes` does
    it for what strangers send.
    """

    @property
    def hotkey(self) -> Hotkey: ...

    @property
    def commits(self) -> bool:
        """Whether it commits to the tails of laws of which it lists a part."""
        ...

    def step(
        self,
        request: StepRequest,
        *,
        timeout_s: float,
        on_its_way: Callable[[], None] = lambda: None,
    ) -> Awaitable[StepResponse]:
        """on_its_way: called when the request leaves, after any wait for a place of our own.

        Raises PeerError, WireError, AuthError; UnknownBase where it holds less than the base.
        """
        ...

    async def close_sessions(self, sessions: Sequence[str], *, timeout_s: float) -> None:
        """Say that these sessions are over. Raises PeerError."""
        ...
