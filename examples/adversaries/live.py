"""Attackers to serve on a running subnet, each by one command:

PYTHONPATH=examples moesubnet miner run --engine adversaries.live:Attacker \\
    --hotkey mine/bad --adapter aggregator --model 'mine/spy 5Fsource… 5Fother…' --port 8300

`--model` names the hotkey that asks (registered, with the stake that miners want of callers) and
the experts that are asked; the first of them is the one to copy. `--adapter` is the attacker:

aggregator          answers the others' mixture, weighed as a router weighs
validators-only     the same, and answers nobody but validators
copy-1, copy-2, …   the first one's law with noise of its own
sharpened           the first one's law to the power 1.3
liar                the first one's best token, surely
over-corrector      leans from the others towards the first
slow                knows nothing, and says it 0.9 s late
looker              knows nothing but what stands in public sheets (both: `--model none`)

Several `--hotkey` with an `--adapter` each are one process that asks the others once for all of
them, so that five copies cost whom they copy no more than one. Chain and subnet are those of the
variables MOESUBNET_CHAIN and MOESUBNET_NETUID: an engine is not told `--chain` and `--netuid`.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence

from adversaries.aggregator import Aggregator
from adversaries.label_looker import LabelLooker
from adversaries.liar import Liar
from adversaries.noisy_copier import NoisyCopier
from adversaries.others import Others, Subnet
from adversaries.over_corrector import OverCorrector
from adversaries.picky import Picky
from adversaries.served import Ids, Law, LawEngine
from adversaries.sharpened_self import SharpenedSelf
from adversaries.slow_partner import SlowPartner
from moesubnet.chain.wallet import load_hotkey
from moesubnet.errors import ConfigError
from moesubnet.spec.content import LoadedSpec

COPY_SIGMA, POWER, LATE_S = 0.3, 1.3, 0.9


class Gang:
    """What the attackers of one process share. model: see the module."""

    def __init__(self, model: str, spec: LoadedSpec) -> None:
        url = os.environ.get("MOESUBNET_CHAIN", "ws://127.0.0.1:9944")
        self.subnet = Subnet(spec, url, int(os.environ.get("MOESUBNET_NETUID", "1")))
        caller, *experts = model.split()
        self.others = Others(self.subnet, load_hotkey(caller), experts) if experts else None
        self._began_s = 0.0

    @property
    def laws(self) -> list[Law]:
        if self.others is None:
            raise ConfigError("--model names the hotkey that asks, then the experts that it asks")
        return self.others.laws

    def expect(self, texts: Sequence[Ids]) -> None:
        self._began_s = time.monotonic()
        if self.others is not None:
            self.others.expect(texts)

    def late(self, pause_s: float) -> None:
        """Once for all that is asked together."""
        time.sleep(max(0.0, self._began_s + pause_s - time.monotonic()))

    def knows_nothing(self, ids: Ids) -> Law:
        return self.subnet.shape.logp

    def looker(self) -> Law:
        looker = LabelLooker(self.knows_nothing)
        self.subnet.readers.append(looker.read)
        return looker


ATTACKERS: Mapping[str, Callable[[Gang], Law]] = {
    "aggregator": lambda gang: Aggregator(gang.laws),
    "validators-only": lambda gang: Picky(Aggregator(gang.laws), only=gang.subnet.validators),
    "sharpened": lambda gang: SharpenedSelf(gang.laws[0], POWER),
    "liar": lambda gang: Liar(gang.laws[0]),
    "over-corrector": lambda gang: OverCorrector(gang.laws[0], gang.laws[1:]),
    "slow": lambda gang: SlowPartner(gang.knows_nothing, LATE_S, gang.late),
    "looker": Gang.looker,
}


class Attacker(LawEngine):
    """See the module."""

    def __init__(
        self,
        model: str,
        spec: LoadedSpec,
        *,
        threads: int = 1,
        adapter: str = "",
        gang: Gang | None = None,
    ) -> None:
        gang = gang or Gang(model, spec)
        kind, _, seed = adapter.partition("-")
        if kind == "copy" and seed.isdigit():
            law: Law = NoisyCopier(gang.laws[0], COPY_SIGMA, seed=int(seed))
        elif adapter in ATTACKERS:
            law = ATTACKERS[adapter](gang)
        else:
            raise ConfigError(f"--adapter is copy-1, copy-2, … or one of {', '.join(ATTACKERS)}")
        super().__init__(f"{model} {adapter}", spec, law, gang.expect)

    @classmethod
    def several(
        cls, model: str, spec: LoadedSpec, adapters: Sequence[str], *, threads: int = 1
    ) -> list[Attacker]:
        make = functools.partial(cls, model, spec, gang=Gang(model, spec))
        return [make(adapter=adapter) for adapter in adapters]
