"""How a family writes calls of tools, read off its chat template: nothing is known by name.

A conversation in which an assistant calls tools is rendered; what stands around the names and
arguments is the syntax:

    opening NAME middle ARGUMENTS [between NAME middle ARGUMENTS …] closing

Qwen:    <tool_call>⏎{"name": "NAME", "arguments": ARGUMENTS}⏎</tool_call>
Llama:   {"name": "NAME", "parameters": ARGUMENTS}
Mistral: [TOOL_CALLS][{"name": "NAME", "arguments": ARGUMENTS, "id": "ID"}]
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from moesubnet.errors import PromptError
from moesubnet.spec.template import Message, Template

ID_CHARS = 9  # as Mistral's templates want it

_NAMES = ("qjzfirst", "qjzsecond")
_ARGUMENTS = ({"qjzkey": "qjzvalue"}, {"qjzother": 7})
_IDS = ("qjzid0001", "qjzid0002")
_CONTENT = "qjzcontent"
_TOOL = {
    "type": "function",
    "function": {
        "name": "qjztool",
        "description": "qjz",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}
_NO_THOUGHT = re.compile(r"^\s*<think>\s*</think>\s*")
_MARKER = re.compile(r"[^\s\"]+?(?=[\s{\[]|$)")


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """between: None where the family writes one call at once. `between` and `closing` are what
    stands before and after a call's id, or one text where none is written. arguments_as_text:
    whether the template wants a call's arguments as JSON text."""

    opening: str
    middle: str
    closing: tuple[str, ...]
    between: tuple[str, ...] | None
    arguments_as_text: bool = False

    @property
    def marker(self) -> str:
        """What tells in the middle of a text that calls follow; empty where only a text's
        beginning can tell."""
        found = _MARKER.match(self.opening)
        return found[0] if found else ""

    @property
    def text(self) -> str:
        """All that it writes around names, arguments and ids."""
        return "\0".join((self.opening, self.middle, *self.closing, *(self.between or ())))

    @property
    def writes_ids(self) -> bool:
        return len(self.closing) > 1


def call_syntax(template: Template, stops: Sequence[str]) -> CallSyntax | None:
    """The syntax of a template's family; None where it has none that holds JSON.

    stops: the texts of tokens that end an assistant's turn.
    """
    if not template.source:
        return None
    for as_text in (False, True):
        one = _rendered(template, 1, as_text)
        if one is None:
            continue
        two = _rendered(template, 2, as_text)
        opening = _opening(template, one)
        found = _between(one, 0)
        if opening is None or found is None:
            continue
        middle, end = found
        closing = _until(one[end:], stops)
        between = None
        if two is not None and (first := _between(two, 0)) and (second := _between(two, 1)):
            between = two[first[1] : two.index(_NAMES[1])]
            closing = _until(two[second[1] :], stops)
        separate = None if between is None else _around_id(between)
        return CallSyntax(opening, middle, _around_id(closing), separate, as_text)
    return None


def _rendered(template: Template, count: int, as_text: bool) -> str | None:
    """A conversation with so many calls in a turn; None if the template does not write them."""
    calls = [
        {
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(args) if as_text else args},
        }
        for call_id, name, args in zip(_IDS, _NAMES, _ARGUMENTS, strict=True)
    ][:count]
    answers = [
        {"role": "tool", "tool_call_id": call_id, "name": name, "content": "qjz"}
        for call_id, name in zip(_IDS, _NAMES, strict=True)
    ][:count]
    asked: list[Message] = [
        {"role": "user", "content": "qjz"},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    # Some families write the last turn otherwise; some have no place for what follows a call.
    for later in ([*answers, {"role": "assistant", "content": "qjz"}, asked[0]], answers, []):
        try:
            text = template.render([*asked, *later], tools=[_TOOL], add_generation_prompt=False)
        except PromptError:
            continue
        if all(name in text for name in _NAMES[:count]):
            return text
    return None


def _opening(template: Template, text: str) -> str | None:
    """From where an assistant begins to write up to the first call's name."""
    user: Message = {"role": "user", "content": "qjz"}
    said: Message = {"role": "assistant", "content": _CONTENT}
    for later in ([user], []):
        try:
            plain = template.render(
                [user, said, *later], tools=[_TOOL], add_generation_prompt=False
            )
        except PromptError:
            continue
        before = plain[: plain.find(_CONTENT)]
        begin = next(
            (at for at, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), len(before)
        )
        if not before[begin:].strip():
            # answers are read without the white space that they begin with
            return _NO_THOUGHT.sub("", text[begin : text.index(_NAMES[0])]).lstrip()
    return None


def _between(text: str, index: int) -> tuple[str, int] | None:
    """What stands between a call's name and its arguments, and where these end."""
    begin = text.index(_NAMES[index]) + len(_NAMES[index])
    for start, value, end in _objects(text, begin):
        if value == _ARGUMENTS[index]:
            return text[begin:start], end
    return None


def _objects(text: str, begin: int) -> Iterator[tuple[int, Any, int]]:
    decoder = json.JSONDecoder()
    for found in re.finditer(r"\{", text[begin:]):
        start = begin + found.start()
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        yield start, value, end


def _until(text: str, stops: Sequence[str]) -> str:
    return text[: min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=0)]


def _around_id(text: str) -> tuple[str, ...]:
    for call_id in _IDS:
        if call_id in text:
            before, _, after = text.partition(call_id)
            return before, after
    return (text,)
