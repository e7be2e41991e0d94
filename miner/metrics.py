"""What `/metrics` shows: counts and durations, never ids, sessions or callers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """One registry per server, so that two in one process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter = partial(Counter, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        self.answers = counter(
            "moesubnet_miner_answers",
            "Answers by route and HTTP status; of lanes each step's.",
            ["route", "status"],
        )
        self.tokens = counter("moesubnet_miner_tokens", "Positions that steps asked to compute.")
        self._batch_sequences = histogram(
            "moesubnet_miner_batch_sequences",
            "Sequences in a batch of the engine.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self._batch_seconds = histogram(
            "moesubnet_miner_batch_seconds",
            "Time the engine took for a batch.",
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
        )

    def batch(self, sequences: int, seconds: float) -> None:
        self._batch_sequences.observe(sequences)
        self._batch_seconds.observe(seconds)

    def watch(
        self,
        waiting_tokens: Callable[[], float],
        sessions: Callable[[], float],
        lost_tails: Callable[[], float],
    ) -> None:
        """Show these numbers as they are when somebody looks."""
        for name, text, value in (
            ("moesubnet_miner_waiting_tokens", "Positions admitted, not answered.", waiting_tokens),
            ("moesubnet_miner_sessions", "Sessions held.", sessions),
            ("moesubnet_miner_lost_tails", "Reveals asked that were not kept.", lost_tails),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """In the Prometheus text format."""
        return generate_latest(self._registry)
