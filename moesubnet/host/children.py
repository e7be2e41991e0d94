"""Child processes that are nice and die with their parent, without code between fork and exec.

Python's `preexec_fn` runs in a forked copy of a process whose other threads are gone and whose
locks they may have held; a supervisor with a live view met that deadlock. So the child starts as a
tiny Python that sets itself up and then becomes the command: same pid, no locks to inherit.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import BinaryIO

# Arguments: niceness, the parent's pid, the command. The parent may be gone before the kernel was
# asked to tell (PR_SET_PDEATHSIG, Linux); then nobody wants the command.
_BECOME = """
import os, sys
niceness, parent, *argv = sys.argv[1:]
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit(1)
os.nice(int(niceness))
os.execvp(argv[0], argv)
"""


def as_child(argv: Sequence[str], *, niceness: int = 0) -> tuple[str, ...]:
    """The command that runs `argv` as a child of this process at `niceness` 0–19.

    On Linux it gets SIGTERM when the thread that started it ends, however that happened.
    """
    return (sys.executable, "-I", "-S", "-c", _BECOME, str(niceness), str(os.getpid()), *argv)


def how_it_ended(code: int) -> str:
    """A return code in words."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    why = ": does the system lack memory?" if name == "SIGKILL" else ""
    return f"signal {name}{why}"


def own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """For a child that talks with its parent over stdin and stdout: what it reads and writes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not reach the pipe
    return sys.stdin.buffer, sink
