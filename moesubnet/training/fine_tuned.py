"""What came of a fine-tuning, for files and people."""

from __future__ import annotations

from dataclasses import dataclass

from moesubnet.training.measured import read_of, with_error


@dataclass(frozen=True, slots=True)
class FineTuneReport:
    """What came out. Perplexities are per token, of text that occurs nowhere in training, before
    and after of the same windows. Errors are standard errors; None of one window, and in reports
    of versions that did not count."""

    base: str
    spec_sha256: str
    parameters: int
    trained_parameters: int
    train_tokens: int  # in the text
    seen_tokens: int  # in the batches
    held_out_tokens: int
    perplexity_before: float
    perplexity_after: float
    steps: int
    elapsed_s: float
    cpu_s: float
    held_out_windows: int = 0  # that were read
    held_out_of: int = 0  # of so many
    error_before: float | None = None
    error_after: float | None = None
    gain_nats: float | None = None  # a token
    gain_error: float | None = None

    @property
    def held_out_words(self) -> str:
        text = (
            f"held-out perplexity {with_error(self.perplexity_before, self.error_before)} before, "
            f"{with_error(self.perplexity_after, self.error_after)} after"
        )
        if self.gain_nats is None:
            return text
        read = read_of(self.held_out_windows, self.held_out_of)
        gain = with_error(abs(self.gain_nats), self.gain_error, 3)
        better = "better" if self.gain_nats > 0 else "worse"
        return f"{text}, {read}; there {gain} nats a token {better}"
