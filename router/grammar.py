"""Grammars over one spec's tokens, by llguidance: which token may come next.

Grammars come from strangers. A schema that cannot be honoured is refused by name, before anything
is spent; what one may take is bounded: its size, the time and memory of compiling it and of every
step. Compiling is off the event loop; a step takes tens of microseconds.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from moesubnet.mixture.mixing import Mask
from moesubnet.router.openai_api import ApiError
from moesubnet.spec.content import Spec
from moesubnet.spec.pieces import Pieces

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_SCHEMA_BYTES = 32 * 2**10  # without what only describes
MAX_MULTIPLE = 10_000  # a million takes minutes to compile
COMPILE_TIMEOUT_S = 10.0
COMPILERS = 2
KEPT = 32  # compiled grammars, the newest
# What llguidance may take: half or less of what it allows itself, and states of 2 kB.
LIMITS = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 5_000,
    "max_grammar_size": 50_000,
}
# A weak model would write white space for ever, and so would one at a high temperature.
_JSON_OPTIONS = {"whitespace_flexible": True, "whitespace_pattern": r"[ \n\t]{1,16}"}
_DESCRIBING = frozenset(
    [
        "title",
        "description",
        "default",
        "example",
        "examples",
        "$comment",
        "deprecated",
        "readOnly",
        "writeOnly",
    ]
) | {"x-guidance"}
_NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_VERBATIM = frozenset(("enum", "const", "required"))


class Matcher:
    """One text under a grammar as it is written."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, stop_ids: Sequence[int]) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._stop_ids = frozenset(stop_ids)

    def fork(self) -> Matcher:
        """The same text again, to be continued otherwise."""
        return Matcher(self._matcher.deep_copy(), self._vocab_size, tuple(self._stop_ids))

    @property
    def is_over(self) -> bool:
        """Whether the text is whole and nothing may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allowed(self) -> Mask:
        """[V]: which tokens may come next; stop ids where the text is whole.

        Raises ApiError 400 for a grammar that turns out to take too much.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise too_much()
        mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)
        if not mask.any():
            text = "The grammar of this request wants a character that no token of the spec spells."
            raise ApiError(400, text, code="unsupported_schema")
        return mask

    def push(self, token_id: int) -> None:
        """An allowed token was drawn."""
        if token_id not in self._stop_ids and not self._matcher.consume_token(token_id):
            raise too_much()


class Grammars:
    """Compiles the grammars of one spec."""

    def __init__(self, spec: Spec, tokenizer: Tokenizer, pieces: Pieces) -> None:
        self._spec, self._tokenizer, self._pieces = spec, tokenizer, pieces
        self._vocabulary: LLTokenizer | None = None
        self._compilers = ThreadPoolExecutor(COMPILERS, thread_name_prefix="grammar")
        self._making = asyncio.Lock()
        self._compiled: OrderedDict[str, Matcher] = OrderedDict()

    async def matcher(self, rules: str, param: str) -> Matcher:
        """A matcher at the beginning of a text. rules: of `lark`, with a rule `start`.

        Raises ApiError 400, naming `param`, for a grammar that cannot be honoured.
        """
        if rules not in self._compiled:
            loop = asyncio.get_running_loop()
            async with self._making:  # of the vocabulary there is one
                if self._vocabulary is None:
                    self._vocabulary = await loop.run_in_executor(None, self._read_vocabulary)
            compiling = loop.run_in_executor(self._compilers, self._compile, rules, param)
            try:
                async with asyncio.timeout(COMPILE_TIMEOUT_S):
                    self._compiled[rules] = await compiling
            except TimeoutError:
                raise too_much(param) from None
        self._compiled.move_to_end(rules)
        if len(self._compiled) > KEPT:
            self._compiled.popitem(last=False)
        return self._compiled[rules].fork()

    def literal(self, text: str) -> str:
        """`text` in a rule, control tokens in it as the tokens that they are."""
        return " ".join(_literals(text, self._control_ids))

    def controls_in(self, text: str) -> frozenset[int]:
        """The control tokens that `text` names."""
        return frozenset(id_ for name, id_ in self._control_ids.items() if name in text)

    def control_before(self, text: str) -> str:
        """The control token that `text` begins with, or nothing."""
        return max((name for name in self._control_ids if text.startswith(name)), default="")

    @property
    def lead(self) -> str:
        """What may stand before a text's beginning: with some tokenizers a space, never shown."""
        return "" if self._pieces.is_byte_level else '" "?'

    @cached_property
    def _control_ids(self) -> dict[str, int]:
        names = {id_: self._tokenizer.id_to_token(id_) for id_ in self._pieces.hidden}
        return {name: token_id for token_id, name in names.items() if name}

    def _read_vocabulary(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        words = TokenizerWrapper(_Words(self._spec, self._tokenizer, self._pieces))
        return LLTokenizer(words, eos_token=list(self._spec.stop_ids))

    def _compile(self, rules: str, param: str) -> Matcher:
        from llguidance import LLMatcher, LLParserLimits

        assert self._vocabulary is not None
        limits = LLParserLimits(**LIMITS, verbose_errors=False)  # type: ignore[arg-type]
        made = LLMatcher(self._vocabulary, "%llguidance {}\n" + rules, log_level=0, limits=limits)
        if made.is_error():
            raise _cannot(param, made.get_error())
        return Matcher(made, self._spec.vocab_size, self._spec.stop_ids)


class _Words:
    """A spec's tokens as llguidance asks for them: their bytes are those that answers show."""

    def __init__(self, spec: Spec, tokenizer: Tokenizer, pieces: Pieces) -> None:
        self.eos_token_id, self.bos_token_id = spec.stop_ids[0], None
        self.special_token_ids = sorted(i for i in pieces.hidden if i < spec.vocab_size)
        self.tokens = [pieces.inside(token_id) for token_id in range(spec.vocab_size)]
        self._tokenizer = tokenizer
        special = frozenset(self.special_token_ids)
        self._ids = {word: i for i, word in enumerate(self.tokens) if word and i not in special}
        self._longest = max(map(len, self._ids), default=1)

    def __call__(self, text: str) -> list[int]:
        """Tokens of a text that a grammar leaves no choice about, where it stands: some tokenizers
        put a space before it, or know no token for a part."""
        ids = list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        raw = text.encode()
        return ids if b"".join(self.tokens[i] for i in ids) == raw else self._greedy(raw)

    def _greedy(self, raw: bytes) -> list[int]:
        ids, at = list[int](), 0
        while at < len(raw):
            ends = range(min(len(raw), at + self._longest), at, -1)
            end = next((end for end in ends if raw[at:end] in self._ids), 0)
            if not end:
                break
            ids.append(self._ids[raw[at:end]])
            at = end
        return ids


def json_rule(schema: Mapping[str, Any], param: str) -> str:
    """What a rule says for a value of a JSON schema. Raises ApiError 400, naming `param`."""
    bare = _bare(schema)
    text = json.dumps(bare, ensure_ascii=False)
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        raise _cannot(param, f"it is larger than {MAX_SCHEMA_BYTES} bytes without descriptions")
    # Of several that hold for one number the least common multiple counts.
    multiple = math.lcm(*_multiples(bare))
    if not 0 < multiple <= MAX_MULTIPLE:
        raise _cannot(param, f"multipleOf in it comes to more than {MAX_MULTIPLE} steps")
    return "%json " + json.dumps(bare | {"x-guidance": _JSON_OPTIONS}, ensure_ascii=False)


def _bare(schema: Any) -> Any:
    """A schema without what only describes."""
    if isinstance(schema, list):
        return [_bare(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            kept[key] = {name: _bare(item) for name, item in value.items()}
        elif key in _VERBATIM:
            kept[key] = value
        elif key not in _DESCRIBING:
            kept[key] = _bare(value)
    return kept


def _multiples(schema: Any) -> Iterator[int]:
    """Every number under a key `multipleOf`, in units of its last decimal; 0 for none that is."""
    if isinstance(schema, list):
        for item in schema:
            yield from _multiples(item)
    elif isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "multipleOf" and isinstance(value, int | float):
                exact = Decimal(str(value)).normalize()
                whole = exact if exact == exact.to_integral() else exact.scaleb(-_exponent(exact))
                yield int(whole) if whole < 2**63 else 0
            yield from _multiples(value)


def _exponent(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _literals(text: str, control_ids: Mapping[str, int]) -> Iterator[str]:
    while text:
        found = [(at, -len(name), name) for name in control_ids if (at := text.find(name)) >= 0]
        if not found:
            yield json.dumps(text, ensure_ascii=False)
            return
        at, _, name = min(found)
        if at:
            yield json.dumps(text[:at], ensure_ascii=False)
        yield f"<[{control_ids[name]}]>"
        text = text[at + len(name) :]


def _cannot(param: str, why: str) -> ApiError:
    text = f"The schema in '{param}' cannot be honoured: {why.split('<non-verbose')[0].strip()}"
    return ApiError(400, text[:500], param=param, code="unsupported_schema")


def too_much(param: str | None = None) -> ApiError:
    text = "The grammar of this request takes too much to follow. Please simplify its schema."
    return ApiError(400, text, param=param, code="grammar_too_complex")
