"""What routers saw of experts, in the score: a little, so that a router that lies moves little, but
for a validator's own routers, whose word is as good as its own.

Of others' routers, r has the weight w_r = min(⅓, its part of all routers' stake) · calls /
(calls + 1000). For expert i, f_ri is the part of its calls that came late or failed, and what is
more than the median of r's experts counts: a bad line is the router's.

    loss_i = 10 % · Σ_r w_r · max(0, f_ri − median f_r)

So whatever a router says, it moves an expert's reliability by 10 % · min(⅓, its part of the stake)
at most, and all routers together by 10 %. Feedback is taken the same way, ± 5 %, where a validator
is told to.

A router under a validator's own coldkey is a witness of its own, as its walks are, and of whom it
sees fail users no more is paid than users get: reliability is at most 1 − f, where of an expert
that fails less than f of its calls so many are seen to fail once in 10,000 epochs at most. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from moesubnet.mixture.sheet import FEEDBACK_PPM, HEARSAY_LOSS_PPM, MICRO
from moesubnet.types import Hotkey
from moesubnet.wire.usage import Seen, Usage

MOST_OF_ONE = 1 / 3
MANY_CALLS = 1_000
MIN_CALLS = 20  # of one expert through one router
SURE_NATS = math.log(10_000)
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

    return _weighted(summaries, hotkeys, said, HEARSAY_LOSS_PPM)


def witnessed_losses(
    own: Sequence[Usage], hotkeys: Sequence[Hotkey], answered: Sequence[float]
) -> tuple[int, ...]:
    """ppm of each one's reliability that its users, by a validator's own routers, did not get.
    answered: which part of the probes each answered; who leaves as many of those loses no more."""
    rows = [row for usage in own for row in usage.rows]

    def loss_ppm(hotkey: Hotkey, probes: float) -> int:
        mine = [row for row in rows if row.hotkey == hotkey]
        served = 1.0 - _least_part(sum(r.late + r.failed for r in mine), sum(map(_calls, mine)))
        return round(MICRO * (1.0 - served / probes)) if served < probes else 0

    return tuple(map(loss_ppm, hotkeys, answered))


def _least_part(failed: int, calls: int) -> float:
    """What part fails, at least: of less so many fail once in 10,000 times at most (Chernoff)."""
    if not failed:
        return 0.0
    part, least, most = failed / calls, 0.0, failed / calls
    for _ in range(40):
        tried = (least + most) / 2
        is_too_little = calls * _divergence(part, tried) > SURE_NATS
        least, most = (tried, most) if is_too_little else (least, tried)
    return least


def _divergence(p: float, q: float) -> float:
    """Of two coins, in nats; 0 < q <= p."""
    rest = (1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0
    return p * math.log(p / q) + rest


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
