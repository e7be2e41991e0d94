"""Grammars over one spec's tokens, by llguidance: which token may come next.

Grammars come from strangers. A schema that cannot be honoured is refused by name, before anything
is spent; what one may take is bounded: its size, the time and memory of compiling it (`trials`) and
of every step. Compiling is off the event loop, and callers take turns in it; a step takes tens of
microseconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tokenizers import Tokenizer

from moesubnet.mixture.mixing import Mask
from moesubnet.router.openai_api import ApiError
from moesubnet.router.trials import Trials, Words, compiled
from moesubnet.spec.content import Spec
from moesubnet.spec.pieces import Pieces
from moesubnet.wire.limits import Turns

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

T = TypeVar("T")

MAX_SCHEMA_BYTES = 32 * 2**10  # without what only describes
MAX_MULTIPLE = 10_000  # a million takes minutes to compile
PATIENCE_S = 10.0  # with other callers' grammars, and this one
COMPILERS = 2
KEPT = 32  # compiled grammars, the newest
VERDICTS = 1_024  # on grammars that were tried, the newest
TOO_MUCH = "it takes too much"
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

    def forced(self) -> Sequence[int]:
        """Tokens that spell what has to come next, if anything has to."""
        return list(map(int, self._matcher.compute_ff_tokens()))

    def push(self, token_id: int) -> None:
        """An allowed token was drawn."""
        if token_id not in self._stop_ids and not self._matcher.consume_token(token_id):
            raise too_much()


class Grammars:
    """Compiles the grammars of one spec."""

    def __init__(self, spec: Spec, tokenizer: Tokenizer, pieces: Pieces) -> None:
        self._spec, self._tokenizer, self._pieces = spec, tokenizer, pieces
        self._compilers = ThreadPoolExecutor(COMPILERS, thread_name_prefix="grammar")
        self._turns = Turns(COMPILERS)  # one caller's many keep no other waiting
        self._making = threading.Lock()
        self._compiled: OrderedDict[str, Matcher] = OrderedDict()
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()

    async def matcher(self, rules: str, param: str, caller: str = "") -> Matcher:
        """A matcher at the beginning of a text. rules: of `lark`, with a rule `start`. caller: by
        whom it takes its turn.

        Raises ApiError 400, naming `param`, for a grammar that cannot be honoured, and as `tried`.
        """
        if rules not in self._compiled:
            [why] = await self.tried([rules], param, caller)
            if why:
                raise cannot(param, why)
            self._compiled[rules] = await self._aside(partial(self._compile, rules), caller)
        self._compiled.move_to_end(rules)
        if len(self._compiled) > KEPT:
            self._compiled.popitem(last=False)
        return self._compiled[rules].fork()

    async def tried(self, grammars: Sequence[str], param: str, caller: str = "") -> list[str]:
        """Of each why it cannot be honoured, or nothing.

        Raises ApiError 400 where together they take too much; 429 while others' are tried.
        """
        names = {hashlib.sha256(rules.encode()).digest(): rules for rules in grammars}
        known = {name: self._verdicts[name] for name in names if name in self._verdicts}
        if new := {name: rules for name, rules in names.items() if name not in known}:
            said = await self._aside(partial(self._try, list(new.values())), caller)
            # Of several it is not known which one took too much of what all may take.
            said += [TOO_MUCH] * (len(new) == 1 and not said)
            known |= dict(zip(new, said, strict=False))
        for name, why in known.items():
            self._verdicts[name] = why
            self._verdicts.move_to_end(name)
        while len(self._verdicts) > VERDICTS:
            self._verdicts.popitem(last=False)
        if len(known) < len(names) or TOO_MUCH in known.values():
            raise too_much(param)
        by_rules = {rules: known[name] for name, rules in names.items()}
        return [by_rules[rules] for rules in grammars]

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

    @cached_property
    def _words(self) -> Words:
        size, tokenizer = self._spec.vocab_size, self._tokenizer
        return Words(
            [self._pieces.inside(token_id) for token_id in range(size)],
            self._spec.stop_ids,
            sorted(i for i in self._pieces.hidden if i < size),
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        )

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        return self._words.vocabulary()

    @cached_property
    def _trials(self) -> Trials:
        return Trials(self._words)

    def _try(self, grammars: Sequence[str]) -> list[str]:
        with self._making:
            trials = self._trials
        return trials.tried(grammars)

    def _compile(self, rules: str) -> Matcher:
        with self._making:  # of the vocabulary there is one, whoever has waited for it
            vocabulary = self._vocabulary
        made = compiled(vocabulary, rules)
        return Matcher(made, self._spec.vocab_size, self._spec.stop_ids)

    async def _aside(self, work: Callable[[], T], caller: str) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_S), self._turns.take(caller):
                return await loop.run_in_executor(self._compilers, work)
        except TimeoutError:
            text = "The router is busy with other grammars. Please retry shortly."
            raise ApiError(
                429, text, kind="rate_limit_error", code="rate_limit_exceeded", retry_after_s=1.0
            ) from None


def json_rule(schema: Mapping[str, Any], param: str) -> str:
    """What a rule says for a value of a JSON schema. Raises ApiError 400, naming `param`."""
    too_large = cannot(param, f"it is larger than {MAX_SCHEMA_BYTES} bytes without descriptions")
    bare = _bare(schema, itertools.repeat(None, MAX_SCHEMA_BYTES), too_large)
    if len(json.dumps(bare, ensure_ascii=False).encode()) > MAX_SCHEMA_BYTES:
        raise too_large
    # Of several that hold for one number the least common multiple counts.
    multiple = math.lcm(*_multiples(bare))
    if not 0 < multiple <= MAX_MULTIPLE:
        raise cannot(param, f"multipleOf in it comes to more than {MAX_MULTIPLE} steps")
    return "%json " + json.dumps(bare | {"x-guidance": _JSON_OPTIONS}, ensure_ascii=False)


def _bare(schema: Any, room: Iterator[None], too_large: ApiError) -> Any:
    """A schema without what only describes. room: for so many values, a byte each at least."""
    if next(room, room) is room:
        raise too_large
    if isinstance(schema, list):
        return [_bare(item, room, too_large) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            kept[key] = {name: _bare(item, room, too_large) for name, item in value.items()}
        elif key in _VERBATIM:
            kept[key] = value
        elif key not in _DESCRIBING:
            kept[key] = _bare(value, room, too_large)
    return kept


def _multiples(schema: Any) -> Iterator[int]:
    """Every number under a key `multipleOf`, in units of its last decimal; 0 for none that is."""
    if isinstance(schema, list):
        for item in schema:
            yield from _multiples(item)
    elif isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "multipleOf" and type(value) in (int, float):  # a bool is no number
                exact = Decimal(str(value)).normalize()
                whole = exact if exact == exact.to_integral() else exact.scaleb(-_exponent(exact))
                yield int(whole) if abs(whole) < 2**63 else 0
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


def cannot(param: str, why: str) -> ApiError:
    text = f"The schema in '{param}' cannot be honoured: {why.split('<non-verbose')[0].strip()}"
    return ApiError(400, text[:500], param=param, code="unsupported_schema")


def too_much(param: str | None = None) -> ApiError:
    text = "The grammar of this request takes too much to follow. Please simplify its schema."
    return ApiError(400, text, param=param, code="grammar_too_complex")
