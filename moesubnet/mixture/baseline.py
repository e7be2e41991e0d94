"""The baseline before there is a student: an add-one unigram over the public transfer set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moesubnet.errors import SpecError
from moesubnet.mixture.law import Law
from moesubnet.spec.content import LoadedSpec

MAX_VOCAB_BYTES = 4 * 1_000_000 + 4096


@dataclass(frozen=True, eq=False)
class Unigram:
    """The same law after every prefix. logp: float32 [V], normalised, full support."""

    logp: npt.NDArray[np.float32]

    @classmethod
    def build(cls, ids: npt.NDArray[np.integer], vocab_size: int) -> Unigram:
        """Of token ids [n]."""
        return cls.of_counts(np.bincount(ids, minlength=vocab_size))

    @classmethod
    def of_counts(cls, counts: npt.NDArray[np.integer]) -> Unigram:
        """Of how often each token occurs [V], one more each."""
        counted = counts.astype(np.float64) + 1.0
        return cls(np.log(counted / np.sum(counted)).astype(np.float32))

    def save(self, path: Path) -> None:
        np.save(path, self.logp, allow_pickle=False)

    @classmethod
    def load(cls, path: Path) -> Unigram:
        """Raises SpecError unless the file is float32 [V], a distribution with full support."""
        try:
            if path.stat().st_size > MAX_VOCAB_BYTES:
                raise SpecError(f"{path} is too large for a unigram")
            logp = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SpecError(f"cannot read the unigram {path}: {error}") from error
        if logp.ndim != 1 or logp.dtype != np.float32:
            raise SpecError(f"{path} is not one row of float32")
        if not np.all(np.isfinite(logp)) or abs(float(np.sum(np.exp(logp))) - 1.0) > 1e-3:
            raise SpecError(f"{path} is not a distribution")
        return cls(logp)

    @cached_property
    def law(self) -> Law:
        """The law of every position; the shape of the experts' tails."""
        return Law(self.logp)


def load_baseline(spec: LoadedSpec) -> Unigram:
    """The spec's baseline. Raises SpecError when it is not a unigram."""
    if spec.spec.baseline.kind != "unigram":
        raise SpecError("this version measures against a unigram; the spec names a student")
    unigram = Unigram.load(spec.path(spec.spec.baseline.file))
    if len(unigram.logp) != spec.spec.vocab_size:
        raise SpecError("the spec's baseline is of another vocabulary")
    return unigram
