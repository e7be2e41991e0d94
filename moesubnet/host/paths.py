"""Where state and caches live, per platform conventions, and how files are written there."""

from __future__ import annotations

import fcntl
import glob
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from moesubnet.errors import ConfigError


def data_dir(*parts: str) -> Path:
    """State that must survive (`MOESUBNET_HOME` overrides the platform's place)."""
    home = os.environ.get("MOESUBNET_HOME")
    root = Path(home).expanduser() if home else Path(platformdirs.user_data_dir("moesubnet"))
    return root.joinpath(*parts)


def cache_dir(*parts: str) -> Path:
    """What can be made again."""
    return Path(platformdirs.user_cache_dir("moesubnet")).joinpath(*parts)


def own_file(path: Path) -> Path:
    """`path`, made if it is not there, for no other user of this machine to read. SQLite gives the
    files that it keeps beside it the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    path.chmod(0o600)
    return path


def write_whole(path: Path, content: str | bytes) -> None:
    """So that nobody ever finds a part of it there, whatever ends this process or fills the disk.
    Two that write at once do not mix. Raises OSError."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def text_files(patterns: Iterable[str]) -> list[Path]:
    """The files that globs name (`~` and `**` too), each once, sorted. ConfigError if there are
    none."""
    patterns = list(patterns)
    found = {Path(n) for p in patterns for n in glob.glob(os.path.expanduser(p), recursive=True)}
    if files := sorted(path for path in found if path.is_file()):
        return files
    raise ConfigError(f"no file matches {' '.join(patterns)}")


@contextmanager
def held_alone(folder: Path, busy: str) -> Iterator[None]:
    """Hold a folder for this process, at most until it ends. ConfigError says `busy` while
    another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(busy) from None
        yield


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the safetensors library says of a disk while `path` is written, as an OSError like
    everybody else's."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise
