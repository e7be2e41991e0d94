"""Runs processes, keeps their logs, restarts what dies, and stops everything cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moesubnet.errors import ConfigError
from moesubnet.host.children import as_child, how_it_ended

STOP_TIMEOUT_S = 15.0
RESTART_DELAYS_S = (0.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # by failures in a row
STEADY_AFTER_S = 60.0  # a process that lived so long starts again without delay

Notify = Callable[[str, str], None]  # process name, what happened


@dataclass(slots=True)
class Process:
    """One supervised command. `niceness` 0–19; `keep` restarts it whenever it ends."""

    name: str
    argv: Sequence[str]
    log: Path
    niceness: int = 0
    keep: bool = True
    on_line: Callable[[str], None] | None = None  # gets every line of stdout, else the log does
    restarts: int = 0
    started_s: float = 0.0
    running: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def alive(self) -> bool:
        return self.running is not None and self.running.returncode is None

    @property
    def pid(self) -> int | None:
        return self.running.pid if self.running is not None and self.alive else None

    def last_lines(self, count: int = 5) -> str:
        """The end of its log, for an error message."""
        try:
            with self.log.open("rb") as handle:
                handle.seek(max(0, self.log.stat().st_size - 4096))
                text = handle.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-count:])


class Supervisor:
    """Starts processes in order and stops them in reverse. Use as an async context manager."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self.processes: dict[str, Process] = {}

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, process: Process) -> None:
        """Start it; from now on it is restarted when it dies, if `keep`."""
        self.processes[process.name] = process
        await self._spawn(process)
        if process.keep:
            self._watchers[process.name] = asyncio.create_task(self._watch(process))

    async def run(self, process: Process) -> int:
        """Start a process that ends by itself and wait for it. Returns its exit code."""
        process.keep = False
        await self.start(process)
        assert process.running is not None
        if process.on_line is not None and process.running.stdout is not None:
            async for line in process.running.stdout:
                process.on_line(line.decode(errors="replace").rstrip())
        return await process.running.wait()

    async def stop(self) -> None:
        """SIGTERM to all at once, SIGKILL to who is still there after the timeout."""
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        self._watchers.clear()
        alive = [process for process in self.processes.values() if process.alive]
        # The chain goes last: the others sign off through it.
        for process in sorted(alive, key=lambda p: p.name == "chain"):
            if process.name == "chain":
                await self._wait_ended([p for p in alive if p is not process])
            self._signal(process, signal.SIGTERM)
        await self._wait_ended(alive)
        for process in alive:
            if process.alive:
                self._signal(process, signal.SIGKILL)
                assert process.running is not None
                await process.running.wait()
                self._notify(process.name, "did not stop; killed")

    @staticmethod
    def _signal(process: Process, number: signal.Signals) -> None:
        if process.alive:
            assert process.running is not None
            process.running.send_signal(number)

    @staticmethod
    async def _wait_ended(processes: Sequence[Process]) -> None:
        waits = [
            asyncio.create_task(process.running.wait())
            for process in processes
            if process.running is not None
        ]
        if waits:
            await asyncio.wait(waits, timeout=STOP_TIMEOUT_S)
        for wait in waits:
            wait.cancel()

    async def _spawn(self, process: Process) -> None:
        process.log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
        }
        with process.log.open("ab") as log:
            try:
                process.running = await asyncio.create_subprocess_exec(
                    *as_child(process.argv, niceness=process.niceness),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log if process.on_line is None else asyncio.subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    # Ctrl-C reaches the supervisor alone, which stops the others in order.
                    start_new_session=True,
                )
            except OSError as error:
                raise ConfigError(f"cannot start {process.name}: {error}") from error
        process.started_s = time.monotonic()

    async def _watch(self, process: Process) -> None:
        failures = 0
        while True:
            assert process.running is not None
            code = await process.running.wait()
            lived_s = time.monotonic() - process.started_s
            failures = 0 if lived_s > STEADY_AFTER_S else failures + 1
            delay_s = RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)]
            how = how_it_ended(code)
            self._notify(process.name, f"ended ({how}); starting again in {delay_s:.0f} s")
            await asyncio.sleep(delay_s)
            process.restarts += 1
            await self._spawn(process)
