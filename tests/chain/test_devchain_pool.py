"""Order, bounds and verdicts of the transaction pool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.chain.devchain import pool as pool_module
from moesubnet.chain.devchain.header import blake2_256
from moesubnet.chain.devchain.pool import BAN_BLOCKS, Pool, Status
from moesubnet.chain.devchain.validity import (
    InvalidTransaction,
    PoolError,
    ValidTransaction,
    read_validity,
)


def tag(account: str, nonce: int) -> bytes:
    return f"{account}{nonce}".encode()


def valid(account: str, nonce: int, *, priority: int = 1, longevity: int = 64) -> ValidTransaction:
    """As the runtime answers for an account whose next nonce is 0."""
    requires = (tag(account, nonce - 1),) if nonce else ()
    return ValidTransaction(priority, requires, (tag(account, nonce),), longevity)


def refusal(pool: Pool, extrinsic: bytes, what: ValidTransaction, head: int = 0) -> int:
    with pytest.raises(PoolError) as raised:
        pool.add(extrinsic, what, head)
    return raised.value.code


def test_nonces_go_in_order_and_a_gap_waits_in_the_future() -> None:
    pool, seen = Pool(), list[Status]()
    pool.add(b"a2", valid("a", 2), 0, [seen.append])
    pool.add(b"a0", valid("a", 0), 0)
    assert pool.ready() == [b"a0"]
    assert seen == ["future"]
    pool.add(b"a1", valid("a", 1), 0)
    assert pool.ready() == [b"a0", b"a1", b"a2"]
    assert pool.pending() == [b"a2", b"a0", b"a1"]


def test_what_a_block_included_frees_what_came_after_it() -> None:
    pool, seen = Pool(), list[Status]()
    pool.add(b"a0", valid("a", 0), 0, [seen.append])
    pool.add(b"a1", valid("a", 1), 0)
    pool.settle(1, b"\7" * 32, [b"a0"], [])
    assert pool.ready() == [b"a1"]
    assert seen == ["ready", {"inBlock": "0x" + "07" * 32}, {"finalized": "0x" + "07" * 32}]


def test_higher_priority_goes_first_among_accounts() -> None:
    pool = Pool()
    pool.add(b"a0", valid("a", 0, priority=1), 0)
    pool.add(b"b0", valid("b", 0, priority=5), 0)
    pool.add(b"b1", valid("b", 1, priority=9), 0)
    assert pool.ready() == [b"b0", b"b1", b"a0"]


def test_the_same_nonce_is_replaced_only_at_a_higher_priority() -> None:
    pool, seen = Pool(), list[Status]()
    pool.add(b"first", valid("a", 0, priority=5), 0, [seen.append])
    assert refusal(pool, b"second", valid("a", 0, priority=5)) == 1014
    pool.add(b"third", valid("a", 0, priority=6), 0)
    assert pool.ready() == [b"third"]
    assert seen[-1] == {"usurped": f"0x{blake2_256(b'third').hex()}"}


def test_copies_and_lately_included_ones_are_refused() -> None:
    pool = Pool()
    pool.add(b"a0", valid("a", 0), 0)
    assert refusal(pool, b"a0", valid("a", 0)) == 1013
    pool.settle(1, bytes(32), [b"a0"], [])
    assert refusal(pool, b"a0", valid("a", 0), head=1) == 1012
    assert refusal(pool, b"a0", valid("a", 0), head=1 + BAN_BLOCKS) == 1012
    pool.settle(2 + BAN_BLOCKS, bytes(32), [], [])
    pool.add(b"a0", valid("a", 0), 2 + BAN_BLOCKS)


def test_a_refused_one_is_dropped_and_its_followers_wait() -> None:
    pool, seen = Pool(), list[Status]()
    pool.add(b"a0", valid("a", 0), 0, [seen.append])
    pool.add(b"a1", valid("a", 1), 0)
    pool.settle(1, bytes(32), [], [b"a0"])
    assert seen[-1] == "invalid"
    assert pool.ready() == []
    assert len(pool) == 1


def test_a_mortal_one_leaves_when_its_era_ends() -> None:
    pool, seen = Pool(), list[Status]()
    pool.add(b"a1", valid("a", 1, longevity=8), 10, [seen.append])
    pool.settle(17, bytes(32), [], [])
    assert len(pool) == 1
    pool.settle(18, bytes(32), [], [])
    assert len(pool) == 0
    assert seen == ["future", "invalid"]


def test_the_pool_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MOST_TRANSACTIONS", 2)
    pool = Pool()
    pool.add(b"a0", valid("a", 0), 0)
    pool.add(b"b0", valid("b", 0), 0)
    assert refusal(pool, b"c0", valid("c", 0)) == 1016
    pool.add(b"B0", valid("b", 0, priority=2), 0)  # replacing takes no place
    monkeypatch.setattr(pool_module, "MOST_TRANSACTIONS", 9)
    monkeypatch.setattr(pool_module, "MOST_BYTES", 5)
    assert refusal(pool, b"c0", valid("c", 0)) == 1016


def test_one_without_tags_is_refused() -> None:
    assert refusal(Pool(), b"x", ValidTransaction(1, (), (), 64)) == 1019


@given(st.permutations([(a, n) for a in "abc" for n in range(4)]), st.data())
def test_every_order_of_arrival_keeps_each_accounts_order(
    arrivals: list[tuple[str, int]], data: st.DataObject
) -> None:
    pool = Pool()
    for account, nonce in arrivals:
        priority = data.draw(st.integers(0, 3))
        pool.add(tag(account, nonce), valid(account, nonce, priority=priority), 0)
    ready = pool.ready()
    assert sorted(ready) == sorted(tag(a, n) for a, n in arrivals)
    for account in "abc":
        mine = [one for one in ready if one.startswith(account.encode())]
        assert mine == [tag(account, nonce) for nonce in range(4)]


@pytest.mark.parametrize(
    ("encoded", "code", "text"),
    [
        ("010001", 1010, "Inability to pay some fees (e.g. account balance too low)"),
        ("010003", 1010, "Transaction is outdated"),
        ("01000706", 1010, "Custom error: 6"),
        ("010100", 1011, "Could not lookup information required to validate the transaction"),
        ("010102ff", 1011, "Custom error: 255"),
    ],
)
def test_verdicts_have_the_codes_that_clients_know(encoded: str, code: int, text: str) -> None:
    with pytest.raises(InvalidTransaction) as raised:
        read_validity(bytes.fromhex(encoded))
    assert (raised.value.code, raised.value.data) == (code, text)
