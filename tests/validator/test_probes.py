"""Probes against experts behind real sockets: blind, fair, and robust to whoever fails."""

import asyncio
import json
import threading
import time

import numpy as np
import pytest
from tokenizers import Tokenizer

from moesubnet.errors import ConfigError, PoolSpent
from moesubnet.mixture import sheet_cache
from moesubnet.mixture.gate import FEATURES_DIM, SCALE, Gate, WeightedSheet, uniform_gate
from moesubnet.mixture.law import Law
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, LOG_W_NONE
from moesubnet.types import Hotkey
from moesubnet.validator.pool import ONE_WINDOW, PREFIX_TOKENS, WINDOW_TOKENS, TextPool
from moesubnet.validator.scoring import recount
from moesubnet.validator.weighed import Weighed, score_step
from moesubnet.wire.roster import CARD_AGE_S
from tests.sheets import closed, sheet_of


def knows(law):
    log_law = np.log(0.98 * law + 0.02 / len(law))
    return lambda ids: log_law


def echo(ids):
    law = np.full(300, np.log(1e-9))
    law[ids[-1] if len(ids) else 0] = 0.0
    return law


async def test_an_expert_holds_no_label_while_more_than_its_last_answer_is_not_stored(
    measure, start_expert, laws
):
    sightings = []

    def spying(ids):
        stored = {step.position for batch in state.open_batches() for step in batch.steps}
        sightings.append((ids.copy(), stored))
        return np.log(laws[0])

    expert = await start_expert("//Expert", spying)
    measurement, state, chain, _ = await measure([expert])
    [batch] = await measurement.open_batches(await chain.metagraph(1), 4)
    await measurement.run([batch])
    texts = {row.tobytes() for row in batch.walks}
    for ids, stored in sightings:
        position = len(ids)
        assert any(text.startswith(ids.tobytes()) for text in texts)
        assert position >= PREFIX_TOKENS
        assert stored in [set(range(PREFIX_TOKENS, end)) for end in (position - 1, position)]
    seen = max(len(ids) for ids in expert.sessions.values())
    assert seen == WINDOW_TOKENS - 1  # the last label is never sent at all
    steps = state.open_batches()[0].steps
    assert [step.position for step in steps] == list(range(PREFIX_TOKENS, WINDOW_TOKENS))
    records = [record.tobytes() for step in steps for record in step.records[:, 0]]
    assert len(set(records)) == 4 * len(steps)


async def test_a_label_does_not_wait_for_the_disk_but_the_next_one_does(
    measure, start_expert, laws, monkeypatch
):
    """A disk takes milliseconds, by which a miner would tell walks from users' texts."""
    asked, labels = threading.Event(), []

    def answer(ids):
        labels.append(len(ids) - PREFIX_TOKENS)
        if labels[-1] == 1:
            asked.set()
        return np.log(laws[0])

    expert = await start_expert("//Expert", answer)
    measurement, state, chain, _ = await measure([expert])
    add_step, came = state.add_step, []

    def slow(batch, step):
        if step.position == PREFIX_TOKENS:
            came.append(asked.wait(30))  # in the state's thread
            time.sleep(0.2)  # for a third, were it not to wait
            came.append(list(labels))
        return add_step(batch, step)

    monkeypatch.setattr(state, "add_step", slow)
    await measurement.run(await measurement.open_batches(await chain.metagraph(1), 1))
    assert came == [True, [0, 1]]
    assert len(state.open_batches()[0].steps) == WINDOW_TOKENS - PREFIX_TOKENS


async def test_a_failing_expert_loses_its_own_answers_and_nobody_else_s(
    measure, start_expert, laws
):
    good = await start_expert("//Good", knows(laws[0]))
    bad = await start_expert("//Bad", knows(laws[1]))
    liar = await start_expert("//Liar", lambda ids: np.full(300, -0.1))  # mass far above one
    measurement, state, chain, _ = await measure([good, bad, liar])
    bad.fails = True
    [batch] = await measurement.open_batches(await chain.metagraph(1), 3)
    await measurement.run([batch])
    log_q = np.concatenate([step.log_q for step in state.open_batches()[0].steps])
    log_w = np.concatenate([step.log_w for step in state.open_batches()[0].steps])
    columns = {hotkey: column for column, hotkey in enumerate(batch.hotkeys)}
    assert np.all(log_q[:, columns[good.hotkey]] > LOG_Q_UNANSWERED)
    for failed in (bad, liar):
        assert np.all(log_q[:, columns[failed.hotkey]] == LOG_Q_UNANSWERED)
        assert np.all(log_w[:, columns[failed.hotkey]] == LOG_W_NONE)
    np.testing.assert_allclose(
        np.exp(log_w[:, [columns[good.hotkey], -1]] / 1e6).sum(axis=1), 1.0, atol=1e-5
    )


async def test_what_no_one_thought_of_ends_one_batch_and_not_the_validator(
    measure, start_expert, laws, monkeypatch, caplog
):
    expert = await start_expert("//Expert", knows(laws[0]))
    measurement, state, chain, _ = await measure([expert])
    batches = [
        batch for _ in range(2)
        for batch in await measurement.open_batches(await chain.metagraph(1), 2)
    ]  # fmt: skip
    add_step = state.add_step

    def breaks(batch, step):
        if batch is batches[0]:
            raise ZeroDivisionError
        return add_step(batch, step)

    monkeypatch.setattr(state, "add_step", breaks)
    await measurement.run(batches)
    stored = {batch.id: len(batch.steps) for batch in state.open_batches()}
    assert stored == {batches[1].id: WINDOW_TOKENS - PREFIX_TOKENS}
    assert " batches failed" in caplog.text
    assert caplog.text.count("Traceback") == 1


async def test_a_probe_asks_as_a_router_asks(measure, start_expert, laws):
    expert = await start_expert("//Expert", knows(laws[0]))
    measurement, _, chain, _ = await measure([expert])
    await measurement.run(await measurement.open_batches(await chain.metagraph(1), 3))
    asked = [request.sequences for request in expert.requests]
    assert all(len(sequences) == 1 for sequences in asked)
    walks = {}
    for (sequence,) in asked:
        walks.setdefault(sequence.session, []).append(sequence)
    assert len(walks) == 3
    for steps in walks.values():
        lengths = [(step.base_len, len(step.append_ids)) for step in steps]
        assert lengths == [(0, PREFIX_TOKENS)] + [
            (held, 1) for held in range(PREFIX_TOKENS, WINDOW_TOKENS - 1)
        ]
        assert all(not len(step.draft_ids) and step.rows == 1 for step in steps)


async def test_who_would_not_be_asked_is_measured_and_worth_nothing(measure, start_expert, laws):
    """A router asks for 95 % of the prior: the rest is asked by validators only, for nothing."""
    experts = [await start_expert(f"//Expert{i}", knows(laws[i])) for i in range(3)]
    measurement, state, chain, _ = await measure(experts)
    ordered = tuple(sorted(expert.hotkey for expert in experts))
    theta = np.zeros((FEATURES_DIM + 1, 3), np.int32)
    theta[-1] = np.rint(np.log([0.5, 0.01, 0.49]) * SCALE)
    gate = Gate(ordered, theta, (1_000_000,) * 3)
    measurement._gate_epoch, measurement._gates.gate = 0, gate
    [batch] = await measurement.open_batches(await chain.metagraph(1), 4)
    await measurement.run([batch])
    steps = state.open_batches()[0].steps
    assert all(np.all(step.log_q > LOG_Q_UNANSWERED) for step in steps)
    assert all(np.all(step.chosen == [1, 0, 1]) for step in steps)
    # The very weights of a router that asks these two.
    walk = Walk(gate, members_of([ordered[0], ordered[2]]), 4)
    walk.show(batch.walks[:, :PREFIX_TOKENS])
    np.testing.assert_allclose(steps[0].log_w[:, [0, 2, 3]] / 1e6, walk.log_weights(), atol=1e-6)
    sheet, _ = closed(
        state.open_batches(),
        await chain.metagraph(1),
        Hotkey("v"),
        gate_sha256=gate.sha256,
    )
    value = recount(sheet).value_nats
    assert value[1] == 0.0
    assert value[0] != 0.0 != value[2]


async def test_a_walk_that_goes_unanswered_costs_that_walk_only(measure, start_expert, laws):
    expert = await start_expert("//Expert", knows(laws[0]))
    measurement, state, chain, _ = await measure([expert])
    [batch] = await measurement.open_batches(await chain.metagraph(1), 3)
    expert.fails_on = batch.walks[1, :PREFIX_TOKENS]
    await measurement.run([batch])
    log_q = np.stack([step.log_q[:, 0] for step in state.open_batches()[0].steps])
    assert np.all(log_q[:, 1] == LOG_Q_UNANSWERED)
    assert np.all(log_q[:, [0, 2]] > LOG_Q_UNANSWERED)


async def test_who_fails_once_has_dropped_out_of_that_walk_and_of_no_other(
    measure, start_expert, laws, caplog
):
    expert = await start_expert("//Expert", knows(laws[0]))
    other = await start_expert("//Other", knows(laws[0]))
    measurement, state, chain, _ = await measure([expert, other])
    [batch] = await measurement.open_batches(await chain.metagraph(1), 3)
    expert.fails_on = batch.walks[1, :40]
    with caplog.at_level("INFO", logger="moesubnet.validator.probes"):
        await measurement.run([batch])
    column = batch.hotkeys.index(expert.hotkey)
    log_q = np.stack([step.log_q[:, column] for step in state.open_batches()[0].steps])
    answered = log_q > LOG_Q_UNANSWERED
    assert answered[:, [0, 2]].all()
    assert answered[:, 1].tolist() == [True] * 8 + [False] * 8
    asked = [s for r in expert.requests for s in r.sequences if s.session == batch.sessions[1]]
    assert max(s.end for s in asked) == 40  # never sent the label that it owes an answer for
    assert len(asked) == 9
    [line] = [record.getMessage() for record in caplog.records]
    assert f"{expert.hotkey} of 1" in line


async def test_who_is_late_by_the_measure_of_the_others_drops_out_of_the_walk(
    measure, start_expert, laws, monkeypatch
):
    """Nobody waits for the deadline, and the late answer counts nowhere."""
    monkeypatch.setattr("moesubnet.validator.asking.DEADLINE_S", 3_600.0)
    monkeypatch.setattr("moesubnet.validator.walks.PATIENCE_S", 0.1)
    released = threading.Event()

    def hangs(ids):
        if len(ids) > 40:
            released.wait()
        return knows(laws[0])(ids)  # as the others do: no text makes it the greater part

    quick = [await start_expert(f"//Quick{i}", knows(laws[0])) for i in range(2)]
    slow = await start_expert("//Slow", hangs)
    slow.in_thread = True
    measurement, state, chain, _ = await measure([*quick, slow])
    [batch] = await measurement.open_batches(await chain.metagraph(1), 2)
    try:
        await measurement.run([batch])
    finally:
        released.set()
    [measured] = state.open_batches()
    answered = np.stack([step.log_q[:, :-1] > LOG_Q_UNANSWERED for step in measured.steps])
    assert len(measured.steps) == WINDOW_TOKENS - PREFIX_TOKENS
    column = batch.hotkeys.index(slow.hotkey)
    assert answered[:9, :, column].all()
    assert not answered[9:, :, column].any()
    assert max(len(ids) for ids in slow.sessions.values()) == 41


async def test_ten_dead_experts_fill_one_line_of_the_log(measure, start_expert, laws, caplog):
    experts = [await start_expert(f"//Dead{i}", knows(laws[0])) for i in range(10)]
    measurement, _, chain, _ = await measure(experts)
    for expert in experts:
        expert.fails = True
    [batch] = await measurement.open_batches(await chain.metagraph(1), 4)
    with caplog.at_level("INFO", logger="moesubnet.validator.probes"):
        await measurement.run([batch])
    [line] = [record.getMessage() for record in caplog.records]
    assert "and 2 more" in line


async def test_experts_are_told_once_that_a_batch_of_walks_is_over(measure, start_expert, laws):
    expert = await start_expert("//Expert", knows(laws[0]))
    measurement, _, chain, _ = await measure([expert])
    [batch] = await measurement.open_batches(await chain.metagraph(1), 4)
    await measurement.run([batch])
    await asyncio.gather(*measurement._asking._closing)
    assert expert.closed == [list(batch.sessions)]


async def test_hiding_the_card_does_not_end_the_questions(measure, start_expert, laws):
    expert = await start_expert("//Expert", knows(laws[0]))
    _, _, chain, known = await measure([expert])
    expert.card_fails = True
    known.met[expert.hotkey].asked_s -= CARD_AGE_S
    await known.refresh(await chain.metagraph(1))
    assert expert.hotkey in known.clients
    chain.neurons.pop()
    await known.refresh(await chain.metagraph(1))
    assert known.clients == {}


async def test_no_text_is_spent_while_there_is_nobody_to_measure(measure):
    measurement, state, chain, _ = await measure([])
    assert await measurement.open_batches(await chain.metagraph(1), 8) == []
    assert state.used_starts("any") == {}


def test_scores_of_a_step_are_what_the_rows_say(laws):
    labels = np.array([3, 5], np.uint32)
    hotkeys = [Hotkey("a"), Hotkey("b")]
    prefix = np.zeros(4, np.uint32)
    weighed = [Weighed(uniform_gate(), prefix, hotkeys, hotkeys) for _ in labels]
    law = np.log(laws[:2])[:, None, :].repeat(2, axis=1).astype(np.float32)
    baseline = Law(np.full(300, np.log(1 / 300), np.float32))
    step = score_step(weighed, 4, labels, [list(map(Law, law[0])), [None, None]], baseline)
    np.testing.assert_allclose(step.log_q[:, 0], 1e6 * law[0, [0, 1], labels], atol=1)
    assert np.all(step.log_q[:, 1] == LOG_Q_UNANSWERED)
    np.testing.assert_allclose(step.log_q[:, 2], 1e6 * np.log(1 / 300), atol=1)
    weights = np.exp([walk.log_weights(np.ones(3, bool)) for walk in weighed])
    # Silence is worth what the baseline is worth, never more.
    np.testing.assert_allclose(weights[:, 1], weights[:, 2])


def test_every_window_comes_once_and_none_overlaps(make_documents):
    documents = make_documents(7, tokens=3 * WINDOW_TOKENS + 5)
    pool = TextPool(documents)
    used: dict[bytes, set[int]] = {}
    drawn = []
    for k in range(100):
        try:
            windows = pool.draw([ONE_WINDOW] * 4, used, bytes([k]))
        except PoolSpent:
            break
        for window in windows:
            [start] = window.starts
            used.setdefault(window.document, set()).add(start)
            drawn.append((window.document, start))
            np.testing.assert_array_equal(
                documents[window.document][start : start + WINDOW_TOKENS], window.ids
            )
    assert len(drawn) == len(set(drawn)) == 21
    assert {start for _, start in drawn} == {0, 48, 96}


def test_text_that_the_pool_has_twice_is_asked_once(make_documents):
    (ids,) = make_documents(1, tokens=2 * WINDOW_TOKENS).values()
    again = np.concatenate([ids[WINDOW_TOKENS:], ids[:WINDOW_TOKENS] + 1])
    pool = TextPool({b"a": ids, b"b": again})
    assert pool.repeats({}, []) == [(b"b", 0)]
    assert pool.repeats({b"b": {0}}, []) == [(b"a", 48)]
    assert pool.repeats({b"a": {48}, b"b": {0}}, [ids[:40]]) == [(b"a", 0)]
    assert pool.repeats({b"a": None}, [ids]) == [(b"b", 0)]
    assert pool.repeats({b"a": None}, [ids[:40]]) == []


async def test_text_that_stands_in_anybody_s_sheet_is_not_asked(
    measure, start_expert, laws, make_documents, monkeypatch
):
    expert = await start_expert("//Expert", knows(laws[0]))
    documents = make_documents(2, tokens=3 * WINDOW_TOKENS)
    measurement, _, chain, _ = await measure([expert], documents)
    public = [ids[:40] for ids in documents.values()]
    sheets = [sheet_of(["a"], walks=(ids,)) for ids in public]
    monkeypatch.setattr(sheet_cache, "MOST_IDS", 1)  # in parts

    async def refresh(metagraph):
        measurement._gates.sheets = [WeightedSheet(sheet, 1) for sheet in sheets]

    measurement._gates.refresh = refresh
    [batch] = await measurement.open_batches(await chain.metagraph(1), 6)
    begins = {row[:40].tobytes() for row in batch.walks}
    assert len(begins) == 4
    assert not begins & {ids.tobytes() for ids in public}
    with pytest.raises(PoolSpent):
        await measurement.open_batches(await chain.metagraph(1), 6)


def test_another_seed_draws_other_text_and_another_spec_spends_the_document(make_documents):
    pool = TextPool(make_documents())
    first = [(w.document, w.starts) for w in pool.draw([ONE_WINDOW] * 8, {}, b"a")]
    assert first == [(w.document, w.starts) for w in pool.draw([ONE_WINDOW] * 8, {}, b"a")]
    assert first != [(w.document, w.starts) for w in pool.draw([ONE_WINDOW] * 8, {}, b"b")]
    document = first[0][0]
    spent = pool.free_windows({document: None})
    assert 0 < spent < pool.free_windows({})
    assert document not in {
        window.document for window in pool.draw([ONE_WINDOW] * spent, {document: None}, b"c")
    }


def test_text_is_read_from_lines_and_files_and_counted_once(tmp_path, tiny_spec):
    tokenizer = Tokenizer.from_file(str(tiny_spec.tokenizer_path))
    long = "def answer(): return 42\n" * 40
    lines = [json.dumps({"domain": "a", "text": str(i) + long}, ensure_ascii=False) for i in (1, 1)]
    lines.append(json.dumps({"text": "odd \u2028" + long}, ensure_ascii=False))
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "b.txt").write_text("3" + long)
    pool = TextPool.load(str(tmp_path / "*"), lambda text: tokenizer.encode(text).ids)
    assert len({window.document for window in pool.draw([ONE_WINDOW] * 10_000, {}, b"")}) == 3


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": 3}\n', "not JSON"),
        ("a.jsonl", b"not json\n", "not JSON"),
        ("a.txt", b"\xff\xfe\xff", "not UTF-8"),
        ("a.txt", b"short", "no document"),
        (None, b"", "no file matches"),
    ],
)
def test_text_that_cannot_serve_is_refused_in_words(tmp_path, name, content, words):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        TextPool.load(str(tmp_path / "*"), lambda text: [ord(c) for c in text])
