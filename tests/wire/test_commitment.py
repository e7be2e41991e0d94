"""Committed rows: what an honest miner can always show, and what a cheat cannot."""

from __future__ import annotations

import hashlib
import math
from decimal import ROUND_CEILING, Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesubnet.errors import BadDistribution, BadReveal
from moesubnet.wire import commitment
from moesubnet.wire.commitment import (
    LEAF_TOKENS,
    ONE,
    STEPS_A_NAT,
    ZERO,
    Commitment,
    CommittedTail,
    commit,
    mass_table,
    proof_bytes,
    verify,
)
from moesubnet.wire.distributions import LOWEST, Rows, check_listed

SIZES = [1, 2, 700, 1_023, 1_024, 1_025, 2_048, 3_000, 5_121]
NOTHING = np.empty(0, np.uint32)


def law(vocab_size: int, seed: int, spread_nats: float = 3.0) -> Rows:
    """f32 [V], normalised; spread 0 is the flat law."""
    logits = np.random.default_rng(seed).normal(0.0, 1.0, vocab_size) * spread_nats
    return (logits - np.logaddexp.reduce(logits)).astype(np.float32)


def top(row: Rows, count: int) -> np.ndarray:
    return np.argsort(row)[::-1][:count].astype(np.uint32)


laws = st.builds(
    law,
    st.sampled_from(SIZES),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.01, 1.0, 3.0, 10.0]),
)


@settings(max_examples=30, deadline=None)
@given(laws, st.integers(0, 60))
def test_every_token_of_an_honest_row_can_be_shown(row: Rows, listed: int) -> None:
    ids = top(row, listed)
    tail = commit(row[None], [ids])[0]
    unlisted = np.setdiff1d(np.arange(len(row)), ids)
    for token in unlisted[:: max(1, len(unlisted) // 50)]:
        proof = tail.open(int(token))
        assert len(proof) == proof_bytes(len(row))
        value = verify(tail.root, tail.tail_mass, len(row), int(token), proof)
        least = -(ZERO - 1) / STEPS_A_NAT
        assert abs(value - max(row[token], least)) <= 0.5 / STEPS_A_NAT + 4e-6


@settings(max_examples=30, deadline=None)
@given(laws, st.integers(0, 60))
def test_masses_are_conserved_to_the_unit(row: Rows, listed: int) -> None:
    whole, tail = (commit(row[None], [ids])[0] for ids in (NOTHING, top(row, listed)))
    table = mass_table()
    codes = whole.codes.reshape(-1)
    assert int(table[codes].sum()) == int(whole.levels[-1]["mass"][0])
    assert abs(int(whole.levels[-1]["mass"][0]) / ONE - 1) <= commitment.MASS_TOLERANCE
    given_away = sum(int(table[codes[i]]) for i in top(row, listed))
    assert int(tail.levels[-1]["mass"][0]) + given_away == int(whole.levels[-1]["mass"][0])
    for below, above in zip(tail.levels, tail.levels[1:], strict=False):
        sums = below["mass"].reshape(-1, 2).sum(axis=1)
        assert sums.tolist() == above["mass"][: len(sums)].tolist()


@settings(max_examples=60, deadline=None)
@given(laws, st.data())
def test_a_proof_with_any_byte_changed_is_refused(row: Rows, data: st.DataObject) -> None:
    tail = commit(row[None], [NOTHING])[0]
    token = data.draw(st.integers(0, len(row) - 1))
    proof = bytearray(tail.open(token))
    proof[data.draw(st.integers(0, len(proof) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadReveal):
        verify(tail.root, tail.tail_mass, len(row), token, bytes(proof))


def test_a_proof_holds_for_its_root_mass_vocabulary_and_place_alone() -> None:
    row, other = law(3_000, 1), law(3_000, 2)
    tail, another = commit(np.stack([row, other]), [top(row, 9), top(other, 9)])
    proof = tail.open(2_500)
    true = (tail.root, tail.tail_mass, 3_000, 2_500, proof)
    assert verify(*true) < 0
    lies: dict[int, list[object]] = {
        0: [another.root, bytes(32), tail.root[:31], b""],
        1: [another.tail_mass, np.nextafter(tail.tail_mass, np.float32(1)), 0.0, math.nan],
        2: [2_999, 3_001, 3_072, 4_000, 2_048, 262_144],
        3: [0, 1_030, 3_000, 3_071, -1, 2**40],
        4: [another.open(2_500), tail.open(10), proof[:-1], proof + b"\0", b""],
    }
    for place, values in lies.items():
        for value in values:
            with pytest.raises(BadReveal):
                verify(*true[:place], value, *true[place + 1 :])  # type: ignore[arg-type]
    first, second = proof[-80:-40], proof[-40:]
    with pytest.raises(BadReveal):
        verify(*true[:4], proof[:-80] + second + first)


def test_an_inner_node_is_no_leaf() -> None:
    """A leaf's preimage begins with 0 and is longer: no pair of nodes reads as codes."""
    row = law(2_048, 3)
    tail = commit(row[None], [NOTHING])[0]
    pair = tail.levels[0].tobytes()
    short = pair + bytes(2 * LEAF_TOKENS - len(pair))
    with pytest.raises(BadReveal):
        verify(tail.root, tail.tail_mass, LEAF_TOKENS, 0, short)


@pytest.mark.parametrize("scale", [0.0, 0.9, 0.998, 1.002, 1.95])
def test_no_law_is_no_commitment(scale: float) -> None:
    row = law(1_500, 4)
    with np.errstate(divide="ignore"), pytest.raises(BadDistribution, match="mass"):
        commit((row + np.log(scale, dtype=np.float32))[None].clip(max=0), [NOTHING])


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.5])
def test_what_is_no_log_probability_is_refused_by_its_own_miner(value: float) -> None:
    row = law(1_500, 5)
    row[1_200] = value
    with pytest.raises(BadDistribution):
        commit(row[None], [NOTHING])


def test_a_sure_token_is_sure_and_an_impossible_one_nearly_so() -> None:
    row = np.full(1_200, -np.inf, np.float32)
    row[7] = 1e-7  # rounding in somebody's softmax
    tail = commit(row[None], [NOTHING])[0]
    assert verify(tail.root, tail.tail_mass, 1_200, 7, tail.open(7)) == 0.0
    assert verify(tail.root, tail.tail_mass, 1_200, 8, tail.open(8)) < -31.99
    others = commit(row[None], [np.array([7], np.uint32)])[0]
    assert others.tail_mass == np.float32(1_199 / ONE)
    assert verify(others.root, others.tail_mass, 1_200, 7, others.open(7)) == LOWEST


def test_a_tree_that_goes_beyond_its_vocabulary_or_any_law_is_refused() -> None:
    codes = np.full((2, LEAF_TOKENS), ZERO, np.uint16)
    codes[1, 100] = 0  # token 1,124 of 1,100
    half = [mass_table()[codes].sum(axis=1), np.array([ONE], "<u8")]
    tail = forge(codes, half, 1_100)
    with pytest.raises(BadReveal, match="beyond the vocabulary"):
        verify(tail.root, 1.0, 1_100, 1_050, tail.open(1_050))
    codes[:] = 0
    for most in (2**40, 2**64 - 1):
        tail = forge(codes, [np.array([most, most], "<u8"), np.array([0], "<u8")], 2_048)
        with pytest.raises(BadReveal, match="more mass"):
            verify(tail.root, 0.0, 2_048, 0, tail.open(0))


def forge(codes: np.ndarray, claims: list[np.ndarray], vocab_size: int) -> CommittedTail:
    """A tree over any codes, in which every node's mass is what `claims` says of its level."""
    leaves = np.empty(len(codes), commitment._LEAF)
    leaves["tag"], leaves["vocab"], leaves["index"] = 0, vocab_size, np.arange(len(codes))
    leaves["codes"] = codes
    level, levels = commitment._nodes(claims[0], leaves), []
    for claim in claims[1:]:
        levels.append(level)
        pairs = np.empty(len(level) // 2, commitment._PAIR)
        pairs["tag"], pairs["nodes"] = 1, level.reshape(-1, 2)
        level = commitment._nodes(claim, pairs)
    return CommittedTail(codes, (*levels, level))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_forged_tree_shows_more_than_its_tail(data: st.DataObject) -> None:
    """Eight leaves of any mass, any node's mass a lie: what can be opened is within the tail."""
    count = 8
    vocab_size = count * LEAF_TOKENS
    codes = np.full((count, LEAF_TOKENS), ZERO, np.uint16)
    heads = data.draw(st.lists(st.integers(0, 12_000), min_size=count, max_size=count))
    codes[:, 0] = heads
    masses = mass_table()[codes].sum(axis=1)
    claims = []
    while True:
        lie = st.sampled_from([False] * 9 + [True])
        lies = data.draw(st.lists(lie, min_size=len(masses), max_size=len(masses)))
        said = [
            data.draw(st.integers(0, 2**64 - 1) | st.integers(0, ONE)) if is_lie else int(mass)
            for is_lie, mass in zip(lies, masses, strict=True)
        ]
        claims.append(np.array(said, "<u8"))
        if len(said) == 1:
            break
        masses = claims[-1].reshape(-1, 2).sum(axis=1)  # wraps, as a cheat's may
    tail = forge(codes, claims, vocab_size)
    for stated in {tail.tail_mass, np.float32(1.0), np.float32(0.05)}:
        shown = 0.0
        for leaf in range(count):
            token = leaf * LEAF_TOKENS
            try:
                shown += math.exp(verify(tail.root, stated, vocab_size, token, tail.open(token)))
            except BadReveal:
                continue
        assert shown <= float(stated) * (1 + 1e-6) + 1e-9


def test_mass_cannot_be_spent_in_the_list_and_again_in_the_tree() -> None:
    """The list holds 0.95. A tree over the whole row would let leaves without listed tokens
    hold a mass of 1 beside it; a tree over the tail has no room for it."""
    vocab_size = 4 * LEAF_TOKENS
    listed = np.arange(19, dtype=np.uint32)  # all in the first leaf
    listed_logp = np.full(19, np.log(0.05), np.float32)
    codes = np.full((4, LEAF_TOKENS), ZERO, np.uint16)
    codes[1:] = round(math.log(3 * LEAF_TOKENS) * STEPS_A_NAT)  # the other leaves: mass 1
    masses = [mass_table()[codes].sum(axis=1)]
    while len(masses[-1]) > 1:
        masses.append(masses[-1].reshape(-1, 2).sum(axis=1))
    tail = forge(codes, masses, vocab_size)
    token = 2 * LEAF_TOKENS
    with pytest.raises(BadReveal, match="another mass"):  # the tail that goes with the list
        verify(tail.root, 0.05, vocab_size, token, tail.open(token))
    assert tail.tail_mass == pytest.approx(1, abs=1e-3)
    with pytest.raises(BadDistribution):  # the tail that goes with the tree
        check_listed(np.zeros(19, int), listed, listed_logp, tail.tail_mass[None])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 3.0]), st.integers(0, 100))
def test_listed_and_shown_values_together_are_one_law(seed: int, spread: float, k: int) -> None:
    row = law(2_100, seed, spread)
    ids = top(row, k)
    tail = commit(row[None], [ids])[0]
    wire = row[ids].astype(np.float16)
    total = math.fsum(np.exp(wire.astype(np.float64))) + float(tail.tail_mass)
    shown = math.fsum(
        math.exp(verify(tail.root, tail.tail_mass, 2_100, t, tail.open(t)))
        for t in np.setdiff1d(np.arange(2_100), ids).tolist()
    )
    shares = (total - float(tail.tail_mass) + shown) / total
    assert 1 - 1e-6 < shares < 1 + 1e-6


def test_float16_could_not_promise_a_mass_of_one() -> None:
    """Why rows are coded in steps of their own: a flat law of 263,000 tokens, honest."""
    flat = np.full(263_000, -math.log(263_000), np.float32)
    assert abs(np.exp(flat.astype(np.float16), dtype=np.float64).sum() - 1) > 1e-3
    assert abs(float(commit(flat[None], [NOTHING])[0].tail_mass) - 1) < 3e-4


def test_the_table_is_the_same_on_every_machine() -> None:
    table = mass_table()
    digest = hashlib.sha256(table.astype("<u8").tobytes()).hexdigest()
    assert digest == "630bf26d0c6facbca009e041d3728bd455a8ee88862d4a052a6177292025a6dd"
    assert table[[0, ZERO - 1, ZERO]].tolist() == [ONE, 1, 0]
    assert bool((table[:-1] >= table[1:]).all())
    getcontext().prec = 60
    for code in [1, 2, 1_419, 2_048, 25_000, 40_001, 65_534, *range(3, ZERO, 977)]:
        exact = (Decimal(-code) / STEPS_A_NAT).exp() * ONE
        assert int(table[code]) == int(exact.to_integral_value(ROUND_CEILING))


def test_sizes_follow_from_the_vocabulary() -> None:
    assert [proof_bytes(v) for v in (1, 1_024, 1_025, 32_000, 128_256, 262_144)] == [
        2_048, 2_048, 2_088, 2_248, 2_328, 2_368,
    ]  # fmt: skip
    tail = commit(law(5_121, 6)[None], [NOTHING])[0]
    assert tail.nbytes == 2 * 6 * LEAF_TOKENS + 40 * (6 + 4 + 2 + 1)


def test_withholding_is_never_better_than_the_tail_or_a_very_small_probability() -> None:
    def bound(tail_mass: float) -> Commitment:
        return Commitment(bytes(32), tail_mass, 0.0, 262_144)

    assert bound(0.05).withheld() == -20.0
    assert bound(1e-6).withheld() == pytest.approx(math.log(1e-6 / 262_144))
    assert bound(0.0).withheld() == LOWEST
    assert 262_144 * math.exp(commitment.WITHHELD_NATS) < 6e-4
