"""How long a probe's prompt and answer are: as users' are, as near as text and time allow.

Routers sign how many of their users' prompts, and answers, had each length, in half octaves
(`wire.usage`). A router r's law of lengths is what its users had, and MANY_TEXTS of the public law,

    p_r(n) = (MANY_TEXTS · p(n) + N_r(kind of n) · p(n | its kind)) / (MANY_TEXTS + N_r)

(for what only some texts have as many of the public law as there are among MANY_TEXTS of them),
and walks' is at each length the median of routers' distribution functions by stake: routers with
less than half of the stake cannot move it past what others say. What the public law does not reach
stays out: a prompt that is longer is nobody's model, a longer answer is looked like until it ends.

Users' chats go on: the next turn is a new text that begins with the one before. So do walks, as
often as routers say, as long after it and with as much more, by the same median; and as many of
them are conversations under the spec's template, and as many fork as users' texts do that ask for
choices. A router drafts for a text while it is alone: so in walks experts are asked to go on from
one round to the next with the chance that it has in users' texts.
Pure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.mixture.sheet import MAX_WALK_TOKENS
from moesubnet.units import TOKENS, Grain
from moesubnet.validator.choices import Scored
from moesubnet.wire.step import MAX_FURTHER
from moesubnet.wire.usage import Usage, length_kind

Float = npt.NDArray[np.float64]

PROMPT_TOKENS, ANSWER_TOKENS = (8, 256), (2, 46)  # of users, as long as nobody knows better
MANY_TEXTS = 100
LATER = 0.2  # of texts, that go on with an earlier one, as long as nobody knows better
PAUSES = (1, 2_895)  # tenths of a second between a chat's turns, as long as nobody knows better
CONVERSATIONS = 0.5  # of texts, as long as nobody knows better
MORE_TOKENS = 4, 128  # than the turn before and its answer, as long as nobody knows better
FORKS = 0.05  # of texts, that are a further choice, as long as nobody knows better
# Of rounds, in which experts are asked to go on: a text's first that may be, after one without,
# after one with; as long as nobody knows better.
ASKED = 0.2, 0.03, 0.7
FAR = 0.9  # of texts that experts draft for, that are asked no further ahead than walks may be

_Lengths = tuple[tuple[int, float], ...]  # (units, probability), ascending


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a walk, in units: what is sent at once, and how many tokens are then asked for, one at a
    time."""

    prefix: int
    steps: int

    @property
    def units(self) -> int:
        return self.prefix + self.steps


class Ahead(NamedTuple):
    """With what chance an expert is asked to go on by itself, in a walk's first round in which it
    may be, after one without, after one with; and with how many tokens at most."""

    first: float
    anew: float
    still: float
    most: int


@dataclass(frozen=True, slots=True)
class Shapes:
    """The law that walks' shapes are drawn from: a prompt's and an answer's length, independent.

    prompts, answers: (units, probability); prompts of texts that go on with no other. blind: of a
    prompt's last units, which a router sends one by one. limit: the most units of a walk; a shorter
    answer makes room for the prompt. later: the part of walks that are the later turns of chats;
    more, pauses: (units, or tenths of a second, probability) from the end of one turn to the
    beginning of the next. conversations: of those under the spec's template. forks: of all that is
    asked, the part that is a further choice. asked: as in `Ahead`; ahead: (tokens, probability)
    that an expert is asked to go on with at most, in texts in which it is; none where no walk has
    drafts.
    """

    prompts: _Lengths
    answers: _Lengths
    blind: int = 0
    limit: int = MAX_WALK_TOKENS
    later: float = 0.0
    more: _Lengths = ((1, 1.0),)
    pauses: _Lengths = ((1, 1.0),)
    conversations: float = 0.0
    forks: float = 0.0
    asked: tuple[float, ...] = ()
    ahead: _Lengths = ()

    @classmethod
    def fixed(cls, shape: Shape) -> Shapes:
        """Always the same."""
        return cls(((shape.prefix, 1.0),), ((shape.steps, 1.0),))

    @classmethod
    def public(cls, context_units: int, grain: Grain = TOKENS) -> Shapes:
        """Where nothing is known of users: short ones are as many as long ones, by factors."""
        return cls(
            _by_factors(*map(grain.units, PROMPT_TOKENS)),
            _by_factors(*map(grain.units, ANSWER_TOKENS)),
            grain.units(BLIND_PROMPT_TOKENS),
            min(context_units - 1, MAX_WALK_TOKENS),  # one is the beginning of text
            LATER,
            _by_factors(*map(grain.units, MORE_TOKENS)),
            _by_factors(*PAUSES),
            CONVERSATIONS,
            FORKS,
            ASKED,
            _by_factors(2, MAX_FURTHER),
        )

    def as_users(self, summaries: Sequence[tuple[Usage, int]]) -> Shapes:
        """These, the public ones, by what routers say of an epoch, each with its stake."""
        if not sum(stake for _, stake in summaries):
            return self
        whole = length_kind(self.prompts[-1][0] + 1)

        def lengths(
            public: _Lengths, of: Callable[[Usage], Sequence[int]], part: float = 1.0
        ) -> _Lengths:
            known = MANY_TEXTS * part
            laws = [(_counted(public, of(usage), known), stake) for usage, stake in summaries]
            return _median(public, laws)

        def cut(
            public: _Lengths, of: Callable[[Usage], Sequence[int]], part: float = 1.0
        ) -> _Lengths:
            most = length_kind(public[-1][0])
            return lengths(public, lambda usage: _cut(of(usage), most), part)

        def part(public: float, of: Callable[[Usage], tuple[int, int]]) -> float:
            return _part(public, [(*of(usage), stake) for usage, stake in summaries])

        ahead = [(_asked_ahead(self.ahead, usage.ahead), stake) for usage, stake in summaries]
        return replace(
            self,
            prompts=lengths(self.prompts, lambda usage: usage.prompts[:whole]),
            answers=cut(self.answers, lambda usage: usage.answers),
            more=cut(self.more, lambda usage: usage.more, LATER),
            pauses=cut(self.pauses, lambda usage: usage.pauses, LATER),
            later=part(self.later, lambda usage: (usage.later, usage.texts)),
            conversations=part(self.conversations, lambda usage: (usage.chats, usage.texts)),
            forks=part(self.forks, lambda usage: (usage.forks, usage.texts)),
            asked=tuple(part(p, partial(_rounds, kind)) for kind, p in enumerate(self.asked)),
            ahead=_median(self.ahead, ahead) if self.ahead else (),
        )

    def draw(self, count: int, lots: Random) -> list[Shape]:
        """Nobody else may know the lots: they tell which sessions are probes."""
        prompts, answers = (
            lots.choices([n for n, _ in law], [p for _, p in law], k=count)
            for law in (self.prompts, self.answers)
        )
        return [self._shape(p, a) for p, a in zip(prompts, answers, strict=True)]

    def going_on(self) -> Ahead | None:
        """None where no walk has drafts. An expert that is asked by a router goes as far as its
        guesses are right, and so it does in walks."""
        if not self.ahead:
            return None
        below = itertools.accumulate(p for _, p in self.ahead)
        most = next(n for (n, _), p in zip(self.ahead, below, strict=True) if p >= FAR)
        first, anew, still = self.asked
        return Ahead(first, anew, still, most)

    def draw_choice(self, lots: Random) -> Scored:
        """Which choice of a walk is scored. Nobody else may know the lots."""
        if lots.random() >= self.forks / (1.0 - min(self.forks, 0.5)):
            return Scored.ALONE
        return lots.choice((Scored.FIRST, Scored.SECOND))

    def chats(self, shapes: Sequence[Shape], lots: Random) -> list[list[Shape]]:
        """Which of these walks are turns of one chat: a later one's prompt is the one before and
        its answer, and as much more as users write; its own answer stays as long."""
        wanted = sum(lots.random() < self.later for _ in shapes)
        chats = [[shape] for shape in shapes[wanted:]]
        for shape in shapes[:wanted]:
            more = lots.choices([n for n, _ in self.more], [p for _, p in self.more])[0]
            more = max(1, more - self.blind)  # that nobody was asked yet
            fitting = [c for c in chats if c[-1].units + more + shape.steps <= self.limit]
            if fitting:
                chat = lots.choice(fitting)
                chat.append(Shape(chat[-1].units + more, shape.steps))
            else:
                chats.append([shape])
        return chats

    def waits_s(self, turns: int, within_s: float, lots: Random) -> list[float]:
        """Of a chat: how long until its first turn begins, and from each one's end to the next, so
        that all could begin within so long."""
        tenths = lots.choices([n for n, _ in self.pauses], [p for _, p in self.pauses], k=turns - 1)
        whole_s = sum(tenths) / 10
        part = min(1.0, within_s / whole_s) if tenths else 0.0
        return [lots.uniform(0.0, within_s - part * whole_s), *(part * n / 10 for n in tenths)]

    def conversing(self, chats: Sequence[Sequence[Shape]], lots: Random) -> list[bool]:
        """Which of these chats are conversations under a template, those of several turns before
        others: so that as large a part of walks is as should be."""
        wanted = sum(lots.random() < self.conversations for chat in chats for _ in chat)
        found = [False] * len(chats)
        order = lots.sample(range(len(chats)), len(chats))
        for k in sorted(order, key=lambda k: len(chats[k]), reverse=True):
            found[k] = wanted > 0
            wanted -= len(chats[k])
        return found

    def mean(self, of: str, window: int = 1) -> float:
        """The mean of a `Shape`'s attribute, in whole windows."""
        pairs = itertools.product(self.prompts, self.answers)
        shapes = ((self._shape(prompt, answer), p * q) for (prompt, p), (answer, q) in pairs)
        return math.fsum(-(-getattr(shape, of) // window) * chance for shape, chance in shapes)

    def _shape(self, prompt: int, answer: int) -> Shape:
        least = min(n for n, _ in self.answers)
        prefix = max(1, min(prompt - self.blind, self.limit - self.blind - least))
        return Shape(prefix, min(self.blind + answer, self.limit - prefix))


def _by_factors(least: int, most: int) -> _Lengths:
    lengths = np.arange(least, most + 1)
    return _law(lengths.tolist(), 1.0 / lengths)


def _cut(counts: Sequence[int], most: int) -> list[int]:
    """With those of kinds past `most` among its own."""
    return [*counts[:most], sum(counts[most:])]


def _counted(public: _Lengths, counts: Sequence[int], known: float) -> Float:
    """One router's law, of the public one's lengths; of that so many texts."""
    kinds = np.array([length_kind(n) for n, _ in public])
    law = np.array([p for _, p in public])
    of_kind = np.bincount(kinds, law)
    texts = np.zeros(len(of_kind))
    texts[: len(counts)] = counts[: len(texts)]
    texts[of_kind == 0] = 0
    found: Float = law * (known + (texts / np.where(of_kind, of_kind, 1.0))[kinds])
    found /= found.sum()
    return found


def _asked_ahead(public: _Lengths, counts: Sequence[int]) -> Float:
    """One router's law, of the public one's numbers of tokens."""
    told, known = dict(enumerate(counts)), MANY_TEXTS * ASKED[0]
    texts = np.array([known * p + told.get(n, 0) for n, p in public], np.float64)
    found: Float = texts / texts.sum()
    return found


def _rounds(kind: int, usage: Usage) -> tuple[int, int]:
    """Of this kind, in which an expert was asked to go on; of how many."""
    of = [*usage.rounds, 0, 0, 0][kind]
    return [*usage.asked, 0, 0, 0][kind], of


def _part(public: float, said: Sequence[tuple[int, int, int]]) -> float:
    """By the median of routers' counts, of how many, each with its stake."""

    def law(count: int, of: int) -> Float:
        part = (MANY_TEXTS * public + min(count, of)) / (MANY_TEXTS + of)
        return np.array([1.0 - part, part])

    laws = [(law(count, of), stake) for count, of, stake in said]
    return _median(((0, 0.0), (1, 0.0)), laws)[1][1]


def _median(public: _Lengths, said: Sequence[tuple[Float, int]]) -> _Lengths:
    """By stake, at each length."""
    below = np.cumsum([law for law, _ in said], axis=1)
    order = np.argsort(below, axis=0, kind="stable")
    heard = np.cumsum(np.array([float(stake) for _, stake in said])[order], axis=0)
    place = (heard >= heard[-1] / 2).argmax(axis=0)
    median = np.take_along_axis(np.sort(below, axis=0, kind="stable"), place[None], axis=0)[0]
    return _law([n for n, _ in public], np.diff(median, prepend=0.0))


def _law(lengths: Sequence[int], weights: Float) -> _Lengths:
    return tuple(zip(lengths, (weights / weights.sum()).tolist(), strict=True))
