"""Several adapters over one base in one process answer as each would alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from moesubnet.engine.base import Engine, Query
from moesubnet.engine.model_folder import weights_commitment
from moesubnet.engine.named import load_engines
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.errors import ConfigError, EngineError
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.step import Want

FULL = Want("full")


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, save_tiny_adapter: Callable[..., Path]) -> list[str | None]:
    """Two LoRAs and the base alone."""
    return [str(save_tiny_adapter(seed=1)), str(save_tiny_adapter(seed=2)), None]


@pytest.fixture(scope="module")
def together(tiny_model: Path, tiny_spec: LoadedSpec, adapters: list[str | None]) -> list[Engine]:
    return load_engines("auto", str(tiny_model), tiny_spec, adapters)


@pytest.fixture(scope="module")
def alone(
    tiny_model: Path, tiny_spec: LoadedSpec, adapters: list[str | None]
) -> list[TransformersEngine]:
    return [TransformersEngine(str(tiny_model), tiny_spec, adapter=a) for a in adapters]


def text(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 300, length, dtype=np.uint32)


def test_each_gives_its_own_laws_with_the_same_sessions_of_one_caller(
    together: list[Engine], alone: list[TransformersEngine]
) -> None:
    ids = text(0, 50)
    for length in (30, 31, 50, 20):  # what one adapter holds must be no other's
        laws = []
        for engine, own in zip(together, alone, strict=True):
            query = Query("caller/s", ids[:length], max(0, length - 3))
            (found,), (expected,) = engine.rows([query], FULL), own.rows([query], FULL)
            np.testing.assert_allclose(np.exp(found.logprobs), np.exp(expected.logprobs), atol=1e-4)
            laws.append(np.exp(found.logprobs[-1]))
        assert min(np.abs(laws[i] - laws[i - 1]).sum() for i in range(3)) > 0.02


def test_they_share_the_base_and_name_both_in_their_commitments(
    together: list[Engine], tiny_model: Path, adapters: list[str | None]
) -> None:
    assert [engine.commitment for engine in together] == [
        weights_commitment(tiny_model, adapter) for adapter in adapters
    ]
    assert len({id(engine._shared._model) for engine in together}) == 1  # type: ignore[attr-defined]


def test_threads_may_ask_them_at_once(
    together: list[Engine], alone: list[TransformersEngine]
) -> None:
    queries = [
        [Query("many/s", text(10 + i, 20 + step), 18) for step in range(8)] for i in (0, 1, 2)
    ]
    expected = [
        [own.rows([q], FULL)[0] for q in mine] for own, mine in zip(alone, queries, strict=True)
    ]

    def ask(place: int) -> list[np.ndarray]:
        return [together[place].rows([q], FULL)[0].logprobs for q in queries[place]]

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(ask, range(3)))
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(np.exp(a), np.exp(b.logprobs), atol=1e-4)


def test_forgetting_one_leaves_the_others(together: list[Engine]) -> None:
    for engine in together:
        engine.rows([Query("f/s", text(3, 20), 20)], FULL)
    together[0].forget("f/s")
    held = together[0]._shared._sessions  # type: ignore[attr-defined]
    assert [f"{place}:f/s" in held for place in range(3)] == [False, True, True]


def test_an_engine_of_one_adapter_says_so(tiny_spec: LoadedSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one --adapter and --hotkey at a time"):
        load_engines("gguf", str(tmp_path / "x.gguf"), tiny_spec, ["a", "b"])


def test_what_is_no_adapter_or_not_of_this_base(
    tiny_model: Path, tiny_spec: LoadedSpec, adapters: list[str | None], tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="peft's save_pretrained wrote"):
        load_engines("auto", str(tiny_model), tiny_spec, [adapters[0], str(tmp_path)])
    with pytest.raises(ConfigError, match="int8 takes one"):
        load_engines("auto", str(tiny_model), tiny_spec, adapters, dtype="int8")


def test_a_cuda_device_serves_them_too(
    tiny_model: Path,
    tiny_spec: LoadedSpec,
    adapters: list[str | None],
    alone: list[TransformersEngine],
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    query = Query("c/s", text(5, 30), 28)
    engines = load_engines("auto", str(tiny_model), tiny_spec, adapters, device="cuda")
    for engine, own in zip(engines, alone, strict=True):
        (found,), (expected,) = engine.rows([query], FULL), own.rows([query], FULL)
        np.testing.assert_allclose(np.exp(found.logprobs), np.exp(expected.logprobs), atol=1e-2)
