"""Step requests and answers: round trips, and requests or answers that lie."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moesubnet.engine.base import Query
from moesubnet.errors import FrameError, WireError
from moesubnet.mixture.law import Law
from moesubnet.wire import frames
from moesubnet.wire.ahead import MAX_AHEAD, Ahead
from moesubnet.wire.distributions import LOWEST
from moesubnet.wire.protocol import (
    ROWS_SCHEMA,
    STEP_SCHEMA,
    GenerateChunk,
    GenerateRequest,
    SequenceStep,
    StepLimits,
    StepRequest,
    StepResponse,
    Want,
    base_hash,
    want_for,
)
from moesubnet.wire.step import MAX_FURTHER
from tests.step_answers import answer_to, dense_rows

V = 50
LIMITS = StepLimits(vocab_size=V, context_tokens=64, max_sequences=8)
FUZZ_S = 3.0
WANTS = [
    *(Want("full"), Want("top_k", 8), Want("sampled_n", 8), Want("nucleus", 12, 0.7)),
    *(Want("top_k", 8, committed=True), Want("nucleus", 12, 0.7, committed=True)),
]


def u32(*ids: int) -> np.ndarray:
    return np.array(ids, np.uint32)


def step(session: str = "s", base: int = 0, append: int = 3, draft: int = 0, **more: Any) -> Any:
    ids = np.arange(base + append + draft, dtype=np.uint32) % V
    return SequenceStep(
        session,
        base,
        base_hash(ids[:base]),
        ids[base : base + append],
        ids[base + append :],
        **more,
    )


steps = st.builds(
    lambda base, append, draft, where, parent: step(
        parent=parent,
        base=base,
        append=append,
        draft=draft,
        first=None if where is None else int(where * (base + append + draft)),
    ),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, 20),
    st.none() | st.floats(0, 1),
    st.sampled_from(["", "other", "s0"]),
)


def batch(sequences: list[SequenceStep], want: Want) -> StepRequest:
    named = [dataclasses.replace(s, session=f"s{i}") for i, s in enumerate(sequences)]
    return StepRequest(tuple(named), want)


def laws(request: StepRequest, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        np.log(rng.dirichlet(np.ones(V), size=s.end - s.first_law + 1)).astype(np.float32)
        for s in request.sequences
    ]


def answer(request: StepRequest, seed: int = 0) -> StepResponse:
    pairs = zip(request.sequences, laws(request, seed), strict=True)
    return StepResponse(tuple(answer_to(s, law, request.want) for s, law in pairs))


def test_the_base_hash_is_sha256_of_little_endian_u32() -> None:
    assert base_hash(u32()).hex().startswith("e3b0c442")
    assert base_hash(u32(1, 2)) == base_hash(np.array([1, 2], ">u4"))
    assert base_hash(u32(1, 256)) == hashlib.sha256(b"\1\0\0\0\0\1\0\0").digest()


@given(st.lists(steps, min_size=1, max_size=5), st.sampled_from(WANTS))
def test_requests_round_trip(sequences: list[SequenceStep], want: Want) -> None:
    request = batch(sequences, want)
    got = StepRequest.from_bytes(request.to_bytes(), LIMITS)
    assert got.want == want
    assert got.to_bytes() == request.to_bytes()
    for ours, theirs in zip(request.sequences, got.sequences, strict=True):
        for name in ("session", "parent", "base_len", "base_hash"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.append_ids.tolist() == theirs.append_ids.tolist()
        assert ours.draft_ids.tolist() == theirs.draft_ids.tolist()
        assert ours.first_row == theirs.first_row


@pytest.mark.parametrize("parents", [[""], ["a b"], ["x" * 65], ["p", "q"], [], [7], "p"])
def test_parents_are_sessions_of_which_there_is_one_at_least(parents: Any) -> None:
    request = StepRequest((step(parent="p"),), Want("full"))
    frame = frames.decode(request.to_bytes(), schema=STEP_SCHEMA, limits=frames.Limits())
    forged = frames.encode(STEP_SCHEMA, frame.fields | {"parents": parents}, frame.tensors)
    with pytest.raises(FrameError):
        StepRequest.from_bytes(forged, LIMITS)


@given(st.lists(st.integers(0, MAX_FURTHER), min_size=1, max_size=5), st.sampled_from(WANTS))
def test_what_a_responder_would_go_on_with_comes_with_its_rows(
    counts: list[int], want: Want
) -> None:
    request = batch([step(draft=i, further=n) for i, n in enumerate(counts)], want)
    got = StepRequest.from_bytes(request.to_bytes(), LIMITS)
    assert [s.further for s in got.sequences] == counts
    rows = [
        dataclasses.replace(row, further=np.arange(n, dtype=np.uint32))
        for row, n in zip(answer(request).rows, counts, strict=True)
    ]
    sent = StepResponse(tuple(rows)).to_bytes()
    received = StepResponse.from_bytes(sent, request, V).rows
    assert [row.further.tolist() for row in received] == [list(range(n)) for n in counts]
    if any(counts):
        for lie in (np.full(sum(counts), V), np.arange(sum(counts) + 1) % V):
            frame = frames.decode(sent, schema=ROWS_SCHEMA, limits=frames.Limits())
            tensors = frame.tensors | {"further": lie.astype(np.uint32)}
            with pytest.raises(FrameError):
                StepResponse.from_bytes(frames.encode(ROWS_SCHEMA, {}, tensors), request, V)


@pytest.mark.parametrize(
    "further", [[0], [MAX_FURTHER + 1], [-1], [1.0], [True], ["1"], [1, 1], [], 1, "1"]
)
def test_no_more_is_asked_than_a_responder_goes_on_with(further: Any) -> None:
    request = StepRequest((step(further=1),), Want("full"))
    frame = frames.decode(request.to_bytes(), schema=STEP_SCHEMA, limits=frames.Limits())
    forged = frames.encode(STEP_SCHEMA, frame.fields | {"further": further}, frame.tensors)
    with pytest.raises(FrameError):
        StepRequest.from_bytes(forged, LIMITS)


def drawing(counts: list[int], want: Want) -> tuple[StepRequest, StepResponse]:
    """A request to draw, and an answer of which each sequence draws one token less than asked."""
    sequences = [step(draft=i, further=n) for i, n in enumerate(counts)]
    points = np.random.default_rng(0).random(sum(counts))
    request = dataclasses.replace(batch(sequences, want), ahead=Ahead(0.5, 0.9, 0.1, points))
    longer = [
        dataclasses.replace(s, append_ids=u32(*range(len(s.append_ids) + max(s.further - 2, 0))))
        for s in request.sequences
    ]
    pairs = zip(longer, sequences, strict=True)
    firsts = [dataclasses.replace(s, first=p.first_row) for s, p in pairs]
    rows = [
        dataclasses.replace(row, further=np.arange(max(n - 1, min(n, 1)), dtype=np.uint32) % V)
        for row, n in zip(answer(StepRequest(tuple(firsts), want)).rows, counts, strict=True)
    ]
    return request, StepResponse(tuple(rows))


@given(
    st.lists(st.integers(0, MAX_AHEAD), min_size=1, max_size=4).filter(any),
    st.sampled_from([want for want in WANTS if want.kind != "sampled_n"]),
)
def test_what_is_drawn_ahead_comes_with_a_row_of_each_token(counts: list[int], want: Want) -> None:
    limits = dataclasses.replace(LIMITS, context_tokens=1_000)
    request, response = drawing(counts, want)
    got = StepRequest.from_bytes(request.to_bytes(), limits)
    assert got.to_bytes() == request.to_bytes()
    assert got.ahead.points.tolist() == request.ahead.points.tolist(), "to the last bit"
    assert (got.ahead.temperature, got.ahead.top_p, got.ahead.within_s) == (0.5, 0.9, 0.1)
    sent = response.to_bytes()
    received = StepResponse.from_bytes(sent, request, V).rows
    for ours, theirs, s in zip(response.rows, received, request.sequences, strict=True):
        assert theirs.further.tolist() == ours.further.tolist()
        assert theirs.count == s.rows + max(len(ours.further) - 1, 0)
        assert np.allclose(dense_rows(theirs, V), dense_rows(ours, V), atol=2e-2)
    frame = frames.decode(sent, schema=ROWS_SCHEMA, limits=frames.Limits())
    offsets = frame.tensors["row_offsets"].astype(np.int64)
    further = frame.tensors["further"]
    lies = [
        {"further": np.append(further, np.uint32(0))},
        {"further": further[:-1]},
        {"further": np.full_like(further, V)},
        {"row_offsets": offsets + 1},
        {"row_offsets": np.append(offsets[:-1], offsets[-1] - 1)},
        {"row_offsets": np.append(offsets[:-1], offsets[-1] + MAX_AHEAD)},
        {"row_offsets": offsets[::-1]},
    ]
    for lie in lies:
        changed = {name: values.astype(np.uint32) for name, values in lie.items()}
        forged = frames.encode(ROWS_SCHEMA, {}, frame.tensors | changed)
        with pytest.raises(WireError):
            StepResponse.from_bytes(forged, request, V)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -0.1}, {"temperature": 11.0}, {"temperature": 1}, {"temperature": "1"},
        {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": True},
        {"within_ms": -1}, {"within_ms": 1_001}, {"within_ms": 1.0}, {"within_ms": True},
        {"further": [MAX_AHEAD + 1]}, {"further": [3]}, {"further": [0]},
        {"kind": "sampled_n", "k": 8}, {"speed": 1},
        {"points": np.array([2**53, 0], np.uint64)}, {"points": np.zeros(1, np.uint64)},
        {"points": np.zeros(2, np.float32)},
    ],
)  # fmt: skip
def test_a_way_of_drawing_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    request, _ = drawing([2], Want("full"))
    frame = frames.decode(request.to_bytes(), schema=STEP_SCHEMA, limits=frames.Limits())
    tensors = {k: v for k, v in changes.items() if k == "points"}
    fields = {k: v for k, v in changes.items() if k != "points"}
    StepRequest.from_bytes(frames.encode(STEP_SCHEMA, frame.fields, frame.tensors), LIMITS)
    forged = frames.encode(STEP_SCHEMA, frame.fields | fields, frame.tensors | tensors)
    with pytest.raises(FrameError):
        StepRequest.from_bytes(forged, LIMITS)


def test_no_more_is_drawn_ahead_than_an_answer_may_hold() -> None:
    request, _ = drawing([20], Want("full"))
    StepRequest.from_bytes(
        request.to_bytes(), dataclasses.replace(LIMITS, max_answer_values=20 * V)
    )
    with pytest.raises(FrameError):
        StepRequest.from_bytes(
            request.to_bytes(), dataclasses.replace(LIMITS, max_answer_values=20 * V - 1)
        )


def test_nobody_goes_on_beyond_the_context_or_from_nothing() -> None:
    for sequence in (
        step(append=60, further=4),
        step(base=5, append=0, first=6, further=1, reveal=(4, 1)),
    ):
        want = Want("top_k", 8, committed=True)
        with pytest.raises(FrameError):
            StepRequest.from_bytes(StepRequest((sequence,), want).to_bytes(), LIMITS)


def test_the_default_rows_are_one_for_each_draft_id_and_one_more() -> None:
    sequence = step(base=4, append=3, draft=2)
    assert (sequence.first_row, sequence.end, sequence.rows) == (7, 9, 3)
    assert step(base=4, append=3, draft=2, first=9).first_law == 7  # draft scores need them
    assert step(base=4, append=3, first=2).first_law == 2


@given(st.lists(steps, min_size=1, max_size=5), st.sampled_from(WANTS))
def test_answers_round_trip(sequences: list[SequenceStep], want: Want) -> None:
    request = batch(sequences, want)
    sent = answer(request)
    for dtype in ("f16", "f32"):
        got = StepResponse.from_bytes(sent.to_bytes(dtype), request, V)  # type: ignore[arg-type]
        assert len(got.rows) == len(request.sequences)
        for sequence, law, rows in zip(request.sequences, laws(request), got.rows, strict=True):
            assert rows.first == sequence.first_row
            assert rows.count == sequence.rows
            honest = law[sequence.first_row - sequence.first_law :]
            dense = dense_rows(rows, V)
            np.testing.assert_allclose(np.exp(dense).sum(axis=1), 1.0, atol=1e-4)
            if want.kind == "full":
                np.testing.assert_allclose(np.exp(dense), np.exp(honest), rtol=0.02, atol=1e-6)
            for index, true in enumerate(honest if want.kind != "full" else []):
                ids, logprobs, tail = rows.row(index)
                assert np.all(np.diff(ids.astype(int)) >= (0 if want.kind == "sampled_n" else 1))
                np.testing.assert_allclose(np.exp(logprobs), np.exp(true[ids]), rtol=0.02)
                unlisted = np.setdiff1d(np.arange(V), ids)
                assert tail == pytest.approx(np.exp(true[unlisted]).sum(), abs=0.01)
            for j, token in enumerate(sequence.draft_ids):
                true = law[sequence.draft_start - sequence.first_law + j, token]
                assert abs(rows.draft_logprobs[j] - true) < 0.01


def test_top_k_lists_the_likeliest_tokens() -> None:
    request = batch([step()], Want("top_k", 5))
    (law,), (rows,) = laws(request), answer(request).rows
    assert rows.row(0)[0].tolist() == np.sort(np.argsort(-law[0])[:5]).tolist()


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0), st.integers(1, V + 9))
def test_a_nucleus_lists_the_fewest_tokens_that_hold_its_mass(
    seed: int, mass: float, k: int
) -> None:
    request = batch([step(append=3, first=0)], Want("nucleus", k, mass))
    (law,), (rows,) = laws(request, seed), answer(request, seed).rows
    for index, row in enumerate(np.exp(law.astype(np.float64))):
        ids, _, tail = rows.row(index)
        assert tail == pytest.approx(1 - row[ids].sum(), abs=1e-6)
        assert row[ids].min() >= np.delete(row, ids).max(initial=0.0)
        assert len(ids) <= k
        assert row[ids].sum() >= mass - 1e-6 or len(ids) == min(k, V)
        assert row[ids].sum() - row[ids].min() < mass + 1e-6


@pytest.mark.parametrize("want", [Want("top_k", 8), Want("nucleus", 8, 0.9)])
def test_an_engine_may_know_less_of_one_position_than_of_another(want: Want) -> None:
    sequence = step(append=3, first=2)
    known = [(3, 4, 5, 6), (9,)]
    laws = [
        Law(np.full(len(ids), np.log(0.5 / len(ids)), np.float32), np.array(ids, np.uint32), 0.5)
        for ids in known
    ]
    query = Query("s", np.zeros(sequence.end, np.uint32), sequence.first_row)
    sent = StepResponse((query.answer_listed(laws, V, want),)).to_bytes()
    (rows,) = StepResponse.from_bytes(sent, StepRequest((sequence,), want), V).rows
    assert [tuple(rows.row(i)[0]) for i in range(rows.count)] == known


def test_large_vocabularies_send_what_holds_nearly_all() -> None:
    assert want_for(8_192) == Want("full")
    assert want_for(8_193) == Want("nucleus", 2_048, 0.98, committed=True)


def test_probability_zero_survives_the_wire() -> None:
    request = batch([step(draft=1)], Want("full"))
    law = np.full((2, V), -np.inf, np.float32)
    law[:, 7] = 0.0
    rows = answer_to(request.sequences[0], law, request.want)
    (got,) = StepResponse.from_bytes(StepResponse((rows,)).to_bytes(), request, V).rows
    assert np.isfinite(got.logprobs).all()
    np.testing.assert_array_equal(np.exp(got.logprobs), np.eye(V)[[7, 7]])
    assert got.draft_logprobs.tolist() == [LOWEST]


@pytest.mark.parametrize(
    ("kind", "k"), [("full", 1), ("top_k", 0), ("top_k", -1), ("sampled_n", 0), ("best", 1)]
)
def test_a_want_that_means_nothing_is_refused(kind: Any, k: int) -> None:
    with pytest.raises(FrameError):
        Want(kind, k)


def forged(changes: dict[str, Any]) -> bytes:
    """A valid two-sequence request with some of its fields or tensors replaced."""
    request = batch([step(base=2, append=2, draft=1), step()], Want("top_k", 4))
    frame = frames.decode(request.to_bytes(), schema=STEP_SCHEMA, limits=frames.Limits())
    parts: dict[str, Any] = {**frame.fields, **frame.tensors, **changes}
    tensors = {k: v for k, v in parts.items() if isinstance(v, np.ndarray)}
    fields = {k: v for k, v in parts.items() if v is not None and k not in tensors}
    return frames.encode(STEP_SCHEMA, fields, tensors)


def test_the_forgery_without_changes_is_valid() -> None:
    assert len(StepRequest.from_bytes(forged({}), LIMITS).sequences) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "best"},
        {"kind": 3},
        {"kind": None},
        {"k": 0},
        {"k": V + 1},
        {"k": True},
        {"k": 4.0},
        {"k": -4},
        {"mass": 1},
        {"mass": None},
        {"mass": 0.5},  # of a top_k
        {"kind": "nucleus", "mass": 0.0},
        {"kind": "nucleus", "mass": 1.5},
        {"sessions": ["a"]},
        {"sessions": ["a", "a"]},
        {"sessions": ["a", ""]},
        {"sessions": ["a", "b" * 65]},
        {"sessions": ["a", "b c"]},
        {"sessions": ["a", "b\n"]},
        {"sessions": ["a", "é"]},
        {"sessions": ["a", 1]},
        {"sessions": "ab"},
        {"more": 1},
        {"more": np.zeros(1, np.uint8)},
        {"ids": None},
        {"ids": u32(0, 1, 2, 3, 4)},
        {"ids": np.full(6, V, np.uint32)},
        {"ids": np.full(7, 1, np.uint32)},
        {"ids": np.zeros(6, np.float32)},
        {"ids": np.zeros((6, 1), np.uint32)},
        {"base_hashes": np.zeros((2, 31), np.uint8)},
        {"base_hashes": np.zeros((3, 32), np.uint8)},
        {"spans": np.zeros((2, 3), np.uint32)},
        {"spans": np.zeros((0, 4), np.uint32), "sessions": [], "ids": u32()},
        {"spans": np.array([[2, 2, 1, 6], [0, 3, 0, 3]], np.uint32)},  # first after the end
        {"spans": np.array([[60, 3, 1, 64], [0, 2, 0, 2]], np.uint32)},  # over the context
        {"spans": np.array([[2**32 - 1, 2, 1, 4], [0, 3, 0, 3]], np.uint32)},
        {"spans": np.array([[2, 2**32 - 1, 2**32 - 1, 4], [0, 3, 0, 3]], np.uint32)},
        {"spans": np.array([[2, 2, 1, 4], [0, 2, 0, 2]], np.uint32)},  # an id left over
    ],
)
def test_a_lying_request_is_a_frame_error(changes: dict[str, Any]) -> None:
    with pytest.raises(FrameError):
        StepRequest.from_bytes(forged(changes), LIMITS)


def test_too_many_sequences_or_too_large_an_answer_are_refused() -> None:
    with pytest.raises(FrameError):
        StepRequest.from_bytes(batch([step()] * 9, Want("full")).to_bytes(), LIMITS)
    small = dataclasses.replace(LIMITS, max_answer_values=2 * V)
    StepRequest.from_bytes(batch([step()] * 2, Want("full")).to_bytes(), small)
    with pytest.raises(FrameError):
        StepRequest.from_bytes(batch([step()] * 3, Want("full")).to_bytes(), small)


@pytest.mark.parametrize("want", WANTS)
def test_an_answer_to_another_question_is_a_frame_error(want: Want) -> None:
    request = batch([step(draft=2), step()], want)
    data = answer(request).to_bytes()
    others = [
        batch([step(draft=1), step(draft=1)], want),  # as many rows, elsewhere
        batch([step(draft=2)], want),
        batch([step(draft=3), step()], want),
        *(
            batch([step(draft=2), step()], other)
            for other in WANTS
            if "full" in (want.kind, other.kind) and other != want
        ),
        batch([step(draft=2), step()], Want("top_k", 1)),  # fewer than were listed
    ]
    for other in others:
        with pytest.raises(WireError):
            StepResponse.from_bytes(data, other, V)
    with pytest.raises(WireError):
        StepResponse.from_bytes(data, request, 4)


def test_an_oversize_answer_is_refused_before_it_is_looked_at() -> None:
    request = batch([step()], Want("full"))
    data = frames.encode(ROWS_SCHEMA, {}, {"logprobs": np.zeros((10_000, V), np.float32)})
    with pytest.raises(FrameError):
        StepResponse.from_bytes(data, request, V)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_wire_error_on_both_sides(data: bytes) -> None:
    with pytest.raises(FrameError):
        StepRequest.from_bytes(data, LIMITS)
    with pytest.raises(FrameError):
        StepResponse.from_bytes(data, batch([step()], Want("full")), V)


def test_fuzzed_bodies_only_ever_raise_wire_errors() -> None:
    rng = random.Random(11)
    request = batch([step(draft=2), step(base=3)], Want("top_k", 4))
    bodies = [request.to_bytes(), answer(request).to_bytes()]
    parsers = [
        lambda data: StepRequest.from_bytes(data, LIMITS),
        lambda data: StepResponse.from_bytes(data, request, V),
    ]
    end, refused = time.monotonic() + FUZZ_S, 0
    while time.monotonic() < end:
        which = rng.randrange(2)
        body = bytearray(bodies[which])
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(8, len(body))
            body[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        try:
            parsers[which](bytes(body))
        except WireError:
            refused += 1
    assert refused > 100


def test_generate_requests_are_strict() -> None:
    assert GenerateRequest(prompt_ids=[1], max_tokens=1).temperature == 1.0
    for bad in (
        '{"prompt_ids": [-1], "max_tokens": 1}',
        '{"prompt_ids": ["1"], "max_tokens": 1}',
        '{"prompt_ids": [1], "max_tokens": 0}',
        '{"prompt_ids": [1], "max_tokens": 1, "temperature": NaN}',
        '{"prompt_ids": [1], "max_tokens": 1, "top_p": 0}',
        '{"prompt_ids": [1], "max_tokens": 1, "more": 0}',
    ):
        with pytest.raises(ValidationError):
            GenerateRequest.model_validate_json(bad)
    with pytest.raises(ValidationError):
        GenerateChunk.model_validate_json('{"ids": [1], "logprobs": [0.5]}')
