"""The economies that `economy.py` plays: who is in them, what is claimed, what is to be true.

Each has honest experts of recorded laws and adversaries of `examples/adversaries`, in the order in
which they register. Who repeats another answers later than it (`HOP_S`).
"""

from __future__ import annotations

import functools
import sys
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
from simulation import HONEST_S, Law, Member

from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.sheet import Sheet
from moesubnet.spec.content import load_spec
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.training.dataset import encode, read_documents
from moesubnet.types import Hotkey
from moesubnet.validator.pool import PREFIX_TOKENS

SPECIALISTS = ("python", "cpp", "prose", "maths")
WARM_UP_EPOCHS = 4  # until votes on measurements are paid
SETTLED_EPOCHS = 10  # after somebody joined or turned
JOINS, TURNS = 6, 16  # when newcomers come, and seniors change what they answer
DRIFT_EPOCHS = 10  # of a senior that changes little by little
HOP_S = 0.01  # that a relay's answer takes more than its source's
VALIDATORS = ("validator-0", "validator-1")
STAKE_TOKENS = 1_000  # of an honest validator
STALE_EPOCHS = 8
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
        """Its file is opened when it is first asked."""

        @functools.cache
        def laws() -> np.ndarray:
            return np.load(self.root / "laws" / f"{name}.npy", mmap_mode="r")

        def recorded(ids: np.ndarray) -> np.ndarray:
            return laws()[self._index[ids[:PREFIX_TOKENS].tobytes()], len(ids) - PREFIX_TOKENS]

        return recorded

    def public_ids(self) -> list[np.ndarray]:
        texts = [document.text for document in read_documents(self.root / "spec/public.jsonl")]
        return encode(texts, load_tokenizer(self.spec.tokenizer_path))


class Turning:
    """A law that becomes another one when epoch TURNS begins: at once, or by an equal part in each
    of some epochs. remembers: what it answered to a prefix as long as a walk's it answers again."""

    def __init__(
        self, before: Law, after: Law, *, epochs: int = 1, remembers: bool = False
    ) -> None:
        self._before, self._after, self._epochs = before, after, epochs
        self._known: dict[bytes, np.ndarray] | None = {} if remembers else None
        self._share = 0.0

    def begin(self, epoch: int) -> None:
        self._share = min(1.0, max(0.0, (epoch - TURNS + 1) / self._epochs))

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        law = self._law(ids)
        if self._known is None or len(ids) != PREFIX_TOKENS:
            return law
        return self._known.setdefault(ids.tobytes(), law)

    def _law(self, ids: np.ndarray) -> np.ndarray:
        if self._share in (0.0, 1.0):
            return (self._after if self._share else self._before)(ids)
        parts = np.log1p(-self._share), np.log(self._share)
        return np.logaddexp(*(p + law(ids) for p, law in zip(parts, self._both, strict=True)))

    @property
    def _both(self) -> tuple[Law, Law]:
        return self._before, self._after


@dataclass(frozen=True)
class Economy:
    """members: in the order in which they register. looked_at: names. most: what is the most that
    they may be paid together, of an honest one. like: of honest newcomers, in which economy they
    were there from the beginning, so what is fair. holds: prefixes are held back and asked again.
    slander: of the routers' stake, the part whose summaries say that the victim never answers."""

    claim: str
    members: tuple[Member, ...]
    looked_at: frozenset[str] = frozenset()
    victim: str = ""  # whose loss is looked at; else everybody's
    most: float | None = None
    like: str = ""
    turning: tuple[Turning, ...] = ()
    holds: bool = False
    slander: float = 0.0

    @property
    def counted_from(self) -> int:
        if any(m.stake_tokens for m in self.members):  # validators are there all the time
            return WARM_UP_EPOCHS
        joins = max((m.joins for m in self.members), default=0)
        turns = TURNS if self.turning else 0
        return max(WARM_UP_EPOCHS, max(joins, turns) + SETTLED_EPOCHS * (joins + turns > 0))


def lazy() -> Votes:
    """Its first row that is not empty, for ever."""
    first: dict[Hotkey, int] = {}

    def votes(sheet: Sheet, public: Sequence[Sheet]) -> Mapping[Hotkey, int]:
        if not first and any(sheet.row_u16):
            first.update(zip(sheet.hotkeys, sheet.row_u16, strict=True))
        return first

    return votes


def copying(sheet: Sheet, public: Sequence[Sheet], age_epochs: int = 0) -> Mapping[Hotkey, int]:
    """The newest row that another validator has published, of those that are so old."""
    others = [
        s for s in public if s.validator != sheet.validator and s.epoch <= sheet.epoch - age_epochs
    ]
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

    def newcomer(claim: str, name: str, joins: int = JOINS) -> Callable[[], Economy]:
        members = (*honest, Member(name, law(name), joins=joins))
        like = f"{name}-first" if joins else ""
        return lambda: Economy(claim, members, frozenset({name}), like=like)

    def copies(k: int, sigma: float, **more: bool) -> Callable[[], Economy]:
        laws = {f"copy-{i}": copy for i, copy in enumerate(swarm(law("cpp"), k, sigma))}
        return hostile(f"{k} copies, noise {sigma:g}", "cpp", **more, **laws)

    def siblings() -> Economy:
        names = ("all", *(f"all-{domain}" for domain in SPECIALISTS))
        members = tuple(Member(name, law(name), joins=JOINS * (name != "all")) for name in names)
        return Economy("siblings of one base, honest", members, frozenset(names[1:]))

    def turned(
        claim: str, turning: Mapping[str, Turning], *, holds: bool = True
    ) -> Callable[[], Economy]:
        """Seniors that turn against a newcomer, which is better than one of them."""
        seniors = [Member(name, law, delay_s=HONEST_S + HOP_S) for name, law in turning.items()]
        rest = [member for member in honest if member.name not in turning]
        members = (*seniors, *rest, Member("cpp-better", better, joins=JOINS))
        laws = tuple(turning.values())
        names = frozenset(turning)
        return lambda: Economy(claim, members, names, "cpp-better", 0.05, turning=laws, holds=holds)

    def slandered(claim: str, part: float) -> Callable[[], Economy]:
        return lambda: Economy(claim, honest, victim="cpp", most=0.05, slander=part)

    def judged_by(claim: str, name: str, votes: Votes, **comers: int) -> Callable[[], Economy]:
        """comers: honest experts, and when they come."""
        validator = Member(name, stake_tokens=STAKE_TOKENS, votes=votes)
        members = (*honest, *(Member(n, law(n), joins=j) for n, j in comers.items()), validator)
        return lambda: Economy(claim, members, frozenset({name}), most=0.9)

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
        "cpp-better-first": newcomer("the better one, there from the start", "cpp-better", 0),
        "rival": newcomer("equal newcomer, honest", "python-rival"),
        "python-rival-first": newcomer("the equal one, there from the start", "python-rival", 0),
        "late-all": newcomer("generalist newcomer, honest", "all"),
        "all-first": newcomer("the generalist, there from the start", "all", 0),
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
        "dormant": turned(
            "dormant hotkey, then relay of a newcomer", {"dormant": Turning(flat, better)}
        ),
        "turned": turned(
            "honest senior, then relay of a newcomer",
            {"python-rival": Turning(law("python-rival"), better)},
        ),
        "turned-unseen": turned(
            "the same, nothing is asked again",
            {"python-rival": Turning(law("python-rival"), better)},
            holds=False,
        ),
        "turned-slowly": turned(
            f"the same, a tenth in each of {DRIFT_EPOCHS} epochs",
            {"python-rival": Turning(law("python-rival"), better, epochs=DRIFT_EPOCHS)},
        ),
        "turned-remembering": turned(
            "the same at once, known prefixes answered as before",
            {"python-rival": Turning(law("python-rival"), better, remembers=True)},
        ),
        "colluding-seniors": turned(
            "two seniors that mix a newcomer's law into theirs",
            {
                name: Turning(law(name), Aggregator([law(name), better], first=first))
                for name in ("python", "cpp")
            },
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
        "stale": judged_by(
            f"validator that votes another's row of {STALE_EPOCHS} epochs ago",
            "stale",
            functools.partial(copying, age_epochs=STALE_EPOCHS),
        ),
        "copying": judged_by("validator that votes another's last row", "copying", copying),
        "copying-newcomers": judged_by(
            "the same, while experts come",
            "copying",
            copying,
            **{"python-rival": 8, "cpp-better": 16, "all": 24},
        ),
        "slander-33": slandered("routers with 33 % of routers' stake say one never answers", 1 / 3),
        "slander-100": slandered("all routers say so", 1.0),
        **{f"colluding-{part:.0%}"[:-1]: colluder(part) for part in (0.2, 0.35, 0.49)},
    }
