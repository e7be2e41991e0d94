"""Closing an epoch: from the answers stored so far to the score sheet that is voted."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.sheet import (
    I32,
    LOG_Q_ABSENT,
    LOG_Q_UNANSWERED,
    LOG_W_NONE,
    MAX_CONTRADICTED,
    MAX_ITEMS,
    MAX_WALKS,
    U8,
    U32,
    WHOLE,
    Sheet,
    U16s,
    sheet_seed,
)
from moesubnet.types import Hotkey, Metagraph, Neuron
from moesubnet.validator.audit import asked_blind
from moesubnet.validator.receipts import MAX_RECEIPTS_BYTES, RECORD, Receipts, column_sha256
from moesubnet.validator.records import SENDER, Batch, Merit
from moesubnet.validator.scoring import recount
from moesubnet.validator.usage import feedback, usage_losses, witnessed_losses
from moesubnet.wire.usage import Usage

T = TypeVar("T", bound=np.generic)

MAX_RECORDS_BYTES = MAX_RECEIPTS_BYTES - 2**16  # beside walks' salts


def close_sheet(
    batches: Sequence[Batch],
    metagraph: Metagraph,
    *,
    validator: Hotkey,
    spec_sha256: str,
    gate_sha256: bytes,
    previous_sha256: bytes,
    scores: Mapping[Hotkey, int],
    merits: Mapping[Hotkey, Merit],
    vocab_size: int,
    convicted: Collection[Hotkey] = (),
    changed: Collection[Hotkey] = (),
    usage: Sequence[tuple[Usage, int]] = (),
    with_feedback: bool = False,
    contradicted: Collection[bytes] = (),
) -> tuple[Sheet, Receipts]:
    """The sheet of the metagraph's epoch, and what proves its items; pure.

    Columns are the registered hotkeys that were asked or have a score to lose: who is absent
    fades. Of too many items the newest count.
    usage: routers' summaries with their stakes, of which those under the validator's own coldkey
    count whole; what users said of answers counts with
    `with_feedback` only. Who is convicted of contradicting its own signed answers has given no
    valid one. Who has changed is what it is since now: neither its seniority nor its novelty of
    before is its own.
    Of a walk the sheet holds what was measured: what comes after its last item stays private. What
    an expert was asked when its label had been shown in another walk counts as not asked.
    """
    registered = metagraph.by_hotkey
    batches = _newest(batches, len(registered))
    asked = {hotkey for batch in batches for hotkey in batch.hotkeys}
    scored = {hotkey for hotkey, score in scores.items() if score > 0}
    hotkeys = tuple(sorted(h for h in asked | scored if h in registered and h != validator))
    walks = [ids[: batch.steps[-1].position + 1] for batch in batches for ids in batch.walks]
    receipts = _receipts(batches, hotkeys, vocab_size)
    walk, position, log_q, log_w, entropy, took = _items(batches, hotkeys)
    senders, sender = _senders(batches, hotkeys, validator)
    log_q = np.where(_lost_in_relays(log_q, sender), LOG_Q_ABSENT, log_q).astype("<i4")
    nothing = Merit(None, None)
    known = [nothing if h in changed else merits.get(h, nothing) for h in hotkeys]
    guilty = np.isin([*hotkeys, ""], list(convicted)) & (log_q != LOG_Q_ABSENT)
    log_q = np.where(guilty, LOG_Q_UNANSWERED, log_q).astype("<i4")
    log_w = np.where(guilty, LOG_W_NONE, log_w).astype("<i4")
    entropy = np.where(guilty[:, :-1], 0, entropy).astype("<i4")
    took = np.where(guilty[:, :-1], 0, took).astype("<u2")
    unvoted = Sheet(
        netuid=metagraph.netuid,
        epoch=metagraph.epoch_index,
        validator=validator,
        spec_sha256=bytes.fromhex(spec_sha256),
        gate_sha256=gate_sha256,
        previous_sha256=previous_sha256,
        seed=sheet_seed(previous_sha256, metagraph.epoch_index),
        hotkeys=hotkeys,
        uids=tuple(int(registered[hotkey].uid) for hotkey in hotkeys),
        age_millis=tuple(_age_millis(metagraph, registered[hotkey]) for hotkey in hotkeys),
        walks=tuple(np.asarray(ids, "<u4") for ids in walks),
        chosen=_chosen(batches, hotkeys),
        apart=np.full((len(walks), len(hotkeys)), WHOLE, np.uint8),
        walk=walk,
        position=position,
        senders=senders,
        sender=sender,
        log_q=log_q,
        log_w=log_w,
        entropy=entropy,
        took_100us=took,
        receipts=tuple(column_sha256(column) for column in receipts.records.T),
        usage_loss_ppm=_usage_losses(usage, hotkeys, log_q, metagraph, validator),
        feedback_ppm=feedback(usage, hotkeys) if with_feedback else (0,) * len(hotkeys),
        reliability_ppm=(0,) * len(hotkeys),
        ema_before=tuple(scores.get(hotkey) for hotkey in hotkeys),
        ema_after=(None,) * len(hotkeys),
        novelty_before=tuple(merit.novelty_ppm for merit in known),
        novelty_after=(None,) * len(hotkeys),
        since=tuple(merit.since for merit in known),
        standing_ppm=(0,) * len(hotkeys),
        row_u16=(0,) * len(hotkeys),
        contradicted=tuple(sorted(contradicted)[:MAX_CONTRADICTED]),
    )
    # A walk that was cut short may be how another begins, in which its label was shown before.
    shown = (log_q[:, :-1] > LOG_Q_UNANSWERED) & (receipts.records["nonce_ns"] > 0)
    shown = np.insert(shown & ~asked_blind(unvoted, receipts), len(hotkeys), False, axis=1)
    unvoted = dataclasses.replace(
        unvoted,
        log_q=np.where(shown, LOG_Q_ABSENT, log_q).astype("<i4"),
        log_w=np.where(shown, LOG_W_NONE, log_w).astype("<i4"),
        entropy=np.where(shown[:, :-1], 0, entropy).astype("<i4"),
        took_100us=np.where(shown[:, :-1], 0, took).astype("<u2"),
    )
    vote = recount(unvoted)
    sheet = dataclasses.replace(
        unvoted,
        reliability_ppm=vote.reliability_ppm,
        ema_after=vote.ema_after,
        novelty_after=vote.novelty_after,
        since=vote.since,
        standing_ppm=vote.standing_ppm,
        apart=vote.apart,
        row_u16=vote.row_u16,
    )
    return sheet, receipts


def _newest(batches: Sequence[Batch], experts: int) -> list[Batch]:
    """The newest batches that a sheet of so many at most has room for, and what proves it (which is
    longer), oldest first."""
    most = min(MAX_ITEMS, MAX_RECORDS_BYTES // (RECORD.itemsize * max(1, experts)))
    kept: list[Batch] = []
    items = walks = 0
    for batch in reversed(batches):
        items += len(batch.walks) * len(batch.steps)
        walks += len(batch.walks)
        if items > most or walks > MAX_WALKS:
            break
        kept.insert(0, batch)
    return kept


def _items(
    batches: Sequence[Batch], hotkeys: Sequence[Hotkey]
) -> tuple[U32, U32, I32, I32, I32, U16s]:
    """walk, position [M], log_q, log_w [M, n + 1], entropy, took_100us [M, n] of all steps, in
    columns of `hotkeys`."""
    n = len(hotkeys)
    walk, position = [np.empty(0, "<u4")], [np.empty(0, "<u4")]
    log_q, log_w = [np.empty((0, n + 1), "<i4")], [np.empty((0, n + 1), "<i4")]
    entropy, took = [np.empty((0, n), "<i4")], [np.empty((0, n), "<u2")]
    begin = 0
    for batch in batches:
        count = len(batch.walks)
        order = {hotkey: column for column, hotkey in enumerate(batch.hotkeys)}
        columns = np.array([order.get(h, -1) for h in hotkeys] + [len(batch.hotkeys)])
        for step in batch.steps:
            walk.append(np.arange(begin, begin + count, dtype="<u4"))
            position.append(np.full(count, step.position, "<u4"))
            log_q.append(np.where(columns < 0, LOG_Q_ABSENT, step.log_q[:, columns]))
            log_w.append(np.where(columns < 0, LOG_W_NONE, step.log_w[:, columns]))
            entropy.append(np.where(columns[:-1] < 0, 0, step.entropy[:, columns[:-1]]))
            took.append(np.where(columns[:-1] < 0, 0, step.took_100us[:, columns[:-1]]))
        begin += count
    q, w, h = (np.concatenate(part).astype("<i4") for part in (log_q, log_w, entropy))
    t = np.concatenate(took).astype("<u2")
    return np.concatenate(walk), np.concatenate(position), q, w, h, t


def _senders(
    batches: Sequence[Batch], hotkeys: Sequence[Hotkey], validator: Hotkey
) -> tuple[tuple[Hotkey, ...], U8]:
    """The senders' table, and which of them asked: [M, n] in columns of `hotkeys`."""
    steps = [_columns(batch, hotkeys, step.senders) for batch in batches for step in batch.steps]
    asked = np.concatenate([np.zeros((0, len(hotkeys)), SENDER), *steps])
    names = sorted(set(asked.ravel().tolist()) - {b""})
    sender = np.searchsorted([b"", *names], asked).astype(np.uint8)
    return (validator, *(Hotkey(name.decode()) for name in names)), sender


def _lost_in_relays(log_q: I32, sender: U8) -> npt.NDArray[np.bool_]:
    """[M, n + 1]: the unanswered items that count as not asked.

    An expert that dropped out of walks through one router, and of none through anybody else who
    asked it, did not fail as far as anybody knows: the router may have lost its answers.
    """
    lost = np.zeros(log_q.shape, np.bool_)
    for column in range(sender.shape[1]):
        asked = log_q[:, column] != LOG_Q_ABSENT
        silent = log_q[:, column] == LOG_Q_UNANSWERED
        through, others = set(sender[silent, column].tolist()), set(sender[asked, column].tolist())
        if len(through) == 1 and 0 not in through and len(others) > 1:
            lost[:, column] = silent
    return lost


def _usage_losses(
    usage: Sequence[tuple[Usage, int]],
    hotkeys: Sequence[Hotkey],
    log_q: I32,
    metagraph: Metagraph,
    validator: Hotkey,
) -> tuple[int, ...]:
    """ppm: by all routers' word, or by our own's, whichever is more."""
    known = metagraph.by_hotkey
    ours = known[validator].coldkey if validator in known else None
    own = [said for said, _ in usage if (n := known.get(Hotkey(said.router))) and n.coldkey == ours]
    answered = np.sum(log_q[:, :-1] > LOG_Q_UNANSWERED, axis=0)
    asked = np.sum(log_q[:, :-1] != LOG_Q_ABSENT, axis=0)
    seen = witnessed_losses(own, hotkeys, (answered / np.maximum(asked, 1)).tolist())
    return tuple(map(max, usage_losses(usage, hotkeys), seen))


def _chosen(batches: Sequence[Batch], hotkeys: Sequence[Hotkey]) -> U8:
    """[W, n] in columns of `hotkeys`."""
    parts = [_columns(batch, hotkeys, batch.steps[-1].chosen) for batch in batches]
    return np.concatenate([np.zeros((0, len(hotkeys)), np.uint8), *parts])


def _columns(batch: Batch, hotkeys: Sequence[Hotkey], given: npt.NDArray[T]) -> npt.NDArray[T]:
    """[N, experts of a batch] → [N, n] in columns of `hotkeys`; zeros for who was not asked."""
    order = {hotkey: column for column, hotkey in enumerate(batch.hotkeys)}
    nobody = np.zeros((len(given), 1), given.dtype)
    return np.hstack([given, nobody])[:, [order.get(hotkey, -1) for hotkey in hotkeys]]


def _age_millis(metagraph: Metagraph, neuron: Neuron) -> int:
    """Thousandths of an epoch from a neuron's registration to the end of this epoch."""
    end = metagraph.last_epoch_block + metagraph.tempo_blocks
    blocks = max(0, end - neuron.registered_at_block)
    return blocks * 1_000 // max(1, metagraph.tempo_blocks)


def _receipts(batches: Sequence[Batch], hotkeys: Sequence[Hotkey], vocab_size: int) -> Receipts:
    """The records of a sheet's items, in its order."""
    steps = [_columns(batch, hotkeys, step.records) for batch in batches for step in batch.steps]
    records = np.concatenate([np.zeros((0, len(hotkeys)), RECORD), *steps])
    return Receipts(vocab_size, tuple(salt for batch in batches for salt in batch.salts), records)
