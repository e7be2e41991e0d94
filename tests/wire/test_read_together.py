"""Answers that come together are read together, each as if it had come alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.errors import BadDistribution, FrameError, WireError
from moesubnet.wire import responses
from moesubnet.wire.commitment import Commitment
from moesubnet.wire.packing import pack_ids, unpack_ids, unpack_lists
from moesubnet.wire.protocol import SequenceStep, StepRequest, StepResponse, Want, base_hash
from moesubnet.wire.responses import read_answers
from tests.step_answers import answer_to

V = 40
WANTS = [
    *(Want("full"), Want("sampled_n", 6), Want("top_k", 6), Want("nucleus", 12, 0.7)),
    *(Want("top_k", 6, committed=True), Want("nucleus", 12, 0.7, committed=True)),
]


def request_for(want: Want, appended: list[int], drafted: int, further: int) -> StepRequest:
    """A sequence with as many new ids as each number says."""
    steps = []
    for place, count in enumerate(appended):
        ids = np.arange(count + drafted, dtype=np.uint32)
        base, new, drafts = ids[:0], ids[:count], ids[count:]
        steps.append(
            SequenceStep(
                f"s{place}", 0, base_hash(base), new, drafts, further=further * (not place)
            )
        )
    return StepRequest(tuple(steps), want)


def answer(request: StepRequest, seed: int) -> StepResponse:
    rng = np.random.default_rng(seed)
    rows = []
    for step in request.sequences:
        laws = np.log(rng.dirichlet(np.full(V, 0.3), step.end - step.first_law + 1) + 1e-9)
        given = answer_to(step, laws.astype(np.float32), request.want)
        more = np.full(step.further, seed % V, np.uint32)
        rows.append(dataclasses.replace(given, further=more))
    return StepResponse(tuple(rows))


requests = st.builds(
    request_for,
    st.sampled_from(WANTS),
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.sampled_from([0, 0, 2]),
    st.sampled_from([0, 0, 3]),
)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, StepRequest]:
    """An honest answer, or one with some bytes changed, or one that is cut."""
    request = draw(requests)
    sent = answer(request, draw(st.integers(0, 99))).to_bytes(draw(st.sampled_from(["f16", "f32"])))
    data = bytearray(sent)
    for place, byte in draw(
        st.lists(st.tuples(st.integers(0, len(sent) - 1), st.integers(0, 255)), max_size=2)
    ):
        data[place] = byte
    end = draw(st.just(len(sent)) | st.integers(0, len(sent)))
    return bytes(data[:end]), request


def alone(data: bytes, request: StepRequest) -> StepResponse | WireError:
    try:
        return StepResponse.from_bytes(data, request, V)
    except WireError as error:
        return error


def said(read: StepResponse | WireError) -> Any:
    """All that there is in it, to the bit."""
    if isinstance(read, WireError):
        return type(read), str(read)
    fields = [f.name for f in dataclasses.fields(read.rows[0])]
    return [[exactly(getattr(rows, name)) for name in fields] for rows in read.rows]


def exactly(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    return dataclasses.astuple(value) if isinstance(value, Commitment) else value


@given(st.lists(answers(), max_size=6))
def test_each_is_read_as_if_it_had_come_alone(given: list[tuple[bytes, StepRequest]]) -> None:
    together = read_answers(given, V)
    assert [said(read) for read in together] == [said(alone(*one)) for one in given]


@pytest.mark.parametrize("want", WANTS, ids=repr)
def test_one_that_lies_is_told_from_the_others(want: Want) -> None:
    request = request_for(want, [1], 0, 0)
    honest = answer(request, 1)
    (rows,) = honest.rows
    louder = dataclasses.replace(rows, logprobs=np.zeros_like(rows.logprobs))
    lie = StepResponse((louder,)).to_bytes()
    given = [(honest.to_bytes(), request), (lie, request), (honest.to_bytes()[:-8], request)]
    first, second, third, fourth = read_answers([*given, given[0]], V)
    assert isinstance(second, BadDistribution)
    assert isinstance(third, FrameError)
    assert said(first) == said(fourth) == said(alone(*given[0]))
    assert isinstance(first, StepResponse)


@pytest.mark.parametrize("want", WANTS, ids=repr)
def test_what_is_kept_of_one_keeps_nothing_of_the_others(want: Want) -> None:
    request = request_for(want, [1], 0, 0)
    body = answer(request, 1).to_bytes()
    for read in read_answers([(body, request)] * 3, V):
        assert isinstance(read, StepResponse)
        for held in (read.rows[0].logprobs, read.rows[0].ids, read.rows[0].tail_mass):
            assert held is None or held.base is None or held.base.size == held.size


def test_large_answers_are_read_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_for(Want("full"), [1], 0, 0)
    given = [(answer(request, seed).to_bytes(), request) for seed in range(5)]
    most, sizes = 2 * len(given[0][0]), list[int]()
    read_all = responses._read

    def read(opened: Any, *about: Any) -> Any:
        sizes.append(len(opened))
        return read_all(opened, *about)

    monkeypatch.setattr(responses, "_read", read)
    monkeypatch.setattr(responses, "AT_ONCE_BYTES", most)
    together = read_answers(given, V)
    assert sizes == [2, 2, 1]
    assert [said(one) for one in together] == [said(alone(*one)) for one in given]


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300)), max_size=9)))
def test_lists_of_ids_come_back_as_each_would(lists: list[list[tuple[int, int]]]) -> None:
    packed = []
    for tokens in lists or [[]]:
        row, ids = np.array(sorted(tokens), np.int64).reshape(-1, 2).T
        packed.append(pack_ids(row, ids))
    row, ids, counts = unpack_lists(packed, [6] * len(packed))
    assert sum(counts) == len(row)
    parts = np.cumsum(counts)[:-1]
    for place, (rows, found) in enumerate(
        zip(np.split(row, parts), np.split(ids, parts), strict=True)
    ):
        expected_row, expected_ids = unpack_ids(packed[place])
        assert (rows - 6 * place).tolist() == expected_row.tolist()
        assert found.tolist() == expected_ids.tolist()
    with pytest.raises(FrameError, match="more rows"):
        unpack_lists([*packed, pack_ids(np.array([6]), np.array([0]))], [6] * (len(packed) + 1))


@pytest.mark.parametrize("cut", [[0x80], [0x05, 0x81]])
def test_no_number_begins_in_one_list_and_ends_in_the_next(cut: list[int]) -> None:
    lists = [np.array(cut, np.uint8), np.array([0x01], np.uint8)]
    with pytest.raises(FrameError, match="within a number"):
        unpack_lists(lists)
