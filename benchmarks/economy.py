"""Who earns what when some of the miners are hostile: the real code over the real runtime.

    python benchmarks/record_laws.py FOLDER          # once
    python benchmarks/economy.py FOLDER [--epochs 20] [--seed 0] [SCENARIO …]

Each scenario is an economy of its own: honest experts of recorded laws, two validators of equal
stake with different private text, and adversaries of `examples/adversaries`. Prints one Markdown
table: what those that are looked at (the hostile, or honest newcomers) earned together, in τ an
epoch and against the mean of the others, their mean standing, and what became of the pay of the
others, against the economy without them. Texts differ from economy to economy, which alone moves
pay by some percent. Epochs before the first votes are paid do not count.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from adversaries.aggregator import Aggregator
from adversaries.delayed_copier import DelayedCopier
from adversaries.echo import Echo
from adversaries.liar import Liar
from adversaries.ngram_cache import NgramCache
from adversaries.noisy_copier import NoisyCopier
from adversaries.relay import Relay
from adversaries.sharpened_self import SharpenedSelf
from adversaries.squatter import Squatter
from adversaries.swarm import swarm
from simulation import Law, Ledger, Member, play
from virtual_time import run

from moesubnet.mixture.baseline import Unigram
from moesubnet.spec.content import load_spec
from moesubnet.training.dataset import encode, read_documents
from moesubnet.training.tokenizer import load_tokenizer
from moesubnet.validator.probes import PREFIX_TOKENS

SPECIALISTS = ("python", "cpp", "prose", "maths")
WARM_UP_EPOCHS = 4  # until votes on measurements are paid
VALIDATORS = ("validator-0", "validator-1")
VALIDATOR_STAKE_TOKENS = 1_000


class Recordings:
    """What `record_laws.py` wrote. The folder's walks are known, and only they."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec = load_spec(root / "spec")
        self.baseline = Unigram.load(self.spec.path(self.spec.spec.baseline.file))
        self.walks = np.load(root / "walks.npy")
        self._index = {ids[:PREFIX_TOKENS].tobytes(): k for k, ids in enumerate(self.walks)}

    def law(self, name: str) -> Law:
        laws = np.load(self.root / "laws" / f"{name}.npy", mmap_mode="r")

        def recorded(ids: np.ndarray) -> np.ndarray:
            return laws[self._index[ids[:PREFIX_TOKENS].tobytes()], len(ids) - PREFIX_TOKENS]

        return recorded

    def public_ids(self) -> list[np.ndarray]:
        texts = [document.text for document in read_documents(self.root / "spec/public.jsonl")]
        return encode(texts, load_tokenizer(self.spec.tokenizer_path))


@dataclass(frozen=True)
class Scenario:
    """honest, hostile: members, in the order in which all register."""

    claim: str
    members: tuple[Member, ...]
    hostile: frozenset[str]
    victim: str = ""  # whose loss is looked at; else everybody's


def scenarios(recorded: Recordings) -> Mapping[str, Callable[[], Scenario]]:
    """By name; made when played."""
    law = recorded.law
    honest = tuple(Member(name, law(name)) for name in SPECIALISTS)
    experts = [law(name) for name in SPECIALISTS]
    first = PREFIX_TOKENS
    vocab_size = recorded.spec.spec.vocab_size

    def after(claim: str, victim: str = "", **hostile: Law) -> Callable[[], Scenario]:
        members = tuple(Member(name, given) for name, given in hostile.items())
        return lambda: Scenario(claim, (*honest, *members), frozenset(hostile), victim)

    def before(claim: str, **hostile: Law) -> Callable[[], Scenario]:
        members = tuple(Member(name, given) for name, given in hostile.items())
        return lambda: Scenario(claim, (*members, *honest), frozenset(hostile))

    def later(claim: str, *names: str, joins: int = 6) -> Callable[[], Scenario]:
        members = tuple(Member(name, law(name), joins=joins) for name in names)
        return lambda: Scenario(claim, (*honest, *members), frozenset(names))

    def copies(sigma: float) -> Callable[[], Scenario]:
        return after(f"copy, noise {sigma:g}", "cpp", copy=NoisyCopier(law("cpp"), sigma))

    def siblings() -> Scenario:
        names = ("all", *(f"all-{domain}" for domain in SPECIALISTS))
        members = tuple(Member(name, law(name)) for name in names)
        return Scenario("siblings of one base, honest", members, frozenset(names[1:]))

    return {
        "honest": lambda: Scenario("nobody is hostile", honest, frozenset()),
        **{f"copy-{sigma:g}": copies(sigma) for sigma in (0.0, 0.1, 0.3, 0.6, 1.0)},
        "swarm": after(
            "five copies, noise 0.3",
            "cpp",
            **{f"copy-{i}": member for i, member in enumerate(swarm(law("cpp"), 5, 0.3))},
        ),
        "flattened": after("self, flattened", "cpp", flat=SharpenedSelf(law("cpp"), 0.8)),
        "sharpened": after("self, sharpened", "cpp", sharp=SharpenedSelf(law("cpp"), 1.3)),
        "cheap": after("self in 4 bits", "maths", cheap=law("maths-4bit")),
        "aggregator": after("aggregator", aggregator=Aggregator(experts, first=first)),
        "quick-aggregator": after(
            "aggregator that forgets quicker",
            aggregator=Aggregator(experts, gamma=0.8, first=first),
        ),
        "relay": after("relay of the best so far", relay=Relay(experts, first=first)),
        "delayed": after(
            "copy, one token late", "cpp", late=DelayedCopier(law("cpp"), first=first)
        ),
        "liar": after("liar", liar=Liar(law("cpp"))),
        "echo": after("echo", echo=Echo(vocab_size)),
        "ngrams": after("n-gram cache", ngrams=NgramCache(recorded.public_ids(), vocab_size)),
        "parasite": after(
            "aggregator and 3 parts in 10 of a law of its own",
            parasite=Aggregator(
                experts, gamma=0.8, first=first, own=law("python-rival"), share=0.3
            ),
        ),
        "rival": later("equal newcomer, honest", "python-rival"),
        "better": later("better newcomer, honest", "cpp-better"),
        "late-all": later("generalist newcomer, honest", "all"),
        "siblings": siblings,
        "squatters": before(
            "weak adapters in every domain, first",
            **{
                f"weak-{name}": Squatter(lambda _: recorded.baseline.logp, law(name), 0.1)
                for name in SPECIALISTS
            },
        ),
        "early-aggregator": before(
            "aggregator, registered first", aggregator=Aggregator(experts, first=first)
        ),
    }


def judge(name: str, scenario: Scenario, ledger: Ledger, reference: Mapping[str, float]) -> str:
    """One row. reference: τ an epoch by honest expert where nobody is hostile."""
    since = WARM_UP_EPOCHS + max((m.joins for m in scenario.members), default=0)
    epochs = max(1, len(ledger.paid_rao) - since)
    paid = {m.name: ledger.tokens(m.name, since) / epochs for m in scenario.members}
    taken = sum(paid[hostile] for hostile in scenario.hostile)
    honest = [paid[m.name] for m in scenario.members if m.name not in scenario.hostile]
    mean = sum(honest) / len(honest)
    best = max((paid[hostile] for hostile in scenario.hostile), default=0.0)
    kept = [
        f"{member} {paid[member] / reference[member] - 1:+.0%}"
        for member in ([scenario.victim] if scenario.victim else reference)
        if member in paid and reference.get(member)
    ]
    standing = ledger.standing([m.hotkey for m in scenario.members if m.name in scenario.hostile])
    return (
        f"| {name} | {scenario.claim} | {taken:.2f} | {taken / mean:.0%} | {best / mean:.0%} | "
        f"{standing:.2f} | {', '.join(kept) or '–'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("scenario", nargs="*", help="which; all by default")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--walks", type=int, default=32, help="of a validator, an epoch")
    parser.add_argument("--seed", type=int, default=0, help="which text, in what order")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.WARNING)
    recorded = Recordings(arguments.folder.expanduser())
    known = scenarios(recorded)
    wanted = arguments.scenario or list(known)
    if unknown := set(wanted) - set(known):
        parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    order = np.random.default_rng(arguments.seed).permutation(len(recorded.walks))
    texts = {
        name: recorded.walks[order[index :: len(VALIDATORS)]]
        for index, name in enumerate(VALIDATORS)
    }
    reference: dict[str, float] = {}
    print(f"{arguments.epochs} epochs, {arguments.walks} walks, seed {arguments.seed}\n")
    print(
        "| economy | those looked at | τ an epoch | of an honest one | best | standing | others |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(["honest", *wanted]):
        scenario = known[name]()
        judges = [Member(v, stake_tokens=VALIDATOR_STAKE_TOKENS) for v in VALIDATORS]
        started_s = time.monotonic()
        ledger = run(
            play(
                [*scenario.members, *judges],
                texts,
                recorded.spec,
                recorded.baseline,
                epochs=arguments.epochs,
                walks_per_epoch=arguments.walks,
            )
        )
        if name == "honest":
            counted = len(ledger.paid_rao) - WARM_UP_EPOCHS
            reference |= {
                m.name: ledger.tokens(m.name, WARM_UP_EPOCHS) / counted for m in scenario.members
            }
            print(f"| honest | – | – | – | – | – | {_line(reference)} τ |", flush=True)
        else:
            print(judge(name, scenario, ledger, reference), flush=True)
        print(f"{name}: {time.monotonic() - started_s:.0f} s", file=sys.stderr)


def _line(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items())


if __name__ == "__main__":
    main()
