"""What a model is to the router: sessions that answer with a forecast of the next token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from moesubnet.mixture.drafting import Draft
from moesubnet.mixture.law import Mixture
from moesubnet.router.openai_api import JsonObject
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import Proof

TokenIds = NDArray[np.uint32]
STUDENT = "student"  # as a model, and as the member in the baseline's place


@dataclass(frozen=True, slots=True)
class Drawing:
    """How tokens are drawn, and how many more there may be: what a drafter should know.

    lawful: under a grammar, what of some drafts it allows, with what it forces after them, so many
    tokens at most. points: the numbers that so many next tokens are drawn with; None: nothing is
    drawn ahead. is_bent: whether something is asked of tokens, so that they are drawn from another
    law than the forecast's. patience_s: how long tokens may take that come together.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    left: int = 0
    lawful: Callable[[Sequence[Draft], int], Sequence[Draft]] | None = None
    points: Callable[[int], NDArray[np.float64]] | None = None
    is_bent: bool = False
    patience_s: float = 0.0


ALONE = Drawing()  # nothing is drafted


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known of the next token, and who had a say in it."""

    mixture: Mixture
    weights: Mapping[str, float]  # hotkey → weight in the mixture; empty for a single model
    drafts: Sequence[Draft] = ()  # from the next token on: draw it with `next_token`


class Session(Protocol):
    """One growing sequence under one model. What asks raises NobodyAnswers, or EngineError."""

    async def start(self, prompt_ids: TokenIds, drawing: Drawing = ALONE) -> Forecast:
        """The forecast of the first new token. Called once."""
        ...

    async def append(self, token_id: int, drawing: Drawing) -> Forecast:
        """The forecast after one more token, drawn from the last one."""
        ...

    def echo(self, prompt_ids: TokenIds) -> AsyncIterator[Forecast]:
        """In the place of `start`: the forecasts of all tokens of the prompt, then that of the
        first new one. Whoever answers has seen them, so they weigh nobody."""
        ...

    def fork(self) -> Session:
        """Another sequence that begins with the same ids; before anything is drafted."""
        ...

    def answered(self) -> Mapping[Hotkey, tuple[int, int]]:
        """Per expert the positions that it answered so far and its price in rao per million of
        them, as it was when the session began."""
        ...

    def proofs(self) -> Mapping[Hotkey, Proof]:
        """Of the last answer of each expert of which there is one."""
        ...

    @property
    def waited_s(self) -> float:
        """How long it has waited for others, or for an engine, in all."""
        ...

    def close(self, *, is_over: bool = False) -> None:
        """is_over: nobody goes on from here; else the next turn of a chat may."""
        ...


async def walk(session: Session, prompt_ids: TokenIds) -> AsyncIterator[Forecast]:
    """As `Session.echo`, but every token is forecast before anybody is sent it."""
    yield await session.start(prompt_ids[:0])
    for token_id in prompt_ids.tolist():
        yield await session.append(token_id, ALONE)


class Model(Protocol):
    """A model that the router offers."""

    def open(self) -> Session:
        """Raises NobodyAnswers when nothing can answer now."""
        ...

    def dearest_rao_per_mtoken(self) -> int:
        """The most that a million tokens can cost: all experts together that one answer takes."""
        ...

    def table(self) -> list[JsonObject]: ...


@runtime_checkable
class Modes(Protocol):
    """A model that can be had in other ways too."""

    def modes(self) -> list[str]:
        """By their names."""
        ...

    def mode(self, name: str) -> tuple[str, Model] | None:
        """One of them, by that name or another; with that name."""
        ...

    def capped(self, most_rao_per_mtoken: int) -> Model:
        """The same at no more than a price. Raises ApiError 400."""
        ...
