"""Transactions that wait for a block: ready ones in the order of their tags and priority, and
future ones, whose nonce is not reached. Pure bookkeeping; the caller validates and seals.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from moesubnet.chain.devchain.header import blake2_256
from moesubnet.chain.devchain.validity import PoolError, ValidTransaction

MOST_TRANSACTIONS = 8192
MOST_BYTES = 32 * 1024 * 1024
BAN_BLOCKS = 64
_MOST_BANNED = 2 * MOST_TRANSACTIONS

# A state in the words of `author_extrinsicUpdate`: "ready", {"inBlock": "0x…"}, …
Status = str | dict[str, str]
Watcher = Callable[[Status], None]


@dataclass(slots=True)
class _Waiting:
    hash: bytes
    extrinsic: bytes
    valid: ValidTransaction
    arrival: int
    valid_until: int  # last block number that may include it
    missing: set[bytes]  # required tags that no included transaction provided yet
    watchers: list[Watcher] = field(default_factory=list)

    def tell(self, status: Status) -> None:
        for watcher in self.watchers:
            watcher(status)


class Pool:
    """Bounded. Not thread-safe: it lives on the event loop."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, _Waiting] = {}  # by hash
        self._providers: dict[bytes, bytes] = {}  # hash of the one that provides a tag
        self._banned: OrderedDict[bytes, int] = OrderedDict()  # until which block, by hash
        self._bytes = 0
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def check_new(self, extrinsic: bytes, head: int) -> bytes:
        """Its hash; raises PoolError if it is here already or was refused or included lately."""
        tx_hash = blake2_256(extrinsic)
        if tx_hash in self._waiting:
            raise PoolError(1013, "Transaction Already Imported", f"0x{tx_hash.hex()}")
        if self._banned.get(tx_hash, -1) >= head:
            raise PoolError(1012, "Transaction is temporarily banned")
        return tx_hash

    def add(
        self,
        extrinsic: bytes,
        valid: ValidTransaction,
        head: int,
        watchers: Iterable[Watcher] = (),
    ) -> bytes:
        """Take a transaction that is valid on block number `head`; returns its hash.

        One with a tag of another's replaces it if its priority is higher. Raises PoolError.
        """
        tx_hash = self.check_new(extrinsic, head)
        if not valid.provides:
            raise PoolError(
                1019,
                "No tags provided",
                "Transaction does not provide any tags, so the pool can't identify it",
            )
        rivals = {self._providers[tag] for tag in valid.provides if tag in self._providers}
        highest = max((self._waiting[rival].valid.priority for rival in rivals), default=-1)
        if valid.priority <= highest:
            raise PoolError(
                1014,
                f"Priority is too low: ({highest} vs {valid.priority})",
                "The transaction has too low priority to replace another transaction already "
                "in the pool.",
            )
        full = len(self._waiting) - len(rivals) >= MOST_TRANSACTIONS
        if full or self._bytes + len(extrinsic) > MOST_BYTES:
            raise PoolError(
                1016,
                "Immediately Dropped",
                "The transaction couldn't enter the pool because of the limit",
            )
        for rival in rivals:
            self._remove(rival).tell({"usurped": f"0x{tx_hash.hex()}"})
        self._arrivals += 1
        waiting = _Waiting(
            tx_hash,
            extrinsic,
            valid,
            self._arrivals,
            head + valid.longevity_blocks,
            set(valid.requires),
            list(watchers),
        )
        self._waiting[tx_hash] = waiting
        self._providers.update(dict.fromkeys(valid.provides, tx_hash))
        self._bytes += len(extrinsic)
        ready = all(tag in self._providers for tag in waiting.missing)
        waiting.tell("ready" if ready else "future")
        return tx_hash

    def ready(self) -> list[bytes]:
        """Extrinsics that can be included now, one after the other."""
        blocked: dict[bytes, list[_Waiting]] = {}  # by a tag they wait for
        heap: list[tuple[int, int, _Waiting]] = []
        missing: dict[bytes, int] = {}  # how many tags a transaction still waits for

        def push(waiting: _Waiting) -> None:
            heapq.heappush(heap, (-waiting.valid.priority, waiting.arrival, waiting))

        for waiting in self._waiting.values():
            missing[waiting.hash] = len(waiting.missing)
            for tag in waiting.missing:
                blocked.setdefault(tag, []).append(waiting)
            if not waiting.missing:
                push(waiting)
        ordered = []
        while heap:
            waiting = heapq.heappop(heap)[2]
            ordered.append(waiting.extrinsic)
            for tag in waiting.valid.provides:
                for freed in blocked.pop(tag, ()):
                    missing[freed.hash] -= 1
                    if not missing[freed.hash]:
                        push(freed)
        return ordered

    def provides(self, tag: bytes) -> bool:
        """Whether a transaction here provides `tag`."""
        return tag in self._providers

    def pending(self) -> list[bytes]:
        """Every extrinsic here, ready or not, in order of arrival."""
        return [waiting.extrinsic for waiting in self._waiting.values()]

    def settle(
        self, number: int, block_hash: bytes, included: Iterable[bytes], refused: Iterable[bytes]
    ) -> None:
        """Account for block `number`: drop what it included, refused or outdated; tell watchers.

        What became ready by it needs no new validation: its tags say so.
        """
        at = f"0x{block_hash.hex()}"
        provided: set[bytes] = set()
        for extrinsic in included:
            waiting = self._drop(extrinsic, number)
            if waiting is not None:
                provided.update(waiting.valid.provides)
                waiting.tell({"inBlock": at})
                waiting.tell({"finalized": at})
        for extrinsic in refused:
            waiting = self._drop(extrinsic, number)
            if waiting is not None:
                waiting.tell("invalid")
        for waiting in list(self._waiting.values()):
            if waiting.valid_until <= number or not provided.isdisjoint(waiting.valid.provides):
                self._remove(waiting.hash).tell("invalid")
            elif waiting.missing and not waiting.missing.isdisjoint(provided):
                waiting.missing -= provided
                if not waiting.missing:
                    waiting.tell("ready")
        while self._banned and (
            len(self._banned) > _MOST_BANNED or next(iter(self._banned.values())) < number
        ):
            self._banned.popitem(last=False)

    def unwatch(self, tx_hash: bytes, watcher: Watcher) -> None:
        waiting = self._waiting.get(tx_hash)
        if waiting is not None and watcher in waiting.watchers:
            waiting.watchers.remove(watcher)

    def _drop(self, extrinsic: bytes, number: int) -> _Waiting | None:
        tx_hash = blake2_256(extrinsic)
        self._banned[tx_hash] = number + BAN_BLOCKS
        self._banned.move_to_end(tx_hash)
        return self._remove(tx_hash) if tx_hash in self._waiting else None

    def _remove(self, tx_hash: bytes) -> _Waiting:
        waiting = self._waiting.pop(tx_hash)
        self._bytes -= len(waiting.extrinsic)
        for tag in waiting.valid.provides:
            if self._providers.get(tag) == tx_hash:
                del self._providers[tag]
        return waiting
