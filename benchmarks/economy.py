"""Who earns what when some of the miners are hostile: the real code over the real runtime.

    python benchmarks/record_laws.py FOLDER          # once
    python benchmarks/economy.py FOLDER [--epochs 50] [--seed 0] [ECONOMY …]

Each economy has honest experts of recorded laws, two honest validators of equal stake with
different private text, and adversaries of `examples/adversaries`. Who repeats another answers
later than it (`HOP_S`). One Markdown row each: what those that are looked at (the hostile, or
honest newcomers) were paid together and the best of them, of a mean honest expert's pay (or, of
validators, of an honest one's by stake); their mean standing; what registering cost; what became
of the victim's pay against the economy without them, on the same text; and whether that is the
target. Epochs before the first votes are paid, and ten after somebody joined, do not count.
Rows are kept in FOLDER/economies-EPOCHS-WALKS-SEED.jsonl and not played again.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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
from adversaries.relay import Relay
from adversaries.sharpened_self import SharpenedSelf
from adversaries.squatter import Squatter
from adversaries.swarm import swarm
from simulation import HONEST_S, Law, Ledger, Member, play
from virtual_time import run

from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.sheet import Sheet
from moesubnet.spec.content import load_spec
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.training.dataset import encode, read_documents
from moesubnet.types import Hotkey
from moesubnet.units import RAO_PER_TOKEN
from moesubnet.validator.probes import PREFIX_TOKENS

SPECIALISTS = ("python", "cpp", "prose", "maths")
WARM_UP_EPOCHS = 4  # until votes on measurements are paid
SETTLED_EPOCHS = 10  # after somebody joined or turned
JOINS, TURNS = 6, 16  # when newcomers come, and seniors change what they answer
HOP_S = 0.01  # that a relay's answer takes more than its source's
VALIDATORS = ("validator-0", "validator-1")
STAKE_TOKENS = 1_000  # of an honest validator
SPARE = 64  # walks that the honest validators leave to another
MAY_LOSE = 0.1  # of its pay, a victim
HEADER = """\
| economy | looked at | τ an epoch | of an honest one | best | standing | cost | others | target |
|---|---|---|---|---|---|---|---|---|"""
Votes = Callable[[Sheet, Sequence[Sheet]], Mapping[Hotkey, int]]


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
class Economy:
    """members: in the order in which they register. looked_at: names. most: what is the most that
    they may be paid together, of an honest one; least: of an honest newcomer, the least standing.
    wakes: what happens when epoch TURNS begins."""

    claim: str
    members: tuple[Member, ...]
    looked_at: frozenset[str] = frozenset()
    victim: str = ""  # whose loss is looked at; else everybody's
    most: float | None = None
    least: float | None = None
    wakes: Callable[[], None] = lambda: None

    @property
    def counted_from(self) -> int:
        joins = max((m.joins for m in self.members), default=0)
        turns = TURNS if self.wakes is not Economy.wakes else 0
        return max(WARM_UP_EPOCHS, max(joins, turns) + SETTLED_EPOCHS * (joins + turns > 0))


class Turning:
    """A law that becomes another one."""

    def __init__(self, before: Law, after: Law) -> None:
        self._law, self._after = before, after

    def turn(self) -> None:
        self._law = self._after

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        return self._law(ids)


def lazy() -> Votes:
    """Its first row that is not empty, for ever."""
    first: dict[Hotkey, int] = {}

    def votes(sheet: Sheet, public: Sequence[Sheet]) -> Mapping[Hotkey, int]:
        if not first and any(sheet.row_u16):
            first.update(zip(sheet.hotkeys, sheet.row_u16, strict=True))
        return first

    return votes


def copying(sheet: Sheet, public: Sequence[Sheet]) -> Mapping[Hotkey, int]:
    """The newest row that another validator has published."""
    others = [s for s in public if s.validator != sheet.validator]
    newest = max(others, key=lambda s: s.epoch, default=None)
    return dict(zip(newest.hotkeys, newest.row_u16, strict=True)) if newest else {}


def economies(recorded: Recordings) -> Mapping[str, Callable[[], Economy]]:
    """By name; made when played."""
    law = recorded.law
    honest = tuple(Member(name, law(name)) for name in SPECIALISTS)
    experts = [law(name) for name in SPECIALISTS]
    first, vocab_size = PREFIX_TOKENS, recorded.spec.spec.vocab_size

    def flat(ids: np.ndarray) -> np.ndarray:
        return recorded.baseline.logp

    def hostile(
        claim: str,
        victim: str = "",
        *,
        early: bool = False,
        joins: int = 0,
        waits_s: float = HOP_S,
        most: float | None = 0.05,
        **laws: Law,
    ) -> Callable[[], Economy]:
        """waits_s: how much longer than an honest expert it takes to answer."""
        theirs = tuple(
            Member(name, given, joins=joins, delay_s=HONEST_S + waits_s)
            for name, given in laws.items()
        )
        members = (*theirs, *honest) if early else (*honest, *theirs)
        return lambda: Economy(claim, members, frozenset(laws), victim, most)

    def second_self(claim: str, victim: str, given: Law) -> Callable[[], Economy]:
        """Waits for nobody."""
        return hostile(claim, victim, joins=JOINS, waits_s=-0.01, second=given)

    def newcomer(claim: str, *names: str, least: float | None = 0.9) -> Callable[[], Economy]:
        members = tuple(Member(name, law(name), joins=JOINS) for name in names)
        return lambda: Economy(claim, (*honest, *members), frozenset(names), least=least)

    def copies(k: int, sigma: float, **more: bool) -> Callable[[], Economy]:
        laws = {f"copy-{i}": copy for i, copy in enumerate(swarm(law("cpp"), k, sigma))}
        return hostile(f"{k} copies, noise {sigma:g}", "cpp", **more, **laws)

    def siblings() -> Economy:
        names = ("all", *(f"all-{domain}" for domain in SPECIALISTS))
        members = tuple(Member(name, law(name), joins=JOINS * (name != "all")) for name in names)
        return Economy("siblings of one base, honest", members, frozenset(names[1:]))

    def turned(claim: str, before: Mapping[str, Law], after: Mapping[str, Law]) -> Economy:
        """Seniors that turn against a newcomer, which is better than one of them."""
        laws = {name: Turning(before[name], after[name]) for name in before}
        seniors = [Member(name, law, delay_s=HONEST_S + HOP_S) for name, law in laws.items()]
        rest = [member for member in honest if member.name not in laws]
        newcomer = Member("cpp-better", law("cpp-better"), joins=JOINS)

        def wakes() -> None:
            for turning in laws.values():
                turning.turn()

        members = (*seniors, *rest, newcomer)
        return Economy(claim, members, frozenset(laws), "cpp-better", 0.05, wakes=wakes)

    def judged_by(claim: str, name: str, votes: Votes) -> Callable[[], Economy]:
        validator = Member(name, stake_tokens=STAKE_TOKENS, votes=votes)
        return lambda: Economy(claim, (*honest, validator), frozenset({name}), most=0.9)

    def colluder(part: float) -> Callable[[], Economy]:
        """With `part` of all validators' stake, and a favourite that knows nothing."""
        stake = round(part / (1 - part) * STAKE_TOKENS * len(VALIDATORS))
        pet = Member("pet", flat)
        row = {pet.hotkey: 65_535}
        validator = Member("colluder", stake_tokens=stake, votes=lambda sheet, public: row)
        claim = f"knows nothing, but a validator with {part:.0%} of stake votes for it"
        members = (*honest, pet, validator)
        return lambda: Economy(claim, members, frozenset({"pet"}), most=0.05)

    better = law("cpp-better")
    return {
        "honest": lambda: Economy("nobody is hostile", honest),
        "better": newcomer("better newcomer, honest", "cpp-better"),
        "rival": newcomer("equal newcomer, honest", "python-rival"),
        "late-all": newcomer("generalist newcomer, honest", "all"),
        "siblings": siblings,
        **{f"copy-{sigma:g}": copies(1, sigma) for sigma in (0.0, 0.1, 0.3, 0.6, 1.0)},
        "copies-2": copies(2, 0.3),
        "copies-5": copies(5, 0.3),
        "early-copy": copies(1, 0.0, early=True),
        "early-copies-5": copies(5, 0.3, early=True),
        "late-copies-5": hostile(
            "5 copies, noise 0.3, later",
            "cpp",
            joins=JOINS,
            **{f"copy-{i}": copy for i, copy in enumerate(swarm(law("cpp"), 5, 0.3))},
        ),
        "flattened": second_self("self, flattened", "cpp", SharpenedSelf(law("cpp"), 0.8)),
        "sharpened": second_self("self, sharpened", "cpp", SharpenedSelf(law("cpp"), 1.3)),
        "cheap": second_self("self in 4 bits, quicker", "maths", law("maths-4bit")),
        "delayed": hostile(
            "copy one token late, so soon",
            "cpp",
            waits_s=-0.015,
            late=DelayedCopier(law("cpp"), first=first),
        ),
        "aggregator": hostile("aggregator", aggregator=Aggregator(experts, first=first)),
        "quick-aggregator": hostile(
            "aggregator that forgets quicker",
            aggregator=Aggregator(experts, gamma=0.5, first=first),
        ),
        "early-aggregator": hostile(
            "aggregator, registered first",
            early=True,
            aggregator=Aggregator(experts, first=first),
        ),
        "relay": hostile("relay of the best so far", relay=Relay(experts, first=first)),
        "parasite": hostile(
            "aggregator and 3 parts in 10 of a law of its own",
            parasite=Aggregator(
                experts, gamma=0.8, first=first, own=law("python-rival"), share=0.3
            ),
        ),
        "squatters": hostile(
            "every expert diluted to a tenth, registered first",
            early=True,
            **{f"weak-{name}": Squatter(flat, law(name), 0.1) for name in SPECIALISTS},
        ),
        "dormant": lambda: turned(
            "dormant hotkey, then relay of a newcomer", {"dormant": flat}, {"dormant": better}
        ),
        "turned": lambda: turned(
            "honest senior, then relay of a newcomer",
            {"python-rival": law("python-rival")},
            {"python-rival": better},
        ),
        "colluding-seniors": lambda: turned(
            "two seniors that mix a newcomer's law into theirs",
            {name: law(name) for name in ("python", "cpp")},
            {name: Aggregator([law(name), better], first=first) for name in ("python", "cpp")},
        ),
        "liar": hostile("liar", waits_s=0.0, liar=Liar(law("cpp"))),
        "echo": hostile("echo", waits_s=-0.015, most=None, echo=Echo(vocab_size)),
        "ngrams": hostile(
            "n-gram cache",
            waits_s=-0.015,
            most=None,
            ngrams=NgramCache(recorded.public_ids(), vocab_size),
        ),
        "lazy": judged_by("validator with a cached row", "lazy", lazy()),
        "copying": judged_by("validator that votes another's last row", "copying", copying),
        **{f"colluding-{part:.0%}"[:-1]: colluder(part) for part in (0.2, 0.35, 0.49)},
    }


def judge(name: str, economy: Economy, ledger: Ledger, reference: Mapping[str, float]) -> dict:
    """One row. reference: τ an epoch by expert where nobody is hostile."""
    since = economy.counted_from
    epochs = max(1, len(ledger.paid_rao) - since)
    paid = {m.name: ledger.tokens(m.name, since) / epochs for m in economy.members}
    looked_at = [m for m in economy.members if m.name in economy.looked_at]
    if looked_at and looked_at[0].stake_tokens:
        honest = [ledger.tokens(v, since) / epochs for v in VALIDATORS]
    else:
        honest = [paid[n] for n in SPECIALISTS if n in paid and n not in economy.looked_at]
    mean = sum(honest) / len(honest) if honest else paid[economy.members[0].name]
    mean = mean or math.nan  # nothing that counts was paid yet
    taken = [paid[m.name] for m in looked_at]
    standing = ledger.standing([m.hotkey for m in looked_at], since)
    kept = {
        member: paid[member] / reference[member] - 1
        for member in ([economy.victim] if economy.victim else SPECIALISTS)
        if member in paid and member not in economy.looked_at and reference.get(member)
    }
    met = None
    if economy.most is not None:
        met = sum(taken) <= economy.most * mean
        met = met and (not economy.victim or min(kept.values()) >= -MAY_LOSE)
    if economy.least is not None:
        met = standing >= economy.least
    return {
        "economy": name,
        "claim": economy.claim,
        "paid": paid,
        "taken": sum(taken),
        "of_an_honest_one": sum(taken) / mean,
        "best": max(taken, default=0.0) / mean,
        "standing": standing,
        "cost": sum(ledger.burnt_rao.get(m.name, 0) for m in looked_at) / RAO_PER_TOKEN,
        "others": kept,
        "met": met,
    }


def row(found: dict) -> str:
    if found["economy"] == "honest":
        kept = ", ".join(f"{name} {found['paid'][name]:.2f} τ" for name in SPECIALISTS)
        return f"| honest | {found['claim']} | – | – | – | – | – | {kept} | – |"
    kept = ", ".join(f"{name} {change:+.0%}" for name, change in found["others"].items())
    met = {True: "met", False: "**missed**", None: "–"}[found["met"]]
    return (
        f"| {found['economy']} | {found['claim']} | {found['taken']:.2f} | "
        f"{found['of_an_honest_one']:.0%} | {found['best']:.0%} | {found['standing']:.2f} | "
        f"{found['cost']:.4f} | {kept or '–'} | {met} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("economy", nargs="*", help="which; all by default")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--walks", type=int, default=28, help="of a validator, an epoch")
    parser.add_argument("--seed", type=int, default=0, help="which text, in what order")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.ERROR)
    recorded = Recordings(arguments.folder.expanduser())
    known = economies(recorded)
    wanted = arguments.economy or list(known)
    if unknown := set(wanted) - set(known):
        parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    order = np.random.default_rng(arguments.seed).permutation(len(recorded.walks))
    kept_in = f"economies-{arguments.epochs}-{arguments.walks}-{arguments.seed}.jsonl"
    path = recorded.root / kept_in
    lines = path.read_text().splitlines() if path.exists() else []
    done = {found["economy"]: found for found in map(json.loads, lines)}
    print(f"{arguments.epochs} epochs, {arguments.walks} walks, seed {arguments.seed}\n")
    print(HEADER)
    for name in dict.fromkeys(["honest", "better", *wanted]):
        if name not in done:
            economy = known[name]()
            judges = [Member(v, stake_tokens=STAKE_TOKENS) for v in VALIDATORS]
            members = [*economy.members, *judges]
            validators = [m.name for m in members if m.stake_tokens]
            texts = dict.fromkeys(validators, recorded.walks[order[-SPARE:]])  # of the dishonest
            for k, validator in enumerate(VALIDATORS):
                texts[validator] = recorded.walks[order[:-SPARE][k :: len(VALIDATORS)]]
            started_s = time.monotonic()

            def on_epoch(epoch: int, wakes: Callable[[], None] = economy.wakes) -> None:
                if epoch == TURNS:
                    wakes()

            ledger = run(
                play(
                    members,
                    texts,
                    recorded.spec,
                    recorded.baseline,
                    epochs=arguments.epochs,
                    walks_per_epoch=arguments.walks,
                    on_epoch=on_epoch,
                )
            )
            reference = {} if name == "honest" else done["honest"]["paid"]
            if name not in ("honest", "better"):
                reference = done["better"]["paid"] | reference
            done[name] = judge(name, economy, ledger, reference)
            with path.open("a") as log:
                log.write(json.dumps(done[name]) + "\n")
            print(f"{name}: {time.monotonic() - started_s:.0f} s", file=sys.stderr)
        print(row(done[name]), flush=True)


if __name__ == "__main__":
    main()
