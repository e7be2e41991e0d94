"""Compiled runtimes, kept for the next start: compiling takes a second, loading milliseconds.

What is kept is native code that will run with our rights. It is read only where nobody but this
user can have written it, and wasmtime itself refuses code made by another version of it, for
another CPU or with other settings.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import tempfile
import threading
import time
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path

import wasmtime

from moesubnet.chain.devchain.code import BadCode, decompress
from moesubnet.host.paths import cache_dir

_WASM_STACK_BYTES = 1024 * 1024
_MOST_KEPT = 8

_log = logging.getLogger(__name__)


@cache
def engine() -> wasmtime.Engine:
    """The one engine of this process. Its epoch advances once a second."""
    config = wasmtime.Config()
    config.cranelift_nan_canonicalization = True
    config.max_wasm_stack = _WASM_STACK_BYTES
    config.memory_may_move = False
    config.epoch_interruption = True
    made = wasmtime.Engine(config)

    def tick() -> None:
        while True:
            time.sleep(1)
            made.increment_epoch()

    threading.Thread(target=tick, name="wasm-deadline", daemon=True).start()
    return made


def _compiled(code: bytes) -> wasmtime.Module:
    """The module in `code`, which may be compressed. Raises BadCode."""
    folder = cache_dir("wasm")
    wasmtime_version = importlib.metadata.version("wasmtime")
    name = f"{sha256(code).hexdigest()}-{wasmtime_version}-{platform.machine()}"
    kept = _kept(folder, name)
    if kept is not None:
        try:
            return wasmtime.Module.deserialize(engine(), kept)
        except wasmtime.WasmtimeError:
            pass  # made by another build or on another machine: compile again
    try:
        module = wasmtime.Module(engine(), decompress(code))
    except wasmtime.WasmtimeError as error:
        raise BadCode(f"the runtime does not compile: {error}") from error
    _keep(folder, name, module)
    return module


# In memory too: a trap throws the instance away, and any stranger's bytes can cause one.
compiled = lru_cache(2)(_compiled)


def _kept(folder: Path, name: str) -> bytearray | None:
    """Content of a file that only this user can have written; None if there is no such file."""
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        # By the opened folder, so that it cannot be swapped for another after the check.
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=place), "rb") as file:
            if _is_private(place) and _is_private(file.fileno()):
                return bytearray(file.read())
    except OSError:
        pass
    finally:
        os.close(place)
    return None


def _keep(folder: Path, name: str, module: wasmtime.Module) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(module.serialize())
            file.flush()
            os.fsync(file.fileno())  # half a file after a power cut would be run all the same
        os.replace(file.name, folder / name)
        oldest_first = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in oldest_first[:-_MOST_KEPT]:
            path.unlink()
    except OSError as error:
        _log.info("compiled code is not kept: %s", error)


def _is_private(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    return status.st_uid == os.getuid() and not status.st_mode & 0o077
