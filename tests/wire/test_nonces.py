"""The replay store: bounded, and never forgetful in the caller's favour."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.errors import ConfigError
from moesubnet.types import Hotkey
from moesubnet.wire.nonces import MAX_AGE_NS, NonceStore

SECOND_NS = 1_000_000_000
NOW_NS = 1_800_000_000 * SECOND_NS
A, B = Hotkey("a"), Hotkey("b")


def test_a_nonce_is_new_once_for_each_sender() -> None:
    nonces = NonceStore(started_ns=0)
    assert nonces.add(A, NOW_NS, NOW_NS)
    assert nonces.add(B, NOW_NS, NOW_NS)
    assert not nonces.add(A, NOW_NS, NOW_NS)


def test_what_an_earlier_process_may_have_seen_is_refused() -> None:
    nonces = NonceStore(started_ns=NOW_NS)
    assert not nonces.add(A, NOW_NS - 1, NOW_NS)
    assert not nonces.add(A, NOW_NS, NOW_NS)
    assert nonces.add(A, NOW_NS + 1, NOW_NS)


def test_the_default_start_is_now() -> None:
    assert not NonceStore().add(A, SECOND_NS, SECOND_NS)


def test_a_retention_under_twice_the_window_is_refused() -> None:
    with pytest.raises(ConfigError):
        NonceStore(retention_s=23.9)


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 30)), max_size=60))
def test_nothing_is_accepted_twice_whatever_the_capacity(events: list[tuple[Hotkey, int]]) -> None:
    nonces = NonceStore(capacity=4, started_ns=0)
    accepted: set[tuple[Hotkey, int]] = set()
    for sender, offset in events:
        nonce_ns = NOW_NS + offset
        if nonces.add(sender, nonce_ns, NOW_NS):
            assert (sender, nonce_ns) not in accepted
            accepted.add((sender, nonce_ns))
        assert len(nonces) <= 4


def test_a_long_run_keeps_only_the_retention_and_refuses_every_replay_in_the_window() -> None:
    rng, nonces, recent = random.Random(0), NonceStore(started_ns=0), []
    for tick in range(20_000):
        now_ns = NOW_NS + tick * SECOND_NS // 100
        assert nonces.add(A, now_ns, now_ns)
        recent.append(now_ns)
        replayed = rng.choice(recent[-MAX_AGE_NS * 100 // SECOND_NS :])
        assert not nonces.add(A, replayed, now_ns)
    assert len(nonces) <= 6_001  # 60 s at 100 a second


def test_a_flood_shortens_the_window_for_old_nonces_only() -> None:
    nonces = NonceStore(capacity=100, started_ns=0)
    for i in range(1_000):
        nonces.add(A, NOW_NS + i, NOW_NS)
    assert not nonces.add(B, NOW_NS, NOW_NS)  # older than all that is kept: may be a replay
    assert nonces.add(B, NOW_NS + 10_000, NOW_NS)
    assert len(nonces) == 100
