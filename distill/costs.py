"""What a piece of work cost, in CPU-seconds: our process, and the experts it made work.

The experts' part is read from the operating system where they run on this machine (whatever they
did meanwhile for others is counted too, against us). An expert elsewhere counts as one core for as
long as the work took.
"""

from __future__ import annotations

import time
from collections.abc import Collection

import psutil

from moesubnet.types import Axon


class CpuMeter:
    """CPU-seconds since it was made."""

    def __init__(self, axons: Collection[Axon]) -> None:
        own = {psutil.Process().pid}
        listening = _listeners()
        found = {listening[axon.port] for axon in axons if axon.port in listening} - own
        self._processes = [psutil.Process(pid) for pid in found]
        self._elsewhere = sum(axon.port not in listening for axon in axons)
        self._started_s = time.monotonic()
        self._own_started_s = time.process_time()
        self._seen_s = {process.pid: _cpu_s(process) for process in self._processes}
        self._experts_s = 0.0

    def read(self) -> float:
        """CPU-seconds so far. An expert that ended keeps what it was last seen with."""
        for process in self._processes:
            now_s = _cpu_s(process)
            self._experts_s += max(0.0, now_s - self._seen_s[process.pid])
            self._seen_s[process.pid] = max(now_s, self._seen_s[process.pid])
        elsewhere_s = self._elsewhere * (time.monotonic() - self._started_s)
        return time.process_time() - self._own_started_s + self._experts_s + elsewhere_s


def _listeners() -> dict[int, int]:
    """Listening TCP port → process, as far as the system tells us."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return {}
    return {
        c.laddr.port: c.pid
        for c in connections
        if c.status == psutil.CONN_LISTEN and c.pid is not None and c.laddr
    }


def _cpu_s(process: psutil.Process) -> float:
    """User and system time of a process and its living children; 0 once it is gone."""
    try:
        family = [process, *process.children(recursive=True)]
        return sum(sum(member.cpu_times()[:2]) for member in family)
    except psutil.NoSuchProcess:
        return 0.0
