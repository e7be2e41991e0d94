"""A GGUF file in this process answers as the transformers model that it was made from."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from moesubnet.engine import gguf_file, llama_context
from moesubnet.engine.base import Query
from moesubnet.engine.gguf_engine import GgufEngine
from moesubnet.engine.named import check_engine, load_engine
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.errors import EngineError
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import Want
from tests.engine.programs import Program, batches, programs
from tests.gguf_files import write_gguf

V, CONTEXT = 300, 64
FULL = Want("full")
CELL_BYTES = 2 * 2 * 2 * 2 * 8  # keys and values, half precision, layers, heads, dimensions
HALF = 0.03  # total variation: keys and values are held in half precision, and this model is sharp


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip(
        "llama_cpp", reason="NOT TESTED ON GGUF FILES: scripts/build-gguf compiles llama.cpp"
    )
    return write_gguf(tiny_model, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(model: Path, tiny_spec: LoadedSpec) -> Iterator[GgufEngine]:
    engine = load_engine("auto", str(model), tiny_spec)
    assert isinstance(engine, GgufEngine)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def cramped(model: Path, tiny_spec: LoadedSpec) -> Iterator[GgufEngine]:
    """Room for four contexts only: eviction happens all the time."""
    engine = GgufEngine(str(model), tiny_spec, kv_budget_bytes=4 * CONTEXT * CELL_BYTES)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def here(tiny_model: Path, tiny_spec: LoadedSpec) -> TransformersEngine:
    return TransformersEngine(str(tiny_model), tiny_spec)


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint32)


def assert_same(found: StepRows, expected: StepRows, most: float = HALF) -> None:
    """No row further apart than that in total variation."""
    apart = np.abs(np.exp(found.logprobs) - np.exp(expected.logprobs)).sum(-1) / 2
    assert apart.max(initial=0.0) <= most, apart


def test_its_laws_are_those_of_transformers(engine: GgufEngine, here: TransformersEngine) -> None:
    text = np.random.default_rng(0).integers(0, V, CONTEXT - 1, dtype=np.uint32)
    queries = [Query("e/", ids(), 0), Query("s/", ids(5, 6, 7), 1), Query("f/", text, 0)]
    for found, expected in zip(engine.rows(queries, FULL), here.rows(queries, FULL), strict=True):
        assert found.logprobs.dtype == np.float32
        np.testing.assert_allclose(np.exp(found.logprobs).sum(-1), 1.0, atol=1e-5)
        assert_same(found, expected)


@pytest.mark.parametrize("want", [FULL, Want("top_k", 7), Want("nucleus", 200, 0.9)])
def test_lists_and_scores_of_drafts(
    engine: GgufEngine, here: TransformersEngine, want: Want
) -> None:
    text = np.random.default_rng(1).integers(0, V, 30, dtype=np.uint32)
    query = Query("draft/", text, 28, draft=3)
    (found,), (expected,) = engine.rows([query], want), here.rows([query], want)
    scores = np.exp(found.draft_logprobs), np.exp(expected.draft_logprobs)
    np.testing.assert_allclose(*scores, atol=HALF)
    assert found.count == expected.count
    if want.kind != "full":
        assert found.tail_mass is not None
        np.testing.assert_allclose(found.tail_mass, expected.tail_mass, atol=HALF)


def test_what_it_commits_to_is_its_law(engine: GgufEngine) -> None:
    query = Query("committed/", ids(3, 4), 1)
    (found,) = engine.rows([query], Want("nucleus", 50, 0.9, committed=True))
    (whole,) = engine.rows([query], FULL)
    assert found.whole is not None
    np.testing.assert_allclose(found.whole, whole.logprobs[-1], atol=1e-3)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(program=programs(V, at_once=3))
def test_any_program_of_appends_and_rollbacks_gives_uncached_rows(
    cramped: GgufEngine, engine: GgufEngine, program: Program
) -> None:
    for queries in batches(program, CONTEXT, "{}/"):
        for query, rows in zip(queries, cramped.rows(queries, FULL), strict=True):
            (alone,) = engine.rows([Query("fresh/", query.ids, query.first)], FULL)
            engine.forget("fresh/")
            assert_same(rows, alone)


def test_a_session_goes_on_from_another_of_its_owner(
    engine: GgufEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = np.random.default_rng(2).integers(0, V, 50, dtype=np.uint32)
    engine.rows([Query("alice/1", text[:40], 40)], FULL)
    fed: list[int] = []
    feed = engine._context.feed
    monkeypatch.setattr(
        engine._context, "feed", lambda tokens: (fed.append(len(tokens)), feed(tokens))[1]
    )
    asked = [Query(name, text[:45], 45) for name in ("alice/1", "alice/2", "bob/1")]
    assert [engine.held(query) for query in asked] == [41, 41, 0]
    (forked,) = engine.rows([Query("alice/2", text[:45], 45)], FULL)
    assert sum(fed) == 5, "40 ids and the context token are shared"
    (stranger,) = engine.rows([Query("bob/1", text[:45], 45)], FULL)
    assert sum(fed) == 5 + 46, "others' sessions are never used"
    assert_same(forked, stranger)
    (first,) = engine.rows([Query("alice/1", text[:41], 41)], FULL)  # still what it was
    (again,) = engine.rows([Query("bob/2", text[:41], 41)], FULL)
    assert_same(first, again)


def test_the_greediest_owners_oldest_session_goes_first(cramped: GgufEngine) -> None:
    text = np.random.default_rng(3).integers(0, V, (6, 60), dtype=np.uint32)
    cramped.rows([Query("small/1", text[0, :10], 10)], FULL)
    for i in range(1, 5):
        cramped.rows([Query(f"greedy/{i}", text[i], 60)], FULL)
    assert "small/1" in cramped._sessions
    assert "greedy/1" not in cramped._sessions


def test_more_sessions_than_sequences(engine: GgufEngine, here: TransformersEngine) -> None:
    queries = [Query(f"many/{i}", ids(i, i + 1, i + 2), 3) for i in range(290)]
    for found, expected in zip(engine.rows(queries, FULL), here.rows(queries, FULL), strict=True):
        assert_same(found, expected)


def test_a_batch_that_fails_leaves_nothing_to_trust(
    engine: GgufEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = np.random.default_rng(4).integers(0, V, 20, dtype=np.uint32)
    (before,) = engine.rows([Query("x/1", text, 20)], FULL)

    def fail(_: object) -> object:
        raise EngineError("llama.cpp failed on a batch")

    with monkeypatch.context() as patch:
        patch.setattr(engine._context, "feed", fail)
        with pytest.raises(EngineError, match="failed on a batch"):
            engine.rows([Query("x/1", text[::-1].copy(), 20)], FULL)
    (after,) = engine.rows([Query("x/1", text, 20)], FULL)
    assert_same(before, after)


def test_the_commitment_is_the_files_hash(engine: GgufEngine, model: Path) -> None:
    assert engine.commitment == hashlib.sha256(model.read_bytes()).hexdigest()


def test_without_the_extra_a_server_is_offered(
    tiny_spec: LoadedSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    llama_context.bindings.cache_clear()
    try:
        with pytest.raises(EngineError, match=r"(?s)moesubnet\[gguf\].*C\+\+ compiler.*--upstream"):
            check_engine("auto", str(tmp_path / "x.gguf"), tiny_spec)
    finally:
        llama_context.bindings.cache_clear()


def test_what_is_no_gguf_file(model: Path, tiny_spec: LoadedSpec, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="there is no file"):
        check_engine("auto", str(tmp_path / "none.gguf"), tiny_spec)
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(EngineError, match="is no GGUF file"):
        check_engine("auto", str(tmp_path / "x.gguf"), tiny_spec)
    (tmp_path / "cut.gguf").write_bytes(model.read_bytes()[:5_000])
    with pytest.raises(EngineError, match="damaged, or of an architecture"):
        check_engine("auto", str(tmp_path / "cut.gguf"), tiny_spec)


def test_parts_of_a_split_file(tmp_path: Path) -> None:
    first, second = (tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2))
    first.write_bytes(b"GGUF1")
    with pytest.raises(EngineError, match=r"m-00002-of-00002\.gguf is missing"):
        gguf_file.resolve_file(str(first))
    second.write_bytes(b"GGUF2")
    with pytest.raises(EngineError, match="give the first"):
        gguf_file.resolve_file(str(second))
    assert gguf_file.parts_of(gguf_file.resolve_file(str(first))) == [first, second]


def test_another_tokenizer_is_refused_where_it_differs(
    tiny_model: Path, tiny_spec: LoadedSpec, tmp_path: Path, model: Path
) -> None:
    def swapped(tokenizer: dict) -> None:
        vocab = tokenizer["model"]["vocab"]
        a, b = (next(t for t, i in vocab.items() if i == n) for n in (40, 41))
        vocab[a], vocab[b] = 41, 40

    def fewer_merges(tokenizer: dict) -> None:
        del tokenizer["model"]["merges"][2:]

    for change, why in ((swapped, "token 40 is"), (fewer_merges, "its merges differ")):
        path = write_gguf(tiny_model, tmp_path / f"{change.__name__}.gguf", change=change)
        with pytest.raises(EngineError, match=why):
            check_engine("auto", str(path), tiny_spec)


def test_too_little_memory_is_said_before_loading(
    model: Path, tiny_spec: LoadedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file, "free_memory_bytes", lambda: 1 << 20)
    with pytest.raises(EngineError, match=r"needs 0\.\d GiB.*quantised more"):
        check_engine("auto", str(model), tiny_spec)
