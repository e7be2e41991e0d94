"""What is remembered of other validators, and how a vote says for whom it vouches."""

from hypothesis import given
from hypothesis import strategies as st

from moesubnet.types import Hotkey
from moesubnet.validator.vouching import FRESH_EPOCHS, VOUCHED_EPOCHS, Looks
from moesubnet.validator.weights import salt_for
from tests.sheets import synthetic_sheet

A, B = Hotkey("5A"), Hotkey("5B")


def test_it_takes_a_vote_and_an_audit_that_held_lately(tmp_path):
    looks = Looks(tmp_path / "looks.sqlite3")
    looks.note(3, voted={A, B}, audited={A})
    assert looks.vouched(3) == {A}
    assert (looks.fresh(3 + FRESH_EPOCHS - 1), looks.fresh(3 + FRESH_EPOCHS)) == ({A}, set())
    looks.note(3 + VOUCHED_EPOCHS, voted={A})
    assert looks.vouched(3 + VOUCHED_EPOCHS) == set()  # the audit is too old
    looks.close()


def test_a_restart_forgets_nobody_and_who_was_wrong_waits(tmp_path):
    looks = Looks(tmp_path / "looks.sqlite3")
    looks.note(3, voted={A}, audited={A})
    looks.note(4, wrong={A})
    looks.close()
    looks = Looks(tmp_path / "looks.sqlite3")
    looks.note(4 + VOUCHED_EPOCHS - 1, voted={A}, audited={A})
    assert looks.vouched(4 + VOUCHED_EPOCHS - 1) == set()
    assert looks.vouched(4 + VOUCHED_EPOCHS) == {A}
    looks.close()


@given(uids=st.sets(st.integers(0, 400), max_size=80))
def test_a_salt_names_the_sheet_is_not_to_be_guessed_and_has_a_bit_for_each_uid(uids):
    sheet = synthetic_sheet(["5A"])
    salt = salt_for(sheet, uids, random=bytes(range(16)))
    words = b"".join(word.to_bytes(2, "little") for word in salt)
    assert (len(salt), words[:32], words[32:48]) == (40, sheet.sha256, bytes(range(16)))
    set_bits = {8 * i + k for i, byte in enumerate(words[48:]) for k in range(8) if byte >> k & 1}
    assert set_bits == {uid for uid in uids if uid < 256}  # uids of the chain are fewer
    assert salt_for(sheet, uids)[16:24] != salt_for(sheet, uids)[16:24]
