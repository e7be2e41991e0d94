"""Committed rows in `/v1/step`: what is asked and answered, and what no peer may send."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesubnet.errors import BadReveal, FrameError
from moesubnet.wire import frames
from moesubnet.wire.commitment import Commitment, CommittedTail, proof_bytes
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.protocol import (
    SequenceStep,
    StepLimits,
    StepRequest,
    StepResponse,
    StepRows,
    Want,
    base_hash,
)
from moesubnet.wire.step import STEP_SCHEMA
from tests.step_answers import answer_to

V, K = 3_000, 20
LIMITS = StepLimits(vocab_size=V, context_tokens=64)
WANT = Want("top_k", K, committed=True)
MINER = "5Miner"


def u32(*ids: int) -> np.ndarray:
    return np.array(ids, np.uint32)


def step(name: str, base: int, append: int, **more: object) -> SequenceStep:
    ids = np.arange(base + append, dtype=np.uint32)
    return SequenceStep(name, base, base_hash(ids[:base]), ids[base:], **more)  # type: ignore[arg-type]


def law(seed: int, rows: int = 1) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 3, (rows, V))
    return (logits - np.logaddexp.reduce(logits, axis=1)[:, None]).astype(np.float32)


def answered(request: StepRequest, proofs: list[bytes | None] | None = None) -> StepResponse:
    rows = [
        replace(answer_to(s, law(i, s.rows), request.want), proof=proof)
        for i, (s, proof) in enumerate(
            zip(request.sequences, proofs or [None] * len(request.sequences), strict=True)
        )
    ]
    return StepResponse(tuple(rows))


def test_a_request_says_what_to_reveal() -> None:
    steps = (
        step("a", 4, 1, reveal=(4, 2_999)),
        step("b", 0, 3),
        step("c", 7, 0, first=8, reveal=(7, 0)),
    )
    got = StepRequest.from_bytes(StepRequest(steps, WANT).to_bytes(), LIMITS)
    assert got.want == WANT
    assert [s.reveal for s in got.sequences] == [(4, 2_999), None, (7, 0)]
    assert [s.rows for s in got.sequences] == [1, 1, 0]


@pytest.mark.parametrize(
    "reveals",
    [
        [[0, 4, V]],  # no token
        [[2, 4, 1]],  # no sequence
        [[1, 4, 1], [0, 4, 1]],
        [[0, 4, 1], [0, 4, 2]],  # two of one
        [[0, 4]],
    ],
)
def test_reveals_that_nobody_may_ask(reveals: list[list[int]]) -> None:
    good = StepRequest((step("a", 4, 1), step("b", 4, 1)), WANT)
    frame = frames.decode(good.to_bytes(), schema=STEP_SCHEMA, limits=frames.Limits())
    bad = frames.encode(
        STEP_SCHEMA, frame.fields, frame.tensors | {"reveals": np.array(reveals, np.uint32)}
    )
    with pytest.raises(FrameError):
        StepRequest.from_bytes(bad, LIMITS)


def test_only_a_reveal_comes_without_rows() -> None:
    for bad in (
        step("a", 7, 0, first=8),
        step("a", 6, 1, first=8, reveal=(6, 1)),
        step("a", 7, 0, first=9, reveal=(7, 1)),
    ):
        with pytest.raises(FrameError):
            StepRequest.from_bytes(StepRequest((bad,), WANT).to_bytes(), LIMITS)
    with pytest.raises(FrameError):
        Want("full", committed=True)


def test_the_last_row_of_every_sequence_is_bound() -> None:
    request = StepRequest((step("a", 4, 2, first=4), step("b", 4, 0, first=5, reveal=(4, 1))), WANT)
    sent = answered(request, [None, bytes(proof_bytes(V))])
    for dtype in ("f16", "f32"):
        got = StepResponse.from_bytes(sent.to_bytes(dtype), request, V)  # type: ignore[arg-type]
        first, second = got.rows
        tree, bound = sent.rows[0].bound, first.bound
        assert isinstance(tree, CommittedTail)
        assert isinstance(bound, Commitment)
        assert bound.root == tree.root
        assert bound.tail_mass == tree.tail_mass
        assert second.bound is None
        assert second.proof == bytes(proof_bytes(V))
        assert first.ids is not None
        token = int(np.setdiff1d(np.arange(V), first.ids[-1])[17])
        value = bound.shown(token, tree.open(token))
        assert value == pytest.approx(float(law(0, 3)[-1, token]), abs=2e-3)


def test_an_answer_without_what_was_asked_is_refused() -> None:
    asked = StepRequest((step("a", 4, 1, reveal=(4, 1)),), WANT)
    plain = StepRequest(asked.sequences, Want("top_k", K))
    with_all = answered(asked, [bytes(proof_bytes(V))])
    StepResponse.from_bytes(with_all.to_bytes(), asked, V)
    for answer, request in (
        (answered(plain), asked),  # no root
        (answered(asked), asked),  # no proof
        (answered(asked, [b"short"]), asked),
        (with_all, StepRequest((replace(asked.sequences[0], reveal=None),), WANT)),
        (with_all, StepRequest((replace(asked.sequences[0], reveal=None),), plain.want)),
    ):
        with pytest.raises(FrameError):
            StepResponse.from_bytes(answer.to_bytes(), request, V)


def bound_sequence() -> tuple[PanelSequence, StepRows, StepRows]:
    """A sequence of 5 ids whose next law is bound, and both sides of the answer."""
    request = StepRequest((step("a", 4, 1),), WANT)
    sent = answered(request)
    got = StepResponse.from_bytes(sent.to_bytes(), request, V)
    sequence = PanelSequence("a", np.arange(5))
    sequence.settle(MINER, got.rows[0])  # type: ignore[arg-type]
    return sequence, sent.rows[0], got.rows[0]


def test_who_listed_the_token_owes_nothing() -> None:
    sequence, _, got = bound_sequence()
    sequence.append([int(got.row(-1)[0][3])])
    assert sequence.owed(MINER) is None  # type: ignore[arg-type]
    assert sequence.said(MINER) is None  # type: ignore[arg-type]


def test_who_did_not_list_it_has_withheld_it_until_it_is_shown() -> None:
    sequence, sent, got = bound_sequence()
    assert got.ids is not None
    assert isinstance(sent.bound, CommittedTail)
    token = int(np.setdiff1d(np.arange(V), got.ids[-1])[5])
    sequence.append([token])
    assert sequence.owed(MINER) == (5, token)  # type: ignore[arg-type]
    assert sequence.said(MINER) == (5, -20.0)  # type: ignore[arg-type]
    sequence.append([1])  # still owed while others go on
    assert sequence.owed(MINER) == (5, token)  # type: ignore[arg-type]
    shown = StepRows(6, got.logprobs[:0], got.ids[:0], proof=sent.bound.open(token))
    sequence.settle(MINER, shown)  # type: ignore[arg-type]
    assert sequence.owed(MINER) is None  # type: ignore[arg-type]
    position, value = sequence.said(MINER)  # type: ignore[arg-type, misc]
    assert position == 5
    assert value == pytest.approx(float(law(0)[-1, token]), abs=2e-3)


def test_a_leaf_that_is_not_the_committed_one_is_final() -> None:
    sequence, _, got = bound_sequence()
    assert got.ids is not None
    token = int(np.setdiff1d(np.arange(V), got.ids[-1])[5])
    sequence.append([token])
    lie = StepRows(6, got.logprobs[:0], got.ids[:0], proof=bytes(proof_bytes(V)))
    with pytest.raises(BadReveal):
        sequence.settle(MINER, lie)  # type: ignore[arg-type]
    assert sequence.owed(MINER) is None  # type: ignore[arg-type]
    assert sequence.said(MINER) == (5, -20.0)  # type: ignore[arg-type]


def test_what_is_taken_back_is_owed_no_more() -> None:
    sequence, _, got = bound_sequence()
    assert got.ids is not None
    sequence.append([int(np.setdiff1d(np.arange(V), got.ids[-1])[5])])
    sequence.truncate(5)
    assert sequence.owed(MINER) is None  # type: ignore[arg-type]
    assert sequence.said(MINER) is None  # type: ignore[arg-type]
