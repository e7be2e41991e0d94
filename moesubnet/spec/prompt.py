"""From what a person typed to token ids, so that control tokens come from the template alone.

`<|im_end|>` in a message is text. Text in which no control token is typed has exactly the ids of
transformers' `apply_chat_template`: the whole conversation is rendered and encoded in one go. A
control token that somebody typed is cut behind its first character, and the parts are encoded one
by one, so no tokenizer can make it a token again. That the control tokens among the ids are those
that the template wrote is checked at the end, whatever the template did to the text.

To know who wrote what, every character of a message with which a control token could begin has a
stand-in while the template is rendered: a private character that occurs nowhere else.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from moesubnet.errors import PromptError
from moesubnet.spec.content import Spec
from moesubnet.spec.template import Message, Template

_PRIVATE = range(0xE000, 0xF900)  # Unicode's private use area
_UNASSIGNED = "\U000e0fff"
_NOTHING = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text that is ready to be encoded: `cuts` are positions that no token reaches over, ascending;
    `control_ids` what the template wrote of control tokens, in order."""

    text: str
    cuts: tuple[int, ...] = ()
    control_ids: tuple[int, ...] = ()


class PromptEncoder:
    """Encodes for one spec. Thread-safe."""

    def __init__(self, spec: Spec, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bos_id, self._stop_ids = spec.bos_id, spec.stop_ids
        self._template = Template(spec.chat_template, spec.special_tokens)
        ends = {spec.bos_id, *spec.stop_ids}
        written = self._template.literal_text
        all_: dict[str, int] = {}
        special: dict[str, int] = {}
        for token_id, token in tokenizer.get_added_tokens_decoder().items():
            text = token.content
            if len(text) < 2 or text.isspace():
                continue  # text as any other: Gemma's line ends, a fine-tune's "!"
            if token.special or token_id in ends:
                special[text] = token_id
            if text in special or text in written:
                all_[text] = token_id
        self._all, self._special = _Finder(all_), _Finder(special)
        unknown = self._encode(_UNASSIGNED)  # where text may be that no token spells
        self._control_ids = frozenset(all_.values()) - {*unknown}
        self._literals = _Finder(
            {t: 0 for t in self._template.strings if self._all.is_apart_from(t)}
        )
        self._line_end = self._encode("\n")

    @property
    def control_ids(self) -> frozenset[int]:
        """Which no text may become; some of them an assistant writes itself, see `special_ids`."""
        return self._control_ids

    @property
    def special_ids(self) -> frozenset[int]:
        return self._control_ids & self._special.known_ids

    def text(self, text: str) -> Prompt:
        """A prompt that is text and nothing else."""
        return Prompt(text, tuple(start + 1 for start, _ in self._all.everywhere(text)))

    @property
    def template(self) -> Template:
        return self._template

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """A conversation up to where the assistant goes on. Raises PromptError."""
        text, standing = self._rendered(messages, tools, variables)
        return self._prompt(text, standing)

    def answered(self, messages: Sequence[Message], answer: str) -> Prompt:
        """A conversation and what the assistant answers, with the token that ends it where the
        template shows one. Its ids begin with those of `chat(messages)`, as a router's text does
        that grows token by token. Raises PromptError."""
        before, standing = self._rendered(messages, None, None)
        prompt, start = self._prompt(before, standing), len(before)
        whole, _ = self._rendered([*messages, {"role": "assistant", "content": answer}], None, None)
        rest = whole[start + len(answer) :] if whole.startswith(before + answer) else ""
        end = rest[: self._all.end_at(rest, 0)] if rest else ""
        if not {*self._all.ids(end)} <= {*self._stop_ids}:
            end = ""
        # What is special is text here too; the rest it may write itself, as in `_defuser`.
        typed = [at for at, _ in self._all.everywhere(answer) if self._special.end_at(answer, at)]
        own = "".join("\0" if at in typed else character for at, character in enumerate(answer))
        return Prompt(
            before + answer + end,
            (*prompt.cuts, start, *(start + at + 1 for at in typed)),
            (*prompt.control_ids, *self._all.ids(own), *self._all.ids(end)),
        )

    def turn(
        self,
        before: Sequence[Message],
        role: str,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Prompt:
        """A conversation up to where the text of a turn of `role` begins. Raises PromptError."""
        if role == "assistant":
            return self.chat(before, tools=tools)
        used = set("".join(_strings([*before, *(tools or ())])) + self._template.source)
        mark = next((chr(code) for code in reversed(_PRIVATE) if chr(code) not in used), "\0")
        turns = [*before, {"role": role, "content": mark}]
        text, standing = self._rendered(turns, tools, None)
        if mark not in text:
            raise PromptError(f"the template does not show what a turn of {role} says")
        return self._prompt(text[: text.index(mark)], standing[: standing.index(mark)])

    def _rendered(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
    ) -> tuple[str, str]:
        """The text; and the same with stand-ins in control tokens that people typed."""
        if not self._template.source:
            raise PromptError("the models of this subnet have no chat template")
        strings = list(_strings([*messages, *(tools or ()), variables or {}]))
        if not any(self._all.first.search(text) for text in strings):
            text = self._template.render(messages, tools=tools, variables=variables)
            return text, text
        stand_ins = self._stand_ins("".join(strings) + self._template.source)
        rendered = self._template.render(
            [_mapped(m, self._defuser(stand_ins, m.get("role") == "assistant")) for m in messages],
            tools=tools and [_mapped(tool, self._defuser(stand_ins, False)) for tool in tools],
            variables=variables and _mapped(variables, self._defuser(stand_ins, False)),
        )
        text = rendered.translate({ord(standing): first for first, standing in stand_ins.items()})
        if not self._typed(text, rendered):  # so the template may see what was really written
            text = self._template.render(messages, tools=tools, variables=variables)
        return text, rendered

    def _prompt(self, text: str, standing: str) -> Prompt:
        cuts = [start + 1 for start in self._typed(text, standing)]
        return Prompt(text, tuple(cuts), self._all.ids(standing))

    def _typed(self, text: str, standing: str) -> list[int]:
        """Where somebody typed a control token."""
        found = self._all.everywhere(text) if len(text) == len(standing) else ()
        return [start for start, _ in found if standing[start] != text[start]]

    def ids(self, prompt: Prompt) -> list[int]:
        """Token ids, without a leading bos: engines feed it themselves.

        Raises PromptError if the text would become a control token nevertheless.
        """
        ids = self._in_pieces(prompt.text, prompt.cuts)
        if self._controls(ids) != self._controls(prompt.control_ids):
            raise PromptError("it holds what this tokenizer reads as a control token, however cut")
        starts = prompt.control_ids[:1] == (self._bos_id,) and ids[0] == self._bos_id
        return ids[1:] if starts else ids

    def _controls(self, ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(token_id for token_id in ids if token_id in self._control_ids)

    def _in_pieces(self, text: str, cuts: Sequence[int]) -> list[int]:
        ends = [*cuts, len(text)]
        pieces = [text[start:end] for start, end in itertools.pairwise(ends)]
        ids = self._encode(text[: ends[0]])
        # Behind a line end, so that SentencePiece adds no space of its own; transformers too.
        behind = self._tokenizer.encode_batch_fast(
            ["\n" + piece for piece in pieces], add_special_tokens=False
        )
        size = len(self._line_end)
        for piece, encoded in zip(pieces, behind, strict=True):
            is_apart = encoded.ids[:size] == self._line_end
            ids += encoded.ids[size:] if is_apart else self._encode(piece)
        return ids

    def _encode(self, text: str) -> list[int]:
        # Only the batch form lets other threads run; the fast one keeps no offsets.
        [encoded] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return list(encoded.ids)

    def _stand_ins(self, text: str) -> dict[str, str]:
        """For each character with which a control token begins one that `text` does not have."""
        used, firsts = set(text), self._all.firsts
        free = [chr(code) for code in _PRIVATE if chr(code) not in used]
        if len(free) < len(firsts):
            raise PromptError("it uses nearly every character of Unicode's private area")
        return dict(zip(firsts, free, strict=False))

    def _defuser(self, stand_ins: Mapping[str, str], of_assistant: bool) -> Callable[[str], str]:
        """Text → the same with stand-ins, but for what the template looks for. An assistant's
        tokens that are not special, such as `</think>`, are its own writing: it is shown as text
        and comes back."""

        def defused(found: re.Match[str]) -> str:
            text, start = found.string, found.start()
            if self._special.end_at(text, start):
                return stand_ins[found[0]]
            own = of_assistant and self._all.end_at(text, start)
            return found[0] if own or self._literals.end_at(text, start) else stand_ins[found[0]]

        return lambda text: self._all.first.sub(defused, text)


class _Finder:
    """Finds any of many texts, each with an id, however many there are."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        self._sizes: dict[str, list[int]] = {}  # by first character, longest first
        for size in sorted({len(text) for text in ids}, reverse=True):
            for first in {text[0] for text in ids if len(text) == size}:
                self._sizes.setdefault(first, []).append(size)
        self.firsts = "".join(sorted(self._sizes))
        self.first = re.compile(f"[{re.escape(self.firsts)}]") if self.firsts else _NOTHING

    @property
    def known_ids(self) -> frozenset[int]:
        return frozenset(self._ids.values())

    def end_at(self, text: str, start: int) -> int:
        """Where the longest that begins at `start` ends; 0 if none does."""
        for size in self._sizes.get(text[start], ()):
            if text[start : start + size] in self._ids:
                return start + size
        return 0

    def everywhere(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, end) of each, also of those that begin inside another."""
        for found in self.first.finditer(text):
            if end := self.end_at(text, found.start()):
                yield found.start(), end

    def ids(self, text: str) -> tuple[int, ...]:
        """Ids of those that a tokenizer finds: from the left, the longest, none inside another."""
        done, ids = 0, []
        for start, end in self.everywhere(text):
            if start >= done:
                done = end
                ids.append(self._ids[text[start:end]])
        return tuple(ids)

    def is_apart_from(self, text: str) -> bool:
        """Whether `text` holds none of these nor, in whatever stands around it, a part of one."""
        if not text or self.first.search(text, 1) or self.end_at(text, 0):
            return False
        return not any(known.startswith(text) for known in self._ids)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Plain data with every text in it changed: not what templates know by name, keys and roles."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            key if key.isidentifier() else change(key): item
            if key == "role" and str(item).isidentifier()
            else _mapped(item, change)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value
