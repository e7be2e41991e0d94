"""Checking somebody's sheet: the arithmetic, who signed what, and what the answers said. Pure."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from moesubnet.errors import AuthError, BadReveal, WireError
from moesubnet.mixture.law import Law, law_of
from moesubnet.mixture.sheet import LOG_Q_FLOOR, LOG_Q_UNANSWERED, MICRO, NANO, Sheet
from moesubnet.types import Hotkey
from moesubnet.validator.receipts import Receipts, column_sha256, receipt_of
from moesubnet.validator.scoring import recount
from moesubnet.wire.commitment import Commitment
from moesubnet.wire.lanes import verify_step
from moesubnet.wire.protocol import StepResponse, StepRows, want_for

CLOCKS_NS = 12 * 10**9  # by so much two senders' clocks may differ at most
LATEST_NS = 2**63
TOLERANCE_MICRO_NATS = 100  # float32 exponentials of another processor


@dataclass(frozen=True, slots=True)
class ExpertAudit:
    """What was found of one expert's items; the counts are of items that the sheet says it
    answered. None: there was nothing to check it with."""

    hotkey: Hotkey
    answered: int
    committed: bool | None  # the records are those that the sheet has a hash of
    signed: int | None  # have a receipt of the expert for exactly this question
    blind: int | None  # of these, were asked before anybody was sent the label, or could read it
    agreeing: int | None  # of these, have a kept answer that says what the sheet says


@dataclass(frozen=True, slots=True)
class Audit:
    """Of a whole sheet. vote_differs: the largest difference of a u16; more than 1 is wrong.
    averaged: whether averages, reliability and standing follow from the items and from what was
    before. chain_differs: of the row on chain, from what the sheet says (`voted.py`)."""

    vote_differs: int
    averaged: bool
    experts: tuple[ExpertAudit, ...]
    chain_differs: int | None = None

    @property
    def is_clean(self) -> bool:
        """Nothing contradicts the sheet; what could not be checked is no contradiction."""
        return (
            self.vote_differs <= 1
            and self.averaged
            and not self.chain_differs
            and all(
                e.committed is not False
                and e.signed in (None, e.answered)
                and e.blind in (None, e.answered)
                and e.agreeing in (None, e.answered)
                for e in self.experts
            )
        )


def audit(
    sheet: Sheet,
    receipts: Receipts | None,
    answers: Mapping[Hotkey, Sequence[bytes]],
    baseline: Law | None = None,
    public_s: float | None = None,
    given_up: Callable[[], bool] = lambda: False,
) -> Audit:
    """answers: by hotkey, one body for each item, as far as they are kept. baseline: the spec's;
    without it, answers that list part of a vocabulary are not looked at. public_s: Unix time
    since when the sheet may have been public, if it is known. given_up: asked before each expert;
    a thread cannot be ended from outside. Then it raises TimeoutError.

    Times are those of the nonces, which experts refuse when they are 10 s behind or 2 s ahead of
    their own clocks: what is proven of times is proven up to that.
    """
    if receipts is not None and not _is_readable(receipts.vocab_size, baseline):
        answers = {}

    def expert(column: int) -> ExpertAudit:
        if given_up():
            raise TimeoutError
        bodies = answers.get(sheet.hotkeys[column])
        return _audit_expert(sheet, receipts, blind, bodies, column, baseline)

    blind = None if receipts is None else asked_blind(sheet, receipts, public_s)
    again = recount(sheet)
    rows = zip(sheet.row_u16, again.row_u16, strict=True)
    return Audit(
        max((abs(a - b) for a, b in rows), default=0),
        again.reliability_ppm == sheet.reliability_ppm
        and again.since == sheet.since
        and _same(again.ema_after, sheet.ema_after)
        and _same(again.novelty_after, sheet.novelty_after)
        and _same(again.standing_ppm, sheet.standing_ppm)
        and bool(np.all(np.abs(again.apart - sheet.apart.astype(np.int16)) <= 1)),
        tuple(map(expert, range(len(sheet.hotkeys)))),
    )


def _is_readable(vocab_size: int, baseline: Law | None) -> bool:
    """Whether answers give whole laws, or their tails have a shape."""
    whole = want_for(vocab_size).kind == "full"
    return whole or (baseline is not None and len(baseline.logp) == vocab_size)


def _same(mine: Sequence[int | None], theirs: Sequence[int | None]) -> bool:
    """Whether averages agree, but for the last bits of another processor's logarithms."""
    return all(
        (a is None) == (b is None) and abs((a or 0) - (b or 0)) <= NANO // MICRO
        for a, b in zip(mine, theirs, strict=True)
    )


def _audit_expert(
    sheet: Sheet,
    receipts: Receipts | None,
    blind: np.ndarray | None,
    bodies: Sequence[bytes] | None,
    column: int,
    baseline: Law | None,
) -> ExpertAudit:
    hotkey = sheet.hotkeys[column]
    items = np.flatnonzero(sheet.log_q[:, column] > LOG_Q_UNANSWERED).tolist()
    if receipts is None or blind is None:
        return ExpertAudit(hotkey, len(items), None, None, None, None)
    committed = column_sha256(receipts.records[:, column]) == sheet.receipts[column]
    signed = [i for i in items if is_signed(sheet, receipts, i, column)]
    unseen = sum(bool(blind[i, column]) for i in signed)
    agreeing = None
    if bodies is not None:
        agreeing = sum(_agrees(sheet, receipts, bodies, i, column, baseline) for i in signed)
    return ExpertAudit(hotkey, len(items), committed, len(signed), unseen, agreeing)


def asked_blind(
    sheet: Sheet, receipts: Receipts, public_s: float | None = None
) -> npt.NDArray[np.bool_]:
    """bool [M, n]: by its nonce, an item was asked before any request, to any expert, that shows
    its label (by another sender's clock up to CLOCKS_NS), and before the sheet that has it could
    be read."""
    nonces = receipts.records["nonce_ns"]
    given = sheet.log_q[:, :-1] > LOG_Q_UNANSWERED
    # By walk and sender: when the first request of a later position was signed, or of a chat's
    # next turn.
    asked_ns = np.full((len(sheet.walks), len(sheet.senders)), LATEST_NS, np.uint64)
    items, columns = np.nonzero(given)
    of = sheet.walk[items], sheet.sender[items, columns]
    np.minimum.at(asked_ns, of, nonces[items, columns])
    shown_ns = np.full_like(asked_ns, LATEST_NS)
    for walk, next_turn in _next_turns(sheet.walks):
        np.minimum(shown_ns[walk], asked_ns[next_turn], out=shown_ns[walk])
    blind = np.zeros(nonces.shape, np.bool_)
    by_position = np.argsort(-sheet.position.astype(np.int64), kind="stable")
    for i in by_position.tolist():
        shown, sender, mine = shown_ns[sheet.walk[i]], sheet.sender[i], nonces[i]
        until = np.minimum(shown, shown.min() + np.uint64(CLOCKS_NS))
        blind[i] = (mine > 0) & (mine < until[sender])
        np.minimum.at(shown, sender[given[i]], mine[given[i]])
    if public_s is not None:
        blind &= nonces < np.uint64(public_s * 1e9)
    return blind


def _next_turns(walks: Sequence[npt.NDArray[np.uint32]]) -> Iterator[tuple[int, int]]:
    """Pairs of walks of which the second begins with all of the first."""
    alike: dict[bytes, list[int]] = {}
    for walk, ids in enumerate(walks):
        alike.setdefault(ids[:2].tobytes(), []).append(walk)
    for group in alike.values():
        for a, b in itertools.permutations(group, 2):
            if len(walks[a]) < len(walks[b]) and np.array_equal(
                walks[b][: len(walks[a])], walks[a]
            ):
                yield a, b


def is_signed(sheet: Sheet, receipts: Receipts, item: int, column: int) -> bool:
    """Whether the expert signed an answer to exactly this item's question."""
    record, hotkey = receipts.records[item, column], sheet.hotkeys[column]
    sender = sheet.senders[sheet.sender[item, column]]
    try:
        body = receipts.request(sheet, item, column).to_bytes()
        nonce_ns = int(record["nonce_ns"])
        verify_step(
            receipt_of(record),
            hashlib.sha256(body).digest(),
            200,
            record["body_sha256"].tobytes(),
            nonce_ns,
            hotkey,
            sender,
        )
    except (AuthError, WireError, ValueError):
        return False
    return True


def answered_rows(
    sheet: Sheet, receipts: Receipts, body: bytes, item: int, column: int
) -> StepRows | None:
    """An answer; None unless it is the one that the record names."""
    if hashlib.sha256(body).digest() != receipts.records["body_sha256"][item, column].tobytes():
        return None
    try:
        request = receipts.request(sheet, item, column)
        answer = StepResponse.from_bytes(body, request, receipts.vocab_size)
    except (WireError, ValueError):
        return None
    return answer.rows[0]


def _agrees(
    sheet: Sheet,
    receipts: Receipts,
    bodies: Sequence[bytes],
    item: int,
    column: int,
    baseline: Law | None,
) -> bool:
    """Whether a kept answer is the signed one and says what the sheet says of it."""
    rows = answered_rows(sheet, receipts, bodies[item], item, column)
    if rows is None:
        return False
    label = int(sheet.walks[sheet.walk[item]][sheet.position[item]])
    if label >= receipts.vocab_size:
        return False  # no law says anything of it, whoever signed that
    law, in_sheet = law_of(rows, -1, baseline), int(sheet.log_q[item, column])
    differs = abs(law.entropy_nats * MICRO - float(sheet.entropy[item, column]))
    listed, _, _ = rows.row(-1)
    if isinstance(rows.bound, Commitment) and listed is not None and label not in listed:
        least, most = _shown(sheet, receipts, bodies, item, column, rows.bound)
    else:
        least = most = float(law.at(label))
    least, most = (max(value, LOG_Q_FLOOR) * MICRO for value in (least, most))
    differs = max(differs, least - in_sheet, in_sheet - most)
    return differs <= TOLERANCE_MICRO_NATS


def _shown(
    sheet: Sheet,
    receipts: Receipts,
    bodies: Sequence[bytes],
    item: int,
    column: int,
    bound: Commitment,
) -> tuple[float, float]:
    """Between what the log-probability of an unlisted label was: what a later item's answer shows,
    or that it shows none. The last leaf of a walk comes in no item: then at most the tail."""
    walk, position = sheet.walk[item], int(sheet.position[item])
    asked = receipts.records["reveal"][:, column] == 2 + position
    for later in np.flatnonzero(asked & (sheet.walk == walk)).tolist():
        rows = answered_rows(sheet, receipts, bodies[later], later, column)
        if rows is not None and rows.proof is not None:
            try:
                value = bound.shown(int(sheet.walks[walk][position]), rows.proof)
            except BadReveal:
                value = bound.withheld()
            return value, value
    return LOG_Q_FLOOR, math.log(max(bound.tail_mass, 1e-30)) - bound.log_mass


def as_json(result: Audit) -> dict[str, object]:
    return {"clean": result.is_clean} | asdict(result)


def as_text(sheet: Sheet, result: Audit) -> str:
    """One screen; figures as `checked/answered`, – where there was nothing to check with."""
    lines = [
        f"sheet {sheet.sha256.hex()}",
        f"epoch {sheet.epoch} of validator {sheet.validator}",
        "recounted: the vote is right"
        if result.vote_differs <= 1
        else f"RECOUNT DISAGREES by up to {result.vote_differs} of 65535",
        "recounted: the averages are right"
        if result.averaged
        else "THE AVERAGES DO NOT FOLLOW FROM THE ITEMS",
        *_on_chain(result.chain_differs),
        "",
        f"{'expert':48}  answered  signed   blind  agreeing",
    ]
    for expert in result.experts:
        signed = "–" if expert.signed is None else str(expert.signed)
        blind = "–" if expert.blind is None else str(expert.blind)
        agreeing = "–" if expert.agreeing is None else str(expert.agreeing)
        note = "" if expert.committed is not False else "  NOT THE SHEET'S RECEIPTS"
        lines.append(
            f"{expert.hotkey:48}  {expert.answered:8}  {signed:>6}  {blind:>6}  {agreeing:>8}{note}"
        )
    clean = result.is_clean
    verdict = "Nothing contradicts this sheet." if clean else "THIS SHEET IS CONTRADICTED."
    if clean and all(expert.signed is None for expert in result.experts):
        verdict += " What experts signed was not there to be checked: ask its validator (--axon)."
    return "\n".join([*lines, "", verdict])


def _on_chain(differs: int | None) -> list[str]:
    if differs is None:
        return []
    if differs:
        return [f"ON CHAIN IS ANOTHER VOTE, up to {differs} of 65535 from the sheet's"]
    return ["on chain: the same vote"]
