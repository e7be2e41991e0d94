"""An engine in a child process answers as one in this process, and its death is survivable."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moesubnet.engine.base import Query
from moesubnet.engine.drafting import Continuation, draft
from moesubnet.engine.named import load_engine
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.engine.worker import EngineProcess
from moesubnet.errors import EngineError
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.step import Want

FULL = Want("full")
EXAMPLE = "custom_engine:CacheEngine"
BATCH = [
    Query("a", np.array([3, 1, 4, 1, 5], dtype=np.uint32), 2),
    Query("b", np.empty(0, dtype=np.uint32), 0),
]


@pytest.fixture(autouse=True)
def example_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(Path(__file__).parents[2] / "examples")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", folder)


async def test_the_model_answers_across_the_pipe_as_it_does_here(
    tiny_model: Path, tiny_spec: LoadedSpec
) -> None:
    child = await EngineProcess.start(tiny_model, tiny_spec)
    here = TransformersEngine(str(tiny_model), tiny_spec)
    for ours, theirs in zip(here.rows(BATCH, FULL), await child.rows(BATCH, FULL), strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-6)
    assert (child.name, child.commitment) == (here.name, here.commitment)
    await child.close()


async def test_drafts_are_drawn_in_the_child_from_the_rows_that_come_with_them(
    tiny_model: Path, tiny_spec: LoadedSpec
) -> None:
    """Texts that are asked for at once go on in step, each as it would alone; what crosses the
    pipe is its tokens and what they were drawn from, listed."""
    child = await EngineProcess.start(tiny_model, tiny_spec)
    here = TransformersEngine(str(tiny_model), tiny_spec)
    want, asked = Want("nucleus", 20, 0.5), [Continuation(4, 0.8, 0.9, seed=1), Continuation(2)]
    batch = [replace(query, first=len(query.ids)) for query in BATCH]
    alone = [draft(here, [q], [a], want)[0] for q, a in zip(batch, asked, strict=True)]
    both = await asyncio.gather(
        *(child.draft(q, a, want) for q, a in zip(batch, asked, strict=True))
    )
    for query, wish, (ids, rows), (other_ids, other_rows) in zip(
        batch, asked, alone, both, strict=True
    ):
        assert len(ids) == rows.count == other_rows.count == wish.count
        np.testing.assert_array_equal(ids, other_ids)
        np.testing.assert_allclose(rows.logprobs, other_rows.logprobs, atol=1e-5)
        assert other_rows.first == len(query.ids)
        for place, token in enumerate(other_ids):
            assert token in other_rows.row(place)[0]
        text = np.concatenate((query.ids, ids[:-1]))
        (direct,) = here.rows([Query("direct", text, len(query.ids))], want)
        np.testing.assert_allclose(rows.tail_mass, direct.tail_mass, atol=1e-5)
    greedy = alone[1]
    assert [greedy[1].row(i)[0][greedy[1].row(i)[1].argmax()] for i in (0, 1)] == list(greedy[0])
    await child.close()


@pytest.mark.parametrize("want", [Want("nucleus", 50, 0.8), Want("top_k", 3)])
async def test_listed_rows_and_draft_scores_cross_the_pipe(
    tiny_model: Path, tiny_spec: LoadedSpec, want: Want
) -> None:
    child = await EngineProcess.start(tiny_model, tiny_spec)
    here = TransformersEngine(str(tiny_model), tiny_spec)
    batch = [replace(BATCH[0], draft=2), BATCH[1]]
    for ours, theirs in zip(here.rows(batch, want), await child.rows(batch, want), strict=True):
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.ends, theirs.ends)
        for name in ("logprobs", "tail_mass", "draft_logprobs"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5)
    await child.close()


async def test_what_is_drawn_in_the_child_is_drawn_with_the_querys_seed(
    tiny_model: Path, tiny_spec: LoadedSpec
) -> None:
    child = await EngineProcess.start(tiny_model, tiny_spec)
    here = TransformersEngine(str(tiny_model), tiny_spec)
    batch = [replace(query, seed=2**55 + place) for place, query in enumerate(BATCH)]
    want = Want("sampled_n", 30)
    drawn = [rows.ids.tolist() for rows in await child.rows(batch, want)]
    assert drawn == [rows.ids.tolist() for rows in here.rows(batch, want)]
    assert drawn != [rows.ids.tolist() for rows in await child.rows(BATCH, want)]
    await child.close()


async def test_the_example_engine_survives_cancellation_and_death(
    tiny_spec: LoadedSpec,
) -> None:
    child = await EngineProcess.start("none", tiny_spec, target=EXAMPLE)
    expected = load_engine(EXAMPLE, "none", tiny_spec).rows(BATCH, FULL)

    async def answers_are_right() -> None:
        for ours, theirs in zip(expected, await child.rows(BATCH, FULL), strict=True):
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-6)

    await answers_are_right()
    assert await child.rows([], FULL) == []
    child.forget("a")

    cancelled = asyncio.create_task(child.rows(BATCH[1:], FULL))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    cancelled.cancel()
    await answers_are_right()

    assert child._process is not None
    os.kill(child._process.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="died"):
        await child.rows(BATCH, FULL)
    await answers_are_right()
    await child.close()


@pytest.fixture
async def counted(tiny_spec: LoadedSpec, monkeypatch: pytest.MonkeyPatch):
    """The example engine in a child, and the number of sessions in each batch sent to it."""
    child = await EngineProcess.start("none", tiny_spec, target=EXAMPLE)
    sent: list[int] = []
    compute = child._compute

    async def counting(batch, *how):
        sent.append(len(batch))
        return await compute(batch, *how)

    monkeypatch.setattr(child, "_compute", counting)
    yield child, sent
    await child.close()


def query(session: str, *ids: int, first: int | None = None) -> Query:
    return Query(session, np.array(ids, np.uint32), len(ids) if first is None else first)


async def test_what_waits_while_the_child_computes_is_one_batch(counted, tiny_spec) -> None:
    child, sent = counted
    streams = [query(str(i), *range(i % 5), first=0) for i in range(32)]
    expected = load_engine(EXAMPLE, "none", tiny_spec).rows(streams, FULL)

    async def step(stream: Query) -> list:
        return await child.rows([stream], FULL)

    for _ in range(3):  # 32 streams in step: one call, then all others together
        sent.clear()
        answers = await asyncio.gather(*map(step, streams))
        for (theirs,), ours in zip(answers, expected, strict=True):
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-6)
        assert sent == [32]
    first = asyncio.create_task(step(streams[0]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sent.clear()
    await asyncio.gather(first, *map(step, streams[1:]))
    assert sent[-1] == 31
    assert len(sent) <= 2


async def test_two_steps_of_one_session_are_two_batches(counted) -> None:
    child, sent = counted
    calls = [query("a", 1), query("b", 1), query("a", 1, 2), query("c", 1)]
    answers = await asyncio.gather(*(child.rows([call], FULL) for call in calls))
    assert [rows.count for (rows,) in answers] == [1, 1, 1, 1]
    assert sent == [2, 2]


async def test_a_query_that_is_refused_spoils_no_other(
    tiny_model: Path, tiny_spec: LoadedSpec
) -> None:
    child = await EngineProcess.start(tiny_model, tiny_spec)
    too_long = query("long", *[1] * tiny_spec.spec.context_tokens)
    good, bad = await asyncio.gather(
        child.rows([query("a", 1, 2)], FULL), child.rows([too_long], FULL), return_exceptions=True
    )
    assert isinstance(bad, EngineError)
    [same] = await child.rows([query("b", 1, 2)], FULL)
    np.testing.assert_allclose(good[0].logprobs, same.logprobs, atol=1e-6)
    await child.close()


async def test_a_caller_that_left_is_not_computed_for(counted) -> None:
    child, sent = counted
    gone = asyncio.create_task(child.rows([query("gone", 1)], FULL))
    await asyncio.sleep(0)
    gone.cancel()
    await child.rows([query("here", 1)], FULL)
    assert sent == [1]


async def test_when_the_child_dies_all_of_its_batch_hear_of_it(counted) -> None:
    child, sent = counted
    assert child._process is not None
    os.kill(child._process.pid, signal.SIGKILL)
    answers = await asyncio.gather(
        *(child.rows([query(str(i), 1)], FULL) for i in range(4)), return_exceptions=True
    )
    assert all(isinstance(answer, EngineError) for answer in answers)
    assert sent == [4]
    assert len(await child.rows([query("0", 1)], FULL)) == 1


async def test_the_childs_refusals_come_through(tiny_spec: LoadedSpec, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="safetensors"):
        await EngineProcess.start(tmp_path, tiny_spec)
