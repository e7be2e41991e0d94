"""The default engine: any causal language model that transformers can load.

Sequences are kept as key-value slots (`slots.py`); a query's common prefix with what its session
holds is not computed again, which makes extending and rolling back one operation. Models whose
cache is not plain attention over the whole context (recurrent, short sliding windows), or does
not reproduce their own uncached answer when loaded, are run without one.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch

from moesubnet.engine.base import LogProbs, Query, check_batch, context_token
from moesubnet.engine.model_folder import check_tokenizer, resolve_model, weights_commitment
from moesubnet.engine.plans import NO_SLOT, Held, Plan, common_prefix, groups, neighbours
from moesubnet.engine.slots import SlotPool
from moesubnet.errors import EngineError
from moesubnet.spec.content import LoadedSpec

log = logging.getLogger(__name__)

MIN_LOGPROB = -100.0  # a model's -inf, as a number


class TransformersEngine:
    """A transformers model as `Engine`.

    kv_budget_bytes: what the sessions held may take, after which the oldest go; by default half
    of an accelerator's free memory, or half a GiB of a CPU's (taken only as it is used).
    """

    name = "transformers"

    def __init__(
        self,
        model: str,
        spec: LoadedSpec,
        *,
        threads: int = 1,
        kv_budget_bytes: int | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        folder = resolve_model(model)
        check_tokenizer(folder, spec)
        self.vocab_size = spec.spec.vocab_size
        self.context_tokens = spec.spec.context_tokens
        self.commitment = weights_commitment(folder)
        self._start = np.array([context_token(spec.spec)], dtype=np.uint32)
        self._model = _load_model(str(folder))
        self._device = self._model.device
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest is not None and longest < self.context_tokens:
            raise EngineError(
                f"the model reads {longest} tokens at most, the subnet's context has "
                f"{self.context_tokens}"
            )
        self._sessions: OrderedDict[str, Held] = OrderedDict()
        self._pool: SlotPool | None = None
        with torch.inference_mode():
            self._pool = self._make_pool(kv_budget_bytes or _default_budget(self._device))

    @property
    def caches(self) -> bool:
        """See `Engine`."""
        return self._pool is not None

    def rows(self, batch: Sequence[Query]) -> list[LogProbs]:
        """See `Engine.rows`."""
        check_batch(batch, self.vocab_size, self.context_tokens)
        answers: list[LogProbs] = []
        size = len(batch) if self._pool is None else self._pool.slots
        try:
            with torch.inference_mode():
                for start in range(0, len(batch), max(1, size)):
                    answers += self._rows(batch[start : start + size])
        except RuntimeError as error:  # out of memory, or a kernel that failed
            raise EngineError(f"the model failed: {error}") from error
        return answers

    def forget(self, session: str) -> None:
        """See `Engine.forget`."""
        held = self._sessions.pop(session, None)
        if held is not None and held.slot != NO_SLOT and self._pool is not None:
            self._pool.free[held.slot] = True

    def _rows(self, batch: Sequence[Query]) -> list[LogProbs]:
        plans = [self._plan(index, query) for index, query in enumerate(batch)]
        answers: dict[int, LogProbs] = {}
        if self._pool is not None:
            self._take_slots(self._pool, plans)
        for group in groups(plans, self.vocab_size):
            for run in [group] if self._pool is None else self._runs(self._pool, group):
                answers.update(self._forward(run))
        return [answers[index] for index in range(len(batch))]

    def _plan(self, index: int, query: Query) -> Plan:
        tokens = np.concatenate((self._start, query.ids))
        if self._pool is None:
            return Plan(index, Held(), tokens, 0, query.first)
        held = self._sessions.setdefault(query.session, Held())
        self._sessions.move_to_end(query.session)
        base = min(common_prefix(held.tokens, tokens), query.first)
        held.tokens = held.tokens[:base]  # so that a pass that fails leaves nothing to trust
        return Plan(index, held, tokens, base, query.first)

    def _take_slots(self, pool: SlotPool, plans: Sequence[Plan]) -> None:
        """Give every plan a slot. Its sessions are the newest, so eviction never reaches them."""
        homeless = [plan.held for plan in plans if plan.held.slot == NO_SLOT]
        while pool.free.sum() < len(homeless):
            self.forget(next(iter(self._sessions)))
        for held, slot in zip(homeless, pool.take(len(homeless)) if homeless else [], strict=True):
            held.slot = slot

    def _runs(self, pool: SlotPool, group: list[Plan]) -> list[list[Plan]]:
        """Split a group into passes over neighbouring slots; ideally one, moving slots for it."""
        group.sort(key=lambda plan: plan.held.slot)
        runs = neighbours(group)
        if len(runs) == 1:
            return runs
        lo = pool.gather([plan.held.slot for plan in group], max(plan.base for plan in group))
        if lo is None:
            return runs
        for offset, plan in enumerate(group):
            plan.held.slot = lo + offset
        return [group]

    def _forward(self, run: list[Plan]) -> Iterable[tuple[int, LogProbs]]:
        """One pass of the model; (index, rows) of each plan."""
        width = max(plan.count for plan in run)
        inputs = np.zeros((len(run), width), dtype=np.int64)
        for row, plan in zip(inputs, run, strict=True):
            row[: plan.count] = plan.tokens[plan.base :]
        keep = width - min(plan.first - plan.base for plan in run)
        logits = self._model(
            input_ids=torch.from_numpy(inputs).to(self._device),
            logits_to_keep=keep,
            **self._arguments(run, width),
        ).logits[:, -keep:, : self.vocab_size]
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        if bool(torch.isnan(logprobs[..., 0]).any()):  # one not-a-number spoils its whole row
            raise EngineError("the model returned not-a-number")
        rows: LogProbs = logprobs.clamp_(min=MIN_LOGPROB).cpu().numpy()
        skipped = width - keep
        for row, plan in zip(rows, run, strict=True):
            plan.held.tokens = plan.tokens
            yield plan.index, row[plan.first - plan.base - skipped : plan.count - skipped]

    def _arguments(self, run: list[Plan], width: int) -> dict[str, Any]:
        """Point the pool's window at a run; the model arguments that go with it."""
        if self._pool is None:  # padding stands on the right, where no real token sees it
            return {"use_cache": False}
        window = self._pool.window
        window.lo = run[0].held.slot
        window.hi = window.lo + len(run)
        window.base = base = run[0].base
        arguments: dict[str, Any] = {"past_key_values": self._pool.cache, "use_cache": True}
        if all(plan.base == base and plan.count == width for plan in run):
            window.end, window.positions = base + width, None
            return arguments
        bases = torch.tensor([plan.base for plan in run])[:, None]
        # Padding writes past its own sequence, at worst into the last place, which none reaches.
        positions = (bases + torch.arange(width)).clamp_(max=self.context_tokens)
        window.end = int(positions.max()) + 1
        visible = torch.arange(window.end) <= positions[:, :, None]
        blocked = torch.finfo(self._model.dtype).min
        mask = torch.zeros(visible.shape, dtype=self._model.dtype).masked_fill_(~visible, blocked)
        window.positions = positions.to(self._device)
        arguments["attention_mask"] = mask[:, None].to(self._device)
        arguments["position_ids"] = window.positions.clamp(max=self.context_tokens - 1)
        return arguments

    def _make_pool(self, budget_bytes: int) -> SlotPool | None:
        """The slots for this model, or None when it is better run without."""
        start = torch.tensor(self._start[None].astype(np.int64), device=self._device)
        output = self._model(input_ids=start, use_cache=True)
        if output.logits.shape[-1] < self.vocab_size:
            raise EngineError(
                f"the model has {output.logits.shape[-1]} logits, the subnet's vocabulary "
                f"{self.vocab_size} tokens: it is not a model of this tokenizer"
            )
        layers = getattr(output.get("past_key_values"), "layers", [])
        if (
            not layers
            or not all(_attends_to_all(layer, self.context_tokens) for layer in layers)
            or "position_ids" not in signature(self._model.forward).parameters
        ):
            log.info("engine cache=none reason=architecture")
            return None
        pairs = [(layer.keys, layer.values) for layer in layers]
        pool = SlotPool(pairs, self.context_tokens + 1, budget_bytes)
        return pool if self._agrees(pool) else None

    def _agrees(self, pool: SlotPool) -> bool:
        """Whether the cache, extended unevenly and rolled back, gives the uncached answers."""
        ids = np.random.default_rng(0).integers(0, self.vocab_size, (2, 9), dtype=np.uint32)
        probe = [Query("a", ids[0, :9], 3), Query("b", ids[1, :7], 7)]
        expected = self.rows(probe)
        self._pool = pool
        self.rows([Query("a", ids[0, :2], 2), Query("b", ids[1], 1)])
        found = self.rows(probe)
        self.forget("a")
        self.forget("b")
        self._pool = None
        error = max(
            float(np.abs(np.exp(a) - np.exp(b)).sum(-1).max())
            for a, b in zip(expected, found, strict=True)
        )
        if error > 0.05:  # half precision stays well below, a wrong cache well above
            log.warning("engine cache=none reason=disagrees total_variation=%.3f", error / 2)
        return error <= 0.05


def _load_model(folder: str) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    loader: Any = AutoModelForCausalLM
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = loader.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype="auto" if device == "cuda" else torch.float32,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise EngineError(f"cannot load {folder} as a causal language model: {error}") from error
    return model.to(device).eval()


def _default_budget(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 2
    return 1 << 29


def _attends_to_all(layer: Any, context_tokens: int) -> bool:
    """Plain attention, or a sliding window that the context never fills."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if type(layer) is DynamicSlidingWindowLayer:
        return bool(layer.sliding_window > context_tokens)
    return type(layer) is DynamicLayer
