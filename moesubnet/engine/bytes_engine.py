"""Any engine, whatever its model's tokenizer, as one whose laws are over bytes.

The model is read as its own family (tokenizer, template, where texts end); a sequence of bytes is
asked of it as the token sequences that spell it (`bytes_cover`), as few as carry the mass. A
conversation arrives as roles and text and is rendered by the model's own template, so that no byte
of a message becomes a control token. What does not fit the model's context is forgotten from the
front.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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

FULL = Want("full")
_BESIDE = (
    "to serve {file} over bytes its tokenizer.json and config.json must stand beside it. Write "
    "them (pip install gguf, then in Python):\n"
    "  from transformers import AutoConfig, AutoTokenizer\n"
    "  for kind in (AutoConfig, AutoTokenizer):\n"
    "      kind.from_pretrained({folder!r}, gguf_file={file!r}).save_pretrained({folder!r})"
)
MAX_SESSIONS = 256
SHARED = 64  # symbols that another session has read are worth looking for from here on
SLOTS = 8  # sequences of the engine to one of ours
LAWS_BYTES = 256 << 20  # of token laws that are kept
VALUES_AT_ONCE = 1 << 24  # log-probabilities that one call of the engine returns


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


def own_spec(family: Family, spec: LoadedSpec) -> LoadedSpec:
    """A spec of unit tokens, of the model's family and as long as the subnet's."""
    path = family.tokenizer_path
    nothing = SpecFile(path="none", sha256="0" * 64)
    said = Spec(
        name=spec.spec.name,
        tokenizer=SpecFile(path=path.name, sha256=file_sha256(path)),
        vocab_size=family.vocab_size,
        bos_id=family.bos_id,
        stop_ids=tuple(sorted(family.stops)),
        context_tokens=min(family.context_tokens or 1 << 20, spec.spec.context_tokens),
        chat_template=family.template,
        special_tokens=family.special_tokens,
        min_caller_stake_rao=0,
        public_text=nothing,
        baseline=Baseline(kind="unigram", file=nothing),
    )
    return LoadedSpec(root=family.folder, sha256=spec.sha256, spec=said)


class Adapted:
    """An engine's factory, as one of engines over bytes."""

    def __init__(self, factory: EngineFactory) -> None:
        self._factory = factory

    def __call__(
        self, model: str, spec: LoadedSpec, *, threads: int, **options: str
    ) -> BytesEngine:
        family = family_of(model)
        own = own_spec(family, spec)
        engine = self._factory(model, own, threads=threads, **options)
        return BytesEngine(engine, own, family, spec)

    def check(self, model: str, spec: LoadedSpec, **options: str) -> None:
        """What loading would raise, as far as it shows without the model."""
        family = family_of(model)
        lexicon = Lexicon(family.tokenizer, family.vocab_size, family.stops)
        check_reading(family.tokenizer, lexicon, Borders(lexicon))
        if (check := getattr(self._factory, "check", None)) is not None:
            check(model, own_spec(family, spec), **options)


class BytesEngine:
    """`engine` was loaded under `own`; answers are as long as `spec` says. Raises EngineError for
    a tokenizer that is not understood. laws_asked: how many token laws it took so far."""

    vocab_size = BYTE_SYMBOLS

    def __init__(self, engine: Engine, own: LoadedSpec, family: Family, spec: LoadedSpec) -> None:
        self.engine, self._own = engine, own.spec
        self.name = f"{engine.name}, bytes"
        self.commitment = engine.commitment
        self.context_tokens = spec.spec.context_tokens
        self.laws_asked = 0
        self._encoder = PromptEncoder(own.spec, family.tokenizer)
        controls = self._encoder.control_ids | set(own.spec.stop_ids)
        self._text = self._reader(family, controls)
        specials = self._encoder.special_ids | set(own.spec.stop_ids)
        self._said = self._text if specials == controls else self._reader(family, specials)
        self._readings: OrderedDict[str, Reading] = OrderedDict()
        self._laws: OrderedDict[int, Node] = OrderedDict()
        self._most_laws = max(64, LAWS_BYTES // (4 * own.spec.vocab_size))

    @property
    def caches(self) -> bool:
        """See `Engine`."""
        return bool(getattr(self.engine, "caches", False))

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
        size = max(1, VALUES_AT_ONCE // self._own.vocab_size)
        for begin in range(0, len(wanted), size):
            self._make(wanted[begin : begin + size])
        return [
            query.answer(
                np.stack([r.laws[at] for at in range(query.first_law, len(query.ids) + 1)]), want
            )
            for query, r in zip(batch, readings, strict=True)
        ]

    def forget(self, session: str) -> None:
        """See `Engine.forget`."""
        self._readings.pop(session, None)
        for slot in range(SLOTS):
            self.engine.forget(f"{session}#{slot}")

    def _reader(self, family: Family, controls: frozenset[int] | set[int]) -> Reader:
        lexicon = Lexicon(family.tokenizer, family.vocab_size, controls)
        borders = Borders(lexicon)
        check_reading(family.tokenizer, lexicon, borders)
        return Reader(lexicon, borders, self.encode)

    def encode(self, text: str) -> list[int]:
        """A text in the model's own tokens."""
        return self._encoder.ids(self._encoder.text(text))

    def _follow(self, query: Query) -> Reading:
        """The session's reading, or one that forks what reads most of the same."""
        session = query.session
        reading = self._readings.pop(session, None)
        shared = reading.common(query.ids) if reading else 0
        if len(query.ids) > shared + SHARED:
            mine = (r for name, r in self._readings.items() if owner(name) == owner(session))
            best = max(mine, key=lambda other: other.common(query.ids), default=None)
            if best is not None and best.common(query.ids) > shared + SHARED:
                reading = best.fork()
        reading = reading or Reading()
        try:
            reading.follow(query.ids, query.first_law, self._reader_of, self._prefix_of)
        except PromptError as error:
            raise EngineError(f"this model does not take the conversation: {error}") from error
        self._readings[session] = reading
        if len(self._readings) > MAX_SESSIONS:
            self.forget(next(iter(self._readings)))
        return reading

    def _reader_of(self, section: Section) -> Reader:
        own = section.head is not None and section.head["role"] == "assistant"
        return self._said if own else self._text

    def _prefix_of(self, section: Section) -> tuple[int, ...]:
        if section.turns is None or section.head is None:
            return ()
        if section.head["role"] == "tools":
            return ()
        messages, tools = talk(section.turns)
        turn = self._encoder.turn(messages, str(section.head["role"]), tools=tools)
        return tuple(self._encoder.ids(turn))

    def _make(self, wanted: Sequence[tuple[str, Reading, int]]) -> None:
        """Make the laws of these positions."""
        left = [(session, reading, *reading.place(at), at) for session, reading, at in wanted]
        known: dict[int, tuple[str, Stretch, Node]] = {}
        for session, _, stretch, end, _ in left:  # what is certain goes ahead as one
            spine = stretch.cover.spine(end)
            if spine.log_share(stretch.cover.lexicon) is None:
                known[id(spine)] = session, stretch, spine
        while left:
            self._answer(self._lines(known.values()))
            known, still = {}, []
            for session, reading, stretch, end, at in left:
                missing = stretch.cover.missing(end)
                if missing:
                    known |= {id(node): (session, stretch, node) for node in missing}
                    still.append((session, reading, stretch, end, at))
                else:
                    reading.laws[at] = np.log(stretch.cover.law(end)).astype(np.float32)
            left = still
        while len(self._laws) > self._most_laws:
            self._laws.popitem(last=False)[1].law = None

    def _lines(self, nodes: Iterable[tuple[str, Stretch, Node]]) -> list[_Asked]:
        """As few sequences as hold these nodes: a node's ancestors are asked with it."""
        most = max(1, VALUES_AT_ONCE // self._own.vocab_size)
        lines: list[_Asked] = []
        slots: Counter[str] = Counter()
        taken: set[int] = set()
        for session, stretch, node in sorted(nodes, key=lambda item: -item[2].depth):
            if id(node) in taken or slots[session] == SLOTS:
                continue
            line = [node]
            while (above := line[-1].parent) and above.law is None and not line[-1].is_weighed:
                line.append(above)
            line = line[::-1][:most]
            taken |= {id(node) for node in line}
            lines.append(_Asked(f"{session}#{slots[session]}", stretch, line))
            slots[session] += 1
        return lines

    def _answer(self, asked: Sequence[_Asked]) -> None:
        """Ask the engine for the laws of nodes."""
        if not asked:
            return
        queries = []
        for line in asked:
            ids = fitted(line.stretch.prefix, line.nodes[-1].path(), self._own.context_tokens - 1)
            line.nodes = line.nodes[-(len(ids) + 1) :]
            first = len(ids) + 1 - len(line.nodes)
            queries.append(Query(line.session, np.array(ids, np.uint32), first))
        for line, rows in zip(asked, self.engine.rows(queries, FULL), strict=True):
            for index, node in enumerate(line.nodes):
                logprobs = dense(rows, index, self._own.vocab_size)
                node.law = TokenLaw.of(line.stretch.cover.lexicon, logprobs, self._own.stop_ids)
                self._laws[id(node)] = node
            self.laws_asked += len(line.nodes)


def dense(rows: StepRows, index: int, vocab_size: int) -> Logs:
    """float32 [V]: a row as a whole law; what an engine does not list shares its tail evenly."""
    ids, logprobs, tail = rows.row(index)
    if ids is None:
        return logprobs
    share = max(tail, 1e-9) / max(1, vocab_size - len(ids))
    law = np.full(vocab_size, np.log(share), np.float32)
    law[ids] = logprobs
    return law
