"""A spec over bytes: its tokenizer, and how a conversation travels as roles and text.

Symbols 0 … 255 are bytes, 256 is the end of a text. A conversation begins with an end, and each of
its turns: END, the role, a line end, the text. No byte that anybody types is an END, so nothing in
a message can pass for a turn; every model's adapter renders the turns by its own template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from moesubnet.errors import PromptError
from moesubnet.spec.content import BYTE_END as END
from moesubnet.spec.content import BYTE_SYMBOLS as SYMBOLS
from moesubnet.spec.pieces import byte_of_symbol
from moesubnet.wire.strict_json import parse_json

END_TEXT: Final = "<|end|>"
TOKEN_BYTES = 4.3  # of a mean token of English, where no family says its own
MAX_TURNS = 1_024
MAX_HEAD_BYTES = 16_384  # a turn's role, and what belongs to it but its text
TEMPLATE = (
    "{{ '" + END_TEXT + "' }}"
    "{% if tools %}{{ '" + END_TEXT + "tools\\n' + tools | tojson }}{% endif %}"
    "{% for message in messages %}"
    "{% set more = dict(message.items() | rejectattr(0, 'in', ['role', 'content'])) %}"
    "{{ '" + END_TEXT + "' + message.role + (' ' + more | tojson if more else '') + '\\n' }}"
    "{{ message.content or '' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + END_TEXT + "assistant\\n' }}{% endif %}"
)
_ROLES = ("user", "assistant", "system", "tool", "tools")
_LINE_END = ord("\n")

Symbols = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Section:
    """A text inside a sequence: symbols `begin` … `end` - 1, before an END or the sequence's end.

    turns: what stands before it in a conversation; None for a text that is none's turn. head: of
    its own turn, without the text.
    """

    begin: int
    end: int
    turns: tuple[Mapping[str, Any], ...] | None = None
    head: Mapping[str, Any] | None = None


def byte_tokenizer() -> Tokenizer:
    """Byte b is id b; `<|end|>` is 256, and never text."""
    tokenizer = Tokenizer(models.BPE(dict(byte_of_symbol()), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_TEXT, special=True)])
    return tokenizer


def sections(symbols: Symbols) -> list[Section]:
    """The texts in a sequence, in order. What lies between them are ENDs and the heads of turns.
    Raises PromptError for a turn whose head is none."""
    ends = np.nonzero(symbols == END)[0].tolist()
    size = len(symbols)
    if not ends or ends[0] != 0:
        begins = [0, *(end + 1 for end in ends)]
        return [Section(a, b) for a, b in zip(begins, [*ends, size], strict=True)]
    if len(ends) > MAX_TURNS:
        raise PromptError(f"this conversation has more than {MAX_TURNS} turns")
    found = [Section(0, 0)]
    turns: list[Mapping[str, Any]] = []
    for at, end in zip(ends, [*ends[1:], size], strict=True):
        raw = symbols[at + 1 : end].astype(np.uint8).tobytes()
        line, stop, text = raw.partition(b"\n")
        if not stop:
            if end < size or len(raw) > MAX_HEAD_BYTES:
                raise PromptError("a turn of this conversation has no role")
            break
        head = _head(line)
        found.append(Section(at + 2 + len(line), end, tuple(turns), head))
        turns.append({**head, "content": text.decode("utf-8", "replace")})
    return found


def open_head(symbols: Symbols) -> int:
    """How many symbols at the end are the head, with its END, of a turn that says nothing yet."""
    ends = np.nonzero(symbols == END)[0]
    if len(ends) < 2 or ends[0] != 0 or int(symbols[-1]) != _LINE_END:
        return 0
    head = symbols[int(ends[-1]) :]
    return len(head) if int((head == _LINE_END).sum()) == 1 else 0


def talk(turns: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], Any]:
    """Messages and tools. Raises PromptError for tools that are none."""
    messages = [turn for turn in turns if turn["role"] != "tools"]
    said = [turn["content"] for turn in turns if turn["role"] == "tools"]
    if not said:
        return messages, None
    try:
        tools = parse_json(said[0].encode())
    except ValueError as error:
        raise PromptError(f"the tools of this conversation are no JSON: {error}") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise PromptError("the tools of this conversation are no list of objects")
    return messages, tools


def head_law(symbols: Symbols, at: int) -> npt.NDArray[np.float32]:
    """float32 [257] of log-probabilities inside a turn's head, `at` behind its END. Everybody's,
    so that nobody is weighed by it: roles alternate, and other heads are rare."""
    begun = symbols[at:].astype(np.uint8).tobytes()
    before = np.nonzero(symbols[: at - 1] == END)[0]
    last = symbols[int(before[-1]) + 1 : at - 1] if len(before) else symbols[:0]
    expected = "user" if last[:9].astype(np.uint8).tobytes() == b"assistant" else "assistant"
    law = np.full(SYMBOLS, 1e-3 / SYMBOLS)
    for role in _ROLES:
        name = role.encode() + b"\n"
        if name.startswith(begun) and len(begun) < len(name):
            law[name[len(begun)]] += 0.9 if role == expected else 0.1 / len(_ROLES)
    logs: npt.NDArray[np.float32] = np.log(law / law.sum()).astype(np.float32)
    return logs


def _head(line: bytes) -> dict[str, Any]:
    role, _, more = line.partition(b" ")
    if len(line) > MAX_HEAD_BYTES or not role:
        raise PromptError("a turn of this conversation has no role")
    try:
        rest = parse_json(more) if more else {}
    except ValueError as error:
        raise PromptError(f"the head of a turn is no JSON: {error}") from None
    if not isinstance(rest, dict):
        raise PromptError("the head of a turn is no JSON object")
    return {**rest, "role": role.decode("utf-8", "replace")}
