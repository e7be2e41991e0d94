"""The engine's rows are those of the plain model, whatever its cache went through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesubnet.engine.base import Query, load_engine
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.errors import EngineError
from moesubnet.spec.content import LoadedSpec

V, CONTEXT = 300, 64


@pytest.fixture(scope="module")
def engine(tiny_model: Path, tiny_spec: LoadedSpec) -> TransformersEngine:
    return TransformersEngine(str(tiny_model), tiny_spec)


@pytest.fixture(scope="module")
def cramped(tiny_model: Path, tiny_spec: LoadedSpec) -> TransformersEngine:
    """Room for five sessions only: eviction, moving and splitting happen all the time."""
    slot_bytes = 2 * 2 * 2 * 8 * 65 * 4
    engine = TransformersEngine(str(tiny_model), tiny_spec, kv_budget_bytes=5 * slot_bytes)
    assert engine._pool is not None
    assert engine._pool.slots == 5
    return engine


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
    for query, rows in zip(queries, engine.rows(queries), strict=True):
        assert rows.shape == (len(query.ids) - query.first + 1, V)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, plain(query), atol=2e-4)
        np.testing.assert_allclose(np.exp(rows).sum(-1), 1, atol=1e-5)


moves = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 7),  # which session
            st.integers(0, 12),  # how many ids to take back first
            st.lists(st.integers(0, V - 1), max_size=9),  # ids to append
            st.integers(0, 5),  # how many rows more than the last
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda move: move[0],
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(program=moves)
def test_any_program_of_appends_and_rollbacks_gives_uncached_rows(
    cramped: TransformersEngine, plain: Any, program: list[list[tuple[int, int, list[int], int]]]
) -> None:
    held: dict[int, np.ndarray] = {}
    for batch in program:
        queries = []
        for session, back, append, more in batch:
            old = held.get(session, ids())
            kept = old[: max(0, len(old) - back)]
            new = np.concatenate([kept, ids(*append)]).astype(np.uint32)[: CONTEXT - 1]
            held[session] = new
            queries.append(Query(str(session), new, max(0, len(new) - more)))
        for query, rows in zip(queries, cramped.rows(queries), strict=True):
            np.testing.assert_allclose(rows, plain(query), atol=2e-4)


def test_a_walk_of_many_windows_keeps_its_slots_in_place(
    engine: TransformersEngine, plain: Any
) -> None:
    texts = np.random.default_rng(1).integers(0, V, (16, 20), dtype=np.uint32)
    for session in range(0, 16, 3):  # holes in the pool, so that the walk has to be gathered
        engine.rows([Query(f"walk{session}", texts[session, :1], 1)])
        engine.rows([Query(f"other{session}", texts[session, :2], 1)])
    for length in range(20):
        queries = [Query(f"walk{i}", texts[i, :length], length) for i in range(16)]
        rows = engine.rows(queries)
    for query, row in zip(queries, rows, strict=True):
        np.testing.assert_allclose(row, plain(query), atol=2e-4)
    slots = sorted(engine._sessions[f"walk{i}"].slot for i in range(16))
    assert slots == list(range(slots[0], slots[0] + 16))


def test_forgetting_frees_the_slot(cramped: TransformersEngine) -> None:
    for session in list(cramped._sessions):
        cramped.forget(session)
    assert cramped._pool is not None
    assert cramped._pool.free.all()
    cramped.forget("never heard of")
    cramped.rows([Query("one", ids(1), 1)])
    assert cramped._pool.free.sum() == 4


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
        engine.rows(queries)


def other_architectures() -> list[Any]:
    from transformers import GPT2Config, MambaConfig, MistralConfig

    shape: dict[str, Any] = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 0}
    llama: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return [
        pytest.param(GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=2, **shape), True),
        pytest.param(MistralConfig(sliding_window=4096, **llama, **shape), True),
        pytest.param(MistralConfig(sliding_window=8, **llama, **shape), False),
        pytest.param(MambaConfig(hidden_size=32, num_hidden_layers=2, **shape), False),
    ]


@pytest.mark.parametrize(("config", "cached"), other_architectures())
def test_other_architectures_serve_with_or_without_a_cache(
    save_tiny_model: Callable[..., Path], tiny_spec: LoadedSpec, config: Any, cached: bool
) -> None:
    """Their 320 logits are cut to the subnet's 300 and renormalised."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = save_tiny_model(config=config)
    engine = TransformersEngine(str(folder), tiny_spec)
    assert (engine._pool is not None) == cached
    model = AutoModelForCausalLM.from_pretrained(folder)
    text = np.random.default_rng(2).integers(0, V, (2, 30), dtype=np.uint32)
    for length in (3, 12, 30, 11):
        queries = [Query("a", text[0, :length], length), Query("b", text[1, : length // 2], 0)]
        for query, rows in zip(queries, engine.rows(queries), strict=True):
            with torch.inference_mode():
                ids = torch.tensor([[0, *query.ids.tolist()]])
                logits = model(ids).logits[0, query.first :, :V]
            expected = torch.log_softmax(logits.float(), -1).numpy()
            np.testing.assert_allclose(rows, expected, atol=2e-4)


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


def test_load_engine_by_name(tiny_model: Path, tiny_spec: LoadedSpec) -> None:
    engine = load_engine(
        "moesubnet.engine.transformers_engine:TransformersEngine", str(tiny_model), tiny_spec
    )
    assert engine.vocab_size == V
