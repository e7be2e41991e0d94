"""What a chat model writes, divided as it comes: its reasoning, its text, its calls of tools."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from moesubnet.spec.calls import ID_CHARS, CallSyntax

THINK, END_THINK = "<think>", "</think>"
_ALPHANUMERIC = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an answer. `call`: a call begins, `text` is the tool's name; its `arguments`
    follow in pieces. index: which call."""

    kind: Literal["text", "reasoning", "call", "arguments"]
    text: str
    index: int = 0
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Habits:
    """How a family's answers are written.

    is_thinking: the prompt ends inside a thought. may_think: an answer may begin with one.
    calls: the syntax of calls, where some may be made.
    """

    is_thinking: bool = False
    may_think: bool = False
    calls: CallSyntax | None = None


class Reader:
    """Reads one answer. Text in which something could begin waits until it is decided; what looks
    like a call and is none is text."""

    def __init__(self, habits: Habits) -> None:
        self._habits = habits
        self._held = ""
        self._step = self._thought if habits.is_thinking else self._beginning
        self._may_think = habits.may_think
        self._has_thought = False  # some of a thought was shown
        self.calls = 0
        self._json = _JsonEnd()

    def push(self, text: str) -> list[Part]:
        self._held += text
        return self._read(final=False)

    def finish(self) -> list[Part]:
        """What was held back, when nothing more comes."""
        return self._read(final=True)

    def _read(self, *, final: bool) -> list[Part]:
        parts: list[Part] = []
        while True:
            step, held = self._step, self._held
            parts += self._step(final)
            if (self._step, self._held) == (step, held):
                return [part for part in parts if part.text or part.kind == "call"]

    # -- states: each takes off what is decided ------------------------------------------------

    def _beginning(self, final: bool) -> Iterator[Part]:
        text, calls = self._held.lstrip(), self._habits.calls
        openings = {self._thought: THINK} if self._may_think else {}
        if calls is not None and not calls.marker:
            openings[self._name] = calls.opening
        for step, opening in openings.items():
            if text.startswith(opening):
                self._held, self._step = text[len(opening) :], step
                return
            if opening.startswith(text) and not final:
                return
        self._step = self._text
        yield from ()

    def _thought(self, final: bool) -> Iterator[Part]:
        thought, end, rest = self._held.partition(END_THINK)
        shown = thought.rstrip() if end or final else thought[: _decided(thought, END_THINK)]
        self._held = rest if end else thought[len(shown) :]
        if not self._has_thought:
            shown = shown.lstrip()
        self._has_thought = self._has_thought or bool(shown)
        yield Part("reasoning", shown)
        if end:
            self._may_think, self._step = False, self._behind_thought

    def _behind_thought(self, final: bool) -> Iterator[Part]:
        self._held = self._held.lstrip()
        if self._held:
            self._step = self._beginning
        yield from ()

    def _text(self, final: bool) -> Iterator[Part]:
        calls = self._habits.calls
        if calls is None or not calls.marker:
            shown, self._held = self._held, ""
            yield Part("text", shown)
            return
        text, found, _ = self._held.partition(calls.opening)
        if found:
            self._held, self._step = self._held[len(text) + len(found) :], self._name
            yield Part("text", text.rstrip())
            return
        size = len(text) if final else _decided(text, calls.opening)
        self._held = text[size:]
        yield Part("text", text[:size])

    def _name(self, final: bool) -> Iterator[Part]:
        assert self._habits.calls is not None
        name, found, rest = self._held.partition(self._habits.calls.middle)
        if found:
            self._held, self._step, self._json = rest, self._arguments, _JsonEnd()
            yield Part("call", name, self.calls, new_call_id(self._habits.calls))

    def _arguments(self, final: bool) -> Iterator[Part]:
        size = self._json.take(self._held)
        shown, self._held = self._held[:size], self._held[size:]
        yield Part("arguments", shown, self.calls)
        if self._json.is_over:
            self.calls, self._step = self.calls + 1, self._after_call

    def _after_call(self, final: bool) -> Iterator[Part]:
        calls = self._habits.calls
        assert calls is not None
        if calls.between is not None and (size := _matched(calls.between, self._held)):
            self._held, self._step = self._held[size:], self._name
        yield from ()


def new_call_id(calls: CallSyntax) -> str:
    """What a call is named in the answer; where a family writes ids, as its templates take them.
    (It writes them behind the arguments, when ours has been sent already.)"""
    if not calls.writes_ids:
        return f"call_{secrets.token_hex(12)}"
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(ID_CHARS))


class _JsonEnd:
    """Where a JSON object that arrives in pieces ends."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = self._escaped = False
        self.is_over = False

    def take(self, text: str) -> int:
        """How many characters of `text` belong to it."""
        for at, char in enumerate(text):
            if self._in_text:
                self._in_text = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
            elif char == '"':
                self._in_text = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self.is_over = True
                    return at + 1
        return len(text)


def _decided(text: str, coming: str) -> int:
    """How much of `text` can be no beginning of `coming`, nor white space before one."""
    for size in range(min(len(coming) - 1, len(text)), 0, -1):
        if coming.startswith(text[-size:]):
            text = text[:-size]
            break
    return len(text.rstrip())


def _matched(around_id: tuple[str, ...], text: str) -> int:
    """How many characters of `text` these are, with an id between them; 0 if it is not so."""
    pattern = f"[A-Za-z0-9]{{{ID_CHARS}}}".join(re.escape(part) for part in around_id)
    found = re.match(pattern, text)
    return found.end() if found else 0
