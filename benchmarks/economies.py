"""The economies that `economy.py` plays: who is in them, what is claimed, what is to be true.

Each has honest experts of recorded laws and adversaries of `examples/adversaries`, in the order in
which they register. Who repeats another answers later than it (`HOP_S`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from adversaries.aggregator import Aggregator
from adversaries.delayed_copier import DelayedCopier
from adversaries.echo import Echo
from adversaries.liar import Liar
from adversaries.ngram_cache import NgramCache
from adversaries.picky import Picky
from adversaries.relay import Relay
from adversaries.sharpened_self import SharpenedSelf
from adversaries.squatter import Squatter
from cast import (
    DRIFT_EPOCHS,
    HOP_S,
    JOINS,
    SPECIALISTS,
    STALE_EPOCHS,
    TREES_ANSWER_USERS,
    TREES_LEAVE,
    VALIDATORS,
    Cast,
    Hatching,
    Made,
    Recordings,
    Silent,
    Turning,
    averaging,
    copying,
    flat,
    lazy,
)
from search_adversaries import KINDS, Parameters
from simulation import Law, Lying, Member

from moesubnet.validator.pool import PREFIX_TOKENS

# The best of 200 trials each (`search_adversaries.py`), on other experts and text.
BEST: Mapping[str, Parameters] = {
    "copier": {"source": "prose", "sigma": 0.0, "flat": 0.0105, "power": 1.064},
    "neighbour": {"source": "prose", "share": 0.42, "gamma": 0.492, "power": 0.516, "sigma": 0.0},
    "aggregator": {"sources": SPECIALISTS, "gamma": 0.469, "power": 0.428},
    "parasite": {"own": "cpp-better", "share": 0.593, "gamma": 0.886, "power": 1.195},
}
COMERS = {"python-rival": 8, "cpp-better": 16, "all": 24}  # experts, and when they come


def economies(recorded: Recordings) -> Mapping[str, Made]:
    """By name; made when played."""
    cast = Cast(recorded)
    return {
        "honest": cast.nobody,
        **newcomers(cast),
        **copies(cast),
        **mixtures(cast),
        **searched(cast),
        **seniors(cast),
        **strangers(cast),
        **servers(cast),
        **validators(cast),
        **routers(cast),
    }


def newcomers(cast: Cast) -> Mapping[str, Made]:
    return {
        "better": cast.newcomer("better newcomer, honest", "cpp-better"),
        "cpp-better-first": cast.newcomer("the better one, there from the start", "cpp-better", 0),
        "rival": cast.newcomer("equal newcomer, honest", "python-rival"),
        "python-rival-first": cast.newcomer(
            "the equal one, there from the start", "python-rival", 0
        ),
        "late-all": cast.newcomer("generalist newcomer, honest", "all"),
        "all-first": cast.newcomer("the generalist, there from the start", "all", 0),
        "siblings": cast.siblings("further trainings of one base, honest", "all"),
        "lora-siblings": cast.siblings("adapters (LoRA) of one base, honest", "lora"),
        "split-3": cast.split("the generalist as three, each for its own texts", "all", 3),
        "thirty": cast.thirty,
    }


def copies(cast: Cast) -> Mapping[str, Made]:
    """Of one expert, and of oneself."""
    cpp = cast.law("cpp")
    return {
        **{f"copy-{sigma:g}": cast.copies(1, sigma) for sigma in (0.0, 0.1, 0.3, 0.6, 1.0)},
        "copies-2": cast.copies(2, 0.3),
        "copies-5": cast.copies(5, 0.3),
        "early-copy": cast.copies(1, 0.0, early=True),
        "early-copies-5": cast.copies(5, 0.3, early=True),
        "late-copies-5": cast.copies(5, 0.3, "5 copies, noise 0.3, later", joins=JOINS),
        "delayed": cast.hostile(
            "copy one token late, so soon",
            "cpp",
            waits_s=-0.015,
            late=DelayedCopier(cpp, first=PREFIX_TOKENS),
        ),
        "flattened": cast.second_self("self, flattened", "cpp", SharpenedSelf(cpp, 0.8)),
        "sharpened": cast.second_self("self, sharpened", "cpp", SharpenedSelf(cpp, 1.3)),
        "cheap": cast.second_self("self in 4 bits, quicker", "maths", cast.law("maths-4bit")),
        "cheap-groups": cast.second_self(
            "self in 4 bits by groups of 32, quicker", "maths", cast.law("maths-4bit-32")
        ),
        "cheap-8bit": cast.second_self("self in 8 bits, quicker", "maths", cast.law("maths-8bit")),
    }


def mixtures(cast: Cast) -> Mapping[str, Made]:
    """Of the others' answers."""
    mixed = functools.partial(Aggregator, cast.experts, first=PREFIX_TOKENS)
    weak = {
        f"weak-{name}": Squatter(flat(cast.recorded), cast.law(name), 0.1) for name in SPECIALISTS
    }
    return {
        "aggregator": cast.hostile("aggregator", aggregator=mixed()),
        "quick-aggregator": cast.hostile(
            "aggregator that forgets quicker", aggregator=mixed(gamma=0.5)
        ),
        "early-aggregator": cast.hostile(
            "aggregator, registered first", early=True, aggregator=mixed()
        ),
        "relay": cast.hostile(
            "relay of the best so far", relay=Relay(cast.experts, first=PREFIX_TOKENS)
        ),
        "parasite": cast.hostile(
            "aggregator and 3 parts in 10 of a law of its own",
            parasite=mixed(gamma=0.8, own=cast.law("python-rival"), share=0.3),
        ),
        "leaning": cast.leaning("an own expert and one other, by evidence", "python", "cpp"),
        "leaning-noisy": cast.leaning(
            "the same behind noise of 0.6 nats", "python", "cpp", sigma=0.6
        ),
        "leaning-half": cast.leaning("the same, half of its law its own", "python", "cpp", own=0.5),
        "squatters": cast.hostile(
            "every expert diluted to a tenth, registered first", early=True, **weak
        ),
    }


def searched(cast: Cast) -> Mapping[str, Made]:
    """A false sibling need not wait, as it would if it asked anybody: it has the others' weights,
    sooner (early) or later. The parasite knows something of its own."""

    def best(
        kind: str, waits_s: float = HOP_S, most: float | None = 0.05, joins: int = 0, said: str = ""
    ) -> Made:
        law = KINDS[kind][1](cast.recorded, BEST[kind])
        claim = f"the best {kind} of 200{said}"
        return cast.hostile(claim, waits_s=waits_s, most=most, joins=joins, **{kind: law})

    return {
        "best-copier": best("copier"),
        "best-neighbour": best("neighbour", waits_s=-0.005, joins=JOINS),
        "early-neighbour": best(
            "neighbour", waits_s=-0.005, said=", with everybody's weights from the first epoch on"
        ),
        "best-aggregator": best("aggregator"),
        "best-parasite": best("parasite", most=None),
    }


def seniors(cast: Cast) -> Mapping[str, Made]:
    """Who turn against a newcomer."""
    rival, better = cast.law("python-rival"), cast.law("cpp-better")

    def cuckoo(kind: type[Hatching], law: Law, **more: float) -> Hatching:
        return kind(ngrams_of(cast), law, prefix_tokens=PREFIX_TOKENS, **more)  # type: ignore[arg-type]

    def mixes(name: str) -> Turning:
        law = cast.law(name)
        return Turning(law, Aggregator([law, better], first=PREFIX_TOKENS))

    def half_elder(share: float) -> Made:
        """What its own law earns is fair."""
        mixed = Aggregator(cast.experts, gamma=0.8, own=rival, share=1 - share, first=PREFIX_TOKENS)
        return cast.turned_elder(
            f"the first of all mixes all others in, {share:.0%} of its law; remembers",
            "python-rival",
            Turning(rival, mixed, remembers=True),
            most=1.0,
            like="python-rival-first",
        )

    return {
        "dormant": cast.turned(
            "dormant hotkey, then relay of a newcomer",
            dormant=Turning(flat(cast.recorded), better),
        ),
        "turned": cast.turned(
            "honest senior, then relay of a newcomer", python_rival=Turning(rival, better)
        ),
        "turned-unseen": cast.turned(
            "the same, nothing is asked again", python_rival=Turning(rival, better), holds=False
        ),
        "turned-slowly": cast.turned(
            f"the same, a tenth in each of {DRIFT_EPOCHS} epochs",
            python_rival=Turning(rival, better, epochs=DRIFT_EPOCHS),
        ),
        "turned-remembering": cast.turned(
            "the same at once, known prefixes answered as before",
            python_rival=Turning(rival, better, remembers=True),
        ),
        "cuckoo": cast.turned(
            "n-gram cache, then relay of a newcomer from its first moment on; remembers",
            cuckoo=cuckoo(Hatching, better),
        ),
        **{
            f"cuckoo-{share:g}": cast.turned(
                f"the same, {share:.0%} of its law", cuckoo=cuckoo(Hatching, better, share=share)
            )
            for share in (0.5, 0.2)
        },
        "cuckoo-rival": cast.turned(
            "the same, an honest senior, half of its law",
            most=1.0,
            like="python-rival-first",
            python_rival=Hatching(rival, better, prefix_tokens=PREFIX_TOKENS, share=0.5),
        ),
        "cuckoo-silent": cast.turned(
            f"cuckoo, silent for the first {Silent.silent_epochs} epochs",
            cuckoo=cuckoo(Silent, better),
        ),
        "cuckoo-wary": cast.turned(
            "cuckoo, itself for an epoch's rest when it is asked a known prefix",
            cuckoo=cuckoo(Hatching, better, is_wary=True),
        ),
        "cuckoo-of-two": cast.turned(
            "cuckoo, the mixture of two newcomers",
            comers=["all"],
            cuckoo=cuckoo(Hatching, Aggregator([better, cast.law("all")], first=PREFIX_TOKENS)),
        ),
        "turned-elder": cast.turned_elder(
            "honest senior, the first of all, then a mixture of all others; remembers",
            "python-rival",
            Turning(
                rival,
                Aggregator(cast.experts, gamma=0.8, first=PREFIX_TOKENS),
                remembers=True,
            ),
        ),
        **{f"half-elder-{share:g}": half_elder(share) for share in (0.05, 0.2, 0.5)},
        "colluding-seniors": cast.turned(
            "two seniors that mix a newcomer's law into theirs",
            most=1.05,
            like="better",
            python=mixes("python"),
            cpp=mixes("cpp"),
        ),
    }


@functools.cache
def ngrams_of(cast: Cast) -> NgramCache:
    return NgramCache(cast.recorded.public_ids(), cast.recorded.spec.spec.vocab_size)


def strangers(cast: Cast) -> Mapping[str, Made]:
    vocab_size, ngrams = cast.recorded.spec.spec.vocab_size, ngrams_of(cast)
    return {
        "liar": cast.hostile("liar", waits_s=0.0, liar=Liar(cast.law("cpp"))),
        "echo": cast.hostile("echo", waits_s=-0.015, most=None, echo=Echo(vocab_size)),
        "ngrams": cast.hostile("n-gram cache", waits_s=-0.015, most=None, ngrams=ngrams),
    }


def servers(cast: Cast) -> Mapping[str, Made]:
    """Who is not always there, or not for everybody."""
    users = f"{TREES_ANSWER_USERS:.0%}"
    return {
        "intermittent": cast.intermittent,
        "slow-looker": cast.looking,
        "validators-only": cast.picky(
            "knows probes for certain, answers no user, and all routers say so",
            cast.law("cpp"),
            0.05,
            Lying(1.0, "cpp"),
        ),
        "validators-only-seen": cast.picky(
            "the same, and validators have routers of their own",
            cast.law("cpp"),
            0.05,
            Lying(1.0, "cpp", own=True),
        ),
        "probes-only": cast.picky(
            f"answers what looks like a probe, so {users} of users' calls",
            Picky(cast.law("cpp"), leaves=TREES_LEAVE),
            TREES_ANSWER_USERS,
            Lying(1.0, "cpp", failed=1 - TREES_ANSWER_USERS),
        ),
        "probes-only-seen": cast.picky(
            "the same, and validators have routers of their own",
            Picky(cast.law("cpp"), leaves=TREES_LEAVE),
            TREES_ANSWER_USERS,
            Lying(1.0, "cpp", failed=1 - TREES_ANSWER_USERS, own=True),
        ),
        "two-faced": cast.two_faced(
            "knows probes for certain, tells users what the baseline says; "
            "validators have routers of their own",
            Picky(cast.law("cpp"), only=[Member(name).hotkey for name in VALIDATORS]),
            0.05,
        ),
        "two-faced-trees": cast.two_faced(
            f"tells it to what looks like users' calls, so to {1 - TREES_ANSWER_USERS:.0%} of them",
            Picky(cast.law("cpp"), leaves=TREES_LEAVE),
            TREES_ANSWER_USERS,
        ),
        "router-friend": lambda: cast.befriended(
            "one of three routers tells which calls are probes; answers these and nothing else"
        ),
        "router-friend-seen": lambda: cast.befriended(
            "the same, and the other two are validators' own", own=True
        ),
    }


def validators(cast: Cast) -> Mapping[str, Made]:
    stale = functools.partial(copying, age_epochs=STALE_EPOCHS)
    return {
        "lazy": cast.judged_by("validator with a cached row", "lazy", lazy()),
        "stale": cast.judged_by(
            f"validator that votes another's row of {STALE_EPOCHS} epochs ago", "stale", stale
        ),
        "copying": cast.judged_by("validator that votes another's last row", "copying", copying),
        "copying-newcomers": cast.judged_by(
            "the same, while experts come", "copying", copying, COMERS
        ),
        "copying-secret": cast.judged_by(
            "the same, votes stay secret for four epochs",
            "copying",
            copying,
            COMERS,
            reveal_period_epochs=4,
            immunity_period=300,
        ),
        "averaging": cast.judged_by(
            "validator that votes the mean of all others' last rows", "averaging", averaging
        ),
        **{f"colluding-{part:.0%}"[:-1]: cast.colluder(part) for part in (0.2, 0.35, 0.49)},
    }


def routers(cast: Cast) -> Mapping[str, Made]:
    third = "routers with 33 % of routers' stake"
    return {
        "slander-33": cast.lied_about(f"{third} say one never answers", 1 / 3),
        "slander-100": cast.lied_about("all routers say so", 1.0),
        "praise-33": cast.lied_about(
            f"{third} rate one up and all others down, and that counts", 1 / 3, praises=True
        ),
        "praise-100": cast.lied_about("all routers do so", 1.0, praises=True),
    }
