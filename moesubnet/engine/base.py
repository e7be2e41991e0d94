"""What an engine is: a function from token ids to the law of each next token.

Everything that serves, scores or drafts goes through this one interface. An engine keeps no truth:
a query carries the whole sequence, and whatever the engine remembers of a session only saves work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moesubnet.errors import EngineError
from moesubnet.mixture.law import Law
from moesubnet.spec.content import LoadedSpec, Spec
from moesubnet.wire.distributions import likeliest
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import Want

TokenIds = npt.NDArray[np.uint32]
LogProbs = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Query:
    """Asks for the rows of positions `first` … `len(ids)` of one sequence.

    session: any name; queries of one session should share a prefix, for the engine to reuse. What
        stands before its first `/` names its owner (see `owner`).
    ids: uint32 [n], the whole sequence, n ≤ context_tokens - 1.
    first: 0 … n.
    draft: how many of the last ids are a draft, whose log-probabilities are wanted too.
    seed: of what is drawn, where that is wanted.
    """

    session: str
    ids: TokenIds
    first: int
    draft: int = 0
    seed: int = 0

    @property
    def first_law(self) -> int:
        """The first position whose law the answer needs: a row's or a draft id's."""
        return min(self.first, len(self.ids) - self.draft) if self.draft else self.first

    def answer(self, laws: LogProbs, want: Want) -> StepRows:
        """The answer of an engine that has whole laws: float32 [n - first_law + 1, V], normalised
        log-probabilities of the positions from `first_law`."""
        rows = laws[self.first - self.first_law :]
        if not self.draft:
            return StepRows.of(self.first, rows, want, seed=self.seed)
        begin = len(self.ids) - self.draft
        scores = laws[begin - self.first_law + np.arange(self.draft), self.ids[begin:]]
        return StepRows.of(self.first, rows, want, draft_logprobs=scores, seed=self.seed)

    def answer_listed(self, laws: Sequence[Law], vocab_size: int, want: Want) -> StepRows:
        """The answer of an engine that knows only the likeliest tokens: laws of the positions from
        `first_law`, n - first_law + 1 of them."""
        if not want.lists_likeliest:
            every = np.arange(vocab_size)
            return self.answer(np.array([law.at(every) for law in laws], np.float32), want)
        drafted = self.ids[len(self.ids) - self.draft :]
        before = laws[len(laws) - 1 - self.draft : -1]
        scores = [law.at(token) for law, token in zip(before, drafted, strict=True)]
        rows = laws[self.first - self.first_law :]
        ranked = [likeliest(law.logp[None], want.k)[0] for law in rows]
        logprobs = np.full((len(rows), max(map(len, ranked))), -np.inf, np.float32)
        ids = np.zeros(logprobs.shape, np.int64)
        beyond = np.empty(len(rows))
        for row, (law, best) in enumerate(zip(rows, ranked, strict=True)):
            logprobs[row, : len(best)] = law.logp[best]
            ids[row, : len(best)] = best if law.ids is None else law.ids[best]
            cut = np.delete(law.logp, best)
            beyond[row] = law.tail + np.exp(cut, dtype=np.float64).sum()
        whole = rows[-1].at(np.arange(vocab_size)).astype(np.float32) if want.committed else None
        given = np.array(scores, np.float32)
        return StepRows.ranked(self.first, ids, logprobs, beyond, want, given, whole)


class Engine(Protocol):
    """Constructed as `Class(model, spec, threads=…)`; called from one thread at a time.

    One that has a true attribute `caches` computes only what is new in a session that it was
    asked about before; then a miner gives it long texts in parts, other work between them. It may
    say what that is (`HoldingEngine`).
    `lists`: the most tokens of a law that it names, where that may be fewer than asked.
    `tells_prompts`: False where each position that is asked costs a pass of its own. `model_name`:
    what the model is called where the miner does not say it. `close()` is called when it is not
    needed any more.
    """

    name: str
    vocab_size: int
    context_tokens: int
    commitment: str  # SHA-256 of the weights, lower-case hex

    def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        """One answer per query, of n - first + 1 rows that hold what `want` says: finite,
        normalised log-probabilities. An engine that cannot list as many tokens lists what it can,
        with the mass of all others as the tail.

        Row j is the law of token first + j given ids[: first + j]. Every engine feeds the spec's
        context token (`context_token`) before the ids, so position 0 is its law given that token
        alone. Sessions within a batch are distinct. Where `want.committed`, the answer has the
        last row `whole` too. Raises EngineError.

        `Query.answer` makes the answer out of whole laws, `StepRows.ranked` out of the likeliest
        tokens.
        """
        ...

    def forget(self, session: str) -> None:
        """Frees what is kept for a session; unknown sessions are fine."""
        ...


class HoldingEngine(Engine, Protocol):
    @property
    def caches(self) -> bool: ...

    def held(self, query: Query) -> int:
        """How many of its inputs (the context token, then its ids) it would not compute."""
        ...


class EngineFactory(Protocol):
    """May have a static `check` of the same arguments but `threads`, which raises early, without
    loading, what loading would; and `several`, see `named.load_engines`.

    Over bytes, `texts` gives it some of the subnet's public text, if it takes that: there its spec
    has none. `context_of(model, upstream)`: how many tokens what runs already reads."""

    def __call__(self, model: str, spec: LoadedSpec, *, threads: int, **options: str) -> Engine: ...


def owner(session: str) -> str:
    """Whose session it is. An engine may use what it holds of one session for another of the same
    owner, never of others (the time it saves tells what they sent), and shares its memory among
    owners. Sessions without `/` have one owner together."""
    name, slash, _ = session.partition("/")
    return name if slash else ""


def context_token(spec: Spec) -> int:
    """The id that stands before every sequence."""
    return spec.bos_id


def check_batch(batch: Sequence[Query], vocab_size: int, context_tokens: int) -> None:
    """Raises EngineError for a batch that breaks the contract of `Query` or `Engine.rows`."""
    if len({query.session for query in batch}) != len(batch):
        raise EngineError("a session appears twice in one batch")
    for query in batch:
        if len(query.ids) >= context_tokens:
            raise EngineError(f"{len(query.ids)} ids leave no room in {context_tokens} tokens")
        if not 0 <= query.first <= len(query.ids):
            raise EngineError(f"first position {query.first} lies outside the sequence")
        if len(query.ids) and int(query.ids.max()) >= vocab_size:
            raise EngineError(f"token id {int(query.ids.max())} is not below {vocab_size}")
