"""Training in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesubnet.errors import ConfigError
from moesubnet.training.jobs import run_job


async def test_a_training_that_the_system_kills_is_told_from_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    (tmp_path / "wrong.py").write_text("raise SystemExit('no text')\n")
    with pytest.raises(ConfigError, match=r"\(signal SIGKILL: does the system lack memory\?\)"):
        await run_job("killed", [], lambda _: None)
    with pytest.raises(ConfigError, match=r"failed \(exit code 1\): no text"):
        await run_job("wrong", [], lambda _: None)
