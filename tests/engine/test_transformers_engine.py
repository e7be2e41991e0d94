"""The engine's rows are those of the plain model, whatever its cache went through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moesubnet.engine import answers, packing, plans
from moesubnet.engine.base import Query
from moesubnet.engine.named import load_engine
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.errors import EngineError
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import Want
from tests.engine.programs import Program, batches, programs

V, CONTEXT = 300, 64
FULL = Want("full")
POSITION_BYTES = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, dimensions, float32


@pytest.fixture(scope="module")
def engine(tiny_model: Path, tiny_spec: LoadedSpec) -> TransformersEngine:
    return TransformersEngine(str(tiny_model), tiny_spec)


@pytest.fixture(scope="module")
def cramped(tiny_model: Path, tiny_spec: LoadedSpec) -> TransformersEngine:
    """Room for five whole contexts only: moving, splitting and eviction happen all the time."""
    return TransformersEngine(
        str(tiny_model), tiny_spec, kv_budget_bytes=5 * CONTEXT * POSITION_BYTES
    )


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Callable[[Query], np.ndarray]:
    """The rows by a bare transformers forward over the whole sequence."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)

    def rows(query: Query) -> np.ndarray:
        ids = torch.tensor([[0, *query.ids.tolist()]])
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, query.first :]
        return torch.log_softmax(logits.double(), -1).numpy()

    return rows


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint32)


def test_rows_are_the_models_own(engine: TransformersEngine, plain: Any) -> None:
    queries = [
        Query("empty", ids(), 0),
        Query("short", ids(5, 6, 7), 1),
        Query("full", np.arange(CONTEXT - 1, dtype=np.uint32), 0),
    ]
    for query, answer in zip(queries, engine.rows(queries, FULL), strict=True):
        rows = answer.logprobs
        assert rows.shape == (len(query.ids) - query.first + 1, V)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, plain(query), atol=2e-4)
        np.testing.assert_allclose(np.exp(rows).sum(-1), 1, atol=1e-5)


def test_a_drafted_block_is_judged_in_one_pass(engine: TransformersEngine) -> None:
    """Of several texts together, and nothing of what stood before is computed again."""
    text = np.arange(20, dtype=np.uint32)
    engine.rows([Query(name, text[:12], 12) for name in ("one", "two")], FULL)
    with mock.patch.object(engine, "_logits", wraps=engine._logits) as passes:
        answers = engine.rows([Query(name, text, 12) for name in ("one", "two")], FULL)
    assert [answer.count for answer in answers] == [9, 9]
    assert [tuple(call.args[0].shape) for call in passes.call_args_list] == [(2, 9)]


@settings(max_examples=60, deadline=None)
@given(program=programs(V, at_once=8))
def test_any_program_of_appends_and_rollbacks_gives_uncached_rows(
    cramped: TransformersEngine, plain: Any, program: Program
) -> None:
    for queries in batches(program, CONTEXT):
        for query, rows in zip(queries, cramped.rows(queries, FULL), strict=True):
            np.testing.assert_allclose(rows.logprobs, plain(query), atol=2e-4)


def homes(engine: TransformersEngine, *sessions: str) -> list[Any]:
    return [engine._sessions[session].home for session in sessions]


def test_a_walk_of_many_windows_stays_where_it_is(engine: TransformersEngine, plain: Any) -> None:
    texts = np.random.default_rng(1).integers(0, V, (16, 20), dtype=np.uint32)
    for session in range(0, 16, 3):  # some began alone
        engine.rows([Query(f"walk{session}", texts[session, :1], 1)], FULL)
    where = []
    for length in range(20):
        queries = [Query(f"walk{i}", texts[i, :length], length) for i in range(16)]
        rows = engine.rows(queries, FULL)
        where.append(homes(engine, *(query.session for query in queries)))
    for query, row in zip(queries, rows, strict=True):
        np.testing.assert_allclose(row.logprobs, plain(query), atol=2e-4)
    assert len({home.slab for home in where[-1]}) == 1
    assert where[2:] == where[2:][:1] * 18


def test_streams_of_different_lengths_settle_in_one_slab(
    engine: TransformersEngine, plain: Any
) -> None:
    text = np.random.default_rng(4).integers(0, V, 60, dtype=np.uint32)
    where = []
    for step in range(4):
        queries = [Query(f"s{n}", text[: n + step], n + step) for n in (3, 20, 7, 11)]
        for query, row in zip(queries, engine.rows(queries, FULL), strict=True):
            np.testing.assert_allclose(row.logprobs, plain(query), atol=2e-4)
        where.append(homes(engine, "s3", "s20", "s7", "s11"))
    assert len({home.slab for home in where[1]}) == 1
    assert where[1] == where[2] == where[3]


def test_what_is_kept_grows_with_the_text(tiny_model: Path, tiny_spec: LoadedSpec) -> None:
    engine = TransformersEngine(str(tiny_model), tiny_spec)
    assert engine._pool is not None
    sizes = []
    for length in (1, 20, 63):
        engine.rows([Query("one", np.full(length, 7, np.uint32), length)], FULL)
        sizes.append(engine._pool.bytes // POSITION_BYTES)
    assert sizes == [64, 64, 64]  # a slab has 64 columns at least, and no more than the context
    engine.forget("one")
    assert engine._pool.bytes == 0
    engine.forget("never heard of")


def test_the_greediest_owner_pays_for_a_burst(cramped: TransformersEngine) -> None:
    for session in list(cramped._sessions):
        cramped.forget(session)
    for session in ("router/1", "router/2", *(f"validator/{i}" for i in range(12))):
        cramped.rows([Query(session, ids(3, 1, 4, 1, 5), 5)], FULL)
    alive = [name for name, held in cramped._sessions.items() if held.home is not None]
    assert alive == ["router/1", "router/2", "validator/9", "validator/10", "validator/11"]


def test_a_batch_beyond_the_budget_is_answered_all_the_same(
    cramped: TransformersEngine, plain: Any
) -> None:
    texts = np.random.default_rng(5).integers(0, V, (12, 40), dtype=np.uint32)
    for length in (17, 18, 30):
        queries = [Query(f"many/{i}", text[: length + i], length) for i, text in enumerate(texts)]
        for query, row in zip(queries, cramped.rows(queries, FULL), strict=True):
            np.testing.assert_allclose(row.logprobs, plain(query), atol=2e-4)
        assert cramped._pool is not None
        assert cramped._pool.bytes <= 5 * CONTEXT * POSITION_BYTES


def test_holes_are_closed_before_anybody_has_to_go(cramped: TransformersEngine) -> None:
    for session in list(cramped._sessions):
        cramped.forget(session)
    cramped.rows([Query(f"walk/{i}", ids(1, 2), 2) for i in range(5)], FULL)
    for i in (0, 1, 2, 4):
        cramped.forget(f"walk/{i}")
    cramped.rows([Query(f"next/{i}", ids(1, 2), 2) for i in range(4)], FULL)
    assert [cramped._sessions[name].home is not None for name in cramped._sessions] == [True] * 5


def test_no_pass_holds_more_logits_than_it_may(
    engine: TransformersEngine, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "LOGITS_PER_PASS", 8 * V)
    passed, sizes = engine._logits, []

    def noting(*arguments: Any) -> Any:
        logits = passed(*arguments)
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(engine, "_logits", noting)
    texts = np.random.default_rng(7).integers(0, V, (3, 50), dtype=np.uint32)
    queries = [Query("wide/0", texts[0], 0), Query("wide/1", texts[1], 9, draft=4)]
    queries.append(Query("wide/2", texts[2], 50))
    for query, row in zip(queries, engine.rows(queries, FULL), strict=True):
        assert row.first == query.first
        np.testing.assert_allclose(row.logprobs, plain(query), atol=2e-4)
    scores = plain(replace(queries[1], first=46))[np.arange(4), texts[1, 46:]]
    (again,) = engine.rows([replace(queries[1], session="wide/3")], Want("top_k", 5))
    np.testing.assert_allclose(again.draft_logprobs, scores, atol=2e-4)
    assert again.ends is not None
    assert len(again.ends) == 42
    # A draft stays in one pass, with up to eight rows before it.
    assert max(sizes) <= (8 + 4) * V


def test_a_row_that_is_committed_keeps_no_others_in_memory(engine: TransformersEngine) -> None:
    want = Want("top_k", 5, committed=True)
    (rows,) = engine.rows([Query("whole", ids(*range(20)), 0)], want)
    assert rows.whole is not None
    held: Any = rows.whole
    while isinstance(held, np.ndarray) and held.base is not None:
        held = held.base
    size = held.nbytes if isinstance(held, np.ndarray) else held.untyped_storage().nbytes()
    assert size == V * 4


@given(st.data())
def test_parts_of_a_query_give_its_rows_once_and_in_order(data: st.DataObject) -> None:
    length = data.draw(st.integers(0, 40))
    draft = data.draw(st.integers(0, length))
    query = Query("a", ids(*range(length)), data.draw(st.integers(0, length)), draft)
    most = data.draw(st.integers(1, 50))
    parts = plans.in_parts(query, most)
    given_rows = [at for part in parts for at in range(part.first, len(part.ids) + 1)]
    assert given_rows == list(range(query.first, length + 1))
    assert [part.draft for part in parts] == [0] * (len(parts) - 1) + [draft]
    assert all(len(part.ids) + 1 - part.first <= most + part.draft for part in parts)


def test_holes_do_not_fill_the_budget(tiny_model: Path, tiny_spec: LoadedSpec) -> None:
    whole = CONTEXT * POSITION_BYTES
    engine = TransformersEngine(str(tiny_model), tiny_spec, kv_budget_bytes=48 * whole)
    texts = np.random.default_rng(6).integers(0, V, (20, CONTEXT - 1), dtype=np.uint32)
    most = 0
    for length in range(40, 62):  # always other ones of twenty go together
        some = range(20) if length == 40 else range(length % 3, 20, length % 4 + 2)
        engine.rows([Query(f"a/{i}", texts[i, :length], length) for i in some], FULL)
        assert engine._pool is not None
        most = max(most, engine._pool.bytes)
    assert most <= 30 * whole
    assert all(held.home is not None for held in engine._sessions.values())  # nobody had to go


def fed(engine: TransformersEngine, queries: list[Query]) -> int:
    """How many tokens of each sequence go through the model for this batch."""
    widths, logits = [], engine._logits

    def count(ids: torch.Tensor, *arguments: Any) -> torch.Tensor:
        widths.append(ids.shape[1])
        return logits(ids, *arguments)

    with mock.patch.object(engine, "_logits", count):
        engine.rows(queries, FULL)
    return max(widths)


def test_sessions_of_one_owner_share_what_was_read(engine: TransformersEngine, plain: Any) -> None:
    text = np.random.default_rng(6).integers(0, V, 50, dtype=np.uint32)
    engine.rows([Query("ann/chat", text[:40], 40)], FULL)
    forks = [Query(f"ann/{i}", np.append(text[:38], ids(i, i)), 39) for i in range(3)]
    assert fed(engine, forks) == 2
    for query, row in zip(forks, engine.rows(forks, FULL), strict=True):
        np.testing.assert_allclose(row.logprobs, plain(query), atol=2e-4)
    assert fed(engine, [Query("bob/chat", text[:40], 40)]) == 41, "time would tell what Ann asked"


def test_a_text_that_is_the_beginning_of_several_is_found_in_one(
    engine: TransformersEngine, plain: Any
) -> None:
    """Found whole in the first, it has no token left to compare with the second."""
    text = np.random.default_rng(5).integers(0, V, 60, dtype=np.uint32)
    engine.rows([Query("eve/one", text, 60), Query("eve/two", text, 60)], FULL)
    wanted = Query("eve/three", text[:32], 32)
    (found,) = engine.rows([wanted], FULL)
    np.testing.assert_allclose(found.logprobs, plain(wanted), atol=1e-4)


def test_a_fork_stands_when_its_parent_moves_on_in_the_same_batch(
    engine: TransformersEngine, plain: Any
) -> None:
    text = np.random.default_rng(7).integers(0, V, (2, 50), dtype=np.uint32)
    engine.rows([Query("eve/parent", text[0, :40], 40)], FULL)
    batch = [
        Query("eve/parent", np.append(text[0, :5], text[1, :20]), 25),
        Query("eve/child", text[0, :45], 45),
    ]
    for query, row in zip(batch, engine.rows(batch, FULL), strict=True):
        np.testing.assert_allclose(row.logprobs, plain(query), atol=2e-4)


def test_a_pass_that_fails_leaves_nothing_wrong_behind(
    engine: TransformersEngine, plain: Any
) -> None:
    text = np.random.default_rng(8).integers(0, V, 30, dtype=np.uint32)
    engine.rows([Query("x", text[:20], 20)], FULL)
    failing = mock.patch.object(engine, "_logits", side_effect=RuntimeError("out of memory"))
    with failing, pytest.raises(EngineError, match="out of memory"):
        engine.rows([Query("x", text[:25], 25)], FULL)
    query = Query("x", text[:26], 20)
    np.testing.assert_allclose(engine.rows([query], FULL)[0].logprobs, plain(query), atol=2e-4)


@pytest.mark.parametrize(
    "queries",
    [
        [Query("a", ids(1), 1), Query("a", ids(1), 1)],
        [Query("a", np.zeros(CONTEXT, dtype=np.uint32), 1)],
        [Query("a", ids(V), 0)],
        [Query("a", ids(1), 2)],
        [Query("a", ids(1), -1)],
    ],
)
def test_a_batch_that_breaks_the_contract_is_refused(
    engine: TransformersEngine, queries: list[Query]
) -> None:
    with pytest.raises(EngineError):
        engine.rows(queries, FULL)


def test_a_model_with_too_few_logits_is_refused(
    save_tiny_model: Callable[..., Path], tiny_spec: LoadedSpec
) -> None:
    from transformers import GPT2Config

    folder = save_tiny_model(
        config=GPT2Config(vocab_size=200, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    )
    with pytest.raises(EngineError, match="200 logits"):
        TransformersEngine(str(folder), tiny_spec)


def test_a_model_with_too_short_a_context_is_refused(
    save_tiny_model: Callable[..., Path], tiny_spec: LoadedSpec
) -> None:
    from transformers import GPT2Config

    folder = save_tiny_model(
        config=GPT2Config(vocab_size=V, n_positions=63, n_embd=32, n_layer=1, n_head=2)
    )
    with pytest.raises(EngineError, match="63 tokens at most"):
        TransformersEngine(str(folder), tiny_spec)


def test_a_model_of_any_length_is_refused_for_what_it_is(
    save_tiny_model: Callable[..., Path], tiny_spec: LoadedSpec
) -> None:
    """xlnet's config says that it reads -1 tokens; it sees what follows, too."""
    from transformers import XLNetConfig

    folder = save_tiny_model(
        config=XLNetConfig(
            vocab_size=V, d_model=32, d_inner=64, n_layer=2, n_head=2, initializer_range=0.5
        )
    )
    with pytest.raises(EngineError, match="no causal model"):
        TransformersEngine(str(folder), tiny_spec)


def test_load_engine_by_name(tiny_model: Path, tiny_spec: LoadedSpec) -> None:
    engine = load_engine(
        "moesubnet.engine.transformers_engine:TransformersEngine", str(tiny_model), tiny_spec
    )
    assert engine.vocab_size == V


WANTS = [
    *(Want("top_k", 7), Want("nucleus", 40, 0.9), Want("nucleus", 40, 0.9, committed=True)),
    *(Want("nucleus", V, 0.5), Want("sampled_n", 9)),
]


@pytest.mark.parametrize("want", WANTS)
@pytest.mark.parametrize("few", [2, 256])
def test_what_is_wanted_is_chosen_as_from_whole_laws(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, want: Want, few: int
) -> None:
    """On the device, whether few candidates are enough or not, many rows or one at a time."""
    monkeypatch.setattr(answers, "FEW", few)
    text = np.random.default_rng(4).integers(0, V, (3, 20), dtype=np.uint32)
    queries = [
        Query("rows", text[0], 3, seed=5),
        Query("draft", text[1], 17, draft=3),
        Query("late", text[2], 20, draft=4),
    ]
    whole = engine.rows(queries, FULL)
    for values in (1, 1 << 24):
        monkeypatch.setattr(answers, "CPU_VALUES_AT_ONCE", values)
        for query, law, rows in zip(queries, whole, engine.rows(queries, want), strict=True):
            expected = StepRows.of(query.first, law.logprobs, want, seed=query.seed)
            np.testing.assert_array_equal(rows.ids, expected.ids)
            np.testing.assert_array_equal(rows.ends, expected.ends)
            np.testing.assert_allclose(rows.logprobs, expected.logprobs, atol=1e-5)
            np.testing.assert_allclose(rows.tail_mass, expected.tail_mass, atol=1e-6)
            np.testing.assert_allclose(rows.draft_logprobs, law.draft_logprobs, atol=1e-5)
            if want.committed:
                np.testing.assert_allclose(rows.whole, law.logprobs[-1], atol=1e-5)
            else:
                assert rows.whole is None
    # A draft id's log-probability is that of its own position.
    (checked,) = engine.rows([Query("check", text[1], 17)], FULL)
    scores = checked.logprobs[np.arange(3), text[1, 17:]]
    np.testing.assert_allclose(whole[1].draft_logprobs, scores, atol=1e-5)


def test_it_tells_what_it_would_not_compute_and_of_nobody_elses_text(
    engine: TransformersEngine,
) -> None:
    text = np.random.default_rng(6).integers(0, V, 40, dtype=np.uint32)
    engine.rows([Query("a/one", text[:30], 30)], FULL)
    assert engine.held(Query("a/one", text, 40)) == 31  # the context token is one
    assert engine.held(Query("a/two", text, 40)) == 31
    assert engine.held(Query("b/one", text, 40)) == 0


def test_a_model_of_not_a_number_is_an_engine_error(engine: TransformersEngine) -> None:
    logits = torch.zeros(1, V)
    logits[0, 3] = torch.nan
    for dtype, said in ((torch.float32, "not-a-number$"), (torch.float16, "another --dtype")):
        with pytest.raises(EngineError, match=said):
            answers.answers([Query("a", ids(), 0)], [logits.to(dtype)], FULL)


def test_weights_laid_out_for_the_cpu_give_the_models_own_laws(
    tiny_model: Path, tiny_spec: LoadedSpec, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "FEWEST_WEIGHTS", 1)  # the tiny model has no large layers
    engine = TransformersEngine(str(tiny_model), tiny_spec)
    layers = [part for part in engine._model.modules() if isinstance(part, torch.nn.Linear)]
    assert {type(layer) for layer in layers} == {packing.PackedLinear}
    queries = [Query("long", np.arange(40, dtype=np.uint32), 7), Query("short", ids(5, 6), 0)]
    for query, answer in zip(queries, engine.rows(queries, FULL), strict=True):
        np.testing.assert_allclose(answer.logprobs, plain(query), atol=1e-4)


def test_only_large_layers_are_laid_out_and_where_there_is_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def model() -> torch.nn.Sequential:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.Linear(512, 8))

    plain, packed, scarce = model(), model(), model()
    packing.pack(packed)
    monkeypatch.setattr(packing, "free_memory_bytes", lambda: 512 * 512 * 4)
    packing.pack(scarce)
    kinds = [[type(layer) for layer in one] for one in (packed, scarce)]
    assert kinds == [[packing.PackedLinear, torch.nn.Linear], [torch.nn.Linear] * 2]
    assert torch.equal(packed[0].weight, plain[0].weight)
    inputs = torch.randn(3, 512)
    torch.testing.assert_close(packed(inputs), plain(inputs))


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_that_is_in_memory_twice_is_said(
    tied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = torch.nn.ModuleDict(
        {"embedding": torch.nn.Embedding(1024, 512), "head": torch.nn.Linear(512, 1024, bias=False)}
    )
    if tied:
        model["head"].weight = model["embedding"].weight
    with caplog.at_level("INFO"):
        packing.pack(model)
    assert isinstance(model["head"], packing.PackedLinear)
    assert ("2 MiB more memory" in caplog.text) == tied
