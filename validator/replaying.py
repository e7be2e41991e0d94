"""Replays of open experts by lot, beside a validator's other work: one an epoch at most.

Weights are strangers'. So each replay is `moesubnet validator replay --wary` in a process of its
own: the nicest there is, the first that a system short of memory ends, with so much time and
memory and no more, and it loads safetensors and nothing else. What it finds it writes into the
checkbook; nothing of the validator's waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom

from moesubnet.host.children import as_child, how_it_ended
from moesubnet.host.paths import cache_dir
from moesubnet.types import Hotkey
from moesubnet.validator.checkbook import Checkbook

MOST_S = 3_600.0  # for one replay, its download with it; what has come by then is kept
NICENESS = 19
LAST_WORDS = 300
COMMAND = (sys.executable, "-m", "moesubnet", "validator", "replay")

log = logging.getLogger(__name__)


class Replaying:
    def __init__(
        self,
        book: Checkbook,
        options: Sequence[str],
        most_bytes: int,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """options: of the command, as where chain and state are. most_bytes: of one expert's
        weights, and of all that are kept on disk."""
        self._book, self._options, self._most_bytes = book, list(options), most_bytes
        self._command = list(command)
        self._task: asyncio.Task[None] | None = None

    def begin(self, group: asyncio.TaskGroup) -> None:
        """An epoch begins: one more, unless the last one goes on."""
        if self._task is None or self._task.done():
            self._task = group.create_task(self._one())

    async def _one(self) -> None:
        offering = sorted(self._book.offering())
        if not offering:
            return
        hotkey = SystemRandom().choice(offering)
        log.info("replaying expert %s, one of %d open ones", hotkey, len(offering))
        try:
            await self._replay(hotkey)
            await asyncio.to_thread(trim, cache_dir("weights"), self._most_bytes)
        except (OSError, TimeoutError) as error:
            log.warning("replay of %s: %s", hotkey, error or "it took too long")

    async def _replay(self, hotkey: Hotkey) -> None:
        """Raises OSError, TimeoutError."""
        most = ("--most-gib", str(self._most_bytes / 2**30))
        argv = [*self._command, hotkey, *self._options, *most, "--wary"]
        process = await asyncio.create_subprocess_exec(
            *as_child(argv, niceness=NICENESS),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(MOST_S):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        words = said.decode(errors="replace").strip()[-LAST_WORDS:].splitlines()[-2:]
        ended = "" if process.returncode in (0, 1) else how_it_ended(process.returncode or 0)
        log.info("replay of %s: %s", hotkey, " ".join([*words, ended]).strip())


def trim(folder: Path, most_bytes: int) -> None:
    """Keep of fetched weights those that were used last, as many as fit. Raises OSError."""
    used: list[tuple[float, int, Path]] = []
    for weights in folder.iterdir() if folder.exists() else ():
        stats = [file.stat() for file in weights.rglob("*") if file.is_file()]
        newest = max((s.st_mtime for s in stats), default=0.0)
        used.append((newest, sum(s.st_size for s in stats), weights))
    left = most_bytes
    for _, size, weights in sorted(used, reverse=True):
        left -= size
        if left < 0:
            shutil.rmtree(weights)
