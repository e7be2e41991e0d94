"""Why an expert earns what it earns: one screen from one score sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from moesubnet.errors import ConfigError
from moesubnet.mixture.sheet import LOG_Q_ABSENT, LOG_Q_UNANSWERED, MICRO, NANO, WHOLE, Sheet
from moesubnet.types import Hotkey
from moesubnet.validator.calibration import Gap, calibration
from moesubnet.validator.scoring import EMA_SHARE, Recount, recount
from moesubnet.validator.senders import SUSPICIOUS_P, Difference, differences
from moesubnet.validator.seniors import by_seniority

EXPLAINED_PPM = 100_000


def facts(sheets: Sequence[Sheet], hotkey: Hotkey) -> dict[str, object]:
    """What `explain` says, for programs; nats per token. Raises ConfigError as it does."""
    sheet, differs = sheets[0], _by_router(sheets, hotkey)
    column = _column_of(sheet, hotkey)
    result, (alone, in_mixture) = recount(sheet), calibration(sheet, column)
    answered = sheet.log_q[:, column] > LOG_Q_UNANSWERED
    content: dict[str, object] = {
        "hotkey": hotkey,
        "uid": sheet.uids[column],
        "epoch": sheet.epoch,
        "validator": sheet.validator,
        "sheet_sha256": sheet.sha256.hex(),
        "items_asked": int(np.sum(sheet.log_q[:, column] != LOG_Q_ABSENT)),
        "items_answered": int(np.sum(answered)),
        "vote_u16": sheet.row_u16[column],
        "recounted_u16": result.row_u16[column],
        "standing": sheet.standing_ppm[column] / MICRO,
        "stands_in_walks": float(sheet.apart[:, column].mean() / WHOLE) if sheet.walks else None,
        "senior_since_epoch": sheet.since[column],
        "seniors": _seniors(sheet, column),
        "answer_ms": sheet.answer_ms[column],
        "through_one_router": None if differs is None else asdict(differs),
        "added_nats": float(result.added_nats[column]),
        "distance": float(result.distance[column]),
        "score_nats": result.score_nano[column] / NANO,
        "value_nats": float(result.value_nats[column]),
        "bound_nats": float(result.bound_nats[column]),
        "reliability": result.reliability_ppm[column] / MICRO,
        "gap_nats": alone.nats,
        "gap_error_nats": alone.error_nats,
        "gap_by_weight_nats": in_mixture.nats,
        "gap_by_weight_error_nats": in_mixture.error_nats,
    }
    for name, averages in (("before", sheet.ema_before), ("after", sheet.ema_after)):
        average = averages[column]
        content[f"average_{name}_nats"] = None if average is None else average / NANO
    finite = (not isinstance(x, float) or math.isfinite(x) for x in content.values())
    return {key: x if ok else None for (key, x), ok in zip(content.items(), finite, strict=True)}


def explain(sheets: Sequence[Sheet], hotkey: Hotkey) -> str:
    """Text of about 20 lines on the first sheet; the others are its validator's before it. Raises
    ConfigError when the sheet does not have the hotkey."""
    sheet = sheets[0]
    column = _column_of(sheet, hotkey)
    result = recount(sheet)
    total = sum(sheet.row_u16)
    share = sheet.row_u16[column] / total if total else 0.0
    lines = [
        f"{hotkey}  (uid {sheet.uids[column]})",
        f"epoch {sheet.epoch} of validator {sheet.validator}, {len(sheet.walk)} items "
        f"in {len(set(sheet.walk.tolist()))} walks",
        "",
        f"vote          {share:7.2%}  of this validator's row ({sheet.row_u16[column]} of 65535)",
        f"moving avg.   {_nats(sheet.ema_after[column])}  nats/token, was "
        f"{_nats(sheet.ema_before[column])} ({EMA_SHARE:.0%} of each new epoch)",
        f"this epoch    {_nats(result.score_nano[column])}  = value x reliability, "
        "or 0 if the bound is not above 0",
        f"  value       {result.value_nats[column]:+.4f}  nats/token: what it adds to the others, "
        "or without standing to its seniors",
        f"  lower bound {result.bound_nats[column]:+.4f}  with 90 % certainty over the walks",
        f"  standing    {sheet.standing_ppm[column] / MICRO:7.2%}  by what it adds to its "
        f"{_seniors(sheet, column)} seniors ({result.added_nats[column]:+.4f}) and how unlike them "
        f"it is ({result.distance[column]:.2f} of enough)",
        *_in_walks(sheet, column),
        f"  reliability {result.reliability_ppm[column] / MICRO:7.2%}  of what it was asked",
        "",
        *_beside_others(sheet, column),
        *_through_one(_by_router(sheets, hotkey)),
        "",
        _verdict(sheet, result, column),
        _agreement(sheet, result),
    ]
    return "\n".join(lines)


def _in_walks(sheet: Sheet, column: int) -> list[str]:
    """Where it stands less, as it says what another does."""
    apart = sheet.apart[:, column] / WHOLE
    if np.all(apart == 1.0):
        return []
    return [
        f"  in walks    {apart.mean():7.2%}  of that: in {np.sum(apart < 1.0)} of {len(apart)} it "
        "says more or less what a senior says that it waited for"
    ]


def _column_of(sheet: Sheet, hotkey: Hotkey) -> int:
    if hotkey in sheet.hotkeys:
        return sheet.hotkeys.index(hotkey)
    known = "\n  ".join(sheet.hotkeys) or "nobody"
    raise ConfigError(
        f"{hotkey} is not in this sheet (epoch {sheet.epoch}). It has:\n  {known}\n"
        "A miner appears once it is registered, serves its axon and shows a card of this spec."
    )


def _nats(nano: int | None) -> str:
    return "   none" if nano is None else f"{nano / NANO:7.4f}"


def _beside_others(sheet: Sheet, column: int) -> list[str]:
    """Its log score and weight next to the baseline's and the mixture's, where it answered."""
    answered = sheet.log_q[:, column] > LOG_Q_UNANSWERED
    if not np.any(answered):
        asked = bool(np.any(sheet.log_q[:, column] != LOG_Q_ABSENT))
        return ["it was asked and never answered" if asked else "it was not asked in this epoch"]
    log_q, log_w = sheet.log_q[answered] / MICRO, sheet.log_w[answered] / MICRO
    present = sheet.log_q[answered] > LOG_Q_UNANSWERED
    joint = np.where(present, np.exp(log_q + log_w), 0.0).sum(axis=1)
    weight = np.where(present, np.exp(log_w), 0.0)
    mean_weight = float(np.mean(weight[:, column] / weight.sum(axis=1)))
    mixture = math.fsum(np.log(joint / weight.sum(axis=1))) / len(joint)
    alone = math.fsum(log_q[:, column]) / len(log_q)
    baseline = math.fsum(log_q[:, -1]) / len(log_q)
    return [
        f"ln p(next token)   alone {alone:.3f}   baseline {baseline:.3f}   mixture {mixture:.3f}",
        f"its mean weight in the mixture {mean_weight:.1%}",
        *_calibration(*calibration(sheet, column)),
    ]


def _by_router(sheets: Sequence[Sheet], hotkey: Hotkey) -> Difference | None:
    return next((d for d in differences(sheets[::-1]) if d.hotkey == hotkey), None)


def _through_one(found: Difference | None) -> list[str]:
    """Whether a router and the expert may be friends, or foes."""
    if found is None:
        return []
    worse = "better" if found.nats > 0 else "worse"
    chance = "" if found.p <= SUSPICIOUS_P else ", so by chance"
    return [
        f"its answers through {found.sender} are {abs(found.nats):.3f} nats a token {worse} than "
        f"through others ({found.walks} walks, p = {found.p:.4f}{chance})"
    ]


def _calibration(alone: Gap, in_mixture: Gap) -> list[str]:
    """How much more its labels surprised it than its own laws expect; a fact, no verdict."""
    return [
        f"surprise beyond its own entropy   {alone.nats:+.3f} ± {alone.error_nats:.3f} nats/token, "
        f"{in_mixture.nats:+.3f} ± {in_mixture.error_nats:.3f} by its weight",
        "  (0 is calibrated, above: too sure; large on text unlike its own; no part of the score)",
    ]


def _seniors(sheet: Sheet, column: int) -> int:
    return by_seniority(sheet).index(column)


def _verdict(sheet: Sheet, result: Recount, column: int) -> str:
    if result.score_nano[column] > 0:
        return "It earns because the mixture predicts unseen text better with it."
    if np.all(sheet.log_q[:, column] == LOG_Q_ABSENT):
        return "It scores nothing: nobody asked it."
    if result.reliability_ppm[column] == 0:
        return "It earns nothing: no valid answer came. Check that its axon can be reached."
    if not any(result.score_nano):
        return "Nobody was worth anything this epoch, so the last vote stands."
    if sheet.standing_ppm[column] < EXPLAINED_PPM:
        return (
            "It earns nothing: to what those say that were there before it adds nothing, be it too "
            "like them or worse (is it surer than it is right? see its surprise). Train on other "
            "text."
        )
    return (
        "It earns nothing now: with 90 % certainty it adds nothing that the others and the "
        "baseline lack. Better on some kind of text beats average on all."
    )


def _agreement(sheet: Sheet, result: Recount) -> str:
    differs = max(
        (abs(a - b) for a, b in zip(sheet.row_u16, result.row_u16, strict=True)), default=0
    )
    if differs <= 1:
        return "Recounted from the sheet: the vote is right."
    return f"RECOUNT DISAGREES by up to {differs} of 65535: this validator's vote is wrong."
