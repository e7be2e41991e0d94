"""CPU-seconds of experts, wherever they run."""

from __future__ import annotations

import subprocess
import sys
import time

from moesubnet.distill.costs import CpuMeter
from moesubnet.types import Axon

TWO_EXPERTS = """
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in held), flush=True)
sys.stdin.read()
"""


def test_a_process_that_serves_two_experts_is_one_process_and_not_elsewhere() -> None:
    """As `miner run` with several --adapter does. An expert elsewhere counts as a core."""
    with subprocess.Popen(
        [sys.executable, "-c", TWO_EXPERTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        here = [Axon("127.0.0.1", int(port)) for port in child.stdout.readline().split()]
        gone = Axon("127.0.0.1", 1)
        started_s = time.monotonic()
        meters = [CpuMeter(here), CpuMeter([*here, gone])]
        time.sleep(0.5)
        near_s, far_s = (meter.read() for meter in meters)
        child.communicate("")
    waited_s = time.monotonic() - started_s
    assert near_s < 0.5 * waited_s, "nobody computed"
    assert far_s - near_s > 0.4, "one core for as long as it took"
