"""What running a validator would take: text, what becomes public, traffic and CPU. Estimates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from moesubnet.units import TOKENS, Grain
from moesubnet.validator.pool import window_units
from moesubnet.validator.shapes import Shapes
from moesubnet.wire.protocol import want_for

TWICE = 4  # prefixes an epoch: asked twice, never published; one for each group of walks
HTTP_BYTES = 800  # headers of a question or an answer, signature and receipt among them
QUESTION_BYTES = 400
WHOLE_BYTES, WHOLE_BYTES_A_TOKEN = 240, 2
LISTED_BYTES = 2_450  # in the mean over five kinds of text; few rows need 6,500 (docs/log.md)
# To sign and ask, verify, read, store and score one answer: 0.62 ms were measured at V = 300, 0.66
# at 2,048, 0.78 at 8,192, and 1.0 with a listed part of 49,152 and its reveals (docs/log.md).
ANSWER_CPU_S = 0.62e-3
WHOLE_CPU_S = 2e-8  # more, for each token of a whole law
LISTED_CPU_S = 0.38e-3  # more, for a listed part


@dataclass(frozen=True)
class Forecast:
    """Of a mean epoch, if `experts` answer. epochs: how many the unused text lasts."""

    windows: int
    walks: int
    experts: int
    vocab_size: int
    epoch_s: float
    shapes: Shapes
    grain: Grain = TOKENS

    @property
    def epochs(self) -> int:
        return int(self.windows / ((self.walks + TWICE) * self.windows_a_walk))

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
        return self.scored * self.experts

    @property
    def positions(self) -> int:
        """What each expert computes."""
        return self.published_tokens

    @property
    def sent_bytes(self) -> int:
        return self.questions * (QUESTION_BYTES + HTTP_BYTES)

    @property
    def received_bytes(self) -> int:
        whole = WHOLE_BYTES + WHOLE_BYTES_A_TOKEN * self.vocab_size
        return self.questions * ((whole if self._is_whole else LISTED_BYTES) + HTTP_BYTES)

    @property
    def cpu_s(self) -> float:
        more_s = WHOLE_CPU_S * self.vocab_size if self._is_whole else LISTED_CPU_S
        return self.questions * (ANSWER_CPU_S + more_s)

    @property
    def _is_whole(self) -> bool:
        return want_for(self.vocab_size).kind == "full"

    def as_text(self) -> str:
        lasts = f"{self.epochs:,} epochs, {_time(self.epochs * self.epoch_s)}"
        unit = self.grain.unit
        return "\n".join(
            [
                f"text       {self.windows:,} unused windows of {window_units(self.grain)} {unit}; "
                f"{self.walks} walks an epoch, and {TWICE} prefixes that are asked twice, use "
                f"{self.windows_a_walk:.1f} each in the mean: it lasts {lasts}",
                f"published  each epoch {self.walks} walks ({self.published_tokens:,} {unit}) "
                f"and every expert's scores on {self.scored:,} positions, once the "
                "vote is revealed",
                f"asked      {self.questions:,} questions an epoch ({self.scored:,} positions of "
                f"{self.walks} walks × {self.experts} experts); each expert computes "
                f"{self.positions:,} positions",
                f"estimated  {_bytes(self.sent_bytes)} sent and {_bytes(self.received_bytes)} "
                f"received an epoch of {_time(self.epoch_s)}, {self.cpu_s:,.1f} s of CPU here",
            ]
        )


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} seconds"
