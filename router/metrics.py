"""What `/metrics` shows of a router: counts, durations and money; never text, keys or callers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from moesubnet.mixture.gate import BASELINE_MEMBER
from moesubnet.router.ledger import Usage
from moesubnet.router.model import STUDENT
from moesubnet.router.turns import GoesOn
from moesubnet.wire.usage import length_kind

ANSWERING_PATHS = frozenset(("/v1/completions", "/v1/chat/completions", "/v1/responses"))
_Metric = TypeVar("_Metric", Counter, Histogram)
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)


class Metrics:
    """One registry per router, so that two in one process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter = partial(Counter, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        self.requests = counter(
            "moesubnet_router_requests", "Requests by path and HTTP status.", ["path", "status"]
        )
        self._tokens = counter(
            "moesubnet_router_tokens",
            "Tokens by model: read from prompts, or written and delivered.",
            ["model", "kind"],
        )
        self.first_token_s = histogram(
            "moesubnet_router_first_token_seconds",
            "From a request's first byte to its first token.",
            ["model"],
            buckets=_SECONDS,
        )
        self.between_tokens_s = histogram(
            "moesubnet_router_between_tokens_seconds",
            "From one token of a choice to the next.",
            ["model"],
            buckets=_SECONDS,
        )
        self.overhead_s = histogram(
            "moesubnet_router_overhead_seconds",
            "What a request took until its first token, less the time that experts took.",
            ["model"],
            buckets=_OVERHEAD_SECONDS,
        )
        self._answers = counter(
            "moesubnet_router_expert_answers",
            "What came of asking an expert: valid, late, busy or failed.",
            ["hotkey", "outcome"],
        )
        self._expert_s = histogram(
            "moesubnet_router_expert_seconds",
            "From a call on its way to an expert until its valid answer.",
            ["hotkey"],
            buckets=_SECONDS,
        )
        self._weight = counter(
            "moesubnet_router_expert_weight",
            "An expert's weight, summed over the tokens delivered.",
            ["hotkey"],
        )
        self._found: dict[tuple[Counter | Histogram, *tuple[str, ...]], Any] = {}  # see `_series`
        self.fallbacks = counter(
            "moesubnet_router_fallback_tokens",
            "Tokens drawn from the baseline alone: a bias or grammar left too little of the rest.",
            ["model"],
        )
        self._drafted = counter(
            "moesubnet_router_drafted_tokens",
            "Drafted tokens that were kept, and that were not.",
            ["outcome"],
        )
        self._drawn_ahead = counter(
            "moesubnet_router_drawn_ahead_tokens",
            "Tokens that an expert which writes alone drew ahead: those that were kept, and not.",
            ["outcome"],
        )
        for outcome in ("kept", "lost"):
            self._drafted.labels(outcome)
            self._drawn_ahead.labels(outcome)
        self._round_trips = counter(
            "moesubnet_router_round_trips",
            "Calls that brought the mixture's streams a law of the next token.",
        )
        self._charged = counter("moesubnet_router_charged_rao", "What keyed callers were charged.")
        self._owed = counter(
            "moesubnet_router_owed_rao",
            "What experts are owed for answers to keyed callers.",
            ["hotkey"],
        )

        self._texts = counter(
            "moesubnet_router_texts",
            "Prompts and answers by length: of kind k from 2^(k/2) tokens to the next kind's. "
            "Chats' later turns are More, by tokens that they are longer than the one before and "
            "its answer, and Later, by tenths of a second since that was answered. "
            "Chat: conversations. Fork: further choices. "
            "Ahead: texts by how many tokens experts were asked to go on with at most. "
            "Round, asked: rounds in which one could have been asked to, and was; kinds as in "
            "moesubnet-usage.",
            ["part", "kind"],
        )

    def watch(self, running: Callable[[], float], serving: Callable[[], float]) -> None:
        """Show these two numbers as they are when somebody looks."""
        for name, text, value in (
            ("moesubnet_router_running", "Choices being written.", running),
            ("moesubnet_router_experts_serving", "Experts asked at present.", serving),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def expert(self, hotkey: str, outcome: str, took_s: float | None = None) -> None:
        self._series(self._answers, hotkey, outcome).inc()
        if took_s is not None:
            self._series(self._expert_s, hotkey).observe(took_s)

    def drafted(self, kept: int, lost: int) -> None:
        """A block is over."""
        self._drafted.labels("kept").inc(kept)
        self._drafted.labels("lost").inc(lost)

    def drawn_ahead(self, kept: int, lost: int) -> None:
        """A block is over."""
        self._drawn_ahead.labels("kept").inc(kept)
        self._drawn_ahead.labels("lost").inc(lost)

    def drafts(self) -> tuple[int, int]:
        """How many drafted tokens were kept so far, of how many."""
        outcomes = {labels["outcome"]: int(value) for labels, value in _totals(self._drafted)}
        return outcomes["kept"], sum(outcomes.values())

    def round_trip(self) -> None:
        self._round_trips.inc()

    def text_length(
        self,
        prompt: int,
        answer: int,
        goes_on: GoesOn | None = None,
        *,
        is_fork: bool = False,
        ahead: int = 0,
    ) -> None:
        """Experts were asked for a text of so many tokens. is_fork: a further choice. ahead: tokens
        that one of them was asked to go on with, at most."""
        self._texts.labels("ahead", str(ahead)).inc()
        if is_fork:
            self._texts.labels("fork", "0").inc()
        sizes = {"answer": answer}
        if goes_on is None:
            sizes["prompt"] = prompt
        else:
            sizes |= {"more": goes_on.more, "later": max(1, round(10 * goes_on.pause_s))}
        for part, size in sizes.items():
            if size:
                self._texts.labels(part, str(length_kind(size))).inc()

    def rounds(self, counts: Mapping[tuple[int, bool], int]) -> None:
        """(kind, whether an expert was asked to go on by itself) → of how many rounds in which it
        could have been; kinds as in `wire.usage`."""
        for (kind, is_asked), count in counts.items():
            self._texts.labels("round", str(kind)).inc(count)
            if is_asked:
                self._texts.labels("asked", str(kind)).inc(count)

    def conversations(self, count: int) -> None:
        """Experts were asked for so many answers in conversations under the spec's template."""
        self._texts.labels("chat", "0").inc(count)

    def lengths(self) -> dict[tuple[str, int], int]:
        """By (prompt, more, later or answer, `length_kind`), (chat, 0), (fork, 0) and (ahead,
        tokens), of how many texts since the start; by (round or asked, kind), of how many
        rounds."""
        return {
            (labels["part"], int(labels["kind"])): int(value)
            for labels, value in _totals(self._texts)
        }

    def outcomes(self) -> dict[tuple[str, str], int]:
        """By (hotkey, outcome), how often since the start."""
        return {
            (labels["hotkey"], labels["outcome"]): int(value)
            for labels, value in _totals(self._answers)
        }

    def used(self, usage: Usage, *, charged: bool) -> None:
        """A request has ended; `charged` if a key pays for it."""
        self._tokens.labels(usage.model, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(usage.model, "completion").inc(usage.completion_tokens)
        if charged:
            self._charged.inc(usage.rao)
            for hotkey, (_, rao) in (usage.owed or {}).items():
                self._owed.labels(hotkey).inc(rao)

    def weights(self, weights: Mapping[str, float]) -> None:
        """A token was delivered, written with these weights."""
        for name, weight in weights.items():
            self._series(self._weight, name).inc(weight)

    def weight_by_expert(self) -> dict[str, float]:
        """Each expert's weight, summed over all tokens so far."""
        return {labels["hotkey"]: value for labels, value in _totals(self._weight)}

    def completion_tokens(self) -> int:
        return int(sum(v for labels, v in _totals(self._tokens) if labels["kind"] == "completion"))

    def answers(self) -> int:
        """Completions asked for so far, whatever came of them."""
        counted = _totals(self.requests)
        return int(sum(v for labels, v in counted if labels["path"] in ANSWERING_PATHS))

    def keep_only(self, hotkeys: Collection[str]) -> None:
        """Forget the series of experts that left the subnet."""
        self._found.clear()
        for metric in (self._answers, self._expert_s, self._weight, self._owed):
            known = {s.labels["hotkey"] for whole in metric.collect() for s in whole.samples}
            for hotkey in known - set(hotkeys) - {BASELINE_MEMBER, STUDENT}:
                metric.remove_by_labels({"hotkey": hotkey})

    def _series(self, metric: _Metric, *labels: str) -> _Metric:
        """One of a metric's: to find it costs more than to change it."""
        found: _Metric | None = self._found.get((metric, *labels))
        if found is None:
            found = self._found[metric, *labels] = metric.labels(*labels)
        return found

    def text(self) -> bytes:
        """In the Prometheus text format."""
        return generate_latest(self._registry)


def _totals(counter: Counter) -> Iterator[tuple[dict[str, str], float]]:
    """(labels, value) of each series."""
    for metric in counter.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                yield sample.labels, sample.value
