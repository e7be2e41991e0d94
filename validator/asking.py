"""How a validator asks experts: walks as routers' texts are asked, and through routers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from random import SystemRandom
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moesubnet.errors import PeerError
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.choosing import choose
from moesubnet.mixture.gate import Gate
from moesubnet.mixture.gate_sync import GateSync
from moesubnet.types import Hotkey, Metagraph
from moesubnet.validator.before import Kept
from moesubnet.validator.choices import Scored
from moesubnet.validator.company import Known, company
from moesubnet.validator.probes import walk_batch
from moesubnet.validator.receipts import SALT_BYTES, session_name
from moesubnet.validator.records import Batch, Step, Window
from moesubnet.validator.shapes import Ahead
from moesubnet.validator.walks import Slots, Told
from moesubnet.wire.asked import Asked
from moesubnet.wire.panel import Panel
from moesubnet.wire.protocol import ExpertCard, want_for
from moesubnet.wire.relay import asks_directly, through
from moesubnet.wire.routers import Drawing

DEADLINE_S = 5.0  # for one expert's answer to one step of a walk, as a router's by default


class Experts(Protocol):
    """Who can be asked: `wire.roster.Roster` over HTTP, or who stands in for it in an economy."""

    @property
    def clients(self) -> Mapping[Hotkey, Asked]: ...

    @property
    def cards(self) -> Mapping[Hotkey, ExpertCard]: ...

    async def refresh(self, metagraph: Metagraph) -> None:
        """Meet who is new on the metagraph, forget who left."""
        ...


class Asking:
    """routers: through whom walks go, while there are any."""

    def __init__(
        self,
        own_hotkey: Hotkey,
        baseline: Unigram,
        experts: Experts,
        gates: GateSync,
        routers: Drawing | None = None,
    ) -> None:
        self._own_hotkey = own_hotkey
        self._baseline = baseline
        self.experts = experts
        self._gates = gates
        self._routers = routers
        self._closing: set[asyncio.Task[None]] = set()  # held, or they could vanish half done

    @property
    def gate(self) -> Gate:
        return self._gates.gate

    @property
    def vocab_size(self) -> int:
        return len(self._baseline.logp)

    def whom(
        self,
        known: Known,
        hotkeys: Sequence[Hotkey],
        prefix: npt.NDArray[np.uint32],
        elder: Hotkey | None = None,
    ) -> tuple[Hotkey, ...]:
        """Of `hotkeys` those whom a walk with this prefix asks; with those who do not serve, as
        nobody waits for them. elder: with it, and all who answer sooner."""
        serving, lots = sorted(self.experts.clients.keys() & set(hotkeys)), SystemRandom()
        chosen = {*choose(self.gate, prefix, serving), *([elder] if elder in serving else ())}
        asked = company(known, chosen, serving, lots)
        if elder is not None:
            asked |= {h for h in serving if known.is_sooner(h, elder)}
        return tuple(h for h in hotkeys if h in asked or h not in serving)

    def ways(self, count: int) -> list[Mapping[Hotkey, Asked]]:
        """To all experts, one for each walk."""
        experts, lots = self.experts.clients, SystemRandom()
        if self._routers is None:
            return [experts] * count
        return [through(experts, self._routers.draw(lots)) for _ in range(count)]

    def two_ways(self) -> list[Mapping[Hotkey, Asked]]:
        """By two senders, ourselves among them where there is one router only."""
        relays = self._routers.draw(SystemRandom()) if self._routers is not None else []
        experts = self.experts.clients
        return [through(experts, relays[:1]), through(experts, relays[1:])]

    def steps(
        self,
        batch: Batch,
        slots: Slots,
        ways: Sequence[Mapping[Hotkey, Asked]],
        ahead: Ahead | None,
        scored: Scored = Scored.ALONE,
        told: Told | None = None,
    ) -> AsyncGenerator[Step, None]:
        want = want_for(self.vocab_size)
        panels = [Panel(way, base_s=DEADLINE_S, want=want) for way in ways]
        law = self._baseline.law
        return walk_batch(panels, batch, self.gate, law, ways, slots, ahead, scored, told)

    def forget(self, batch: Batch, ways: Sequence[Mapping[Hotkey, Asked]]) -> None:
        """Tell each expert, in one call and waiting for none, that these walks are over. Not those
        through routers: their sessions are the routers', and we would be naming the probes."""

        async def tell(client: Asked, sessions: Sequence[str]) -> None:
            with contextlib.suppress(PeerError):
                await client.close_sessions(sessions, timeout_s=DEADLINE_S)

        for hotkey in batch.hotkeys:
            asked = zip(batch.sessions, ways, strict=True)
            ours = [name for name, way in asked if asks_directly(way.get(hotkey))]
            client = self.experts.clients.get(hotkey)
            if client is not None and ours:
                task = asyncio.create_task(tell(client, ours))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def quietly(
        self,
        text: Window | Kept,
        hotkeys: Sequence[Hotkey],
        slots: Slots,
        way: Mapping[Hotkey, Asked],
        ahead: Ahead | None,
        told: Told | None = None,
    ) -> list[Step]:
        """A walk as all others, that is in no sheet. ahead: None where nothing is drafted."""
        session = session_name(self._own_hotkey, secrets.token_bytes(SALT_BYTES))
        walks, unscored = text.ids[None], text.unscored
        batch = Batch(-1, tuple(hotkeys), walks, text.first, (session,), (), unscored=unscored)
        steps = self.steps(batch, slots, [way], ahead, told=told)
        try:
            async with contextlib.aclosing(steps):
                return [step async for step in steps]
        finally:
            self.forget(batch, [way])
