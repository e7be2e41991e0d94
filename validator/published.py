"""A sheet with its evidence, from one's own state or from the validator that publishes it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moesubnet.errors import ConfigError, FrameError, PeerRefused
from moesubnet.mixture.sheet import MAX_SHEET_BYTES, Sheet
from moesubnet.types import Axon, Hotkey
from moesubnet.validator.archive import Archive
from moesubnet.validator.receipts import (
    MAX_ANSWERS_BYTES,
    MAX_RECEIPTS_BYTES,
    Receipts,
    unpack_answers,
)
from moesubnet.wire.strangers import get_public, open_http_session

TIMEOUT_S = 60.0
ATTEMPTS = 5  # a public limit lets some through every second


@dataclass(frozen=True, slots=True)
class Published:
    sheet: Sheet
    receipts: Receipts | None  # none: not kept there
    answers: Mapping[Hotkey, Sequence[bytes]]  # of those that are kept


def own(archive: Archive, sha256: str | None, body: bytes | None) -> Published:
    """A sheet by hash, or by its bytes, with what the archive has of it, published or not.

    Raises ConfigError when it does not have the hash, FrameError for a malformed sheet.
    """
    if body is None:
        body = archive.sheet(_digest(sha256))
    if body is None:
        raise ConfigError(f"no sheet {sha256} here: give its file, or --axon of who publishes it")
    sheet = Sheet.from_bytes(body)
    receipts = archive.receipts(sheet.sha256)
    answers = {h: b for h in sheet.hotkeys if (b := archive.answers(sheet.sha256, h)) is not None}
    return _published(sheet, receipts, answers)


async def fetched(
    address: str, sha256: str | None, body: bytes | None, *, evidence: bool = True
) -> Published:
    """The same from a validator at `address`, IP:PORT, which the user chose; the sheet alone
    without `evidence`.

    Raises ConfigError, PeerError, WireError.
    """
    ip, _, port = address.strip().rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ConfigError(f"{address!r} is not IP:PORT")
    axon = Axon(ip.strip("[]"), int(port))
    async with open_http_session() as http:

        async def get(path: str, max_bytes: int) -> bytes | None:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    return await get_public(
                        http, axon, path, max_bytes=max_bytes, timeout_s=TIMEOUT_S
                    )
                except PeerRefused as error:
                    if error.status == 404:
                        return None
                    if error.status != 429 or attempt == ATTEMPTS:
                        raise
                    await asyncio.sleep(1.0)  # there are as many questions as experts
            raise AssertionError("unreachable")

        if body is None:
            body = await get(f"/v1/sheet/{_digest(sha256).hex()}", MAX_SHEET_BYTES)
        if body is None:
            raise ConfigError(f"{address} does not publish the sheet {sha256}")
        if sha256 is not None and hashlib.sha256(body).digest() != _digest(sha256):
            raise FrameError("another sheet than the one asked for")
        sheet = Sheet.from_bytes(body)
        if not evidence:
            return Published(sheet, None, {})
        base = f"/v1/sheet/{sheet.sha256.hex()}"
        receipts = await get(f"{base}/receipts", MAX_RECEIPTS_BYTES)
        answers = {
            hotkey: raw
            for hotkey in sheet.hotkeys
            if (raw := await get(f"{base}/answers/{hotkey}", MAX_ANSWERS_BYTES)) is not None
        }
    return _published(sheet, receipts, answers)


def _published(sheet: Sheet, receipts: bytes | None, answers: Mapping[Hotkey, bytes]) -> Published:
    return Published(
        sheet,
        Receipts.from_bytes(receipts, sheet) if receipts else None,
        {hotkey: unpack_answers(raw, sheet) for hotkey, raw in answers.items()},
    )


def _digest(sha256: str | None) -> bytes:
    try:
        return bytes.fromhex(sha256 or "")
    except ValueError:
        raise ConfigError(f"{sha256!r} is neither a file nor 64 hex digits") from None
