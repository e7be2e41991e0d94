"""How long a probe's prompt and answer are: as users' are, as near as text and time allow.

Routers sign how many of their users' prompts, and answers, had each length, in half octaves
(`wire.usage`). A router r's law of lengths is what its users had, and MANY_TEXTS of the public law,

    p_r(n) = (MANY_TEXTS · p(n) + N_r(kind of n) · p(n | its kind)) / (MANY_TEXTS + N_r)

and walks' is at each length the median of routers' distribution functions by stake: routers with
less than half of the stake cannot move it past what others say. What the public law does not reach
stays out: a prompt that is longer is nobody's model, a longer answer is looked like until it ends.

Users' chats go on: the next turn is a new text that begins with the one before. So do walks, as
often as routers say and as long after it, by the same median; and as many of them are conversations
under the spec's template, and as many fork as users' texts do that ask for choices. Not every text
is drafted for: how far an expert was asked to go on at most, if it ever was, has a law as lengths
have.
Pure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

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
FORKS = 0.05  # of texts, that are a further choice, as long as nobody knows better
AHEAD = 0.2  # of texts, that experts draft for; by 2 tokens as many as by 16, by factors

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


@dataclass(frozen=True, slots=True)
class Shapes:
    """The law that walks' shapes are drawn from: a prompt's and an answer's length, independent.

    prompts, answers: (units, probability). blind: of a prompt's last units, which a router sends
    one by one. limit: the most units of a walk; a shorter answer makes room for the prompt.
    later: the part of walks that are the later turns of chats. pauses: (tenths of a second,
    probability) from the end of one turn to the beginning of the next. conversations: of those
    under the spec's template. forks: of all that is asked, the part that is a further choice.
    ahead: (tokens, probability) that an expert is asked to go on with at most, in a walk; 0 of
    those without drafts.
    """

    prompts: _Lengths
    answers: _Lengths
    blind: int = 0
    limit: int = MAX_WALK_TOKENS
    later: float = 0.0
    pauses: _Lengths = ((1, 1.0),)
    conversations: float = 0.0
    forks: float = 0.0
    ahead: _Lengths = ((0, 1.0),)

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
            _by_factors(*PAUSES),
            CONVERSATIONS,
            FORKS,
            ((0, 1.0 - AHEAD), *((n, AHEAD * p) for n, p in _by_factors(2, MAX_FURTHER))),
        )

    def as_users(self, summaries: Sequence[tuple[Usage, int]]) -> Shapes:
        """These, the public ones, by what routers say of an epoch, each with its stake."""
        if not sum(stake for _, stake in summaries):
            return self
        whole, most = length_kind(self.prompts[-1][0] + 1), length_kind(self.answers[-1][0])
        longest = length_kind(self.pauses[-1][0])
        prompts, answers, pauses = (
            [(_counted(public, counts), stake) for counts, stake in said]
            for public, said in (
                (self.prompts, [(u.prompts[:whole], stake) for u, stake in summaries]),
                (self.answers, [(_cut(u.answers, most), stake) for u, stake in summaries]),
                (self.pauses, [(_cut(u.pauses, longest), stake) for u, stake in summaries]),
            )
        )
        ahead = [(_asked_ahead(self.ahead, usage.ahead), stake) for usage, stake in summaries]
        return replace(
            self,
            prompts=_median(self.prompts, prompts),
            answers=_median(self.answers, answers),
            pauses=_median(self.pauses, pauses),
            later=_part(self.later, [(usage, usage.later, stake) for usage, stake in summaries]),
            conversations=_part(
                self.conversations, [(usage, usage.chats, stake) for usage, stake in summaries]
            ),
            forks=_part(self.forks, [(usage, usage.forks, stake) for usage, stake in summaries]),
            ahead=_median(self.ahead, ahead),
        )

    def draw(self, count: int, lots: Random) -> list[Shape]:
        """Nobody else may know the lots: they tell which sessions are probes."""
        prompts, answers = (
            lots.choices([n for n, _ in law], [p for _, p in law], k=count)
            for law in (self.prompts, self.answers)
        )
        return [self._shape(p, a) for p, a in zip(prompts, answers, strict=True)]

    def draw_ahead(self, lots: Random) -> int:
        """How many tokens an expert may be asked to go on with, in one text; 0: it has no drafts.
        A short one has no room for some, and forks have none, so fewer walks have drafts than
        users' texts; where longer ones have more instead, a miner tells them better
        (benchmarks/results.md). Nobody else may know the lots."""
        return lots.choices([n for n, _ in self.ahead], [p for _, p in self.ahead])[0]

    def draw_choice(self, lots: Random) -> Scored:
        """Which choice of a walk is scored. Nobody else may know the lots."""
        if lots.random() >= self.forks / (1.0 - min(self.forks, 0.5)):
            return Scored.ALONE
        return lots.choice((Scored.FIRST, Scored.SECOND))

    def chats(self, shapes: Sequence[Shape], lots: Random) -> list[list[Shape]]:
        """Which of these walks are turns of one chat, each longer than the one before and its
        beginning: the longest that fits, as people go on with few words. All lengths stay."""
        follows: dict[int, int] = {}
        last = set(range(len(shapes)))  # of its chat
        wanted = sum(lots.random() < self.later for _ in shapes)
        for k in lots.sample(range(len(shapes)), len(shapes)):
            fitting = [j for j in sorted(last) if shapes[j].units < shapes[k].prefix]
            if fitting and len(follows) < wanted:
                follows[k] = max(fitting, key=lambda j: shapes[j].units)
                last.remove(follows[k])
        chats = []
        for k in sorted(last):
            turns = [k]
            while turns[0] in follows:
                turns.insert(0, follows[turns[0]])
            chats.append([shapes[turn] for turn in turns])
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


def _counted(public: _Lengths, counts: Sequence[int]) -> Float:
    """One router's law, of the public one's lengths."""
    kinds = np.array([length_kind(n) for n, _ in public])
    law = np.array([p for _, p in public])
    of_kind = np.bincount(kinds, law)
    texts = np.zeros(len(of_kind))
    texts[: len(counts)] = counts[: len(texts)]
    texts[of_kind == 0] = 0
    found: Float = law * (MANY_TEXTS + (texts / np.where(of_kind, of_kind, 1.0))[kinds])
    found /= found.sum()
    return found


def _asked_ahead(public: _Lengths, counts: Sequence[int]) -> Float:
    """One router's law, of the public one's numbers of tokens."""
    told = dict(enumerate(counts))
    texts = np.array([MANY_TEXTS * p + told.get(n, 0) for n, p in public], np.float64)
    found: Float = texts / texts.sum()
    return found


def _part(public: float, said: Sequence[tuple[Usage, int, int]]) -> float:
    """Of texts, by the median of routers' counts of them, each with its stake."""

    def law(usage: Usage, count: int) -> Float:
        texts = sum(usage.prompts)
        part = (MANY_TEXTS * public + min(count, texts)) / (MANY_TEXTS + texts)
        return np.array([1.0 - part, part])

    laws = [(law(usage, count), stake) for usage, count, stake in said]
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
