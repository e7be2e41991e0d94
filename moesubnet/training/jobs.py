"""Training in processes of its own: one thread, niced, telling its progress in JSON lines."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from moesubnet.errors import ConfigError
from moesubnet.host.children import as_child, how_it_ended
from moesubnet.host.progress import OnProgress, Progress

NICENESS = 10
LAST_WORDS_BYTES = 2_000


async def run_job(module: str, arguments: Sequence[str], on_progress: OnProgress) -> dict[str, Any]:
    """Run `python -m module …`, which prints `Progress` objects and at last `{"report": {…}}`.

    Returns the report. Cancelling ends the process. Raises ConfigError with the last words of one
    that fails.
    """
    with tempfile.TemporaryFile() as complaints:
        process = await asyncio.create_subprocess_exec(
            *as_child((sys.executable, "-m", module, *arguments), niceness=NICENESS),
            stdout=asyncio.subprocess.PIPE,
            stderr=complaints,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C reaches us; we decide what it means for them
        )
        try:
            report = await _follow(process, on_progress)
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        if report is None:
            complaints.seek(0)
            words = complaints.read()[-LAST_WORDS_BYTES:].decode(errors="replace").strip()
            how = how_it_ended(process.returncode or 0)
            raise ConfigError(f"{module} {' '.join(arguments)} failed ({how}): {words}")
        return report


async def _follow(
    process: asyncio.subprocess.Process, on_progress: OnProgress
) -> dict[str, Any] | None:
    """Pass its progress on; its report, or None when it ended without."""
    assert process.stdout is not None
    report: dict[str, Any] | None = None
    async for line in process.stdout:
        row = json.loads(line)
        if "report" in row:
            report = row["report"]
        else:
            on_progress(Progress(**row))
    return report if await process.wait() == 0 else None
