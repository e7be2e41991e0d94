"""Any engine, whatever its model's tokenizer, as one whose laws are over bytes.

The model is read as its own family (tokenizer, template, where texts end); a sequence of bytes is
asked of it as the token sequences that spell it (`bytes_cover`), as few as carry the mass. A
conversation arrives as roles and text and is rendered by the model's own template, so that no byte
of a message becomes a control token; where there is none, or it refuses the conversation, as plain
text. What does not fit the model's context is forgotten from the front.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from moesubnet.engine.base import Engine, EngineFactory, Query, check_batch, owner
from moesubnet.engine.bytes_borders import Borders
from moesubnet.engine.bytes_cover import Node, TokenLaw
from moesubnet.engine.bytes_lexicon import Lexicon
from moesubnet.engine.bytes_reading import Logs, Reader, Reading, Stretch, fitted
from moesubnet.engine.bytes_witness import check_reading
from moesubnet.errors import ConfigError, EngineError, PromptError
from moesubnet.spec.byte_unit import Section, talk
from moesubnet.spec.content import (
    BYTE_SYMBOLS,
    Baseline,
    LoadedSpec,
    Spec,
    SpecFile,
    file_sha256,
)
from moesubnet.spec.family import Family, read_family
from moesubnet.spec.prompt import PromptEncoder
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import Want

log = logging.getLogger(__name__)

FULL = Want("full")
_BESIDE = (
    "to serve {file} over bytes its tokenizer.json and config.json must stand beside it. Write "
    "them (pip install gguf, then in Python):\n"
    "  from transformers import AutoConfig, AutoTokenizer\n"
    "  for kind in (AutoConfig, AutoTokenizer):\n"
    "      kind.from_pretrained({folder!r}, gguf_file={file!r}).save_pretrained({folder!r})"
)
_FAR = (
    "over bytes the model's own tokenizer must be here, and {model!r} names none. Name it with "
    "--tokenizer: a folder with its tokenizer.json, config.json and chat template, or its hub id; "
    "no weights are read"
)
PUBLIC_TEXTS = 2_000  # of the spec, from which an engine may learn how its model's tokens occur
MAX_SESSIONS = 256
SHARED = 64  # symbols that another session has read are worth looking for from here on
SLOTS = 8  # sequences of the engine to one of ours
LAWS_BYTES = 256 << 20  # of token laws that are kept
VALUES_AT_ONCE = 1 << 24  # log-probabilities that one call of the engine returns


_Missing = tuple[str, Stretch, Node]  # a session, and a node without a law of what it reads


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """The law of position `at`, which is that of `end` in the stretch's cover."""

    reading: Reading
    at: int
    stretch: Stretch
    end: int


@dataclass(slots=True, eq=False)
class _Asked:
    """Nodes of which each is the next one's parent, asked as one sequence."""

    session: str
    stretch: Stretch
    nodes: list[Node]


def family_of(model: str) -> Family:
    """Of a folder or a hub id; of a GGUF file, what stands beside it. Raises ConfigError,
    SpecError."""
    path = Path(model).expanduser()
    if path.suffix.lower() != ".gguf":
        return read_family(model)
    if not all((path.parent / name).is_file() for name in ("tokenizer.json", "config.json")):
        raise ConfigError(_BESIDE.format(file=path.name, folder=str(path.parent)))
    return read_family(str(path.parent))


def own_spec(family: Family, spec: LoadedSpec, context_tokens: int | None = None) -> LoadedSpec:
    """A spec of unit tokens, of the model's family and as long as the subnet's, or as the model or
    what runs it (context_tokens) allows."""
    path = family.tokenizer_path
    nothing = SpecFile(path="none", sha256="0" * 64)
    longest = (family.context_tokens, context_tokens, spec.spec.context_tokens)
    said = Spec(
        name=spec.spec.name,
        tokenizer=SpecFile(path=path.name, sha256=file_sha256(path)),
        vocab_size=family.vocab_size,
        bos_id=family.bos_id,
        stop_ids=tuple(sorted(family.stops)),
        context_tokens=min(length for length in longest if length),
        chat_template=family.template,
        special_tokens=family.special_tokens,
        min_caller_stake_rao=0,
        public_text=nothing,
        baseline=Baseline(kind="unigram", file=nothing),
    )
    return LoadedSpec(root=family.folder, sha256=spec.sha256, spec=said)


class Adapted:
    """An engine's factory, as one of engines over bytes. `tokenizer` names the model's family where
    `model` does not: of one that another server runs."""

    def __init__(self, factory: EngineFactory) -> None:
        self._factory = factory

    def __call__(
        self, model: str, spec: LoadedSpec, *, threads: int, tokenizer: str = "", **options: str
    ) -> BytesEngine:
        own = self._own(model, spec, tokenizer, options)
        more = self._texts(spec) | options
        engine = self._factory(model, own.spec, threads=threads, **more)
        return BytesEngine(engine, own, spec)

    @property
    def several(self) -> Callable[..., list[BytesEngine]] | None:
        """See `load_engines`; None where the engine takes one adapter."""
        make = getattr(self._factory, "several", None)
        if make is None:
            return None

        def adapted(
            model: str, spec: LoadedSpec, adapters: Sequence[str | None], **options: Any
        ) -> list[BytesEngine]:
            own = self._own(model, spec, "", options)
            return [BytesEngine(e, own, spec) for e in make(model, own.spec, adapters, **options)]

        return adapted

    def check(self, model: str, spec: LoadedSpec, *, tokenizer: str = "", **options: str) -> None:
        """What loading would raise, as far as it shows without the model."""
        own = self._own(model, spec, tokenizer, options)
        if (check := getattr(self._factory, "check", None)) is not None:
            check(model, own.spec, **(self._texts(spec) | options))

    def _own(
        self, model: str, spec: LoadedSpec, tokenizer: str, options: Mapping[str, str]
    ) -> _Own:
        try:
            family = family_of(tokenizer or model)
        except ConfigError as error:
            if tokenizer or "upstream" not in options:
                raise
            raise ConfigError(_FAR.format(model=model)) from error
        find = getattr(self._factory, "context_of", None)
        context_tokens = find(model, options["upstream"]) if find else None
        return _Own.of(family, own_spec(family, spec, context_tokens))

    def _texts(self, spec: LoadedSpec) -> dict[str, Any]:
        if "texts" not in signature(self._factory).parameters:
            return {}
        with spec.path(spec.spec.public_text).open(encoding="utf-8") as lines:
            return {"texts": [json.loads(line)["text"] for line in islice(lines, PUBLIC_TEXTS)]}


@dataclass(frozen=True)
class _Own:
    """A model's own reading, which several engines over it share. Raises EngineError for a
    tokenizer that is not understood."""

    spec: LoadedSpec
    encoder: PromptEncoder
    text: Reader  # of what people write
    said: Reader  # of what the model writes itself

    @classmethod
    def of(cls, family: Family, spec: LoadedSpec) -> _Own:
        encoder = PromptEncoder(spec.spec, family.tokenizer)
        stops = set(spec.spec.stop_ids)

        def encode(text: str) -> list[int]:
            return encoder.ids(encoder.text(text))

        def reader(controls: frozenset[int] | set[int]) -> Reader:
            lexicon = Lexicon(family.tokenizer, family.vocab_size, controls)
            borders = Borders(lexicon)
            check_reading(family.tokenizer, lexicon, borders)
            return Reader(lexicon, borders, encode)

        text = reader(encoder.control_ids | stops)
        is_one = encoder.special_ids | stops == encoder.control_ids | stops
        return cls(spec, encoder, text, text if is_one else reader(encoder.special_ids | stops))

    def before(self, section: Section) -> tuple[int, ...]:
        """The tokens of a conversation up to where a section begins, by the model's own template,
        else as plain text. Raises PromptError for what no conversation is."""
        if section.turns is None or section.head is None or section.head["role"] == "tools":
            return ()
        messages, tools = talk(section.turns)
        role = str(section.head["role"])
        try:
            return tuple(self.encoder.ids(self.encoder.turn(messages, role, tools=tools)))
        except PromptError as error:
            log.debug("read as plain text: %s", error)
            plain = self.encoder.text(plain_talk(messages, role, tools))
            return tuple(self.encoder.ids(plain))


def plain_talk(messages: Sequence[Mapping[str, Any]], role: str, tools: object) -> str:
    """A conversation as text, up to where a turn of `role` says something."""
    turns = [("tools", json.dumps(tools))] if tools else []
    for message in messages:
        calls = message.get("tool_calls")
        turns.append((message["role"], message["content"] + (json.dumps(calls) if calls else "")))
    return "".join(f"{who}:\n{said}\n\n" for who, said in turns) + f"{role}:\n"


class BytesEngine:
    """`engine` was loaded under `own`; answers are as long as `spec` says. laws_asked: how many
    token laws it took so far."""

    vocab_size = BYTE_SYMBOLS

    def __init__(self, engine: Engine, own: _Own, spec: LoadedSpec) -> None:
        self.engine, self._own = engine, own
        self.name = f"{engine.name}, bytes"
        self.commitment = engine.commitment
        self.context_tokens = spec.spec.context_tokens
        self.caches = bool(getattr(engine, "caches", False))
        self.tells_prompts = bool(getattr(engine, "tells_prompts", True))
        self.laws_asked = 0
        self._readings: OrderedDict[str, Reading] = OrderedDict()
        self._laws: OrderedDict[int, Node] = OrderedDict()
        self._most_laws = max(64, LAWS_BYTES // (4 * engine.vocab_size))
        self._at_once = max(1, VALUES_AT_ONCE // engine.vocab_size)
        if not own.spec.spec.chat_template:
            log.warning("the model has no chat template: it reads conversations as plain text")

    def close(self) -> None:
        """See `Engine`."""
        if (close := getattr(self.engine, "close", None)) is not None:
            close()

    def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        """See `Engine.rows`."""
        check_batch(batch, self.vocab_size, self.context_tokens)
        readings = [self._follow(query) for query in batch]
        wanted = [
            (query.session, reading, at)
            for query, reading in zip(batch, readings, strict=True)
            for at in range(query.first_law, len(query.ids) + 1)
            if at not in reading.laws
        ]
        for begin in range(0, len(wanted), self._at_once):
            self._make(wanted[begin : begin + self._at_once])
        return [
            query.answer(
                np.stack([r.laws[at] for at in range(query.first_law, len(query.ids) + 1)]), want
            )
            for query, r in zip(batch, readings, strict=True)
        ]

    def held(self, query: Query) -> int:
        """See `HoldingEngine`: as far as the model's own engine keeps what it has read."""
        symbols = self._most_read(query)[1] if self.caches else 0
        return symbols + 1 if symbols else 0

    def forget(self, session: str) -> None:
        """See `Engine.forget`."""
        self._readings.pop(session, None)
        for slot in range(SLOTS):
            self.engine.forget(f"{session}#{slot}")

    def encode(self, text: str) -> list[int]:
        """A text in the model's own tokens."""
        return self._own.text.encode(text)

    def _follow(self, query: Query) -> Reading:
        """The session's reading, or one that forks what reads most of the same."""
        session = query.session
        name, _ = self._most_read(query)
        own = self._readings.pop(session, None)
        reading = own if name == session else self._readings[name].fork()
        reading = reading or Reading()
        try:
            reading.follow(query.ids, query.first_law, self._reader_of, self._own.before)
        except PromptError as error:
            raise EngineError(f"this model does not take the conversation: {error}") from error
        self._readings[session] = reading
        if len(self._readings) > MAX_SESSIONS:
            self.forget(next(iter(self._readings)))
        return reading

    def _most_read(self, query: Query) -> tuple[str, int]:
        """Of the owner's sessions the one whose reading has most of this text, and how many
        symbols of it; its own where no other has much more."""
        found, own = query.session, self._readings.get(query.session)
        shared = own.common(query.ids) if own else 0
        least = shared + SHARED
        for name, other in self._readings.items():
            if len(query.ids) > least and owner(name) == owner(query.session):
                common = other.common(query.ids)
                if common > max(least, shared):
                    found, shared = name, common
        return found, shared

    def _reader_of(self, section: Section) -> Reader:
        is_own = section.head is not None and section.head["role"] == "assistant"
        return self._own.said if is_own else self._own.text

    def _make(self, wanted: Sequence[tuple[str, Reading, int]]) -> None:
        """Make the laws of these positions."""
        left: dict[str, deque[_Wanted]] = {}
        known: dict[int, _Missing] = {}
        for session, reading, at in wanted:
            stretch, end = reading.place(at)
            left.setdefault(session, deque()).append(_Wanted(reading, at, stretch, end))
            spine = stretch.cover.spine(end)  # what is certain goes ahead as one
            if spine.log_share(stretch.cover.lexicon) is None:
                known[id(spine)] = session, stretch, spine
        while left:
            self._answer(self._lines(known.values()))
            known = {}
            for session, queue in list(left.items()):
                for stretch, node in _next_missing(queue):
                    known[id(node)] = session, stretch, node
                if not queue:
                    del left[session]
        while len(self._laws) > self._most_laws:
            self._laws.popitem(last=False)[1].law = None

    def _lines(self, nodes: Iterable[_Missing]) -> list[_Asked]:
        """As few sequences as hold these nodes: a node's ancestors are asked with it."""
        lines: list[_Asked] = []
        slots: Counter[str] = Counter()
        taken: set[int] = set()
        for session, stretch, node in sorted(nodes, key=lambda item: -item[2].depth):
            if id(node) in taken or slots[session] == SLOTS:
                continue
            line = [node]
            while (above := line[-1].parent) and above.law is None and not line[-1].is_weighed:
                line.append(above)
            line = line[::-1][: self._at_once]
            taken |= {id(node) for node in line}
            lines.append(_Asked(f"{session}#{slots[session]}", stretch, line))
            slots[session] += 1
        return lines

    def _answer(self, asked: Sequence[_Asked]) -> None:
        """Ask the engine for the laws of nodes."""
        if not asked:
            return
        queries = []
        own, room = self._own.spec.spec, self.engine.context_tokens - 1
        for line in asked:
            ids = fitted(line.stretch.prefix, line.nodes[-1].path(), room)
            line.nodes = line.nodes[-(len(ids) + 1) :]
            first = len(ids) + 1 - len(line.nodes)
            queries.append(Query(line.session, np.array(ids, np.uint32), first))
        for line, rows in zip(asked, self.engine.rows(queries, FULL), strict=True):
            for index, node in enumerate(line.nodes):
                logprobs = dense(rows, index, own.vocab_size)
                node.law = TokenLaw.of(line.stretch.cover.lexicon, logprobs, own.stop_ids)
                self._laws[id(node)] = node
            self.laws_asked += len(line.nodes)


def _next_missing(queue: deque[_Wanted]) -> list[tuple[Stretch, Node]]:
    """Make the laws at the head of a session's queue, as far as their nodes have been asked; the
    nodes that the next ones need, no more than one call of the engine takes."""
    missing: list[tuple[Stretch, Node]] = []
    waiting: list[_Wanted] = []
    while queue and len(missing) < SLOTS:
        one = queue.popleft()
        if nodes := one.stretch.cover.missing(one.end):
            missing += [(one.stretch, node) for node in nodes]
            waiting.append(one)
        else:
            one.reading.laws[one.at] = np.log(one.stretch.cover.law(one.end)).astype(np.float32)
    queue.extendleft(reversed(waiting))
    return missing


def dense(rows: StepRows, index: int, vocab_size: int) -> Logs:
    """float32 [V]: a row as a whole law; what an engine does not list shares its tail evenly."""
    ids, logprobs, tail = rows.row(index)
    if ids is None:
        return logprobs
    share = max(tail, 1e-9) / max(1, vocab_size - len(ids))
    law = np.full(vocab_size, np.log(share), np.float32)
    law[ids] = logprobs
    return law
