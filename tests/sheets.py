"""Score sheets for tests that need no validator."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, WHOLE, Sheet, micro_nats, sheet_seed
from moesubnet.types import Hotkey, Metagraph
from moesubnet.validator.closing import close_sheet
from moesubnet.validator.receipts import Receipts
from moesubnet.validator.records import Batch
from moesubnet.validator.scoring import recount


def closed(
    batches: Sequence[Batch], metagraph: Metagraph, validator: Hotkey, **more: Any
) -> tuple[Sheet, Receipts]:
    """What a validator closes its first epoch with, over a vocabulary of 300; see `close_sheet`."""
    first: dict[str, Any] = {
        "spec_sha256": "ab" * 32,
        "gate_sha256": bytes(32),
        "previous_sha256": bytes(32),
        "scores": {},
        "merits": {},
        "vocab_size": 300,
    }
    return close_sheet(batches, metagraph, validator=validator, **(first | more))


def synthetic_sheet(
    hotkeys: Sequence[str],
    *,
    domains: bool = False,
    seed: int = 0,
    epoch: int = 3,
    walk_count: int = 32,
    swap: bool = False,
    steps: int = 16,
) -> Sheet:
    """A sheet of synthetic text: domain d speaks tokens 10d … 10d + 9; expert d knows domain d."""
    rng = np.random.default_rng(seed)
    n = len(hotkeys)
    domain = rng.integers(0, max(n, 1), walk_count)
    walks = tuple(
        (10 * d + rng.integers(0, 10, 32 + steps)).astype("<u4")
        if domains
        else rng.integers(0, 2000, 32 + steps).astype("<u4")
        for d in domain
    )
    walk = np.repeat(np.arange(walk_count, dtype="<u4"), steps)
    position = np.tile(np.arange(32, 32 + steps, dtype="<u4"), walk_count)
    log_q = np.log(rng.uniform(0.01, 0.05, (len(walk), n + 1)))
    if domains:
        knows = domain[walk] if not swap else (domain[walk] + 1) % n
        log_q[np.arange(len(walk)), knows] = np.log(0.1)
    log_w = np.full((len(walk), n + 1), -np.log(n + 1))
    return sheet_of(
        hotkeys,
        epoch=epoch,
        walks=walks,
        walk=walk,
        position=position,
        log_q=micro_nats(log_q),
        log_w=micro_nats(log_w),
        age_millis=tuple(range(1_000, 1_000 + n)),
        took_100us=np.tile(np.arange(100, 100 + 10 * n, 10, dtype="<u2"), (len(walk), 1)),
        entropy=np.full((len(walk), n), 1_000_000, np.int32),
        reliability_ppm=(1_000_000,) * n,
        ema_after=(5,) * n,
        novelty_after=(0,) * n,
        standing_ppm=(1_000_000,) * n,
        row_u16=(65_535,) * n,
    )


def sheet_of(hotkeys: Sequence[str], **given: Any) -> Sheet:
    """A sheet of an epoch in which nothing was measured, but for what is given."""
    content: dict[str, Any] = {
        "netuid": 1,
        "epoch": 3,
        "validator": "validator",
        "previous_sha256": bytes(32),
        "walks": (),
        "walk": np.empty(0, "<u4"),
    } | given
    n, walks, items = len(hotkeys), len(content["walks"]), len(content["walk"])
    assumed = {
        "spec_sha256": bytes(32),
        "gate_sha256": bytes(32),
        "seed": sheet_seed(content["previous_sha256"], content["epoch"]),
        "hotkeys": tuple(hotkeys),
        "uids": tuple(range(n)),
        "age_millis": (5_000,) * n,
        "chosen": np.ones((walks, n), np.uint8),
        "apart": np.full((walks, n), WHOLE, np.uint8),
        "position": np.empty(0, "<u4"),
        "senders": (content["validator"],),
        "sender": np.zeros((items, n), np.uint8),
        "log_q": np.empty((0, n + 1), "<i4"),
        "log_w": np.empty((0, n + 1), "<i4"),
        "entropy": np.zeros((items, n), np.int32),
        "took_100us": np.zeros((items, n), "<u2"),
        "receipts": (bytes(32),) * n,
    }
    zeros = ("usage_loss_ppm", "feedback_ppm", "reliability_ppm", "standing_ppm", "row_u16")
    unknown = ("ema_before", "ema_after", "novelty_before", "novelty_after", "since")
    assumed |= dict.fromkeys(zeros, (0,) * n) | dict.fromkeys(unknown, (None,) * n)
    return Sheet(**assumed | content)


def taking(sheet: Sheet, answer_ms: Sequence[int | None]) -> Sheet:
    """Every answer of an expert took so long."""
    took = np.array([10 * (ms or 0) for ms in answer_ms], "<u2")
    given = sheet.log_q[:, :-1] > LOG_Q_UNANSWERED
    return dataclasses.replace(sheet, took_100us=np.where(given, took, 0).astype("<u2"))


def voted(sheet: Sheet) -> Sheet:
    """With the vote that follows from its items."""
    vote = recount(sheet)
    names = ("reliability_ppm", "ema_after", "novelty_after", "since", "standing_ppm", "row_u16")
    names += ("apart",)
    return dataclasses.replace(sheet, **{name: getattr(vote, name) for name in names})
