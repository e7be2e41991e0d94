"""Which experts to ask: those of the roster, benched when they fail."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

from moesubnet.errors import PeerLate, PeerRefused, PeerResting
from moesubnet.router.metrics import Metrics
from moesubnet.types import Hotkey, Metagraph
from moesubnet.wire.asked import PanelError
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.line import HELD_S, Line
from moesubnet.wire.protocol import ExpertCard, StepResponse
from moesubnet.wire.roster import Met, Roster

BENCH_AFTER_FAILURES = 3
BENCH_AFTER_LATE = 10  # slower than the others on one text may be the one to ask on the next
BENCH_S = 15.0
REMEMBERED = 32  # answers whose times are shown

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Record:
    """One miner that serves this subnet's spec, and how it has answered."""

    met: Met
    failures: int = 0  # in a row
    late: int = 0  # in a row
    benched_until: float = 0.0
    answers: int = 0
    took_s: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    line: Line = field(default_factory=Line)  # of all streams' prompts there

    @property
    def latency_s(self) -> float | None:
        """What its newest answers took, in the median."""
        return median(self.took_s) if self.took_s else None

    @property
    def card(self) -> ExpertCard:
        return self.met.card


class ExpertBook:
    """The experts known now. `refresh` follows the metagraph; streams report how calls went."""

    def __init__(
        self,
        roster: Roster,
        *,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
    ) -> None:
        self._roster = roster
        self._clock = clock
        self.metrics = metrics or Metrics()
        self._experts: dict[Hotkey, Record] = {}

    def known(self) -> Mapping[Hotkey, Record]:
        return self._experts

    def serving(self) -> dict[Hotkey, ExpertClient]:
        """Experts to ask. If every one is benched, all are: the fault may be on our side."""
        now = self._clock()
        ready = {k: e.met.client for k, e in self._experts.items() if e.benched_until <= now}
        return ready or {k: e.met.client for k, e in self._experts.items()}

    def report(self, hotkey: Hotkey, answer: StepResponse | PanelError) -> None:
        """Count what came of asking; failures or late answers in a row bench the expert."""
        expert = self._experts.get(hotkey)
        if expert is None or isinstance(answer, PeerResting):
            return
        if self._clock() < expert.benched_until and not isinstance(answer, StepResponse):
            return  # of a call that began before
        if isinstance(answer, StepResponse):
            expert.failures = expert.late = 0
            expert.answers += 1
            self.metrics.expert(hotkey, "valid", answer.took_s)
            if answer.took_s is not None:
                expert.took_s.append(answer.took_s)
        elif isinstance(answer, PeerLate) or _is_put_off(answer):
            expert.late += 1
            self.metrics.expert(hotkey, "late" if isinstance(answer, PeerLate) else "busy")
        else:
            expert.failures += 1
            self.metrics.expert(hotkey, "failed")
        if expert.failures >= BENCH_AFTER_FAILURES or expert.late >= BENCH_AFTER_LATE:
            expert.benched_until = self._clock() + BENCH_S
            uid, name = expert.met.neuron.uid, expert.card.name
            log.info("expert uid=%d name=%r rests %g s: %s", uid, name, BENCH_S, answer)

    async def refresh(self, metagraph: Metagraph) -> None:
        """See `Roster.refresh`. Who has moved begins anew."""
        await self._roster.refresh(metagraph)
        met = self._roster.met
        self._experts = {
            hotkey: known
            if (known := self._experts.get(hotkey)) is not None and known.met.client is m.client
            else Record(m)
            for hotkey, m in met.items()
        }
        for hotkey, expert in self._experts.items():
            expert.met = met[hotkey]
            expert.met.client.held_s = HELD_S
        self.metrics.keep_only(self._experts)


def _is_put_off(answer: PanelError) -> bool:
    """A miner that has no place for us now is none that fails, nor one to whom we come too late."""
    return isinstance(answer, PeerRefused) and (answer.status == 429 or answer.is_stale)
