"""What routers say of experts moves scores a little, and one that lies even less."""

import dataclasses
from types import SimpleNamespace

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from substrateinterface import Keypair

from moesubnet.errors import BadSignature, FrameError
from moesubnet.mixture.sheet import FEEDBACK_PPM, HEARSAY_LOSS_PPM
from moesubnet.router.metrics import Metrics
from moesubnet.router.turns import GoesOn
from moesubnet.router.usage import UsageBook
from moesubnet.types import Hotkey
from moesubnet.validator.receipts import RECORD
from moesubnet.validator.records import SENDER, Batch, Step
from moesubnet.validator.scoring import recount
from moesubnet.validator.usage import MOST_OF_ONE, feedback, usage_losses, witnessed_losses
from moesubnet.wire.step import MAX_FURTHER
from moesubnet.wire.usage import LENGTH_KINDS, Seen, Usage
from tests.sheets import closed, synthetic_sheet

EXPERTS = [Hotkey(name) for name in "abcd"]
counts = st.integers(0, 10_000)


@st.composite
def summaries(draw):
    rows = []
    for name in EXPERTS:
        heard = draw(st.integers(0, 10**12))
        liked = draw(st.integers(-heard, heard))
        rows.append(Seen(name, draw(counts), draw(counts), draw(counts), heard, liked))
    return Usage(netuid=1, epoch=3, router="r", rows=rows)


@given(
    st.lists(st.tuples(summaries(), st.integers(1, 10**15)), min_size=1, max_size=5), summaries()
)
def test_whatever_one_router_says_moves_nobody_further_than_its_part(said, lie):
    (honest, stake), *others = said
    part = min(MOST_OF_ONE, stake / sum(stake for _, stake in said))
    for rule, most in ((usage_losses, HEARSAY_LOSS_PPM), (feedback, FEEDBACK_PPM)):
        before = rule([(honest, stake), *others], EXPERTS)
        after = rule([(lie, stake), *others], EXPERTS)
        swing = most * part * (1 if rule is usage_losses else 2)
        assert all(abs(a - b) <= swing + 1 for a, b in zip(before, after, strict=True))
        assert all(abs(value) <= most for value in after)


def seen(*rates, calls=1_000, epoch=3):
    rows = [
        Seen(name, calls - round(calls * rate), round(calls * rate), 0)
        for name, rate in zip(EXPERTS, rates, strict=True)
    ]
    return Usage(netuid=1, epoch=epoch, router="r", rows=rows)


def test_a_bad_line_of_the_router_s_own_costs_nobody():
    assert usage_losses([(seen(0.5, 0.5, 0.5, 0.5), 10)], EXPERTS) == (0, 0, 0, 0)
    late = usage_losses([(seen(0.0, 0.01, 0.0, 0.6), 10)], EXPERTS)
    assert late[3] > 10_000 > late[1]
    assert usage_losses([(seen(0.0, 0.0, 0.0, 1.0, calls=10), 10)], EXPERTS) == (0, 0, 0, 0)
    assert usage_losses([], EXPERTS) == (0, 0, 0, 0)


def test_who_answers_probes_and_no_users_is_paid_by_nobody_that_has_users_of_its_own():
    always = [1.0] * len(EXPERTS)
    few, many = (witnessed_losses([seen(0, 0, 0, 1, calls=n)], EXPERTS, always) for n in (20, 180))
    assert few[:3] == many[:3] == (0, 0, 0)
    assert 600_000 < few[3] < 950_000 < many[3]
    half = witnessed_losses([seen(0, 0, 0.5, 0.5, calls=10**6)], EXPERTS, [1.0, 1.0, 1.0, 0.5])
    assert half[2:] == (pytest.approx(500_000, abs=3_000), 0)  # the last fails probes as often
    assert witnessed_losses([], EXPERTS, always) == (0, 0, 0, 0)


@pytest.mark.parametrize(("part", "calls"), [(0.001, 20), (0.01, 100), (0.05, 40), (0.3, 2_000)])
def test_who_fails_users_as_often_as_probes_loses_nothing_9_999_times_of_10_000(part, calls):
    epochs = 40_000
    failed, often = np.unique(
        np.random.default_rng(0).binomial(calls, part, epochs), return_counts=True
    )
    lost = [
        count
        for k, count in zip(failed.tolist(), often.tolist(), strict=True)
        if any(witnessed_losses([seen(k / calls, 0, 0, 0, calls=calls)], EXPERTS, [1 - part] * 4))
    ]
    assert sum(lost) <= epochs * 1e-4


@pytest.mark.parametrize("coldkey", ["mine", "another's"])
def test_only_routers_of_a_validator_s_own_coldkey_count_whole(coldkey):
    keys = (Hotkey("shy"), Hotkey("usual"))
    coldkeys = {keys[0]: "x", keys[1]: "y", "judge": "mine", "router": coldkey}
    neurons = {
        hotkey: SimpleNamespace(uid=uid, registered_at_block=0, coldkey=cold)
        for uid, (hotkey, cold) in enumerate(coldkeys.items())
    }
    metagraph = SimpleNamespace(
        netuid=1, epoch_index=3, tempo_blocks=30, last_epoch_block=90, by_hotkey=neurons
    )
    step = Step(
        32,
        np.full((1, 3), -1_000_000, "<i4"),
        np.full((1, 3), -1_098_612, "<i4"),
        np.zeros((1, 2), "<i4"),
        np.ones((1, 2), np.uint8),
        np.full((1, 2), 10, "<i4"),
        np.zeros((1, 2), SENDER),
        np.zeros((1, 2), RECORD),
        (),
    )
    batch = Batch(1, keys, np.zeros((1, 33), "<u4"), 32, ("walk",), (step,))
    rows = [Seen("shy", 0, 0, 1_000), Seen("usual", 1_000, 0, 0)]
    said = Usage(netuid=1, epoch=2, router="router", rows=rows)
    sheet, _ = closed([batch], metagraph, Hotkey("judge"), usage=[(said, 10**9)])
    shy, usual = sheet.usage_loss_ppm
    assert usual == 0
    assert shy > 980_000 if coldkey == "mine" else 0 < shy < HEARSAY_LOSS_PPM // 3
    assert sheet.reliability_ppm == (1_000_000 - shy, 1_000_000)


def test_reliability_and_score_follow_and_the_loss_is_bounded():
    sheet = synthetic_sheet(["a", "b"], domains=True)
    plain = recount(sheet)
    lost = recount(dataclasses.replace(sheet, usage_loss_ppm=(HEARSAY_LOSS_PPM, 0)))
    assert lost.reliability_ppm == (900_000, plain.reliability_ppm[1])
    assert lost.score_nano[0] == pytest.approx(0.9 * plain.score_nano[0], rel=1e-6)
    liked = recount(dataclasses.replace(sheet, feedback_ppm=(FEEDBACK_PPM, 0)))
    assert liked.score_nano[0] == pytest.approx(1.05 * plain.score_nano[0], rel=1e-6)
    type(sheet).from_bytes(dataclasses.replace(sheet, usage_loss_ppm=(100_000, 0)).to_bytes())
    for wrong in ({"usage_loss_ppm": (1_000_001, 0)}, {"feedback_ppm": (0, -50_001)}):
        with pytest.raises(FrameError):
            type(sheet).from_bytes(dataclasses.replace(sheet, **wrong).to_bytes())


def test_a_summary_is_its_router_s_epoch_and_nobody_can_change_it():
    signer = Keypair.create_from_uri("//Router", ss58_format=42)
    book = UsageBook(signer, 1)
    book.turn(3, {})
    outcomes = {("a", "valid"): 30, ("a", "late"): 2, ("b", "failed"): 5, ("b", "busy"): 1}
    assert book.summary(3) is None
    book.turn(4, outcomes)
    book.turn(5, outcomes | {("a", "valid"): 31})
    usage = Usage.proven(book.summary(3), Hotkey(signer.ss58_address))
    assert [tuple(row) for row in usage.rows] == [("a", 30, 2, 0, 0, 0), ("b", 0, 1, 5, 0, 0)]
    assert not any(usage.prompts + usage.answers)
    later = Usage.proven(book.summary(4), Hotkey(signer.ss58_address))
    assert [tuple(row) for row in later.rows] == [("a", 1, 0, 0, 0, 0)]
    data = bytearray(book.summary(3))
    data[-1] ^= 1
    with pytest.raises(BadSignature):
        Usage.proven(bytes(data), Hotkey(signer.ss58_address))
    with pytest.raises(FrameError):
        Usage.proven(book.summary(3), EXPERTS[0])
    with pytest.raises(FrameError):
        Usage.proven(b"\x93\x01\x02\x03", Hotkey(signer.ss58_address))
    said, signature = msgpack.unpackb(book.summary(3))
    with pytest.raises(FrameError):
        Usage.proven(msgpack.packb([said, signature.hex()]), Hotkey(signer.ss58_address))


def test_a_summary_tells_how_long_the_texts_of_its_epoch_were():
    signer, metrics = Keypair.create_from_uri("//Router", ss58_format=42), Metrics()
    book = UsageBook(signer, 1)
    metrics.text_length(60, 9)
    book.turn(3, {}, metrics.lengths())
    metrics.text_length(60, 0)  # nothing was written
    metrics.text_length(2**20, 12, ahead=3, is_fork=True)
    metrics.text_length(90, 12, GoesOn(pause_s=1.6, more=17))
    metrics.rounds({(0, True): 2, (0, False): 3, (2, True): 4, (1, False): 7})
    metrics.conversations(2)
    book.turn(4, {}, metrics.lengths())
    usage = Usage.proven(book.summary(3), Hotkey(signer.ss58_address))
    assert {k: n for k, n in enumerate(usage.prompts) if n} == {11: 1, LENGTH_KINDS - 1: 1}
    assert {k: n for k, n in enumerate(usage.answers) if n} == {7: 2}
    assert {k: n for k, n in enumerate(usage.more) if n} == {8: 1}
    assert {k: n for k, n in enumerate(usage.pauses) if n} == {8: 1}
    assert (usage.later, usage.texts) == (1, 3)
    assert {k: n for k, n in enumerate(usage.ahead) if n} == {0: 2, 3: 1}
    assert (usage.rounds, usage.asked) == ([5, 7, 4], [2, 0, 4])
    assert (usage.chats, usage.forks) == (2, 1)
    with pytest.raises(ValidationError):
        Usage(netuid=1, epoch=3, router="r", rows=[], prompts=[0] * (LENGTH_KINDS + 1))


def test_a_summary_of_an_older_router_is_refused_in_words():
    signer = Keypair.create_from_uri("//Router", ss58_format=42)
    for said_format in ("moesubnet-usage/4", 3, None):
        said = msgpack.packb({"format": said_format, "netuid": 1, "epoch": 3, "rows": []})
        data = msgpack.packb([said, signer.sign(b"moesubnet-usage/4\n" + said)])
        with pytest.raises(FrameError, match=f"{said_format}.*where moesubnet-usage/7 is read"):
            Usage.proven(data, Hotkey(signer.ss58_address))
    with pytest.raises(ValidationError):
        Usage(netuid=1, epoch=3, router="r", rows=[], ahead=[0] * (MAX_FURTHER + 2))
    with pytest.raises(ValidationError):
        Usage(netuid=1, epoch=3, router="r", rows=[], rounds=[0] * 4)


def test_ratings_weigh_what_their_payer_paid_and_count_once():
    book = UsageBook(Keypair.create_from_uri("//Router", ss58_format=42), 1)
    book.turn(3, {})
    book.answered("one", "key", 1_000, {"a": 0.75, "b": 0.25})
    book.answered("two", "other", 400, {"b": 1.0})
    assert not book.rate("one", "other", 1.0)  # somebody else's
    assert not book.rate("three", "key", 1.0)
    for _ in range(3):
        assert book.rate("one", "key", 1.0)
    assert book.rate("two", "other", -1.0)
    assert book.rate("two", "other", -0.5)  # it has changed its mind
    book.turn(4, {})
    said = Usage.proven(book.summary(3), Hotkey(book.signer.ss58_address))
    assert [tuple(row) for row in said.rows] == [("a", 0, 0, 0, 750, 750), ("b", 0, 0, 0, 650, 50)]
    a, b = feedback(
        [(Usage.proven(book.summary(3), Hotkey(book.signer.ss58_address)), 5)], ["a", "b"]
    )
    assert a >= 0 >= b
