"""Checks are honest about what they know: statistics, the sequential test, evidence."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from moesubnet.errors import BadReceipts, FrameError
from moesubnet.mixture.law import Law
from moesubnet.mixture.sheet import LOG_Q_UNANSWERED
from moesubnet.types import Hotkey
from moesubnet.validator.checkbook import HELD_EPOCHS
from moesubnet.validator.checks import (
    ALARM,
    OVER_HONEST,
    TWICE_DISTANCE,
    Record,
    Verdict,
    median_ratio,
    replay_verdict,
    total_variation,
)
from moesubnet.validator.cli import validator_app
from moesubnet.validator.evidence import ENOUGH, MAX_PAIRS, Evidence
from moesubnet.validator.records import Merit
from moesubnet.validator.walks import Slots
from tests.sheets import closed

V = 300


def law_from(seed, sharpness=0.05):
    logp = np.log(np.random.default_rng(seed).dirichlet(np.full(V, sharpness)) * 0.98 + 0.02 / V)
    return Law(logp.astype(np.float32))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(4, 100))
def test_a_distance_is_one_also_between_lists(seed, other_seed, k):
    one, other = law_from(seed), law_from(other_seed)
    whole = total_variation(one, other)
    assert 0.0 <= whole <= 1.0 + 1e-6
    assert whole == pytest.approx(total_variation(other, one))
    assert total_variation(one, one) == pytest.approx(0.0, abs=1e-6)
    # Of lists it is a lower bound: nobody is accused by what is not listed.
    assert total_variation(one.head(k), other.head(k)) <= whole + 1e-5
    assert total_variation(one.head(k), one.head(k)) == pytest.approx(0.0, abs=1e-5)


def test_two_lists_with_nothing_in_common_are_far_apart():
    """Or who serves callers differently would only have to list other tokens to each."""
    law = law_from(5)
    flipped = Law(law.logp[::-1].copy())
    one, other = law.head(8), flipped.head(8)
    assert not np.intersect1d(one.ids, other.ids).size
    least = 1.0 - one.tail - other.tail
    assert least > TWICE_DISTANCE
    assert total_variation(one, other) == pytest.approx(least, abs=1e-5)
    assert least <= total_variation(law, flipped)


def rounded(law):
    return Law(law.logp.astype(np.float16).astype(np.float32))


def zeros(law):
    return Law(np.full(V, -np.log(V), np.float32))


def sibling(law):
    return law_from(99)


def replay(law):
    return law_from(7)


@pytest.mark.parametrize("prover", [zeros, sibling, replay])
def test_trivial_provers_are_far_from_what_they_claim(prover):
    ratios = [median_ratio(prover(law_from(seed)), law_from(seed)) for seed in range(40)]
    assert replay_verdict(ratios, [0.9]) == Verdict.CHEAT
    assert all(total_variation(law_from(s), prover(law_from(s))) > TWICE_DISTANCE for s in range(6))


def test_rounding_is_near_and_what_lies_between_is_called_unproven():
    honest = [median_ratio(rounded(law_from(seed)), law_from(seed)) for seed in range(40)]
    assert replay_verdict(honest, [0.9]) == Verdict.OK
    assert replay_verdict(honest[:31], [0.9]) == Verdict.UNPROVEN
    assert replay_verdict([0.1] * 40, [0.9]) == Verdict.UNPROVEN  # as an int8 self's
    assert replay_verdict([*[0.01] * 40, float("nan")], [0.9]) == Verdict.UNPROVEN


def test_a_check_that_a_trivial_prover_would_pass_says_that_it_cannot_tell():
    assert replay_verdict([0.01] * 40, [0.9, 0.15]) == Verdict.UNPROVEN
    assert replay_verdict([0.9] * 40, [0.9, 0.15]) == Verdict.UNPROVEN


@given(st.integers(0, 2**32 - 1), st.integers(1, 100))
def test_an_honest_list_is_as_near_as_the_whole_law(seed, k):
    law = law_from(seed)
    few = median_ratio(law.head(k), law)
    assert math.isnan(few) or few < 1e-4
    assert median_ratio(law.head(V, 0.98), law) < 1e-4
    other = law_from(seed ^ 1)
    assert median_ratio(other, law.head(64)) == median_ratio(other, law)


def test_who_lists_only_where_it_happens_to_agree_is_not_taken_for_honest():
    ratios = []
    for seed in range(200):
        law, other = law_from(seed), law_from(seed + 1_000)
        alike = np.argsort(np.abs(other.logp - law.logp))[:1]
        hiding = Law(other.logp[alike], alike, float(1 - np.exp(other.logp[alike]).sum()))
        ratios.append(median_ratio(hiding, law))
    told = [ratio for ratio in ratios if not math.isnan(ratio)]
    assert replay_verdict(told, [0.9]) != Verdict.OK


def test_the_sequential_test_calls_no_honest_expert_a_cheat_and_finds_one_that_turns():
    rng = np.random.default_rng(0)
    alarms, pairs = 0, 400_000
    for over in np.split(rng.random(pairs) < OVER_HONEST, 400):  # 400 experts, 250 epochs each
        record = Record()
        for is_over in over.tolist():
            record = record.after(is_over)
            alarms += record.verdict == Verdict.CHEAT
    assert alarms <= 3  # ARL of ALARM pairs or more: 0.4 expected at most
    assert pairs / ALARM < 1
    waits = []
    for _ in range(200):
        record = Record()
        for _ in range(1_000):
            record = record.after(False)
        assert record.verdict == Verdict.OK
        waited = 0
        while record.verdict != Verdict.CHEAT:
            record, waited = record.after(bool(rng.random() < 0.3)), waited + 1
        waits.append(waited)
    assert np.median(waits) < 20  # five epochs of four pairs


def test_nothing_is_proven_before_there_are_pairs():
    assert Record().verdict == Verdict.UNPROVEN
    assert Record().after(True).verdict == Verdict.UNPROVEN
    record = Record()
    for _ in range(13):
        record = record.after(False)
    assert record.verdict == Verdict.UNPROVEN
    assert record.after(False).verdict == Verdict.OK


async def asked_twice(measurement):
    await measurement._beside.ask_twice(measurement.round((), Slots(1)))


@pytest.fixture
async def asked(measure, start_expert, laws):
    """An honest expert and one that answers everybody anew, both asked twice for some epochs."""
    rng = np.random.default_rng(3)

    def moody(ids):
        return np.log(rng.dirichlet(np.full(V, 0.1)) * 0.9 + 0.1 / V)

    honest = await start_expert("//Honest", lambda ids: np.log(laws[0]))
    liar = await start_expert("//Moody", moody)
    measurement, state, chain, _ = await measure([honest, liar], twice=True)
    [batch] = await measurement.open_batches(await chain.metagraph(1), 2)
    for epoch in range(16):
        measurement._sheet_epoch = epoch
        await asked_twice(measurement)
    return measurement, state, chain, honest, liar, batch


async def test_who_contradicts_itself_is_convicted_and_its_answers_are_none(asked):
    measurement, state, chain, honest, liar, batch = asked
    records = measurement._book.records()
    assert records[honest.hotkey].verdict == Verdict.OK
    assert records[liar.hotkey].verdict == Verdict.CHEAT
    assert measurement.convicted() == {liar.hotkey}
    later = {k: measurement._book.changes(k) for k in (honest.hotkey, liar.hotkey)}
    assert {again - epoch for epoch, again, _ in later[honest.hotkey]} >= {1, HELD_EPOCHS}
    assert max(d for *_, d in later[honest.hotkey]) < 0.01
    await measurement.run([batch])
    sheet, _ = closed(
        state.open_batches(),
        await chain.metagraph(1),
        Hotkey(chain.neurons[0].hotkey),
        convicted=measurement.convicted(),
    )
    column = sheet.hotkeys.index(liar.hotkey)
    assert np.all(sheet.log_q[:, column] == LOG_Q_UNANSWERED)
    assert sheet.reliability_ppm[column] == 0
    assert sheet.reliability_ppm[1 - column] == 1_000_000
    assert type(sheet).from_bytes(sheet.to_bytes()).sha256 == sheet.sha256


async def test_who_answers_otherwise_than_before_begins_anew_as_a_senior(
    measure, start_expert, laws
):
    said = {"then": np.log(laws[0]), "now": np.log(laws[1])}
    when = ["then"]
    same = await start_expert("//Same", lambda ids: said["then"])
    turned = await start_expert("//Turned", lambda ids: said[when[0]])
    measurement, state, chain, _ = await measure([same, turned], twice=True)
    metagraph = await chain.metagraph(1)
    [batch] = await measurement.open_batches(metagraph, 2)
    changed = {}
    for epoch in range(13):
        measurement._sheet_epoch = epoch
        when[0] = "then" if epoch < 3 else "now"
        await asked_twice(measurement)
        await asked_twice(measurement)
        changed[epoch] = measurement.changed(epoch)
    assert changed == {epoch: {turned.hotkey} if epoch == 3 else set() for epoch in range(13)}
    again = {again - epoch for epoch, again, _ in measurement._book.changes(same.hotkey)}
    assert again == {1, HELD_EPOCHS}
    await measurement.run([batch])
    sheet, _ = closed(
        state.open_batches(),
        dataclasses.replace(metagraph, epoch_index=3),
        Hotkey(chain.neurons[0].hotkey),
        merits={h: Merit(200_000, 0) for h in (same.hotkey, turned.hotkey)},
        changed=changed[3],
    )
    known = zip(sheet.since_before, sheet.novelty_before, strict=True)
    of = dict(zip(sheet.hotkeys, known, strict=True))
    assert of == {same.hotkey: (0, 200_000), turned.hotkey: (None, None)}


async def test_who_turns_little_by_little_begins_anew_too(measure, start_expert, laws):
    share = [0.0]
    turned = await start_expert(
        "//Turned", lambda ids: np.log((1 - share[0]) * laws[0] + share[0] * laws[1])
    )
    measurement, _, chain, _ = await measure([turned], twice=True)
    await measurement.open_batches(await chain.metagraph(1), 2)
    changed = []
    for epoch in range(12):
        measurement._sheet_epoch, share[0] = epoch, 0.05 * epoch
        await asked_twice(measurement)
        await asked_twice(measurement)
        changed += [epoch] * bool(measurement.changed(epoch))
    later = measurement._book.changes(turned.hotkey)
    assert max(distance for then, again, distance in later if again == then + 1) < TWICE_DISTANCE
    assert changed[0] == HELD_EPOCHS


async def test_nobody_begins_anew_because_the_subnet_went_over_to_another_tokenizer(
    measure, start_expert, laws
):
    """The ids of a prefix that was held are another text then."""
    when = ["then"]
    said = {"then": np.log(laws[0]), "now": np.log(laws[1])}
    expert = await start_expert("//Same", lambda ids: said[when[0]])
    measurement, _, chain, _ = await measure([expert], twice=True)
    await measurement.open_batches(await chain.metagraph(1), 2)
    for epoch in range(4):
        measurement._sheet_epoch = epoch
        if epoch == 2:
            measurement._beside._windows_sha256, when[0] = "cd" * 32, "now"
        await asked_twice(measurement)
        await asked_twice(measurement)
    assert [again for _, again, _ in measurement._book.changes(expert.hotkey)] == [1, 3]
    assert not any(measurement.changed(epoch) for epoch in range(4))


async def test_no_text_that_is_asked_twice_is_ever_published_or_asked_again(asked):
    _, _, _, honest, _, batch = asked
    prefixes = [r.sequences[0].append_ids.tobytes() for r in honest.requests]
    assert set(np.unique(prefixes, return_counts=True)[1].tolist()) <= {2, 3}  # and once later
    assert not {ids[:32].tobytes() for ids in batch.walks} & set(prefixes)
    assert all(len(r.sequences[0].append_ids) == 32 for r in honest.requests)


async def test_evidence_convinces_strangers_and_cannot_be_made_up(asked):
    measurement, _, _, honest, liar, _ = asked
    assert measurement._book.evidence(honest.hotkey) is None
    kept = "SELECT count(*) FROM contradiction"  # not all of what a stranger gives
    assert measurement._book._db.execute(kept).fetchone() == (MAX_PAIRS,)
    found = Evidence.from_bytes(measurement._book.evidence(liar.hotkey).to_bytes())
    assert found.is_proven
    assert len(found.distances()) >= ENOUGH
    # Somebody else's answers, altered ones, one pair again and again, answers of other prefixes.
    framed = found.model_copy(update={"expert": honest.hotkey})
    one, other = found.pairs[0]
    body = bytes([other.body[0], *other.body[1:-1], other.body[-1] ^ 1])
    altered = found.model_copy(update={"pairs": [[one, other.model_copy(update={"body": body})]]})
    again = found.model_copy(update={"pairs": [found.pairs[0]] * ENOUGH})
    crossed = found.model_copy(update={"pairs": [[one, found.pairs[1][0]]]})
    for lie in (framed, altered, again, crossed):
        with pytest.raises(BadReceipts):
            lie.distances()
    few = found.model_copy(update={"pairs": found.pairs[: ENOUGH - 1]})
    assert not few.is_proven
    with pytest.raises(FrameError):
        Evidence.from_bytes(found.to_bytes()[:-1])


async def test_the_commands_show_verify_and_refuse(asked, tmp_path):
    *_, honest, liar, _ = asked
    folder, file = str(tmp_path), str(tmp_path / "liar.evidence")

    def run(*arguments):
        done = CliRunner().invoke(validator_app, arguments)
        return done.exit_code, done.output

    code, table = run("checks", "--state-dir", folder)
    assert code == 0
    assert [line.split()[1] for line in table.splitlines() if line.startswith(liar.hotkey)] == [
        "cheat"
    ]
    assert json.loads(run("checks", "--state-dir", folder, "--json")[1])[0]["pairs"] == 16
    code, said = run("evidence", honest.hotkey, "--state-dir", folder)
    assert (code, "never answered" in said) == (1, True)
    code, said = run("evidence", liar.hotkey, "--state-dir", folder, "--out", file)
    assert (code, "PROVEN" in said) == (0, True)
    code, said = run("evidence", "--check", file)
    assert (code, "PROVEN" in said) == (0, True)
