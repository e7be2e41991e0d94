"""The next token of a text that is written ahead of its caller: the one that it would draw."""

from __future__ import annotations

from moesubnet.errors import BadDistribution, EngineError
from moesubnet.mixture.drafting import Drawn
from moesubnet.mixture.law import law_of
from moesubnet.wire.ahead import Ahead
from moesubnet.wire.protocol import StepRows


def drawn(rows: StepRows, ahead: Ahead, point: float) -> int:
    """Of the last row's law, as the caller will read it. Raises EngineError for what is none."""
    try:
        law = law_of(rows.as_read(), -1, None)
    except BadDistribution as error:
        raise EngineError(f"the engine gave what is no law: {error}") from error
    return Drawn.of(law.logp, law.ids, ahead.temperature, ahead.top_p).at_point(point)
