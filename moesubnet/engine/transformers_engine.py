"""The default engine: any causal language model that transformers can load.

What a session has read is kept as keys and values (`slabs.py`); the prefix that a query shares
with its session, or with another one of the same owner, is not computed again. That makes
extending, rolling back and forking one operation. Models with other memories than attention's
(recurrent, hybrid), and those whose cache does not reproduce their own uncached answers when they
are loaded, are run without one, and the log says so.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch

from moesubnet.engine.adapters import AdapterEngine, Switch
from moesubnet.engine.answers import answers
from moesubnet.engine.base import Query, TokenIds, check_batch, context_token, owner
from moesubnet.engine.lean import MOST_TOKENS, lean_pass
from moesubnet.engine.loading import (
    check_memory,
    input_device,
    load_adapters,
    load_model,
)
from moesubnet.engine.model_folder import (
    causal_config,
    check_context,
    check_tokenizer,
    not_causal,
    resolve_adapter,
    resolve_model,
    weights_commitment,
)
from moesubnet.engine.packing import pack
from moesubnet.engine.plans import (
    Costs,
    Held,
    Plan,
    common_prefix,
    in_parts,
    passes,
    rows_at_once,
)
from moesubnet.engine.slabs import PROBE_WINDOW, SlabPool, attends, short_windows
from moesubnet.engine.uncompiled import without_compiler
from moesubnet.errors import ConfigError, EngineError
from moesubnet.host.memory import free_memory_bytes, trim_memory
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import Want

log = logging.getLogger(__name__)

FULL = Want("full")
SHARED_TOKENS = 16  # a prefix that another session holds is worth looking for from here on
TRIM_EVERY_S = 30.0
MIN_BUDGET_BYTES = 192 << 20
# What models of all sorts raise when they are run as they were not made to be.
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)
_UNCACHED = "this model runs without a cache, so each token costs what its whole text costs: %s"


class TransformersEngine:
    """A transformers model as `Engine`.

    dtype, device: see `load_model`. adapter: the folder of a LoRA of this model.
    kv_budget_bytes: what the sessions held may take, after which the oldest of the greediest owner
    go; by default half of an accelerator's free memory, or of a CPU's memory twice what the weights
    take, at least 192 MiB, at most half of what is free (taken only as it is used).
    packs: see `pack`; not where adapters are still to come.
    """

    name = "transformers"

    def __init__(
        self,
        model: str,
        spec: LoadedSpec,
        *,
        threads: int = 1,
        dtype: str = "auto",
        device: str = "",
        adapter: str | None = None,
        kv_budget_bytes: int | None = None,
        packs: bool = True,
    ) -> None:
        torch.set_num_threads(threads)
        folder = resolve_model(model)
        self.check(str(folder), spec, dtype=dtype, device=device, adapter=adapter)
        self.vocab_size = spec.spec.vocab_size
        self.context_tokens = spec.spec.context_tokens
        self.commitment = weights_commitment(folder, adapter)
        self._start = np.array([context_token(spec.spec)], dtype=np.uint32)
        self._model = load_model(folder, dtype=dtype, device=device, adapter=adapter)
        self._device = input_device(self._model)
        self._takes_positions = "position_ids" in signature(self._model.forward).parameters
        self._trim_at_s = 0.0
        self._sessions: OrderedDict[str, Held] = OrderedDict()
        self._weights_bytes: int = sum(weight.nbytes for weight in self._model.parameters())
        self._budget_bytes = kv_budget_bytes or self._default_budget()
        self._lean = lean_pass(self._model, self.context_tokens) if packs else None
        if packs:
            pack(self._model)
        self._pool: SlabPool | None = None
        with torch.inference_mode():
            self._check_that_it_runs()
            self._pool = self._make_pool()

    @property
    def caches(self) -> bool:
        """See `Engine`."""
        return self._pool is not None

    @staticmethod
    def check(
        model: str,
        spec: LoadedSpec,
        *,
        dtype: str = "auto",
        device: str = "",
        adapter: str | None = None,
    ) -> None:
        """Why it could not be loaded, as far as that shows without loading it. Raises EngineError,
        ConfigError."""
        folder = resolve_model(model)
        check_tokenizer(folder, spec)
        check_context(without_compiler(lambda: causal_config(folder)), spec)
        if adapter is not None:
            resolve_adapter(adapter)
        check_memory(folder, dtype, device)

    @classmethod
    def several(
        cls, model: str, spec: LoadedSpec, adapters: Sequence[str | None], **options: Any
    ) -> list[AdapterEngine]:
        """One engine for each adapter (None: the base alone), over weights that are loaded once.

        Raises EngineError, ConfigError.
        """
        if options.get("dtype") == "int8":
            raise ConfigError("--dtype int8 takes one --adapter, which is merged into the weights")
        shared = cls(model, spec, packs=False, **options)
        folder = resolve_model(model)
        named = list(dict.fromkeys(adapter for adapter in adapters if adapter is not None))
        switch = Switch(load_adapters(shared._model, named))
        pack(shared._model)
        return [
            AdapterEngine(
                shared,
                switch,
                place,
                None if adapter is None else named.index(adapter),
                weights_commitment(folder, adapter),
            )
            for place, adapter in enumerate(adapters)
        ]

    def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        """See `Engine.rows`."""
        check_batch(batch, self.vocab_size, self.context_tokens)
        try:
            with torch.inference_mode():
                return self._rows(batch, want)
        except RuntimeError as error:  # out of memory, or a kernel that failed
            raise EngineError(f"the model failed: {error}") from error
        finally:
            if time.monotonic() > self._trim_at_s:
                trim_memory()
                self._trim_at_s = time.monotonic() + TRIM_EVERY_S

    def held(self, query: Query) -> int:
        """See `HoldingEngine`."""
        tokens = np.concatenate((self._start, query.ids))
        held = self._sessions.get(query.session) or Held(owner(query.session))
        return self._longest_prefix(held, query.first_law, tokens)[1]

    def forget(self, session: str) -> None:
        """See `Engine.forget`."""
        held = self._sessions.pop(session, None)
        if held is not None and self._pool is not None:
            self._pool.release(held)

    def _rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        # Without a cache each part would cost what its whole text costs.
        most = rows_at_once(self.vocab_size) if self.caches else self.context_tokens
        parts = [in_parts(query, most) for query in batch]
        found: list[list[StepRows]] = [[] for _ in batch]
        for turn in range(max(map(len, parts), default=0)):
            now = [index for index, its in enumerate(parts) if turn < len(its)]
            rows = self._answered([parts[index][turn] for index in now], want)
            for index, row in zip(now, rows, strict=True):
                found[index].append(row)
        return [StepRows.joined(rows) for rows in found]

    def _answered(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        plans = [self._plan(index, query) for index, query in enumerate(batch)]
        rows: dict[int, StepRows] = {}
        for run in passes(plans, self._costs()):
            given = answers([batch[plan.index] for plan in run], self._forward(run), want)
            for plan, row in zip(run, given, strict=True):
                plan.held.tokens, rows[plan.index] = plan.tokens, row
        for session in [name for name, held in self._sessions.items() if held.home is None]:
            del self._sessions[session]  # evicted meanwhile
        return [rows[index] for index in range(len(batch))]

    def _costs(self) -> Costs:
        if self._pool is None:
            return Costs(self.vocab_size, self.context_tokens, 1 << 62)
        position_bytes = self._pool.position_bytes
        return Costs(
            self.vocab_size,
            self._weights_bytes // position_bytes,
            self._budget_bytes // position_bytes,
        )

    def _plan(self, index: int, query: Query) -> Plan:
        tokens = np.concatenate((self._start, query.ids))
        if self._pool is None:
            return Plan(index, Held(), Held(), tokens, 0, query.first_law)
        held = self._sessions.setdefault(query.session, Held(owner(query.session)))
        self._sessions.move_to_end(query.session)
        first = query.first_law
        source, base = self._longest_prefix(held, first, tokens)
        return Plan(index, held, source, tokens, min(base, first), first)

    def _longest_prefix(self, held: Held, first: int, tokens: TokenIds) -> tuple[Held, int]:
        """Of the owner's sessions the one that holds most of `tokens`, and how many of them; its
        own where that lacks little before `first`."""
        source, base = held, common_prefix(held.tokens, tokens)
        if first - base < SHARED_TOKENS:
            return source, base
        for other in self._sessions.values():
            # one token is compared before all: most sessions share nothing
            further = base + SHARED_TOKENS - 1
            if other.owner != held.owner or min(len(other.tokens), len(tokens)) <= further:
                continue
            if other.tokens[further] == tokens[further]:
                common = common_prefix(other.tokens, tokens)
                if common > further:
                    source, base = other, common
        return source, base

    def _make_room(self, pool: SlabPool, run: list[Plan]) -> None:
        """Make room for a pass: of the greediest owner, the session that was used longest ago."""
        while pool.bytes + pool.bytes_for(run) > self._budget_bytes // 2 and pool.repack():
            pass  # rows that have gone would take three times what is left
        kept = {id(held) for plan in run for held in (plan.held, plan.source)}
        while pool.bytes + pool.bytes_for(run) > self._budget_bytes:
            if pool.repack():
                continue
            idle = [
                held
                for held in self._sessions.values()
                if held.home is not None and id(held) not in kept
            ]
            if not idle:
                break
            taken: Counter[str] = Counter()
            for held in idle:
                taken[held.owner] += len(held.tokens)
            greediest = max(taken, key=taken.__getitem__)
            pool.release(next(held for held in idle if held.owner == greediest))

    def _forward(self, run: list[Plan]) -> list[torch.Tensor]:
        """One pass of the model; each plan's logits [rows, V]."""
        arguments = self._arguments(run)
        width = max(plan.count for plan in run)
        inputs = np.zeros((len(run), width), dtype=np.int64)
        for row, plan in zip(inputs, run, strict=True):
            begin = max(0, -plan.base)
            row[begin : plan.count] = plan.tokens[plan.base + begin :]
        keep = width - min(plan.first - plan.base for plan in run)
        ids = torch.from_numpy(inputs).to(self._device)
        logits = self._logits(ids, keep, arguments)[:, -keep:, : self.vocab_size]
        skipped = width - keep
        return [
            row[plan.first - plan.base - skipped : plan.count - skipped]
            for row, plan in zip(logits, run, strict=True)
        ]

    def _logits(self, ids: torch.Tensor, keep: int, arguments: dict[str, Any]) -> torch.Tensor:
        """[batch, keep or more, V or more], of the last positions of ids [batch, width]."""
        cache = arguments.get("past_key_values")
        is_short = ids.shape[1] <= MOST_TOKENS and "attention_mask" not in arguments
        if self._lean is not None and cache is not None and is_short:
            return self._lean.logits(ids, cache, keep)
        logits: torch.Tensor = self._model(input_ids=ids, logits_to_keep=keep, **arguments).logits
        return logits

    def _arguments(self, run: list[Plan]) -> dict[str, Any]:
        """Settle where a pass reads and writes; the model arguments that go with it."""
        pool = self._pool
        if pool is None:  # padding stands on the right, where no real token sees it
            return {"use_cache": False}
        for plan in run:  # what it builds on may have gone, or moved on, since it was planned
            plan.base = min(plan.base, common_prefix(plan.source.tokens, plan.tokens))
        self._make_room(pool, run)
        mask = pool.place(run)
        for plan in run:  # so that a pass that fails leaves nothing to trust
            plan.held.tokens = plan.tokens[: max(0, plan.base)]
        arguments: dict[str, Any] = {"past_key_values": pool.cache, "use_cache": True}
        if mask is not None:
            arguments["attention_mask"] = mask.long().to(self._device)
            if self._takes_positions:
                bases = torch.tensor([plan.base for plan in run])[:, None]
                positions = (bases + torch.arange(pool.view.width)).clamp_(min=0)
                arguments["position_ids"] = positions.to(self._device)
        return arguments

    def _check_that_it_runs(self) -> None:
        """Raises EngineError for a model that no subnet's law can be had from."""
        text = self._probe_ids()[0]
        start = torch.from_numpy(self._start[None].astype(np.int64)).to(self._device)
        try:
            width = self._model(input_ids=start, use_cache=False).logits.shape[-1]
            if width < self.vocab_size:
                raise EngineError(
                    f"the model has {width} logits, the subnet's vocabulary "
                    f"{self.vocab_size} tokens: it is not a model of this tokenizer"
                )
            whole, beginning = self._rows(
                [Query("a", text, 0), Query("b", text[: len(text) // 2], 0)], FULL
            )
        except _FAILURES as error:
            raise EngineError(
                f"transformers cannot run this {self._model.config.model_type} model on a text "
                f"alone: {error!r}"
            ) from error
        count = len(beginning.logprobs)
        if self._apart(whole.logprobs[:count], beginning.logprobs):
            raise not_causal(self._model.config.model_type)

    def _make_pool(self) -> SlabPool | None:
        """Where sessions are kept, or None when the model is better run without."""
        start = torch.from_numpy(self._start[None].astype(np.int64)).to(self._device)
        try:
            output = self._model(input_ids=start, use_cache=True)
        except _FAILURES as error:
            log.warning(_UNCACHED, f"with one it fails: {error!r}")
            return None
        layers = getattr(output.get("past_key_values"), "layers", [])
        other = {type(layer).__name__ for layer in layers if not attends(layer)}
        if other or not any(layer.keys is not None for layer in layers):
            log.warning(_UNCACHED, f"its memory is not attention's ({', '.join(other) or 'none'})")
            return None
        pool = SlabPool(layers, self.context_tokens)
        with short_windows(self._model, pool):
            wrong = self._disagreement(pool)
            if wrong and self._lean is not None:
                self._lean = None
                wrong = self._disagreement(pool)
        if wrong:
            log.warning(_UNCACHED, wrong)
        return None if wrong else pool

    def _disagreement(self, pool: SlabPool) -> str:
        """Why the cache must not be used: what is kept, extended unevenly, rolled back and forked,
        has to give the uncached answers. Empty when it does."""
        ids = self._probe_ids()
        length, half = len(ids[0]), len(ids[0]) // 2
        expected = self._rows([Query(f"probe/{i}", text, 0) for i, text in enumerate(ids)], FULL)
        most = 0.0
        self._pool = pool
        try:
            # Session, text, tokens of it, first position asked. The two of a step that are as many
            # tokens longer than before go through the model in one pass, the shorter one padded.
            for step in (
                (("a", 0, half - 2, 0), ("b", 1, length - 2, 0)),
                (("a", 0, half, half - 1), ("b", 1, length, length - 1)),
                (("a", 0, half - 1, half - 1), ("c", 1, length, length)),
                (("a", 0, length, half), ("b", 1, half, half)),
            ):
                queries = [Query(f"probe/{at}", ids[i, :n], first) for at, i, n, first in step]
                for found, (_, i, n, first) in zip(self._rows(queries, FULL), step, strict=True):
                    right = expected[i].logprobs[first : n + 1]
                    most = max(most, self._apart(right, found.logprobs))
        except (*_FAILURES, EngineError) as error:
            return f"with one it fails: {error!r}"
        finally:
            for session in "abc":
                self.forget(f"probe/{session}")
            self._pool = None
        return f"with one its answers differ (total variation {most:.3f})" if most else ""

    def _probe_ids(self) -> TokenIds:
        """[2, tokens]: two random texts, beyond the windows that `short_windows` makes."""
        length = min(3 * PROBE_WINDOW, self.context_tokens - 1)
        draw = np.random.default_rng(0)
        return draw.integers(0, self.vocab_size, (2, length), dtype=np.uint32)

    def _apart(self, one: Any, other: Any) -> float:
        """How far laws [rows, V] are apart in total variation, or 0 when rounding explains it."""
        apart = np.abs(np.exp(one) - np.exp(other)).sum(-1) / 2
        # Kernels of another shape, or that take a mask, round otherwise: in single precision rows
        # are 1e-6 apart; in half Gemma 3 270M 0.03 in the mean and 0.12 at most, SmolLM2 0.02 and
        # 0.07, and a comparison may be of one row. Without its windows a model was 0.9 apart.
        single = self._model.dtype == torch.float32
        measured = float(apart.max() if single else apart.mean())
        return measured if measured > (0.025 if single else 0.15) else 0.0

    def _default_budget(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0]) // 2
        return min(max(2 * self._weights_bytes, MIN_BUDGET_BYTES), free_memory_bytes() // 2)
