"""An engine in a child process answers as one in this process, and its death is survivable."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from moesubnet.engine.base import Query, load_engine
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.engine.worker import EngineProcess
from moesubnet.errors import EngineError
from moesubnet.spec import LoadedSpec

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
    for ours, theirs in zip(here.rows(BATCH), await child.rows(BATCH), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (child.name, child.commitment) == (here.name, here.commitment)
    await child.close()


async def test_the_example_engine_survives_cancellation_and_death(
    tiny_spec: LoadedSpec,
) -> None:
    child = await EngineProcess.start("none", tiny_spec, target=EXAMPLE)
    expected = load_engine(EXAMPLE, "none", tiny_spec).rows(BATCH)

    async def answers_are_right() -> None:
        for ours, theirs in zip(expected, await child.rows(BATCH), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    await answers_are_right()
    assert await child.rows([]) == []
    child.forget("a")

    cancelled = asyncio.create_task(child.rows(BATCH[1:]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    cancelled.cancel()
    await answers_are_right()

    assert child._process is not None
    os.kill(child._process.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="died"):
        await child.rows(BATCH)
    await answers_are_right()
    await child.close()


async def test_the_childs_refusals_come_through(tiny_spec: LoadedSpec, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="safetensors"):
        await EngineProcess.start(tmp_path, tiny_spec)
