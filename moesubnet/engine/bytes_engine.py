"""Any engine, whatever its model's tokenizer, as one whose laws are over bytes.

The model is read as its own family (`bytes_own`); a sequence of bytes is asked of it as the token
sequences that spell it (`bytes_cover`), as few as carry the mass. What does not fit the model's
context is forgotten from the front.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from moesubnet.engine.base import Engine, Query, check_batch, owner
from moesubnet.engine.bytes_cover import Node, TokenLaw
from moesubnet.engine.bytes_own import Own
from moesubnet.engine.bytes_reading import Logs, Reader, Reading, Stretch, fitted
from moesubnet.errors import EngineError, PromptError
from moesubnet.spec.byte_unit import Section
from moesubnet.spec.content import BYTE_SYMBOLS, LoadedSpec
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import Want

log = logging.getLogger(__name__)

FULL = Want("full")
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


class BytesEngine:
    """`engine` was loaded under `own`; answers are as long as `spec` says. laws_asked: how many
    token laws it took so far."""

    vocab_size = BYTE_SYMBOLS

    def __init__(self, engine: Engine, own: Own, spec: LoadedSpec) -> None:
        self.engine, self._own = engine, own
        self.name = f"{engine.name}, bytes"
        self.commitment = engine.commitment
        self.context_tokens = spec.spec.context_tokens
        self.caches = bool(getattr(engine, "caches", False))
        self.model_name = str(getattr(engine, "model_name", ""))
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
