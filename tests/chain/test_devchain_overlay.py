"""Pending changes over a trie behave like a stack of dicts."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from moesubnet.chain.devchain.overlay import Overlay, OverlayError
from moesubnet.chain.devchain.scale import Reader
from moesubnet.chain.devchain.trie import Trie

keys = st.lists(st.sampled_from([0x00, 0x01, 0x10, 0xFF]), max_size=3).map(bytes)
values = st.binary(max_size=36)


class OverlayIsAStackOfDicts(RuleBasedStateMachine):
    @initialize(base=st.dictionaries(keys, values, max_size=12))
    def begin(self, base: dict[bytes, bytes]) -> None:
        self.base = base
        self.overlay = Overlay(Trie().update(base))
        self.stack = [dict(base)]

    @rule(key=keys, value=values)
    def write(self, key: bytes, value: bytes) -> None:
        self.overlay.set(key, value)
        self.stack[-1][key] = value

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        self.overlay.set(key, None)
        self.stack[-1].pop(key, None)

    @rule(prefix=keys)
    def clear_all_below(self, prefix: bytes) -> None:
        _, all_gone = self.overlay.clear_prefix(prefix, None)
        assert all_gone
        self.stack[-1] = {k: v for k, v in self.stack[-1].items() if not k.startswith(prefix)}

    @rule(prefix=keys, limit=st.integers(0, 3))
    def clear_some_below(self, prefix: bytes, limit: int) -> None:
        stored = sorted(key for key in self.base if key.startswith(prefix))
        pending = {key for key in self.overlay.changes if key.startswith(prefix)}
        _, all_gone = self.overlay.clear_prefix(prefix, limit)
        assert all_gone == (len(stored) <= limit)
        for key in pending.union(stored[:limit]):
            self.stack[-1].pop(key, None)

    @rule()
    def start(self) -> None:
        self.overlay.start_transaction()
        self.stack.append(dict(self.stack[-1]))

    @precondition(lambda self: len(self.stack) > 1)
    @rule()
    def commit(self) -> None:
        self.overlay.commit_transaction()
        committed = self.stack.pop()
        self.stack[-1] = committed

    @precondition(lambda self: len(self.stack) > 1)
    @rule()
    def roll_back(self) -> None:
        self.overlay.rollback_transaction()
        self.stack.pop()

    @rule(key=keys)
    def read(self, key: bytes) -> None:
        model = self.stack[-1]
        assert self.overlay.get(key) == model.get(key)
        assert self.overlay.next_key(key) == min((k for k in model if k > key), default=None)

    @invariant()
    def merged_is_the_model(self) -> None:
        model = self.stack[-1]
        assert dict(self.overlay.merged().items()) == model
        assert self.overlay.depth == len(self.stack) - 1
        assert dict(self.overlay.base.update(self.overlay.delta()).items()) == model
        assert dict(self.overlay.base.items()) == self.base


TestOverlayIsAStackOfDicts = OverlayIsAStackOfDicts.TestCase
TestOverlayIsAStackOfDicts.settings = settings(max_examples=50, stateful_step_count=20)


def test_append_grows_a_vector_through_every_width_of_its_length() -> None:
    overlay = Overlay(Trie())
    for _ in range(16_390):
        overlay.append(b"events", b"\x07")
    reader = Reader(overlay.get(b"events") or b"")
    assert reader.compact() == 16_390
    assert reader.rest() == b"\x07" * 16_390


def test_append_is_undone_with_its_transaction() -> None:
    overlay = Overlay(Trie())
    overlay.append(b"k", b"a")
    overlay.start_transaction()
    overlay.append(b"k", b"b")
    assert overlay.get(b"k") == b"\x08ab"
    overlay.rollback_transaction()
    assert overlay.get(b"k") == b"\x04a"


def test_append_replaces_what_is_not_a_vector() -> None:
    overlay = Overlay(Trie())
    overlay.set(b"k", b"\x03")  # announces four bytes that are not there
    overlay.append(b"k", b"a")
    assert overlay.get(b"k") == b"\x04a"


def test_clearing_counts_stored_and_pending_keys_as_substrate_does() -> None:
    overlay = Overlay(Trie().update({b"a1": b"1", b"a2": b"2", b"a3": b"3"}))
    overlay.set(b"a0", b"pending")
    assert overlay.clear_prefix(b"a", 2) == (3, False)
    assert overlay.get(b"a3") == b"3"
    assert overlay.clear_prefix(b"a", None) == (3, True)


def test_closing_a_transaction_that_is_not_open_is_an_error() -> None:
    overlay = Overlay(Trie())
    with pytest.raises(OverlayError):
        overlay.commit_transaction()
    with pytest.raises(OverlayError):
        overlay.rollback_transaction()
