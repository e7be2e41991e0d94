"""What an engine is: a function from token ids to the law of each next token.

Everything that serves, scores or drafts goes through this one interface. An engine keeps no truth:
a query carries the whole sequence, and whatever the engine remembers of a session only saves work.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from moesubnet.engine.target import ENGINES, find_target
from moesubnet.errors import ConfigError, EngineError
from moesubnet.mixture.law import Law
from moesubnet.spec.content import LoadedSpec, Spec, file_sha256
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
    `tells_prompts`: False where each position that is asked costs a pass of its own. `close()`
    is called when it is not needed any more.
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
    loading, what loading would; and `several`, see `load_engines`.

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


def load_engine(
    target: str, model: str, spec: LoadedSpec, *, threads: int = 1, **options: str
) -> Engine:
    """Construct the engine of that name, or `package.module:Class`, over `model`.

    options: what the engine takes besides, as on the command line. Raises ConfigError when the
    class cannot be imported or knows no such option, EngineError when it cannot load `model`.
    """
    target = find_target(target, model, options)
    factory = find_engine(target)
    adapted = _adapted(target, factory, model, spec, options)
    return adapted(model, spec, threads=threads, **options)


def load_engines(
    target: str,
    model: str,
    spec: LoadedSpec,
    adapters: Sequence[str | None],
    *,
    threads: int = 1,
    **options: str,
) -> list[Engine]:
    """An engine for each adapter over one model (None: the model alone), loaded once. Raises
    ConfigError where an engine takes one adapter at most; else as `load_engine`."""
    if len(adapters) == 1:
        own = {} if adapters[0] is None else {"adapter": adapters[0]}
        return [load_engine(target, model, spec, threads=threads, **own, **options)]
    target = find_target(target, model, options)
    factory = find_engine(target)
    several = getattr(_adapted(target, factory, model, spec, options), "several", None)
    if several is None:
        raise ConfigError(f"the engine {target} serves one --adapter and --hotkey at a time here")
    return list(several(model, spec, adapters, threads=threads, **options))


def check_engine(target: str, model: str, spec: LoadedSpec, **options: str) -> None:
    """What `load_engine` would raise, as far as the engine can tell without loading."""
    target = find_target(target, model, options)
    factory = find_engine(target)
    adapted = _adapted(target, factory, model, spec, options)
    if (check := getattr(adapted, "check", None)) is not None:
        check(model, spec, **options)


def needs_adapter(model: str, spec: LoadedSpec) -> bool:
    """Whether `model` (a folder, GGUF file or hub id) writes tokens and the subnet wants bytes."""
    path = Path(model).expanduser()
    if spec.spec.unit != "bytes":
        return False
    if path.is_file():  # another file is what an engine of its own makes of it
        return path.suffix.lower() == ".gguf"
    tokenizer = path / "tokenizer.json"
    if path.is_dir():
        return tokenizer.is_file() and file_sha256(tokenizer) != spec.spec.tokenizer.sha256
    return True


def _adapted(
    target: str,
    factory: EngineFactory,
    model: str,
    spec: LoadedSpec,
    options: Mapping[str, str],
) -> EngineFactory:
    """The factory, or one over bytes of its engines. Raises ConfigError for unknown options."""
    is_far = "upstream" in options and spec.spec.unit == "bytes"
    known = dict(options)
    if is_far:
        known.pop("tokenizer", None)
    elif "tokenizer" in options:
        raise ConfigError(
            "--tokenizer is of a model at --upstream in a subnet over bytes; "
            + (
                "a folder has its own"
                if spec.spec.unit == "bytes"
                else f"the experts of {spec.spec.name!r} all have the subnet's"
            )
        )
    _know_options(target, factory, known)
    if not is_far and not needs_adapter(model, spec):
        return factory
    adapter = importlib.import_module("moesubnet.engine.bytes_engine")
    return cast(EngineFactory, adapter.Adapted(factory))


def find_engine(target: str) -> EngineFactory:
    module_name, _, class_name = target.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"no engine {target!r}: write {', '.join(ENGINES)}, or package.module:Class, "
            f"importable from here ({error})"
        ) from error
    return cast(EngineFactory, factory)


def _know_options(target: str, factory: EngineFactory, options: Mapping[str, str]) -> None:
    known = signature(factory).parameters
    unknown = [f"--{name}" for name in options if name not in known]
    if unknown:
        raise ConfigError(f"the engine {target} takes no {' and no '.join(unknown)}")


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
