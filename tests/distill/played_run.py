"""`moesubnet distill …` with one expert, in this process, for launchers to start."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from moesubnet.distill import app
from moesubnet.distill.cli import distill_app
from moesubnet.distill.run import Teacher
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.types import Hotkey

from .conftest import BigramEngine, LocalClient, panel

A = Hotkey("a")


@contextlib.asynccontextmanager
async def played(
    chain_url: str, netuid: int, signer: object, spec_dir: Path, *_: object, **__: object
) -> AsyncIterator[tuple[LoadedSpec, Teacher]]:
    spec = load_spec(spec_dir)
    vocab_size = spec.spec.vocab_size
    expert = LocalClient(A, BigramEngine(0, vocab_size))
    yield spec, Teacher(panel(expert, vocab_size=vocab_size), {A: "aa"}, {})


if __name__ == "__main__":
    app.meet_experts = played  # type: ignore[assignment]
    distill_app()
