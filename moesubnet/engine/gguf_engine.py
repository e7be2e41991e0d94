"""A GGUF file as an engine, by llama.cpp in this process: the way to serve quantised models on a
CPU."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from moesubnet.engine.base import LogProbs, Query, TokenIds, check_batch, context_token, owner
from moesubnet.engine.gguf_file import check_file, resolve_file, weights_commitment
from moesubnet.engine.llama_context import BATCH_TOKENS, Fed, LlamaContext, LlamaModel, NoRoom
from moesubnet.engine.plans import common_prefix
from moesubnet.errors import EngineError
from moesubnet.host.memory import free_memory_bytes
from moesubnet.mixture.law import Law
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import Want

SHARED_TOKENS = 16  # a beginning that another session holds is worth looking for from here on
MIN_BUDGET_BYTES = 192 << 20
LOGITS_PER_BATCH = 1 << 24
MIN_LOGPROB = -100.0
_NOTHING = np.empty(0, np.uint32)


@dataclass(slots=True, eq=False)
class _Held:
    """What a sequence of llama.cpp holds of a session, the context token first."""

    sequence: int
    owner: str
    tokens: TokenIds = field(default_factory=lambda: _NOTHING)


class GgufEngine:
    """model: the file; of one that is split, its first part.

    kv_budget_bytes: what sessions may take; by default as much as the weights, at least 192 MiB, at
    most half of what is free.
    """

    name = "gguf"
    caches = True

    def __init__(
        self, model: str, spec: LoadedSpec, *, threads: int = 1, kv_budget_bytes: int | None = None
    ) -> None:
        path = resolve_file(model)
        check_file(path, spec)
        self.vocab_size = spec.spec.vocab_size
        self.context_tokens = spec.spec.context_tokens
        self.commitment = weights_commitment(path)
        self._start = np.array([context_token(spec.spec)], np.uint32)
        self._sessions: OrderedDict[str, _Held] = OrderedDict()
        self._model = LlamaModel(path)
        weights = int(self._model.calls.llama_model_size(self._model.handle))
        budget = kv_budget_bytes or min(max(weights, MIN_BUDGET_BYTES), free_memory_bytes() // 2)
        cells = max(self.context_tokens, budget // self._model.cell_bytes)
        self._context = LlamaContext(self._model, cells=cells, threads=threads)
        self._free = list(range(self._context.sequences))

    @staticmethod
    def check(model: str, spec: LoadedSpec) -> None:
        """Why it could not be loaded, as far as that shows without its weights."""
        check_file(resolve_file(model), spec)

    def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        """See `Engine.rows`."""
        check_batch(batch, self.vocab_size, self.context_tokens)
        answers: list[StepRows] = []
        most = self._context.sequences // 2  # so that the others' sessions stay
        for begin in range(0, len(batch), most):
            answers += self._rows(batch[begin : begin + most], want)
        return answers

    def held(self, query: Query) -> int:
        """See `HoldingEngine`."""
        tokens = np.concatenate((self._start, query.ids))
        held = self._sessions.get(query.session) or _Held(-1, owner(query.session))
        return self._longest_prefix(held, query.first_law, tokens)[1]

    def forget(self, session: str) -> None:
        """See `Engine.forget`."""
        held = self._sessions.pop(session, None)
        if held is not None:
            self._context.cut(held.sequence, 0)
            self._free.append(held.sequence)

    def close(self) -> None:
        """Give everything back."""
        self._context.close()
        self._model.close()

    def _rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        laws: list[list[Law]] = [[] for _ in batch]
        busy = {query.session for query in batch}
        try:
            held = [self._prepare(query, busy) for query in batch]
            for part in _parts(self._todo(batch, held), self.vocab_size):
                logits = self._feed([fed for _, fed in part], busy)
                wanted = [index for index, fed in part if fed.wanted]
                for index, row in zip(wanted, logits, strict=True):
                    query = batch[index]
                    position = query.first_law + len(laws[index])
                    laws[index].append(self._law(query, position, row, want))
                for index in {index for index, _ in part}:
                    new = [fed.token for other, fed in part if other == index]
                    held[index].tokens = np.concatenate(
                        (held[index].tokens, np.array(new, np.uint32))
                    )
        except EngineError:
            for query in batch:
                self.forget(query.session)
            raise
        return [
            query.answer_listed(rows, self.vocab_size, want)
            for query, rows in zip(batch, laws, strict=True)
        ]

    def _todo(self, batch: Sequence[Query], held: Sequence[_Held]) -> Iterator[tuple[int, Fed]]:
        """Whose token comes next, and it: short ones first, for they share a pass."""
        left = [len(query.ids) + 1 - len(h.tokens) for query, h in zip(batch, held, strict=True)]
        for index in np.argsort(left, kind="stable").tolist():
            query, h = batch[index], held[index]
            base = len(h.tokens)
            tokens = np.concatenate((self._start, query.ids))[base:].tolist()
            for position, token in enumerate(tokens, base):
                yield index, Fed(h.sequence, position, token, position >= query.first_law)

    def _prepare(self, query: Query, busy: set[str]) -> _Held:
        """The query's sequence, cut to what it has in common with the query, or forked from the
        session of the same owner that has more."""
        held = self._sessions.get(query.session)
        if held is None:
            if not self._free:
                self._evict(busy)
            held = self._sessions[query.session] = _Held(self._free.pop(), owner(query.session))
        self._sessions.move_to_end(query.session)
        tokens = np.concatenate((self._start, query.ids))
        source, base = self._longest_prefix(held, query.first_law, tokens)
        if source is not held:
            self._context.fork(source.sequence, held.sequence, base)
            held.tokens = tokens[:base]
        if base < len(held.tokens):
            self._context.cut(held.sequence, base)
        held.tokens = tokens[:base]
        return held

    def _longest_prefix(self, held: _Held, first: int, tokens: TokenIds) -> tuple[_Held, int]:
        """Of the owner's sessions the one that holds most of `tokens`, up to `first`, and how many;
        its own where no other has much more."""
        source, base = held, min(common_prefix(held.tokens, tokens), first)
        if first - base >= SHARED_TOKENS:
            for other in self._sessions.values():
                common = min(common_prefix(other.tokens, tokens), first)
                if other.owner == held.owner and common >= base + SHARED_TOKENS:
                    source, base = other, common
        return source, base

    def _feed(self, tokens: Sequence[Fed], busy: set[str]) -> list[LogProbs]:
        while True:
            try:
                return self._context.feed(tokens)
            except NoRoom:
                self._evict(busy)

    def _evict(self, busy: set[str]) -> None:
        """Of the greediest owner, the session that was used longest ago."""
        taken: Counter[str] = Counter()
        for name, held in self._sessions.items():
            if name not in busy:
                taken[held.owner] += 1 + len(held.tokens)
        if not taken:
            raise EngineError("the sequences of one batch take more memory than sessions may have")
        greediest = max(taken, key=taken.__getitem__)
        self.forget(
            next(n for n, h in self._sessions.items() if n not in busy and h.owner == greediest)
        )

    def _law(self, query: Query, position: int, logits: LogProbs, want: Want) -> Law:
        """Whole where a draft is scored, all is committed to or all is wanted; else what may be
        listed, for whole laws of a long prompt would take gigabytes."""
        logits = logits[: self.vocab_size]
        top = logits.max()
        if np.isnan(top):
            raise EngineError("the model returned not-a-number")
        log_mass = float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))
        law = Law(np.maximum(logits - np.float32(log_mass), MIN_LOGPROB))
        if not want.lists_likeliest or position >= len(query.ids) - query.draft:
            return law
        return law.head(want.k, want.mass)


def _parts(todo: Iterator[tuple[int, Fed]], vocab_size: int) -> Iterator[list[tuple[int, Fed]]]:
    """What is fed together: as many tokens as a batch takes, and no more logits than memory."""
    part: list[tuple[int, Fed]] = []
    rows, most_rows = 0, max(1, LOGITS_PER_BATCH // vocab_size)
    for item in todo:
        if len(part) == BATCH_TOKENS or (item[1].wanted and rows == most_rows):
            yield part
            part, rows = [], 0
        part.append(item)
        rows += item[1].wanted
    if part:
        yield part
