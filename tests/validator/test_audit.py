"""What an audit proves of a sheet, and what it catches."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from moesubnet.errors import FrameError
from moesubnet.mixture.sheet import LOG_Q_ABSENT, LOG_Q_UNANSWERED, sheet_seed
from moesubnet.types import Hotkey
from moesubnet.validator.answers import kept_epochs
from moesubnet.validator.audit import CLOCKS_NS, as_text, asked_blind, audit
from moesubnet.validator.closing import _newest
from moesubnet.validator.receipts import (
    MAX_RECEIPTS_BYTES,
    RECORD,
    Receipts,
    column_sha256,
    pack_answers,
    unpack_answers,
)
from moesubnet.validator.records import SENDER, Phase, Step, Vote, Window
from tests.sheets import closed, synthetic_sheet


@pytest.fixture
async def measured(measure, start_expert, laws):
    """A closed, revealed sheet of two experts, one of which does not know one of the walks."""
    experts = [
        await start_expert("//A", lambda ids: np.log(0.9 * laws[0] + 0.1 / 300)),
        await start_expert("//B", lambda ids: np.log(0.9 * laws[1] + 0.1 / 300)),
    ]
    measurement, state, chain, _ = await measure(experts)
    metagraph = await chain.metagraph(1)
    for _ in range(2):
        [batch] = await measurement.open_batches(metagraph, 3)
        experts[1].fails_on = batch.walks[1, :8]
        await measurement.run([batch])
    batches = state.open_batches()
    sheet, receipts = closed(
        batches,
        metagraph,
        Hotkey(chain.neurons[0].hotkey),
    )
    state.close_epoch(sheet, (1, 2), Phase.REVEALED, batches, receipts.to_bytes())
    return state, sheet


def evidence(state, sheet):
    receipts = Receipts.from_bytes(state.archive.receipts(sheet.sha256), sheet)
    answers = {
        h: unpack_answers(state.archive.answers(sheet.sha256, h), sheet) for h in sheet.hotkeys
    }
    return receipts, answers


async def test_an_honest_sheet_is_proven_item_by_item(measured):
    state, sheet = measured
    result = audit(sheet, *evidence(state, sheet))
    assert result.is_clean
    assert sorted(expert.answered for expert in result.experts) == [64, 96]
    for expert in result.experts:
        assert expert.committed
        assert expert.answered == expert.signed == expert.agreeing
    assert as_text(sheet, result).endswith("Nothing contradicts this sheet.")
    bare = as_text(sheet, audit(sheet, None, {}))
    assert "Nothing contradicts" in bare
    assert "was not there to be checked" in bare


async def test_an_altered_probability_or_entropy_is_found_in_the_answers(measured):
    state, sheet = measured
    for column in ("log_q", "entropy"):
        lie = getattr(sheet, column).copy()
        lie[5, 0] -= 1_000
        result = audit(dataclasses.replace(sheet, **{column: lie}), *evidence(state, sheet))
        assert not result.is_clean
        assert result.experts[0].agreeing == result.experts[0].answered - 1


async def test_an_invented_answer_has_no_receipt(measured):
    state, sheet = measured
    receipts, answers = evidence(state, sheet)
    records = receipts.records.copy()
    records[6, 0]["receipt"][0] ^= 1
    invented = dataclasses.replace(
        sheet, receipts=(column_sha256(records[:, 0]), *sheet.receipts[1:])
    )
    result = audit(invented, dataclasses.replace(receipts, records=records), answers)
    assert result.experts[0].committed
    assert result.experts[0].signed == result.experts[0].answered - 1
    assert not result.is_clean


async def test_records_put_together_after_the_vote_are_not_the_sheet_s(measured):
    state, sheet = measured
    receipts, answers = evidence(state, sheet)
    swapped = receipts.records[:, ::-1].copy()
    result = audit(sheet, dataclasses.replace(receipts, records=swapped), answers)
    assert not any(expert.committed for expert in result.experts)
    assert all(expert.signed == 0 for expert in result.experts)


async def test_a_question_about_another_text_proves_nothing(measured):
    """The validator asked something easy, and wrote the answers beside a text of its choice."""
    state, sheet = measured
    walks = list(sheet.walks)
    walks[0] = np.roll(walks[0], 1)
    result = audit(dataclasses.replace(sheet, walks=tuple(walks)), *evidence(state, sheet))
    assert result.experts[0].signed == result.experts[0].answered - 16


async def test_a_chat_s_next_turn_shows_the_labels_of_the_one_before(measured):
    state, sheet = measured
    receipts, _ = evidence(state, sheet)
    first_ns = int(receipts.records["nonce_ns"][sheet.walk == 0].min())
    walks = list(sheet.walks)
    walks[1] = np.append(walks[0], walks[1])
    late = receipts.records.copy()
    for shift, blind in ((100 * 10**9, 16), (-100 * 10**9, 0)):
        late["nonce_ns"][sheet.walk == 1] = first_ns + shift
        asked = asked_blind(
            dataclasses.replace(sheet, walks=tuple(walks)),
            dataclasses.replace(receipts, records=late),
            None,
        )
        assert asked[sheet.walk == 0, 0].sum() == blind


async def test_a_label_that_was_shown_before_it_was_asked_for_counts_as_unproven(measured):
    state, sheet = measured
    receipts, answers = evidence(state, sheet)
    first = int(np.flatnonzero((sheet.walk == 0) & (sheet.position == 32))[0])
    records = receipts.records.copy()
    records[first, 0]["nonce_ns"] = records["nonce_ns"].max() + 1
    result = audit(sheet, dataclasses.replace(receipts, records=records), answers)
    assert result.experts[0].signed < result.experts[0].answered


async def test_a_label_that_another_was_sent_first_was_not_blind(measured):
    """A fast partner had the label in its next request while this one still owed its answer."""
    state, sheet = measured
    receipts, answers = evidence(state, sheet)
    at = {p: int(np.flatnonzero((sheet.walk == 0) & (sheet.position == p))[0]) for p in (33, 34)}
    records = receipts.records.copy()
    records[at[34], 1]["nonce_ns"] = records[at[33], 0]["nonce_ns"] - 1
    result = audit(sheet, dataclasses.replace(receipts, records=records), answers)
    assert result.experts[0].signed == result.experts[0].answered
    assert result.experts[0].blind == result.experts[0].answered - 1
    assert not result.is_clean


async def test_a_label_outside_the_vocabulary_contradicts_a_sheet_and_stops_nobody(measured):
    """The last label of a walk stands in no request, so a validator needs nobody to invent it."""
    state, sheet = measured
    walk = np.append(sheet.walks[0][:-1], np.uint32(2**31))
    result = audit(
        dataclasses.replace(sheet, walks=(walk, *sheet.walks[1:])), *evidence(state, sheet)
    )
    assert result.experts[0].signed == result.experts[0].answered
    assert result.experts[0].agreeing == result.experts[0].answered - 1


def many_senders(walks, items, senders, experts, rng):
    """A sheet and receipts of random senders and nonces."""
    made = synthetic_sheet([f"e{i}" for i in range(experts)], walk_count=walks, steps=items)
    shape = (walks * items, experts)
    sheet = dataclasses.replace(
        made,
        senders=("validator", *(f"r{i:03}" for i in range(senders - 1))),
        sender=rng.integers(0, senders, shape).astype(np.uint8),
    )
    records = np.zeros(shape, RECORD)
    records["nonce_ns"] = rng.integers(0, 3 * CLOCKS_NS, shape)
    return sheet, Receipts(300, ("s",) * walks, records)


def test_blind_is_who_was_asked_before_any_request_that_shows_the_label():
    sheet, receipts = many_senders(2, 6, 3, 2, np.random.default_rng(4))
    nonces, blind = (
        receipts.records["nonce_ns"].astype(np.int64),
        asked_blind(sheet, receipts, None),
    )
    for (i, column), mine in np.ndenumerate(nonces):
        later = (sheet.walk == sheet.walk[i]) & (sheet.position > sheet.position[i])
        slack = np.where(sheet.sender[later] == sheet.sender[i, column], 0, CLOCKS_NS)
        assert blind[i, column] == (0 < mine < np.min(nonces[later] + slack, initial=2**62))
    assert 0 < blind.sum() < blind.size


def test_the_largest_table_of_senders_costs_no_more_than_its_items():
    """As pairs of senders for each item these are 2**29 comparisons of columns: hours."""
    sheet, receipts = many_senders(8, 992, 256, 1, np.random.default_rng(5))
    assert asked_blind(sheet, receipts, None).shape == (7_936, 1)


async def test_what_was_asked_when_the_sheet_could_be_read_was_not_blind(measured):
    state, sheet = measured
    receipts, answers = evidence(state, sheet)
    nonces = receipts.records["nonce_ns"][:, 0]
    assert audit(sheet, receipts, answers, public_s=float(nonces.max()) / 1e9 + 1).is_clean
    between = float(np.sort(nonces)[10]) / 1e9 + 1e-7
    result = audit(sheet, receipts, answers, public_s=between)
    assert not result.is_clean
    assert result.experts[0].blind < result.experts[0].signed


async def test_of_a_walk_a_sheet_holds_what_was_measured_and_no_more(measured):
    """Positions stored so far are published; the rest of the window stays private."""
    _, sheet = measured
    state = measured[0]
    for ids, walk in zip(sheet.walks, range(len(sheet.walks)), strict=True):
        assert len(ids) == sheet.position[sheet.walk == walk].max() + 1
    reopened = [
        dataclasses.replace(batch, steps=batch.steps[:count])
        for count, batch in zip((1, 5), _batches(state, sheet), strict=True)
    ]
    assert [len(batch.steps) for batch in reopened] == [1, 5]
    metagraph = SimpleNamespace(
        netuid=1,
        epoch_index=3,
        tempo_blocks=30,
        last_epoch_block=90,
        by_hotkey={
            h: SimpleNamespace(uid=i, registered_at_block=i) for i, h in enumerate(sheet.hotkeys)
        },
    )
    cut, _ = closed(
        reopened,
        metagraph,
        Hotkey("v"),
    )
    assert [len(ids) for ids in cut.walks] == [33] * 3 + [37] * 3


async def test_a_label_that_another_walk_s_text_had_shown_is_no_item(measured):
    """A walk that was cut short may be how another text begins: who asked both is honest."""
    state, sheet = measured
    earlier, later = _batches(state, sheet)
    earlier = dataclasses.replace(earlier, walks=earlier.walks.copy())
    earlier.walks[0, :33] = later.walks[0, :33]
    later = dataclasses.replace(later, steps=later.steps[:1])
    by_hotkey = {
        h: SimpleNamespace(uid=i, registered_at_block=i) for i, h in enumerate(sheet.hotkeys)
    }
    metagraph = SimpleNamespace(
        netuid=1, epoch_index=3, tempo_blocks=30, last_epoch_block=90, by_hotkey=by_hotkey
    )
    again, receipts = closed([earlier, later], metagraph, Hotkey("v"))
    of_later = again.walk == 3
    assert np.all(again.log_q[of_later, :-1] == LOG_Q_ABSENT)
    assert np.all(again.log_q[~of_later] != LOG_Q_ABSENT)
    given = again.log_q[:, :-1] > LOG_Q_UNANSWERED
    assert np.all(asked_blind(again, receipts)[given])


def _batches(state, sheet):
    state.reopen(SimpleNamespace(sheet=sheet))
    return state.open_batches()


async def test_an_answer_that_was_not_signed_is_not_taken_for_one(measured):
    state, sheet = measured
    receipts, answers = evidence(state, sheet)
    mine = answers[sheet.hotkeys[0]]
    mine[3] = mine[4]
    mine[6] = b""
    result = audit(sheet, receipts, answers)
    assert result.experts[0].agreeing == result.experts[0].answered - 2


async def test_averages_that_do_not_follow_contradict_a_sheet(measured):
    state, sheet = measured
    assert audit(sheet, *evidence(state, sheet)).is_clean
    for lie in (
        {"ema_after": tuple((value or 0) + 10_000 for value in sheet.ema_after)},
        {"ema_after": (None, *sheet.ema_after[1:])},
        {"novelty_after": tuple((value or 0) - 10_000 for value in sheet.novelty_after)},
        {"standing_ppm": tuple(ppm // 2 for ppm in sheet.standing_ppm)},
        {"apart": sheet.apart // 2},
        {"since": tuple(None if since is not None else 0 for since in sheet.since)},
        {"reliability_ppm": tuple(ppm - 1 for ppm in sheet.reliability_ppm)},
    ):
        result = audit(dataclasses.replace(sheet, **lie), *evidence(state, sheet))
        assert not result.averaged
        assert not result.is_clean


async def test_without_evidence_only_the_arithmetic_is_checked(measured):
    _, sheet = measured
    result = audit(sheet, None, {})
    assert result.is_clean
    assert all(expert.signed is expert.agreeing is None for expert in result.experts)
    row = tuple(min(65_535, value + 9) for value in reversed(sheet.row_u16))
    assert not audit(dataclasses.replace(sheet, row_u16=row), None, {}).is_clean


@pytest.mark.parametrize("period", [1, 4])
async def test_answers_are_kept_until_audits_of_them_are_looked_into_and_receipts_for_longer(
    measured, period
):
    """Revealed `period` epochs later, accused in sheets that stay secret as long."""
    state, sheet = measured
    for epoch in range(1, 2 * period + 3):
        assert state.archive.answers(sheet.sha256, sheet.hotkeys[0]) is not None
        assert state.archive.newest_answered(sheet.hotkeys[0]) == sheet.sha256
        later = dataclasses.replace(sheet, epoch=sheet.epoch + epoch)
        state.close_epoch(later, (1,), Phase.REVEALED, [], b"", period)
    assert state.archive.answers(sheet.sha256, sheet.hotkeys[0]) is None
    assert state.archive.newest_answered(sheet.hotkeys[0]) is None
    assert state.archive.receipts(sheet.sha256)


async def test_answers_of_a_vote_that_is_secret_for_long_outlive_a_shorter_period(measured):
    state, sheet = measured
    vote = Vote(sheet, (1, 2), Phase.COMMITTED, None, None)
    state.note_committed(vote, sheet.epoch + 4)
    for epoch in range(1, kept_epochs(4)):  # and the subnet's period is 1
        later = dataclasses.replace(sheet, epoch=sheet.epoch + epoch)
        state.close_epoch(later, (1,), Phase.REVEALED, [], b"")
    assert state.archive.answers(sheet.sha256, sheet.hotkeys[0]) is not None


async def test_answers_go_with_the_file_of_their_epoch(measured, tmp_path):
    state, sheet = measured
    [file] = tmp_path.glob("answers-*.sqlite3")
    assert file.stat().st_size > 0
    state.close_epoch(
        dataclasses.replace(sheet, epoch=sheet.epoch + kept_epochs(1)),
        (1,),
        Phase.REVEALED,
        [],
        b"",
    )
    assert not list(tmp_path.glob("answers-*"))


def begin(state, hotkeys, epoch):
    """A batch of three walks with one step to store."""
    windows = [Window(bytes([epoch, i]), (0,), np.zeros(48, np.uint32), 32) for i in range(3)]
    batch = state.start_batch(epoch, hotkeys, windows, "ab" * 32, validator="validator")
    step = Step(
        position=32,
        log_q=np.zeros((3, 3), "<i4"),
        log_w=np.zeros((3, 3), "<i4"),
        entropy=np.zeros((3, 2), "<i4"),
        chosen=np.ones((3, 2), np.uint8),
        took_100us=np.full((3, 2), 100, "<u2"),
        senders=np.zeros((3, 2), SENDER),
        records=np.zeros((3, 2), RECORD),
        bodies=((b"x",) * 3, (b"y",) * 3),
    )
    return batch, step


async def test_nothing_of_a_walk_is_stored_once_a_sheet_may_have_its_text(measured):
    state, sheet = measured
    assert not state.add_step(*begin(state, sheet.hotkeys, sheet.epoch))
    assert state.open_batches() == []
    assert state.add_step(*begin(state, sheet.hotkeys, sheet.epoch + 1))
    assert [batch.steps[0].position for batch in state.open_batches()] == [32]


async def test_answers_are_kept_as_long_as_the_sheet_that_has_them(measured):
    """The close of their own epoch was missed."""
    state, sheet = measured
    state.add_step(*begin(state, sheet.hotkeys, sheet.epoch + 1))
    items = {
        k: getattr(sheet, k)[:3]
        for k in ("walk", "position", "sender", "log_q", "log_w", "entropy", "took_100us")
    }
    epoch = sheet.epoch + 2
    seed = sheet_seed(sheet.previous_sha256, epoch)
    walks = tuple(ids[:33] for ids in sheet.walks[:3])
    later = dataclasses.replace(
        sheet,
        epoch=epoch,
        seed=seed,
        walks=walks,
        chosen=sheet.chosen[:3],
        apart=sheet.apart[:3],
        **items,
    )
    state.close_epoch(later, (1,), Phase.REVEALED, state.open_batches(), b"")
    for newer in range(3, kept_epochs(1) + 2):
        newest = dataclasses.replace(sheet, epoch=sheet.epoch + newer)
        state.close_epoch(newest, (1,), Phase.REVEALED, [], b"")
    kept = state.archive.answers(later.sha256, sheet.hotkeys[0])
    assert unpack_answers(kept, later) == [b"x"] * 3


@pytest.mark.parametrize(("experts", "kept"), [(8, 511), (256, 98), (1, 511)])
def test_a_sheet_with_what_proves_it_is_no_longer_than_others_read(experts, kept):
    """Of 512 walks of 16 labels: of 256 experts their records alone would be 690 MB."""
    batches = [SimpleNamespace(walks=[None] * 7, steps=[None] * 16) for _ in range(73)]
    found = _newest(batches, experts)
    items, walks = 7 * 16 * len(found), 7 * len(found)
    assert found == batches[-len(found) :]
    assert walks == kept
    longest = Receipts(300, (bytes(16),) * walks, np.zeros((items, min(experts, 1)), RECORD))
    over = len(longest.to_bytes()) - longest.records.nbytes
    assert items * experts * RECORD.itemsize + over <= MAX_RECEIPTS_BYTES


async def test_evidence_of_another_size_is_refused(measured):
    _, sheet = measured
    records = np.zeros((len(sheet.walk), 1), RECORD)
    salts = (bytes(16),) * len(sheet.walks)
    for wrong in (
        Receipts(300, salts, records),
        Receipts(300, salts[1:], np.zeros((len(sheet.walk), 2), RECORD)),
    ):
        with pytest.raises(FrameError):
            Receipts.from_bytes(wrong.to_bytes(), sheet)
    with pytest.raises(FrameError):
        unpack_answers(pack_answers([b""]), sheet)
