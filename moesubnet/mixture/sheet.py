"""Score sheets: everything a vote was computed from, in one canonical file.

A sheet is msgpack `moesubnet-sheet/5` with keys in fixed order, raw little-endian arrays and no
floats: log-probabilities and log-weights are int32 micro-nats, scores int64 nano-nats. Its
SHA-256 is bound to the vote by the commit's salt; `moesubnet.validator.scoring.recount` repeats
the vote from it. The text of the walks becomes public with the sheet.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Protocol

import msgpack
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from moesubnet.errors import FrameError
from moesubnet.types import Hotkey

SHEET_FORMAT = "moesubnet-sheet/5"
MAX_SHEET_BYTES = 8 * 2**20
MAX_HOTKEYS = 1024  # four times the slots of a subnet
MAX_WALKS = 1024
MAX_WALK_TOKENS = 1024
MAX_ITEMS = 8192  # of 32 walks over bytes 2,200
MAX_SENDERS = 256
MAX_CONTRADICTED = 64
HEARSAY_LOSS_PPM = 100_000  # the most that others' routers' word takes of a reliability
FEEDBACK_PPM = 50_000  # the most that users' word adds to a score, or takes
MICRO = 1_000_000
WHOLE = 255  # of `Sheet.apart`
NANO = 1_000_000_000
LOG_Q_FLOOR = -30.0  # nats; what a row gave below this is written as this
LOG_Q_UNANSWERED = np.int32(-(2**31) + 1)  # asked, and no valid answer came
LOG_Q_ABSENT = np.int32(-(2**31))  # not asked in this walk
MAX_ENTROPY = np.int32(20 * MICRO)  # more than any vocabulary allows
LOG_W_NONE = np.int32(-(2**31))  # had no part in the mixture at this item
MAX_TOOK_100US = 65_535  # 6.6 s; later than that is not told apart

I32 = npt.NDArray[np.int32]
U16s = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class Places(Protocol):
    """Of a sheet's items, or of others like them."""

    @property
    def walk(self) -> U32: ...
    @property
    def position(self) -> U32: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Summary:
    """What a sheet says of each expert, without the items from which it follows.

    n experts, sorted by hotkey.
    """

    epoch: int
    validator: Hotkey
    spec_sha256: bytes
    previous_sha256: bytes  # the validator's last committed sheet; zeros if none
    hotkeys: tuple[Hotkey, ...]
    ema_before: tuple[int | None, ...]  # [n] nano-nats; none: never scored
    ema_after: tuple[int | None, ...]  # [n]
    novelty_before: tuple[int | None, ...]  # [n] ppm; none: never measured
    novelty_after: tuple[int | None, ...]  # [n]
    since: tuple[int | None, ...]  # [n] epoch in which it first had something of its own
    standing_ppm: tuple[int, ...]  # [n] 0: its seniors explain it
    row_u16: tuple[int, ...]  # [n] the vote
    contradicted: tuple[bytes, ...] = ()  # SHA-256 of sheets of others, by their receipts; sorted

    @property
    def since_before(self) -> tuple[int | None, ...]:
        """[n] as it was before this sheet."""
        return tuple(None if since == self.epoch else since for since in self.since)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sheet(Summary):
    """One validator's measurements of one epoch, and the vote that follows from them.

    n experts (columns) and the baseline as column n; M items; W walks.
    Item k asked for the law of token `position[k]` of walk `walk[k]`, given the ids before it. A
    walk ends at its last item: text that was not asked for stays private. All are asked; `chosen`
    are those of the mixture that users would have got.
    """

    netuid: int
    gate_sha256: bytes
    seed: bytes  # SHA-256(previous_sha256 ‖ epoch u64 LE): draws the text
    uids: tuple[int, ...]  # [n] when the sheet was closed
    age_millis: tuple[int, ...]  # [n] since its registration, thousandths of an epoch
    walks: tuple[U32, ...]  # W arrays of token ids
    chosen: U8  # [W, n] 1: a router would have asked this expert about the walk
    apart: (
        U8  # [W, n] 255ths of its standing that it has in the walk; less: it says what another does
    )
    walk: U32  # [M]
    position: U32  # [M]
    senders: tuple[Hotkey, ...]  # whose hotkeys asked: the validator's, then routers', sorted
    sender: U8  # [M, n] which of them; of who is silent, the last
    log_q: I32  # [M, n + 1] micro-nats of the label, or LOG_Q_*
    log_w: I32  # [M, n + 1] micro-nats, or LOG_W_NONE
    entropy: I32  # [M, n] micro-nats: of the law that the expert gave; 0 where it gave none
    took_100us: U16s  # [M, n] until its answer came, MAX_TOOK_100US at most; 0: none came
    receipts: tuple[bytes, ...]  # [n] SHA-256 over the receipts of its answers, in order
    usage_loss_ppm: tuple[int, ...]  # [n] of its reliability, by what routers saw
    feedback_ppm: tuple[int, ...]  # [n] of its score, by what users said
    reliability_ppm: tuple[int, ...]  # [n] answered / asked

    def read(self) -> Sheet:
        """As `KeptSheet.read`."""
        return self

    @property
    def items(self) -> int:
        """M."""
        return len(self.walk)

    @cached_property
    def unforeseen(self) -> Mask:
        """[M, n]: of each expert the items at which nobody could ask it beforehand, see
        `unforeseen`; all, where there are none."""
        said = self.log_q[:, :-1].T
        rare = [unforeseen(self, one, one > LOG_Q_UNANSWERED) for one in said]
        found = np.array(rare, np.bool_).reshape(len(said), self.items).T
        return found | ~found.any(axis=0)

    @cached_property
    def answer_ms(self) -> tuple[int | None, ...]:
        """[n]: in which nine of ten of its answers came; the rest may have been guessed beforehand,
        or held up by chance. None: no answer."""
        came = [np.sort(took[took > 0]) for took in self.took_100us.T]
        return tuple(round(t[9 * (len(t) - 1) // 10] / 10) if len(t) else None for t in came)

    def to_bytes(self) -> bytes:
        """The canonical encoding."""
        content = {key: _plain(getattr(self, key)) for key in _KEYS}
        return bytes(msgpack.packb({"format": SHEET_FORMAT} | content))

    @classmethod
    def from_bytes(cls, data: bytes) -> Sheet:
        """Raises FrameError for anything that is not a canonical, consistent sheet."""
        if len(data) > MAX_SHEET_BYTES:
            raise FrameError("sheet is too large")
        try:
            wire = _Wire.model_validate(msgpack.unpackb(data, strict_map_key=True))
            sheet = wire.sheet()
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise FrameError(f"not a {SHEET_FORMAT}") from error
        if sheet.to_bytes() != data:
            raise FrameError(f"not a canonical {SHEET_FORMAT}")
        return sheet

    @cached_property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.to_bytes()).digest()


def unforeseen(asked: Places, said: I32, there: Mask) -> Mask:
    """[M]: of the items that are `there` and follow, in their walk, another one that is, the half
    that follow the labels which an expert held less likely: nobody asked it about them beforehand.
    said: its log-probabilities of the labels."""
    order = np.lexsort((asked.position, asked.walk))
    before, item = order[:-1], order[1:]
    follows = (asked.walk[before] == asked.walk[item]) & there[before] & there[item]
    follows &= asked.position[before] + 1 == asked.position[item]
    before, item = before[follows], item[follows]
    found = np.zeros(len(there), np.bool_)
    if len(item):
        found[item] = said[before] <= np.median(said[before])
    return found


def sheet_seed(previous_sha256: bytes, epoch: int) -> bytes:
    """SHA-256(previous sheet ‖ epoch as u64 little-endian)."""
    return hashlib.sha256(previous_sha256 + epoch.to_bytes(8, "little")).digest()


def micro_nats(log_values: npt.NDArray[np.floating]) -> I32:
    """Natural logarithms ≤ 0 → int32 micro-nats, cut at −2,000 nats (−inf is LOG_W_NONE)."""
    cut = np.clip(np.nan_to_num(log_values, neginf=-2000.0), -2000.0, 0.0)
    return np.where(np.isneginf(log_values), LOG_W_NONE, np.rint(cut * MICRO)).astype(np.int32)


def _plain(value: object) -> object:
    """A field as msgpack has it: arrays become little-endian bytes, tuples lists."""
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


Sha256 = Annotated[bytes, Field(min_length=32, max_length=32)]
Score = Annotated[int, Field(ge=0, lt=2**53)]
Novelty = Annotated[int, Field(ge=-MICRO, le=MICRO)]
U16 = Annotated[int, Field(ge=0, lt=2**16)]
Address = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]  # goes into paths and onto terminals


class _Wire(BaseModel):
    """What a stranger's sheet must be before it becomes a Sheet."""

    model_config = ConfigDict(extra="forbid", strict=True)
    format: Literal["moesubnet-sheet/5"]
    netuid: U16
    epoch: Annotated[int, Field(ge=0, lt=2**53)]
    validator: Address
    spec_sha256: Sha256
    gate_sha256: Sha256
    previous_sha256: Sha256
    seed: Sha256
    hotkeys: Annotated[list[Address], Field(max_length=MAX_HOTKEYS)]
    uids: list[U16]
    age_millis: list[Score]
    walks: Annotated[list[bytes], Field(max_length=MAX_WALKS)]
    chosen: bytes
    apart: bytes
    walk: Annotated[bytes, Field(max_length=4 * MAX_ITEMS)]
    position: bytes
    senders: Annotated[list[Address], Field(min_length=1, max_length=MAX_SENDERS)]
    sender: bytes
    log_q: bytes
    log_w: bytes
    entropy: bytes
    took_100us: bytes
    receipts: list[Sha256]
    usage_loss_ppm: list[Annotated[int, Field(ge=0, le=MICRO)]]
    feedback_ppm: list[Annotated[int, Field(ge=-FEEDBACK_PPM, le=FEEDBACK_PPM)]]
    reliability_ppm: list[Annotated[int, Field(ge=0, le=MICRO)]]
    ema_before: list[Score | None]
    ema_after: list[Score | None]
    novelty_before: list[Novelty | None]
    novelty_after: list[Novelty | None]
    since: list[Score | None]
    standing_ppm: list[Annotated[int, Field(ge=0, le=MICRO)]]
    row_u16: list[U16]
    contradicted: Annotated[list[Sha256], Field(max_length=MAX_CONTRADICTED)]

    def sheet(self) -> Sheet:
        """Raises ValueError where lengths, order or ranges contradict each other."""
        n = len(self.hotkeys)
        if self.seed != sheet_seed(self.previous_sha256, self.epoch):
            raise ValueError("a seed of its own choice")
        scores = (self.reliability_ppm, self.ema_before, self.ema_after, self.row_u16)
        ranks = (self.age_millis, self.since, self.standing_ppm)
        merits = (self.novelty_before, self.novelty_after)
        users = (self.usage_loss_ppm, self.feedback_ppm)
        columns = (self.uids, self.receipts, *scores, *ranks, *merits, *users)
        if any(len(column) != n for column in columns):
            raise ValueError("a column is missing")
        if self.contradicted != sorted(set(self.contradicted)):
            raise ValueError("contradicted sheets are sorted, each once")
        if self.hotkeys != sorted(set(self.hotkeys)) or len(set(self.uids)) != n:
            raise ValueError("hotkeys and uids must be unique, hotkeys sorted")
        if any(since is not None and since > self.epoch for since in self.since):
            raise ValueError("a senior of the future")
        if any(len(ids) % 4 or len(ids) > 4 * MAX_WALK_TOKENS for ids in self.walks):
            raise ValueError("a walk is too long")
        walks = tuple(np.frombuffer(ids, "<u4") for ids in self.walks)
        walk, position = np.frombuffer(self.walk, "<u4"), np.frombuffer(self.position, "<u4")
        if len(walk) != len(position) or np.any(walk >= len(walks)):
            raise ValueError("an item without a walk")
        measured = np.zeros(len(walks), np.int64)  # ids up to each walk's last label
        np.maximum.at(measured, walk, position.astype(np.int64) + 1)
        if measured.tolist() != [len(ids) for ids in walks]:
            raise ValueError("a walk lacks a label, or has ids that nobody was asked for")
        chosen = np.frombuffer(self.chosen, np.uint8).reshape(len(walks), n)
        if np.any(chosen > 1):
            raise ValueError("chosen or not, nothing else")
        apart = np.frombuffer(self.apart, np.uint8).reshape(len(walks), n)
        routers = self.senders[1:]
        if self.senders[0] != self.validator or routers != sorted(set(routers) - {self.validator}):
            raise ValueError("senders are the validator, then routers, sorted")
        sender = np.frombuffer(self.sender, np.uint8).reshape(len(walk), n)
        if np.any(sender >= len(self.senders)):
            raise ValueError("an item of a sender that is not named")
        log_q = np.frombuffer(self.log_q, "<i4").reshape(len(walk), n + 1)
        log_w = np.frombuffer(self.log_w, "<i4").reshape(len(walk), n + 1)
        entropy = np.frombuffer(self.entropy, "<i4").reshape(len(walk), n)
        floor = np.int32(LOG_Q_FLOOR * MICRO)
        given = log_q > LOG_Q_UNANSWERED
        if np.any(log_q[given] < floor) or np.any(log_q > 0) or np.any(log_w > 0):
            raise ValueError("a logarithm out of range")
        if not np.all(given[:, -1]) or np.any(given != (log_w != LOG_W_NONE)):
            raise ValueError("who answered has a weight, and the baseline always answers")
        if np.any(entropy < 0) or np.any(entropy > MAX_ENTROPY) or np.any(entropy[~given[:, :-1]]):
            raise ValueError("an entropy out of range, or of a law that was not given")
        took = np.frombuffer(self.took_100us, "<u2").reshape(len(walk), n)
        if np.any(took[~given[:, :-1]]):
            raise ValueError("a time of an answer that was not given")
        content = {key: getattr(self, key) for key in _KEYS}
        content |= {key: tuple(v) for key, v in content.items() if isinstance(v, list)}
        content |= {
            "walks": walks,
            "chosen": chosen,
            "apart": apart,
            "walk": walk,
            "position": position,
            "sender": sender,
        }
        content |= {"log_q": log_q, "log_w": log_w, "entropy": entropy, "took_100us": took}
        return Sheet(**content)


_KEYS = tuple(key for key in _Wire.model_fields if key != "format")
