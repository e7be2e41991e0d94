"""A PostgreSQL server of the tests' own, unprivileged, in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_POSTGRES = "POSTGRESQL NOT TESTED: no initdb here (Debian: apt-get install postgresql)"


def binaries() -> Path | None:
    """Where initdb and postgres stand; Debian keeps them off the PATH."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Server:
    """Can be stopped and started again; the data stay."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._data = folder / "data"
        # The server refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user:
            folder.chmod(0o755)
            os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        self._run("initdb", "--auth=trust", "--username=moe", "--no-sync", str(self._data))

    @property
    def url(self) -> str:
        return f"postgresql:///postgres?user=moe&host={self._folder}"

    def start(self) -> None:
        options = f"-c listen_addresses= -c fsync=off -k {self._folder}"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._data), "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            user=self._user,
            cwd=self._folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )


@contextmanager
def running(programs: Path, folder: Path) -> Iterator[Server]:
    server = Server(programs, folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
