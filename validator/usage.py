"""What routers saw of experts, in the score: a little, so that a router that lies moves little.

A router r has the weight w_r = min(⅓, its part of all routers' stake) · calls / (calls + 1000). For
expert i, f_ri is the part of its calls that came late or failed, and what is more than the median
of r's experts counts: a bad line is the router's.

    loss_i = 10 % · Σ_r w_r · max(0, f_ri − median f_r)

So whatever a router says, it moves an expert's reliability by 10 % · min(⅓, its part of the stake)
at most, and all routers together by 10 %. Feedback is taken the same way, ± 5 %, where a validator
is told to. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from moesubnet.mixture.sheet import FEEDBACK_PPM, USAGE_LOSS_PPM
from moesubnet.types import Hotkey
from moesubnet.wire.usage import Seen, Usage

MOST_OF_ONE = 1 / 3
MANY_CALLS = 1_000
MIN_CALLS = 20  # of one expert through one router
MANY_RAO = 10**9  # that callers paid for what they rated: one τ


def usage_losses(
    summaries: Sequence[tuple[Usage, int]], hotkeys: Sequence[Hotkey]
) -> tuple[int, ...]:
    """ppm of each one's reliability. summaries: each router's, with its stake in rao."""

    def said(usage: Usage) -> tuple[dict[str, float], float]:
        rates = {
            row.hotkey: (row.late + row.failed) / _calls(row)
            for row in usage.rows
            if _calls(row) >= MIN_CALLS
        }
        usual = median(rates.values()) if rates else 0.0
        calls = sum(map(_calls, usage.rows))
        worse = {hotkey: max(0.0, rate - usual) for hotkey, rate in rates.items()}
        return worse, calls / (calls + MANY_CALLS)

    return _weighted(summaries, hotkeys, said, USAGE_LOSS_PPM)


def feedback(summaries: Sequence[tuple[Usage, int]], hotkeys: Sequence[Hotkey]) -> tuple[int, ...]:
    """ppm of each one's score, either way: liked more than what the same callers heard on average,
    by what they paid."""

    def said(usage: Usage) -> tuple[dict[str, float], float]:
        heard = sum(row.heard_rao for row in usage.rows)
        mean = sum(row.liked_rao for row in usage.rows) / heard if heard else 0.0
        liked = {
            row.hotkey: max(-1.0, min(1.0, row.liked_rao / row.heard_rao - mean))
            for row in usage.rows
            if row.heard_rao
        }
        return liked, heard / (heard + MANY_RAO)

    return _weighted(summaries, hotkeys, said, FEEDBACK_PPM)


def _weighted(
    summaries: Sequence[tuple[Usage, int]],
    hotkeys: Sequence[Hotkey],
    said: Callable[[Usage], tuple[Mapping[str, float], float]],
    most_ppm: int,
) -> tuple[int, ...]:
    total_rao = sum(stake for _, stake in summaries) or 1
    sums = dict.fromkeys(hotkeys, 0.0)
    for usage, stake_rao in summaries:
        values, heard = said(usage)
        weight = min(MOST_OF_ONE, stake_rao / total_rao) * heard
        for hotkey in sums.keys() & values.keys():
            sums[hotkey] += weight * values[hotkey]
    return tuple(
        max(-most_ppm, min(most_ppm, round(most_ppm * sums[hotkey]))) for hotkey in hotkeys
    )


def _calls(row: Seen) -> int:
    return row.answered + row.late + row.failed
