"""Revealed sheets, kept on disk by hash. In memory is only what each says of experts
(`Summary`): whoever needs its items reads one sheet at a time, so that what a neuron holds does
not grow with what validators measured."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeAlias

from moesubnet.errors import FrameError
from moesubnet.host.paths import write_whole
from moesubnet.mixture.sheet import U32, Sheet, Summary
from moesubnet.types import Hotkey

MOST_IDS = 2**24  # of walks in memory at once

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptSheet(Summary):
    """A verified sheet whose items lie on disk. items: how many."""

    netuid: int
    sha256: bytes
    items: int
    path: Path

    def read(self) -> Sheet | None:
        """The whole sheet; None, and it says why, where the file is gone or no longer what it was:
        then it is fetched again. Costs milliseconds a megabyte."""
        try:
            return _read(self.path)
        except FrameError as error:
            log.warning("sheet in %s removed: %s", self.path, error)
            return None


AnySheet: TypeAlias = Sheet | KeptSheet


class SheetCache:
    """The sheets in a folder, which several processes may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, KeptSheet] = {}

    def known(self, netuid: int, oldest: int) -> dict[str, KeptSheet]:
        """By hash, those of a subnet from the epoch `oldest` on; others, and damaged ones, are
        removed. Reads what is new on disk."""
        found: dict[str, KeptSheet] = {}
        damaged: list[FrameError] = []
        for path in self.folder.glob("*.sheet"):
            kept = self._known.get(path.stem)
            try:
                if kept is None and (sheet := _read(path)) is not None:
                    kept = _kept(sheet, path)
            except FrameError as error:
                damaged.append(error)
            if kept is None:
                continue
            if kept.netuid == netuid and kept.epoch >= oldest:
                found[path.stem] = kept
            else:
                _remove(path)
        if damaged:  # of an older format all are
            log.warning("%d sheets removed from %s: %s", len(damaged), self.folder, damaged[-1])
        self._known = found
        return dict(found)

    def keep(self, sheet: Sheet) -> KeptSheet | None:
        """None, and it says why, where it cannot be kept."""
        body, digest = sheet.to_bytes(), sheet.sha256.hex()
        path = self.folder / f"{digest}.sheet"
        if not _write(path, body):
            return None
        self._known[digest] = _kept(sheet, path)
        return self._known[digest]


def keep_sheet(folder: Path, body: bytes) -> None:
    """Put a sheet that is known to be revealed, such as one's own, into a cache's folder."""
    path = folder / f"{hashlib.sha256(body).hexdigest()}.sheet"
    if not path.exists():
        _write(path, body)


def verified(body: bytes, digest: str) -> Sheet:
    """Raises FrameError."""
    if hashlib.sha256(body).hexdigest() != digest:
        raise FrameError("the sheet's hash is not the revealed one")
    return Sheet.from_bytes(body)


def walks_in_parts(sheets: Iterable[AnySheet]) -> Iterator[list[U32]]:
    """All their walks: in one part where they are as many as usual, else in several."""
    part: list[U32] = []
    for sheet in sheets:
        if sum(map(len, part)) > MOST_IDS:
            yield part
            part = []
        whole = sheet.read()
        part += whole.walks if whole else ()
    yield part


def _kept(sheet: Sheet, path: Path) -> KeptSheet:
    summary = {field.name: getattr(sheet, field.name) for field in fields(Summary)}
    summary["hotkeys"] = tuple(Hotkey(sys.intern(hotkey)) for hotkey in sheet.hotkeys)
    sha256 = bytes.fromhex(path.stem)
    return KeptSheet(**summary, netuid=sheet.netuid, sha256=sha256, items=sheet.items, path=path)


def _read(path: Path) -> Sheet | None:
    """None, and it says why, where it cannot be read. Raises FrameError for what is no sheet, once
    it is removed."""
    try:
        return verified(path.read_bytes(), path.stem)
    except OSError as error:
        log.warning("sheet not read from %s: %s", path, error.strerror or error)
    except FrameError:
        _remove(path)
        raise
    return None


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _write(path: Path, body: bytes) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, body)
    except OSError as error:
        log.warning("sheet not kept in %s: %s", path.parent, error.strerror or error)
        return False
    return True
