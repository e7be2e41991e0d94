"""What a validator writes down: windows of text, scored steps, batches of walks, votes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.sheet import Sheet
from moesubnet.types import BlockNumber, Hotkey
from moesubnet.validator.receipts import Records

SENDER = np.dtype("S48")  # an SS58 address


class Phase(StrEnum):
    """A vote's life. On a subnet without commit-reveal it goes from prepared to revealed."""

    PREPARED = "prepared"  # stored, perhaps sent
    COMMITTED = "committed"  # seen on chain
    REVEALED = "revealed"  # seen on chain; its sheet is public
    LOST = "lost"  # its time passed, or nothing was worth voting for


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of private text: document by SHA-256, where its pieces start, ids u32; the first
    label is ids[first]. unscored: so many labels are a template's, and say nothing of anybody."""

    document: bytes
    starts: tuple[int, ...]
    ids: npt.NDArray[np.uint32]
    first: int
    unscored: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One position of all walks of a batch, scored. n experts, N walks.

    log_q, log_w: int32 [N, n + 1], entropy: int32 [N, n] and chosen: uint8 [N, n] as in a sheet;
    took_100us: uint16 [N, n] as in a sheet; senders: S48 [N, n], the hotkey that asked, empty
    where it was our own; records: RECORD [N, n]; bodies: the answers as they came, empty for none.
    """

    position: int
    log_q: npt.NDArray[np.int32]
    log_w: npt.NDArray[np.int32]
    entropy: npt.NDArray[np.int32]
    chosen: npt.NDArray[np.uint8]
    took_100us: npt.NDArray[np.uint16]
    senders: npt.NDArray[np.bytes_]
    records: Records
    bodies: tuple[tuple[bytes, ...], ...]  # [n, N]; empty once stored


@dataclass(frozen=True, slots=True)
class Batch:
    """Walks that started together with the same experts, and their steps not yet in a sheet."""

    id: int
    hotkeys: tuple[Hotkey, ...]
    walks: npt.NDArray[np.uint32]  # [N, tokens]
    first: int  # position of their first labels
    sessions: tuple[str, ...]  # [N]: their names at the experts
    steps: tuple[Step, ...]
    salts: tuple[bytes, ...] = ()  # [N]: what shows whose sessions these are (`receipts`)
    follows: int | None = None  # the batch with the turn before, of a chat's next turn
    unscored: int = 0  # of the first labels: those of a template


@dataclass(frozen=True, slots=True)
class Merit:
    """What earlier epochs said of an expert next to its seniors: the moving average of its
    novelty, and the epoch in which it first had something of its own, if it ever had."""

    novelty_ppm: int | None
    since: int | None


@dataclass(frozen=True, slots=True)
class Vote:
    """A sheet on its way to the chain."""

    sheet: Sheet
    salt: tuple[int, ...]  # u16 words
    phase: Phase
    submitted_block: BlockNumber | None  # when its commit was last sent
    reveal_epoch: int | None
