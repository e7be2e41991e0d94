"""Which experts to ask: found on the metagraph, checked by card, benched when they fail."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import aiohttp

from moesubnet.errors import AuthError, PeerError, PeerLate, PeerRefused, PeerResting, WireError
from moesubnet.router.metrics import Metrics
from moesubnet.spec.content import LoadedSpec
from moesubnet.types import Axon, Hotkey, Metagraph, Neuron, Signer
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.limits import Backoff
from moesubnet.wire.panel import PanelError
from moesubnet.wire.protocol import ExpertCard, StepResponse

log = logging.getLogger(__name__)

CARD_TIMEOUT_S = 5.0
BENCH_AFTER_FAILURES = 3
BENCH_AFTER_LATE = 10  # slower than the others on one text may be the one to ask on the next
BENCH_S = 15.0


@dataclass(slots=True)
class Expert:
    """One miner that serves this subnet's spec."""

    uid: int
    axon: Axon
    client: ExpertClient
    card: ExpertCard
    failures: int = 0  # in a row
    late: int = 0  # in a row
    benched_until: float = 0.0
    answers: int = field(default=0)
    incentive_u16: int = 0  # at the last refresh


class ExpertBook:
    """The experts known now. `refresh` follows the metagraph; streams report how calls went."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        signer: Signer,
        spec: LoadedSpec,
        *,
        allow_private: bool,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
    ) -> None:
        self._http = http
        self._signer = signer
        self._spec = spec
        self._allow_private = allow_private
        self._clock = clock
        self.metrics = metrics or Metrics()
        self._experts: dict[Hotkey, Expert] = {}
        self._backoff = Backoff(clock_s=clock)

    def known(self) -> Mapping[Hotkey, Expert]:
        return self._experts

    def serving(self) -> dict[Hotkey, ExpertClient]:
        """Experts to ask. If every one is benched, all are: the fault may be on our side."""
        now = self._clock()
        ready = {k: e.client for k, e in self._experts.items() if e.benched_until <= now}
        return ready or {k: e.client for k, e in self._experts.items()}

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
            self.metrics.expert(hotkey, "valid")
        elif isinstance(answer, PeerLate) or _is_busy(answer):
            expert.late += 1
            self.metrics.expert(hotkey, "late" if isinstance(answer, PeerLate) else "busy")
        else:
            expert.failures += 1
            self.metrics.expert(hotkey, "failed")
        if expert.failures >= BENCH_AFTER_FAILURES or expert.late >= BENCH_AFTER_LATE:
            expert.benched_until = self._clock() + BENCH_S

    async def refresh(self, metagraph: Metagraph) -> None:
        """Add newcomers whose card fits the spec, follow moved axons, drop the deregistered."""
        own = self._signer.ss58_address
        wanted = {
            neuron.hotkey: neuron
            for neuron in metagraph.neurons
            if neuron.axon is not None and neuron.hotkey != own
        }
        for hotkey in [known for known in self._experts if known not in wanted]:
            del self._experts[hotkey]
        self.metrics.keep_only(wanted)
        self._backoff.keep_only({(key, neuron.axon) for key, neuron in wanted.items()})
        async with asyncio.TaskGroup() as group:
            for hotkey, neuron in wanted.items():
                assert neuron.axon is not None
                known = self._experts.get(hotkey)
                if known is not None:
                    known.incentive_u16 = neuron.incentive_u16
                is_new = known is None or known.axon != neuron.axon
                if is_new and self._backoff.is_due((hotkey, neuron.axon)):
                    group.create_task(self._meet(neuron, neuron.axon))

    async def _meet(self, neuron: Neuron, axon: Axon) -> None:
        hotkey, uid = neuron.hotkey, neuron.uid
        try:
            client = ExpertClient(
                self._http,
                self._signer,
                hotkey,
                axon,
                vocab_size=self._spec.spec.vocab_size,
                allow_private=self._allow_private,
            )
            card = await client.card(timeout_s=CARD_TIMEOUT_S)
        except (PeerError, WireError, AuthError) as error:
            # Validators and routers have axons too, and miners may be starting: asked again later.
            log.debug("no card from uid=%d: %s", uid, error)
            self._backoff.failed((hotkey, axon))
            self._experts.pop(hotkey, None)
            return
        if card.hotkey != hotkey or card.spec_sha256 != self._spec.sha256:
            log.info("uid=%d serves another spec or hotkey; not asked", uid)
            self._backoff.failed((hotkey, axon))
            self._experts.pop(hotkey, None)
            return
        self._backoff.answered((hotkey, axon))
        self._experts[hotkey] = Expert(uid, axon, client, card, incentive_u16=neuron.incentive_u16)
        log.info("expert uid=%d name=%r joined", uid, card.name)


def _is_busy(answer: PanelError) -> bool:
    """A miner that has no place for us now is none that fails."""
    return isinstance(answer, PeerRefused) and answer.status == 429
