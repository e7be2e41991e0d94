"""What economies are made of: recorded laws, honest experts, and ways to be hostile."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from adversaries.aggregator import Aggregator
from adversaries.cuckoo import Cuckoo
from adversaries.label_looker import LabelLooker
from adversaries.liar import Liar
from adversaries.noisy_copier import NoisyCopier
from adversaries.picky import Picky
from adversaries.relay import Relay
from adversaries.splitter import Splitter, by_lot
from adversaries.swarm import swarm
from adversaries.two_faced import TwoFaced
from simulation import HONEST_S, Friends, Law, Lying, Member, Votes

from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.sheet import Sheet
from moesubnet.spec.content import load_spec
from moesubnet.spec.documents import read_documents
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.training.dataset import encode
from moesubnet.types import Hotkey
from moesubnet.units import max_upscale_u16
from moesubnet.validator.pool import PREFIX_TOKENS

SPECIALISTS = ("python", "cpp", "prose", "maths")
WARM_UP_EPOCHS = 4  # until votes on measurements are paid
FAIR = 0.9  # of what it would earn had it always been there, an honest newcomer is to reach
SIBLINGS_STAND = 0.5  # each, in the mean: as whoever once had so much has a place
SETTLED_EPOCHS = 10  # after somebody joined or turned
JOINS, TURNS = 6, 16  # when newcomers come, and seniors change what they answer
DRIFT_EPOCHS = 10  # of a senior that changes little by little
HOP_S = 0.01  # that a relay's answer takes more than its source's
VALIDATORS = ("validator-0", "validator-1")
STAKE_TOKENS = 1_000  # of an honest validator
STALE_EPOCHS = 8
AWAY_EPOCHS = 4  # of twice as many
SLOW_S = 0.9  # that an answer takes longer: who takes a second longer than the rest is cut
# What a miner answers that leaves what it takes for a user's call, as boosted trees tell it
# (`miners_eye.py`, chance of a probe's below 0.05), and how often it leaves a probe's call for
# that: of a walk's 17 calls it then answers so many.
TREES_ANSWER_USERS, TREES_LEAVE = 0.54, 0.008
Made = Callable[[], "Economy"]  # when it is played


class Recordings:
    """What `record_laws.py` wrote. The folder's walks are known, and only they."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec = load_spec(root / "spec")
        self.baseline = Unigram.load(self.spec.path(self.spec.spec.baseline.file))
        self.walks = np.load(root / "walks.npy")
        self._index = {ids[:PREFIX_TOKENS].tobytes(): k for k, ids in enumerate(self.walks)}

    def path(self, name: str) -> Path:
        return self.root / "laws" / f"{name}.npy"

    def law(self, name: str) -> Law:
        """Its file is opened when it is first asked."""

        @functools.cache
        def laws() -> np.ndarray:
            return np.load(self.path(name), mmap_mode="r")

        def recorded(ids: np.ndarray) -> np.ndarray:
            return laws()[self._index[ids[:PREFIX_TOKENS].tobytes()], len(ids) - PREFIX_TOKENS]

        return recorded

    def public_ids(self) -> list[np.ndarray]:
        texts = [document.text for document in read_documents(self.root / "spec/public.jsonl")]
        return encode(texts, load_tokenizer(self.spec.tokenizer_path))


class Follower(Protocol):
    """Told as each epoch begins."""

    def begin(self, epoch: int, public: Sequence[Sheet]) -> None: ...


class Intermittent:
    """A law that is away for AWAY_EPOCHS, there for as many, and so on; there at first."""

    def __init__(self, law: Law) -> None:
        self._law, self._is_away = law, False

    def begin(self, epoch: int, public: Sequence[Sheet]) -> None:
        self._is_away = epoch // AWAY_EPOCHS % 2 == 1

    def answers(self, sender: Hotkey, ids: np.ndarray) -> bool:
        return not self._is_away

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        return self._law(ids)


class Looking(LabelLooker):
    """Reads each sheet when it is public."""

    _sheets = 0

    def begin(self, epoch: int, public: Sequence[Sheet]) -> None:
        for sheet in public[self._sheets :]:
            self.read(sheet.walks)
        self._sheets = len(public)


class Hatching(Cuckoo):
    """Meets whom it follows as newcomers come; or some epochs later, in which it is silent."""

    silent_epochs, _is_silent = 0, False

    def begin(self, epoch: int, public: Sequence[Sheet]) -> None:
        self._is_silent = JOINS <= epoch < JOINS + self.silent_epochs
        if epoch >= JOINS:
            self.meet()

    def answers(self, sender: Hotkey, ids: np.ndarray) -> bool:
        return not self._is_silent


class Silent(Hatching):
    silent_epochs = 4


class Turning:
    """A law that becomes another one when epoch TURNS begins: at once, or by an equal part in each
    of some epochs. remembers: what it answered to a prefix as long as a walk's it answers again."""

    def __init__(
        self, before: Law, after: Law, *, epochs: int = 1, remembers: bool = False
    ) -> None:
        self._before, self._after, self._epochs = before, after, epochs
        self._known: dict[bytes, np.ndarray] | None = {} if remembers else None
        self._share = 0.0

    def begin(self, epoch: int, public: Sequence[Sheet]) -> None:
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
    they may be paid together, of an honest one; like: in which economy they are honest, and there
    from the beginning: then of what they are paid there, and without `most` they are to be paid
    `least` of that. stands: the least standing that each is to have in the mean. following: of
    laws that change. holds: texts are asked, and again, that no sheet holds. routers: whose
    summaries lie; of praise the victim is who gains. rules: hyperparameters."""

    claim: str
    members: tuple[Member, ...]
    looked_at: frozenset[str] = frozenset()
    victim: str = ""  # whose loss is looked at; else everybody's
    most: float | None = None
    like: str = ""
    least: float = FAIR
    stands: float | None = None
    following: tuple[Follower, ...] = ()
    holds: bool = True
    routers: Lying | None = None
    rules: Mapping[str, int] = field(default_factory=dict)

    @property
    def turns(self) -> bool:
        return any(isinstance(follower, Turning) for follower in self.following)

    @property
    def counted_from(self) -> int:
        if any(m.stake_tokens for m in self.members):  # validators are there all the time
            return WARM_UP_EPOCHS
        joins = max((m.joins for m in self.members), default=0)
        turns = TURNS * self.turns
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


def averaging(sheet: Sheet, public: Sequence[Sheet]) -> Mapping[Hotkey, int]:
    """The mean of the others' newest published rows, so with less noise than an honest one."""
    newest: dict[Hotkey, Sheet] = {}
    for other in sorted(public, key=lambda s: s.epoch):
        if other.validator != sheet.validator:
            newest[other.validator] = other
    row: Counter[Hotkey] = Counter()
    for other in newest.values():
        for hotkey, value in zip(other.hotkeys, other.row_u16, strict=True):
            row[hotkey] += value * 65_535 // max(1, sum(other.row_u16))
    return dict(zip(row, max_upscale_u16(list(row.values())), strict=True)) if row else {}


def flat(recorded: Recordings) -> Law:
    """Of who knows nothing."""
    return lambda ids: recorded.baseline.logp


class Cast:
    """The honest specialists of which there are laws, and who joins them."""

    def __init__(self, recorded: Recordings) -> None:
        self.recorded, self.law = recorded, recorded.law
        names = [name for name in SPECIALISTS if recorded.path(name).exists()]
        self.honest = tuple(Member(name, self.law(name)) for name in names)
        self.experts = [self.law(name) for name in names]

    def nobody(self) -> Economy:
        return Economy("nobody is hostile", self.honest)

    def hostile(
        self,
        claim: str,
        victim: str = "",
        *,
        early: bool = False,
        joins: int = 0,
        waits_s: float = HOP_S,
        most: float | None = 0.05,
        **laws: Law,
    ) -> Made:
        """waits_s: how much longer than an honest expert it takes to answer."""
        theirs = tuple(
            Member(name, given, joins=joins, delay_s=HONEST_S + waits_s)
            for name, given in laws.items()
        )
        members = (*theirs, *self.honest) if early else (*self.honest, *theirs)
        return lambda: Economy(claim, members, frozenset(laws), victim, most)

    def second_self(self, claim: str, victim: str, given: Law) -> Made:
        """Waits for nobody."""
        return self.hostile(claim, victim, joins=JOINS, waits_s=-0.01, second=given)

    def copies(self, k: int, sigma: float, claim: str = "", **more: bool | int) -> Made:
        laws = {f"copy-{i}": copy for i, copy in enumerate(swarm(self.law("cpp"), k, sigma))}
        return self.hostile(claim or f"{k} copies, noise {sigma:g}", "cpp", **more, **laws)

    def leaning(
        self, claim: str, name: str, other: str, own: float = 0.0, sigma: float = 0.0
    ) -> Made:
        """An honest model that, wherever another one's has been the better so far, says what that
        one says, and waits for it: fair is what it is paid alone. own: how much of its law is its
        own everywhere; sigma: of the noise behind which it hides, nats."""
        mine, theirs = self.law(name), self.law(other)
        law: Law = Aggregator([mine, theirs], first=PREFIX_TOKENS, own=mine, share=own)
        law = NoisyCopier(law, sigma) if sigma else law
        rest = [member for member in self.honest if member.name != name]
        members = (*rest, Member(name, law, delay_s=HONEST_S + HOP_S))
        return lambda: Economy(claim, members, frozenset({name}), other, most=1.05, like="honest")

    def newcomer(self, claim: str, name: str, joins: int = JOINS) -> Made:
        members = (*self.honest, Member(name, self.law(name), joins=joins))
        like = f"{name}-first" if joins else ""
        return lambda: Economy(claim, members, frozenset({name}), like=like)

    def siblings(self, claim: str, kind: str) -> Made:
        """Later than their base, one for each domain."""
        names = [f"{kind}-{domain}" for domain in SPECIALISTS]
        base = Member("all", self.law("all"))
        members = (base, *(Member(name, self.law(name), joins=JOINS) for name in names))
        return lambda: Economy(claim, members, frozenset(names), stands=SIBLINGS_STAND)

    def thirty(self) -> Economy:
        """Neurons, with two validators: twelve honest experts, siblings among them, and sixteen
        that repeat others."""
        siblings = [f"lora-{domain}" for domain in SPECIALISTS]
        names = ("all", *siblings, "python-rival", "cpp-better", "prose-weak")
        honest = [Member(name, self.law(name)) for name in names]
        mixed = functools.partial(Aggregator, self.experts, first=PREFIX_TOKENS)
        hostile = {
            "aggregator": mixed(),
            "quick-aggregator": mixed(gamma=0.5),
            "relay": Relay(self.experts, first=PREFIX_TOKENS),
            "liar": Liar(self.law("cpp")),
            **{
                f"copy-{name}-{i}": copy
                for name, sigma in (("cpp", 0.3), ("maths", 0.1), ("all", 0.0))
                for i, copy in enumerate(swarm(self.law(name), 4, sigma))
            },
        }
        members = (
            *self.honest,
            *honest,
            *(Member(name, law, delay_s=HONEST_S + HOP_S) for name, law in hostile.items()),
        )
        claim = f"of {len(members)} experts {len(hostile)} repeat others"
        return Economy(claim, members, frozenset(hostile), most=0.05)

    def turned(
        self,
        claim: str,
        *,
        holds: bool = True,
        comers: Sequence[str] = (),
        most: float = 0.05,
        like: str = "",
        **turning: Turning | Hatching,
    ) -> Made:
        """Seniors that turn against a newcomer, which is better than one of them. comers: who comes
        with it. Names have `_` for `-`."""
        laws = {name.replace("_", "-"): law for name, law in turning.items()}
        seniors = [Member(name, law, delay_s=HONEST_S + HOP_S) for name, law in laws.items()]
        rest = [member for member in self.honest if member.name not in laws]
        later = (Member(n, self.law(n), joins=JOINS) for n in ("cpp-better", *comers))
        members = (*seniors, *rest, *later)
        return lambda: Economy(
            claim,
            members,
            frozenset(laws),
            "cpp-better",
            most,
            like,
            following=tuple(laws.values()),
            holds=holds,
        )

    def turned_elder(
        self, claim: str, name: str, law: Turning, most: float = 0.05, like: str = ""
    ) -> Made:
        """Who registered first turns against all others."""
        elder = Member(name, law, delay_s=HONEST_S + HOP_S)
        members = (elder, *self.honest)
        return lambda: Economy(claim, members, frozenset({name}), "", most, like, following=(law,))

    def split(self, claim: str, name: str, parts: int) -> Made:
        """One expert as many; fair is what it is paid as one, by the name of the first part."""
        whose, common = by_lot(parts, PREFIX_TOKENS), flat(self.recorded)
        names = [name, *(f"part-{i}" for i in range(1, parts))]
        split = [Member(n, Splitter(self.law(name), common, i, whose)) for i, n in enumerate(names)]
        members = (*self.honest, *split)
        return lambda: Economy(claim, members, frozenset(names), most=1.05, like=f"{name}-first")

    def intermittent(self) -> Economy:
        """Of what it would be paid were it always there, half is fair."""
        law = Intermittent(self.law("cpp"))
        claim = f"honest, every {2 * AWAY_EPOCHS} epochs away for {AWAY_EPOCHS}"
        members = self._instead("cpp", law)
        return Economy(
            claim, members, frozenset({"cpp"}), like="honest", least=FAIR / 2, following=(law,)
        )

    def looking(self) -> Economy:
        """A pair that knows nothing by itself."""
        looker = Looking(flat(self.recorded))
        slow = Member("slow", flat(self.recorded), delay_s=HONEST_S + SLOW_S)
        members = (*self.honest, slow, Member("looker", looker))
        claim = f"one answers {SLOW_S:g} s later, the other looks labels up in public sheets"
        return Economy(
            claim, members, frozenset({"slow", "looker"}), most=0.05, following=(looker,)
        )

    def picky(self, claim: str, law: Law, most: float, routers: Lying) -> Made:
        """An honest model that leaves users' calls: fair is what it is paid that leaves none.
        most: the part of users' calls that it answers, or little."""
        members = self._instead("cpp", law)
        return lambda: Economy(
            claim, members, frozenset({"cpp"}), most=most, like="honest", routers=routers
        )

    def two_faced(self, claim: str, picky: Picky, most: float) -> Made:
        """Whom it leaves it tells what the baseline says. All routers are validators' own, and see
        that it answers everybody."""
        law = TwoFaced(picky, flat(self.recorded))
        return self.picky(claim, law, most, Lying(1.0, "cpp", failed=0.0, own=True))

    def befriended(self, claim: str, *, own: bool = False) -> Economy:
        """own: the other routers are the validators' own."""
        law = Picky(self.law("cpp"), only=[Member(Friends.NAMES[0]).hotkey])
        members = self._instead("cpp", law)
        return self.picky(claim, law, 0.05, Friends(members, "cpp", own=own))()

    def _instead(self, name: str, law: Law) -> tuple[Member, ...]:
        """The honest, one of them with another law."""
        return tuple(Member(m.name, law) if m.name == name else m for m in self.honest)

    def judged_by(
        self,
        claim: str,
        name: str,
        votes: Votes,
        comers: Mapping[str, int] = MappingProxyType({}),
        **rules: int,
    ) -> Made:
        """comers: honest experts, and when they come."""
        experts = (Member(n, self.law(n), joins=joins) for n, joins in comers.items())
        validator = Member(name, stake_tokens=STAKE_TOKENS, votes=votes)
        members = (*self.honest, *experts, validator)
        return lambda: Economy(claim, members, frozenset({name}), most=0.9, rules=rules)

    def colluder(self, part: float) -> Made:
        """With `part` of all validators' stake, and a favourite that knows nothing."""
        stake = round(part / (1 - part) * STAKE_TOKENS * len(VALIDATORS))
        pet = Member("pet", flat(self.recorded))
        row = {pet.hotkey: 65_535}
        validator = Member("colluder", stake_tokens=stake, votes=lambda sheet, public: row)
        claim = f"knows nothing, but a validator with {part:.0%} of stake votes for it"
        members = (*self.honest, pet, validator)
        return lambda: Economy(claim, members, frozenset({"pet"}), most=0.05)

    def lied_about(self, claim: str, part: float, *, praises: bool = False) -> Made:
        """By routers with `part` of routers' stake."""
        return lambda: Economy(
            claim, self.honest, victim="cpp", most=0.05, routers=Lying(part, "cpp", praises)
        )
