"""How long a probe's prompt and answer are: as users' are, as near as text and time allow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.mixture.sheet import MAX_WALK_TOKENS
from moesubnet.units import TOKENS, Grain

Float = npt.NDArray[np.float64]

PROMPT_TOKENS, ANSWER_TOKENS = (8, 256), (2, 46)  # of users, as long as nobody knows better


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
    """

    prompts: tuple[tuple[int, float], ...]
    answers: tuple[tuple[int, float], ...]
    blind: int = 0
    limit: int = MAX_WALK_TOKENS

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
        )

    def draw(self, count: int, lots: Random) -> list[Shape]:
        """Nobody else may know the lots: they tell which sessions are probes."""
        prompts, answers = (
            lots.choices([n for n, _ in law], [p for _, p in law], k=count)
            for law in (self.prompts, self.answers)
        )
        return [self._shape(p, a) for p, a in zip(prompts, answers, strict=True)]

    def mean(self, of: str, window: int = 1) -> float:
        """The mean of a `Shape`'s attribute, in whole windows."""
        pairs = itertools.product(self.prompts, self.answers)
        shapes = ((self._shape(prompt, answer), p * q) for (prompt, p), (answer, q) in pairs)
        return math.fsum(-(-getattr(shape, of) // window) * chance for shape, chance in shapes)

    def _shape(self, prompt: int, answer: int) -> Shape:
        least = min(n for n, _ in self.answers)
        prefix = max(1, min(prompt - self.blind, self.limit - self.blind - least))
        return Shape(prefix, min(self.blind + answer, self.limit - prefix))


def _by_factors(least: int, most: int) -> tuple[tuple[int, float], ...]:
    lengths = np.arange(least, most + 1)
    return _law(lengths.tolist(), 1.0 / lengths)


def _law(lengths: Sequence[int], weights: Float) -> tuple[tuple[int, float], ...]:
    return tuple(zip(lengths, (weights / weights.sum()).tolist(), strict=True))
