"""What is written for a request: its choices, from the job to the pieces that are sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from moesubnet.mixture.drafting import Points
from moesubnet.router import openai_api as api
from moesubnet.router.accounts import price_rao
from moesubnet.router.chat import Message
from moesubnet.router.grammar import Matcher
from moesubnet.router.ledger import Usage
from moesubnet.router.model import Forecast, Session, TokenIds
from moesubnet.router.reading import Habits, Part
from moesubnet.router.receipts import Receipt
from moesubnet.router.steering import NO_WISHES, Wishes
from moesubnet.router.tools import ToolUse


class Conversation(Protocol):
    """A request that is a conversation, of whatever endpoint."""

    source: ClassVar[str]
    format_source: ClassVar[str]

    @property
    def schema_(self) -> api.JsonObject | None: ...

    @property
    def chat_template_kwargs(self) -> Mapping[str, Any]: ...

    def conversation(self) -> list[Message]: ...

    def tool_use(self) -> ToolUse: ...


@dataclass(frozen=True, slots=True)
class Manner:
    """How the answer to a conversation is written and read. shown: control tokens that belong to
    what is read, such as those before a call."""

    habits: Habits
    matcher: Matcher | None = None  # of the grammar that the text must have
    shown: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Job:
    """One choice to be written."""

    model: str
    prompt_ids: TokenIds
    goes_on: bool  # the text continues the prompt; else it is an answer of its own
    max_tokens: int
    temperature: float
    top_p: float
    seed: tuple[int, int] | None
    points: Points  # that its tokens are drawn with
    stops: tuple[str, ...]
    top_logprobs: int
    most_rao_per_mtoken: int | None = None  # that all who are asked may cost together
    wishes: Wishes = NO_WISHES
    echo: api.Echo | None = None  # the prompt is a part of the answer
    is_read_live: bool = True  # by somebody, as it is written
    manner: Manner | None = None  # of an answer in a chat


@dataclass(slots=True)
class Begun:
    """A job whose prompt has been read. echo: the prompt, if the answer begins with it. delivered:
    the new tokens that its reader was sent; has_echoed: whether it was sent the prompt's."""

    job: Job
    session: Session
    forecast: Forecast
    echo: Delta | None = None
    arrived_s: float = 0.0  # time.monotonic() at which the request came
    delivered: int = 0
    is_whole: bool = False  # written to its end
    has_echoed: bool = False
    weights: Counter[str] = field(default_factory=Counter)  # of experts, over what was sent

    def sent(self, tokens: Sequence[api.TokenRecord]) -> None:
        count = api.written(tokens)
        self.delivered += count
        self.has_echoed |= count < len(tokens)
        for token in tokens:
            self.weights.update(token.experts or {})


@dataclass(slots=True)
class Delta:
    """A piece of a choice: what may be shown now and the tokens behind it. parts: the text of an
    answer in a chat, divided. goes_on: the next piece comes at once, so this one need not leave
    by itself."""

    text: str
    tokens: list[api.TokenRecord]
    finish_reason: str | None = None
    parts: list[Part] = field(default_factory=list)
    goes_on: bool = False

    @property
    def is_empty(self) -> bool:
        """It says only that nothing comes at once."""
        return not (self.text or self.tokens or self.finish_reason)


@dataclass(slots=True)
class Choice:
    """A whole choice."""

    text: str = ""
    tokens: list[api.TokenRecord] = field(default_factory=list)
    finish_reason: str | None = None
    parts: list[Part] = field(default_factory=list)


def weights_of(begun: Sequence[Begun]) -> Counter[str]:
    """Each expert's weight, summed over the tokens that were sent."""
    return sum((choice.weights for choice in begun), Counter[str]())


def parts_of(begun: Sequence[Begun]) -> dict[str, float]:
    """Each expert's part of what was sent: mean weights over its tokens."""
    total = weights_of(begun)
    whole = total.total()
    return {name: weight / whole for name, weight in total.items()} if whole else {}


def receipts_of(begun: Sequence[Begun]) -> list[Receipt]:
    """For what experts are owed, a text and expert each."""
    return [
        Receipt.of(hotkey, positions, price_rao(positions, price), proof)
        for choice in begun
        for hotkey, (positions, price) in choice.session.answered().items()
        if (proof := choice.session.proofs().get(hotkey)) is not None
    ]


def usage_of(model: str, prompt_tokens: int, begun: Sequence[Begun]) -> Usage:
    """What was used so far. Callers pay the experts' prices for what was delivered and the prompt
    that led to it; experts are owed for every position that they answered."""
    paid_rao = 0
    owed: dict[str, tuple[int, int]] = {}
    for choice in begun:
        has_some = choice.delivered or choice.has_echoed
        delivered = len(choice.job.prompt_ids) + choice.delivered if has_some else 0
        for hotkey, (positions, price) in choice.session.answered().items():
            paid_rao += price_rao(min(positions, delivered), price)
            before = owed.get(hotkey, (0, 0))
            owed[hotkey] = (before[0] + positions, before[1] + price_rao(positions, price))
    completion_tokens = sum(choice.delivered for choice in begun)
    return Usage(model, prompt_tokens if begun else 0, completion_tokens, paid_rao, owed)
