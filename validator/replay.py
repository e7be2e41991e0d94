"""An open expert's signed answers, replayed: one prefill of the weights that it says it serves.

What is compared is what a sheet's records prove, so anybody can repeat it with the published
records of any validator. No answer that is scored is sampled, so laws are compared and no draws.
Pure, but for the engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moesubnet.engine.base import Engine, Query
from moesubnet.mixture.law import Law, law_of
from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, Sheet
from moesubnet.validator.audit import answered_rows, is_signed
from moesubnet.validator.checks import (
    REPLAY_RATIO,
    REPLAY_ROWS,
    Claim,
    Verdict,
    are_over,
    median_ratio,
    replay_verdict,
)
from moesubnet.validator.receipts import Receipts
from moesubnet.wire.protocol import Want

MAX_ROWS = 1_024  # of one sheet; more say no more
MAX_TOKENS = 1_024  # of our own laws; far more than are compared


@dataclass(frozen=True, slots=True)
class Answered:
    """One signed answer: the item of the sheet, the law that it gave, and of which walk."""

    item: int
    law: Law
    walk: int = 0


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found. medians: by the precision that our own prefill had; impostors: the same
    statistic of who did not run the model (another place's law, every token alike). over: of each
    group of REPLAY_ROWS answers, whether it is too far from these weights."""

    rows: int
    medians: Mapping[str, float]
    impostors: Mapping[str, float]
    verdict: Verdict
    why: str
    over: tuple[bool, ...] = ()


def signed_answers(
    sheet: Sheet, receipts: Receipts, bodies: Sequence[bytes], column: int
) -> list[Answered]:
    """Of one expert, as far as they are kept and it signed them; MAX_ROWS at most."""
    found: list[Answered] = []
    for item in np.flatnonzero(sheet.log_q[:, column] > LOG_Q_UNANSWERED).tolist():
        if len(found) == MAX_ROWS:
            break
        rows = answered_rows(sheet, receipts, bodies[item], item, column) if bodies[item] else None
        if rows is not None and is_signed(sheet, receipts, item, column):
            found.append(Answered(item, law_of(rows, -1, None), int(sheet.walk[item])))
    return found


def own_laws(engine: Engine, sheet: Sheet, answers: Sequence[Answered]) -> list[Law]:
    """What the weights say at those places: one prefill a walk. Raises EngineError."""
    laws: dict[int, Law] = {}
    for walk in sorted({answer.walk for answer in answers}):
        items = [a.item for a in answers if a.walk == walk]
        first, end = (int(limit(sheet.position[items])) for limit in (np.min, np.max))
        query = Query(f"replay/{walk}", sheet.walks[walk][:end], first)
        [rows] = engine.rows([query], Want("full"))
        engine.forget(query.session)
        for item in items:
            laws[item] = law_of(rows, int(sheet.position[item]) - first, None).head(MAX_TOKENS)
    return [laws[answer.item] for answer in answers]


def compare(
    answers: Sequence[Answered], ours: Mapping[str, Sequence[Law]], vocab_size: int
) -> Replay:
    """ours: by precision. An honest expert runs its weights in one that we may not have tried, so
    the nearest counts; only who is far from all of them is called a cheat. Groups are of whole
    walks, as far as they go: who serves something else now and then does so for a walk."""
    if not answers:
        return Replay(0, {}, {}, Verdict.UNPROVEN, "no signed answer of it is kept")
    ratios = {
        name: [ratio for ratio in _ratios([a.law for a in answers], laws) if math.isfinite(ratio)]
        for name, laws in ours.items()
    }
    medians = {name: float(np.median(found or [math.nan])) for name, found in ratios.items()}
    nearest = min(medians, key=lambda name: medians[name])
    laws = list(ours[nearest])
    even = Law(np.full(vocab_size, -math.log(vocab_size), np.float32))
    impostors = {
        "another place's law": float(np.median(_ratios([laws[-1], *laws[:-1]], laws))),
        "every token alike": float(np.median(_ratios([even] * len(laws), laws))),
    }
    verdict = replay_verdict(ratios[nearest], list(impostors.values()))
    rows, why = len(ratios[nearest]), _why(verdict, len(ratios[nearest]), impostors)
    by_walk = sorted(range(len(answers)), key=lambda k: answers[k].walk)
    of_all = _ratios([answers[k].law for k in by_walk], [ours[nearest][k] for k in by_walk])
    over = are_over([ratio for ratio in of_all if math.isfinite(ratio)], list(impostors.values()))
    return Replay(rows, medians, impostors, verdict, why, tuple(over))


def held_against(claims: Sequence[Claim], epoch: int, commitment: str) -> str | None:
    """Why answers of `epoch` say nothing of the weights that are claimed now; None: they do.

    Cards are read now and then, so one that changed in the epoch before may be known too late.
    """
    near = [claim for claim in claims if claim.epoch >= epoch - 1]
    if all(claim.epoch != epoch for claim in near):
        return f"nobody here read its card in epoch {epoch}, so who knows which weights it claimed"
    if any(claim.commitment != commitment for claim in near):
        return "it claimed other weights then, or in between"
    return None


def _ratios(laws: Sequence[Law], ours: Sequence[Law]) -> list[float]:
    return [median_ratio(law, own) for law, own in zip(laws, ours, strict=True)]


def _why(verdict: Verdict, rows: int, impostors: Mapping[str, float]) -> str:
    if verdict == Verdict.OK:
        return "these weights say what it answered"
    if verdict == Verdict.CHEAT:
        return "it answers with something else than the weights that it claims"
    if rows < REPLAY_ROWS:
        return f"fewer than {REPLAY_ROWS} signed answers are kept that say enough of their laws"
    if min(impostors.values()) <= 2 * REPLAY_RATIO:
        return "this check cannot tell: who never ran the model would pass it as well"
    return "as far away as a mild quantisation or another device's rounding may be"
