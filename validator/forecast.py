"""What running a validator would take: text, what becomes public, traffic and CPU. Estimates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from moesubnet.units import TOKENS, Grain
from moesubnet.validator.before import KEPT_EPOCHS, KEPT_TEXTS, MOST_ASKED
from moesubnet.validator.pool import window_units
from moesubnet.validator.shapes import Shapes
from moesubnet.wire.lanes import MAX_STEPS
from moesubnet.wire.protocol import want_for

TWICE = 4  # prefixes an epoch: asked twice, never published; one for each group of walks
# Bytes as they were counted on the wire (tests/validator/test_forecast.py).
TOKEN_BYTES = 4
QUESTION_BYTES, CARRIED_BYTES = 200, 70  # of a step; more, where a router carries it
RECEIPT_BYTES = 150  # with nonce, salt and place in a lane
SENT_HTTP_BYTES, RECEIVED_HTTP_BYTES = 695, 250  # headers and signature, of a request
WHOLE_BYTES, WHOLE_BYTES_A_TOKEN = 60, 2
LISTED_BYTES = 2_270  # in the mean over five kinds of text; few rows need 6,500 (docs/log.md)
# To sign and ask, verify, read, store and score one answer: 0.83 ms of CPU were measured where each
# is asked by a request of its own, 0.36 in lanes (benchmarks/results.md), at V = 2,048.
ANSWER_CPU_S, REQUEST_CPU_S = 0.34e-3, 0.49e-3
WHOLE_CPU_S = 2e-8  # more, for each token of a whole law
LISTED_CPU_S = 0.38e-3  # more, for a listed part


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of a validator in an epoch, asking directly or through routers."""

    sent_bytes: int
    received_bytes: int
    cpu_s: float

    def __str__(self) -> str:
        sent, received = _bytes(self.sent_bytes), _bytes(self.received_bytes)
        return f"{sent} sent, {received} received and {self.cpu_s:,.1f} s of CPU here"


@dataclass(frozen=True)
class Forecast:
    """Of a mean epoch, if `experts` answer. epochs: how many the unused text lasts. What an expert
    drafts in a walk is shown and not asked, and what a template writes before an answer is not
    scored: questions, and all that follows, are at most so many.
    """

    windows: int
    walks: int
    experts: int
    vocab_size: int
    epoch_s: float
    shapes: Shapes
    grain: Grain = TOKENS
    conversations: int = 0

    @property
    def epochs(self) -> int:
        texts = self.windows / self.windows_a_walk + self.conversations
        return int(texts / (self.walks + TWICE + self.drafted_texts + self.own_texts))

    @property
    def drafted_texts(self) -> float:
        """An epoch, walked with drafts and without: as often as users' texts have them at once."""
        ahead = self.shapes.going_on()
        return TWICE * ahead.first if ahead else 0.0

    @property
    def own_texts(self) -> float:
        """An epoch, once each expert has its own; as it was asked alone, and they are kept."""
        return min(self.experts * KEPT_TEXTS / KEPT_EPOCHS, 4.0 * MOST_ASKED)

    @cached_property
    def windows_a_walk(self) -> float:
        return self.shapes.mean("units", window_units(self.grain))

    @cached_property
    def scored(self) -> int:
        """Positions."""
        return round(self.walks * self.shapes.mean("steps"))

    @cached_property
    def published_tokens(self) -> int:
        return round(self.walks * self.shapes.mean("units"))

    @property
    def questions(self) -> int:
        return round(self.scored * self.experts / (1.0 - min(self.shapes.forks, 0.5)))

    @property
    def positions(self) -> int:
        """What each expert computes."""
        return self.published_tokens

    def traffic(self, *, through_routers: bool) -> Traffic:
        """A walk's questions to all experts leave together, in a router's lanes. Directly each is a
        request, and so is the end of a walk."""
        if through_routers:
            requests = self.questions / max(1, min(self.experts, MAX_STEPS))
        else:
            requests = float(self.questions + self.walks * self.experts)
        question_bytes = QUESTION_BYTES + (CARRIED_BYTES if through_routers else 0)
        ids_bytes = TOKEN_BYTES * self.published_tokens * self.experts
        whole_bytes = WHOLE_BYTES + WHOLE_BYTES_A_TOKEN * self.vocab_size
        answer_bytes = RECEIPT_BYTES + (whole_bytes if self._is_whole else LISTED_BYTES)
        more_s = WHOLE_CPU_S * self.vocab_size if self._is_whole else LISTED_CPU_S
        return Traffic(
            round(self.questions * question_bytes + ids_bytes + requests * SENT_HTTP_BYTES),
            round(self.questions * answer_bytes + requests * RECEIVED_HTTP_BYTES),
            self.questions * (ANSWER_CPU_S + more_s) + requests * REQUEST_CPU_S,
        )

    @property
    def _is_whole(self) -> bool:
        return want_for(self.vocab_size).kind == "full"

    def _said(self) -> str:
        return f", or one of {self.conversations:,} unused conversations" * bool(self.conversations)

    def as_text(self) -> str:
        lasts = f"{self.epochs:,} epochs, {_time(self.epochs * self.epoch_s)}"
        unit = self.grain.unit
        return "\n".join(
            [
                f"text       {self.windows:,} unused windows of {window_units(self.grain)} {unit}; "
                f"{self.walks} walks an epoch, {TWICE} prefixes that are asked twice, "
                f"{self.drafted_texts:.1f} texts with drafts and without and "
                f"{self.own_texts:.1f} texts of experts' own use {self.windows_a_walk:.1f} each in "
                f"the mean{self._said()}: it lasts {lasts}",
                f"published  each epoch {self.walks} walks ({self.published_tokens:,} {unit}) "
                f"and every expert's scores on {self.scored:,} positions, once the "
                "vote is revealed",
                f"asked      at most {self.questions:,} questions an epoch ({self.scored:,} "
                f"positions of {self.walks} walks × {self.experts} experts), less what experts "
                f"draft; each expert computes {self.positions:,} positions",
                f"estimated  an epoch of {_time(self.epoch_s)} through routers: "
                f"{self.traffic(through_routers=True)}",
                "           where no router runs a node, asked directly: "
                f"{self.traffic(through_routers=False)}",
            ]
        )


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} seconds"
