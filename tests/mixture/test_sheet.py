"""Score sheets: canonical, bounded, and hostile bytes are refused with a typed error."""

import dataclasses

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesubnet.errors import FrameError
from moesubnet.mixture.sheet import (
    LOG_Q_ABSENT,
    LOG_Q_UNANSWERED,
    LOG_W_NONE,
    MAX_SHEET_BYTES,
    Sheet,
    micro_nats,
    sheet_seed,
)
from moesubnet.types import Hotkey

HOTKEYS = tuple(Hotkey(f"expert{i}") for i in range(3))


def test_a_sheet_survives_the_wire_to_the_last_bit(make_sheet):
    sheet = make_sheet(HOTKEYS)
    again = Sheet.from_bytes(sheet.to_bytes())
    for field in dataclasses.fields(Sheet):
        np.testing.assert_equal(getattr(again, field.name), getattr(sheet, field.name))
    assert again.sha256 == sheet.sha256
    assert next(iter(msgpack.unpackb(sheet.to_bytes()))) == "format"


def test_an_empty_epoch_is_a_sheet_too(make_sheet):
    sheet = make_sheet((), walk_count=0)
    assert len(Sheet.from_bytes(sheet.to_bytes()).walk) == 0


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\x1b[2J", "", "é", "a" * 65])
def test_a_name_that_is_no_address_is_refused(make_sheet, name):
    """It would be asked for in a path, and shown in a terminal."""
    with pytest.raises(FrameError):
        Sheet.from_bytes(make_sheet((Hotkey(name),)).to_bytes())
    named = dataclasses.replace(
        make_sheet(HOTKEYS), validator=Hotkey(name), senders=(Hotkey(name),)
    )
    with pytest.raises(FrameError):
        Sheet.from_bytes(named.to_bytes())


@pytest.fixture(scope="module")
def small(make_sheet):
    return make_sheet(HOTKEYS, walk_count=2)


@settings(max_examples=200)
@given(st.data())
def test_any_altered_byte_is_refused_or_changes_the_hash(small, data):
    body = bytearray(small.to_bytes())
    index = data.draw(st.integers(0, len(body) - 1))
    body[index] ^= data.draw(st.integers(1, 255))
    try:
        sheet = Sheet.from_bytes(bytes(body))
    except FrameError:
        return
    assert sheet.to_bytes() == bytes(body)
    assert sheet.sha256 != small.sha256


@given(st.binary(max_size=300))
def test_garbage_is_a_typed_error(garbage):
    with pytest.raises(FrameError):
        Sheet.from_bytes(garbage)


def test_claims_of_huge_contents_are_refused_without_allocating_them():
    for claim in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        with pytest.raises(FrameError):
            Sheet.from_bytes(claim)
    with pytest.raises(FrameError, match="large"):
        Sheet.from_bytes(bytes(MAX_SHEET_BYTES + 1))
    with pytest.raises(FrameError):
        Sheet.from_bytes(b"\x91" * 100_000)  # nesting


@pytest.mark.parametrize(
    "lie",
    [
        {"uids": (0, 0, 1)},
        {"uids": (0, 1)},
        {"hotkeys": ("expert1", "expert0", "expert2")},
        {"age_millis": (1, -2, 2)},
        {"since": (0, 1, 4)},
        {"novelty_before": (0, 0, 1_000_001)},
        {"standing_ppm": (0, 1, 1_000_001)},
        {"standing_ppm": (0, 1)},
        {"chosen": np.full((2, 3), 2, np.uint8)},
        {"apart": np.zeros((2, 2), np.uint8)},
        {"walk": np.full(32, 99, np.uint32)},
        {"position": np.full(32, 48, np.uint32)},
        {"position": np.full(31, 40, np.uint32)},
        {"log_q": np.full((32, 4), 1, np.int32)},
        {"log_q": np.full((32, 4), -30_000_001, np.int32)},
        {"log_q": np.full((32, 4), LOG_Q_UNANSWERED, np.int32)},
        {"log_w": np.full((32, 4), LOG_W_NONE, np.int32)},
        {"entropy": np.full((32, 3), -1, np.int32)},
        {"entropy": np.full((32, 2), 1, np.int32)},
        {"epoch": -1},
        {"ema_after": (1.5, None, None)},
        {"row_u16": (65_536, 0, 0)},
        {"seed": b"short"},
        {"seed": bytes(32)},
    ],
)
def test_a_sheet_that_contradicts_itself_is_refused(make_sheet, lie):
    sheet = dataclasses.replace(make_sheet(HOTKEYS, walk_count=2), **lie)
    with pytest.raises(FrameError):
        Sheet.from_bytes(sheet.to_bytes())


def test_micro_nats_keep_six_digits_and_mark_nothing():
    values = np.array([0.0, -1.2345678, -5000.0, -np.inf])
    np.testing.assert_array_equal(
        micro_nats(values), [0, -1_234_568, -2_000_000_000, int(LOG_W_NONE)]
    )
    assert LOG_Q_ABSENT < LOG_Q_UNANSWERED < -2_000_000_000


def test_seeds_differ_between_epochs_and_histories():
    seeds = {sheet_seed(bytes([b]) * 32, e) for b in (0, 1) for e in (0, 1, 256)}
    assert len(seeds) == 6
