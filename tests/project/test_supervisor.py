"""Processes under supervision: restarted when killed, stopped cleanly, never orphaned."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from moesubnet.host.supervisor import Process, Supervisor

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); " + SLEEPER


def python(name: str, code: str, folder: Path) -> Process:
    return Process(name, (sys.executable, "-c", code), folder / f"{name}.log")


async def until(condition, timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)


async def test_a_killed_process_is_started_again_and_said_so(tmp_path) -> None:
    said: list[str] = []
    async with Supervisor(lambda name, text: said.append(f"{name} {text}")) as supervisor:
        process = python("sleeper", SLEEPER, tmp_path)
        await supervisor.start(process)
        first = process.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: process.restarts == 1 and process.alive)
        assert process.pid != first
    assert "SIGKILL" in said[0]
    assert not process.alive


async def test_stopping_ends_everybody_the_chain_last(tmp_path) -> None:
    supervisor = Supervisor(lambda *_: None)
    code = (
        "import signal, sys, time\n"
        "def bye(*_):\n    print(time.monotonic(), flush=True); sys.exit()\n"
        "signal.signal(15, bye); print('up', flush=True); time.sleep(600)"
    )
    processes = [python(name, code, tmp_path) for name in ("chain", "miner", "router")]
    for process in processes:
        await supervisor.start(process)
    await until(lambda: all(p.log.exists() and p.log.read_text() for p in processes))
    await supervisor.stop()
    ended = {p.name: float(p.log.read_text().split()[-1]) for p in processes}
    assert max(ended, key=ended.__getitem__) == "chain"


async def test_who_ignores_the_signal_is_killed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("moesubnet.host.supervisor.STOP_TIMEOUT_S", 0.5)
    supervisor = Supervisor(lambda *_: None)
    process = python("stubborn", STUBBORN, tmp_path)
    await supervisor.start(process)
    await until(lambda: "up" in process.log.read_text())
    pid = process.pid
    await supervisor.stop()
    assert not psutil.pid_exists(pid)


async def test_children_do_not_outlive_a_killed_supervisor(tmp_path) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from moesubnet.host.supervisor import Process, Supervisor\n"
        "async def main():\n"
        "    s = Supervisor(print)\n"
        f"    argv = (sys.executable, '-c', {SLEEPER!r})\n"
        f"    p = Process('c', argv, Path({str(tmp_path)!r}) / 'c')\n"
        "    await s.start(p); print(p.pid, flush=True); await asyncio.sleep(600)\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    await until(lambda: not psutil.pid_exists(child))


async def test_a_run_hands_over_every_line_and_the_exit_code(tmp_path) -> None:
    lines: list[str] = []
    process = python("job", "print('a'); print('b'); raise SystemExit(3)", tmp_path)
    process.on_line = lines.append
    async with Supervisor(lambda *_: None) as supervisor:
        assert await supervisor.run(process) == 3
    assert lines == ["a", "b"]
