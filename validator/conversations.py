"""Private conversations: what somebody asked and was answered, as a router would send it.

A walk through one begins with it, under the spec's template, and asks for an answer token by
token; a chat's next turn is the next answer. Each conversation is used once, ever, and one of
those that ask the same in their first turn: so whatever else templates write, what is sent before
an answer tells the text.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from moesubnet.errors import ConfigError, PromptError
from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.mixture.watched import beginnings
from moesubnet.spec.documents import Conversation
from moesubnet.spec.prompt import PromptEncoder
from moesubnet.validator.records import Window
from moesubnet.validator.shapes import Shape

LOOKED_AT = 16  # conversations that are looked at for each chat
MISSING = 10.0  # of misfit: a turn that a conversation does not have

Used = Mapping[bytes, object]  # documents of which anything was used
Said = Any  # what `turns` reads: a Conversation

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """What is said up to an answer, as a router sends it, and the answer with its end; ids u32,
    the answer from `answer` on."""

    ids: npt.NDArray[np.uint32]
    answer: int

    @property
    def first(self) -> int:
        """From which token on a router sends them one by one."""
        return max(1, self.answer - BLIND_PROMPT_TOKENS)


def turns(conversation: Conversation, encoder: PromptEncoder, limit: int) -> list[Turn]:
    """The answers in a conversation, oldest first, while walks of `limit` tokens reach them. An
    answer that somebody begins with answers nothing. Raises PromptError."""
    found: list[Turn] = []
    messages = conversation.messages
    for at, message in enumerate(messages):
        said = (message.get("content") or "").strip()
        if message["role"] != "assistant" or not said or not at:
            continue
        begun = len(encoder.ids(encoder.chat(messages[:at])))
        ids = np.array(encoder.ids(encoder.answered(messages[:at], said)), np.uint32)[:limit]
        if len(ids) <= begun:
            break
        found.append(Turn(ids, begun))
    return found


class Conversations:
    """By SHA-256 of what is said, those in which a walk has something to ask."""

    def __init__(
        self, said: Mapping[bytes, Said], turns: Callable[[Said], Sequence[Turn]] = lambda _: ()
    ) -> None:
        """turns: of a conversation, raises PromptError. Says how many have none, and why; raises
        ConfigError where all have none."""
        self._said, self._render = said, turns
        self._turns: dict[bytes, Sequence[Turn]] = {}
        why: list[str] = []
        for document, one in said.items():
            try:
                if found := turns(one):
                    self._turns[document] = found
                else:
                    why.append("no answer that walks are long enough for")
            except PromptError as error:
                why.append(str(error))
        if why and not self._turns:
            raise ConfigError(f"none of {len(why)} conversations is of use: {why[0]}")
        if why:
            log.warning("%d of %d conversations are no use: %s", len(why), len(said), why[0])

    def __len__(self) -> int:
        return len(self._turns)

    def free(self, used: Used) -> list[bytes]:
        return sorted(document for document in self._turns if document not in used)

    def repeats(
        self, used: Used, published: Sequence[npt.NDArray[np.uint32]]
    ) -> list[tuple[bytes, int]]:
        """As `TextPool.repeats`: those whose first turn asks the same as a used one's, an earlier
        one's, or begins a published walk."""
        asked = {
            document: int(beginnings(first.ids[: first.answer])[-1])
            for document, (first, *_) in self._turns.items()
        }
        known = {asked[document] for document in asked if document in used}
        if asked and published:
            public = np.concatenate([beginnings(ids) for ids in published])
            same = np.isin(np.fromiter(asked.values(), np.uint64, len(asked)), public)
            known |= {one for one, is_known in zip(asked.values(), same, strict=True) if is_known}
        again = []
        for document in self.free(used):
            if asked[document] in known:
                again.append((document, 0))
            known.add(asked[document])
        return again

    def draw(self, chats: Sequence[Sequence[Shape]], used: Used, seed: bytes) -> list[list[Window]]:
        """Walks for the first of these chats, as many as there is text for: of some that `seed`
        draws the conversation whose lengths are most like each one's. A longer answer is cut."""
        lots, free = Random(seed), self.free(used)
        fresh = lots.sample(free, min(len(free), LOOKED_AT * len(chats)))
        walks = []
        for chat in chats[: len(fresh)]:
            document = min(fresh, key=lambda one: _misfit(self._turns[one], chat))
            fresh.remove(document)
            # Anew, as a template may tell the day; which may be a token longer than there is room.
            turns = self._render(self._said[document]) or self._turns[document]
            pairs = list(zip(turns, chat, strict=False))
            walks.append(
                [
                    _window(document, turn, shape, is_last=turn is pairs[-1][0])
                    for turn, shape in pairs
                ]
            )
        return walks


def _misfit(turns: Sequence[Turn], chat: Sequence[Shape]) -> float:
    """By factors: how far prompts are from those wanted, and how much too short answers are."""
    apart = MISSING * max(0, len(chat) - len(turns))
    for turn, shape in zip(turns, chat, strict=False):
        apart += abs(math.log(turn.first / shape.prefix))
        apart += max(0.0, math.log(shape.steps / (len(turn.ids) - turn.first)))
    return apart


def _window(document: bytes, turn: Turn, shape: Shape, *, is_last: bool) -> Window:
    ids = turn.ids[: max(turn.first + shape.steps, turn.answer + 1)]
    starts = (0,) if is_last else ()
    return Window(document, starts, ids, turn.first, turn.answer - turn.first)
