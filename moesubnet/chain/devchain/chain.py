"""The chain itself, synchronous: blocks, states old and new, runtime calls, authoring.

Everything that touches WASM or the disk is here, and confined to one thread. What it hands out is
immutable and may be read anywhere.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from moesubnet.chain.devchain.authoring import Author, check_seal
from moesubnet.chain.devchain.code import CODE_KEY, RuntimeVersion
from moesubnet.chain.devchain.executor import Executor, RuntimeTrap
from moesubnet.chain.devchain.genesis import build_genesis
from moesubnet.chain.devchain.header import Block
from moesubnet.chain.devchain.overlay import Overlay
from moesubnet.chain.devchain.scale import Reader
from moesubnet.chain.devchain.store import HISTORY_BLOCKS, Store
from moesubnet.chain.devchain.trie import Changes, Trie
from moesubnet.chain.devchain.validity import ValidTransaction, read_validity
from moesubnet.errors import ChainError

# States of the newest blocks stay in memory; older ones are rebuilt from the undo log when asked.
_VIEWS_IN_MEMORY = 256
_EXTERNAL_SOURCE = b"\2"


class UnknownBlock(ChainError):
    """No block has this hash."""


class StateDiscarded(ChainError):
    """The state of this block is older than HISTORY_BLOCKS."""


@dataclass(frozen=True, slots=True)
class View:
    """A block and the state after it. Immutable, so any thread may read it."""

    block: Block
    state: Trie


@dataclass(frozen=True, slots=True)
class NewHead:
    """A block that was just added: what it changed, and which offered transactions it took."""

    view: View
    changes: Changes
    included: tuple[bytes, ...]
    refused: tuple[bytes, ...]


class Chain:
    """One chain in `directory`, created from the runtime's `preset` if there is none yet.

    `fresh` deletes the one that is there.
    """

    def __init__(self, directory: Path, code: bytes, preset: str, fresh: bool = False) -> None:
        self._executor = executor = Executor()
        self._store = store = Store(directory, fresh)
        try:
            runtime_sha256 = sha256(code).hexdigest()
            if not store.check(preset, runtime_sha256):
                genesis = build_genesis(executor, code, preset)
                store.create(preset, runtime_sha256, genesis.block, dict(genesis.state.items()))
            first = store.block_at(0)
            assert first is not None
            self.genesis_hash = first.hash
            head = store.head()
            state = Trie().update(dict(store.state()))
            self.version = self._version(state)
            self.head = self._verified(head, state)
            self._views = OrderedDict({head.hash: self.head})  # by block hash, oldest first
            duration = self.call(head.hash, "AuraApi_slot_duration", b"")
            self.slot_ms = Reader(duration).uint(8)
        except BaseException:
            store.close()
            raise
        self._author = Author(executor, self.slot_ms)

    def close(self) -> None:
        self._store.close()
        self._executor.close()

    def block(self, block_hash: bytes) -> Block | None:
        view = self.recent(block_hash)
        return view.block if view else self._store.block(block_hash)

    def block_at(self, number: int) -> Block | None:
        head = self.head.block
        return head if number == head.number else self._store.block_at(number)

    def recent(self, block_hash: bytes) -> View | None:
        """A view that is in memory already. May be called from any thread."""
        return self._views.get(block_hash)

    def view(self, block_hash: bytes) -> View:
        """The view of any block. Raises UnknownBlock or StateDiscarded."""
        view = self.recent(block_hash)
        if view is not None:
            return view
        block = self._store.block(block_hash)
        if block is None:
            raise UnknownBlock(f"UnknownBlock: no block has the hash 0x{block_hash.hex()}")
        newer = (view for view in self._views.values() if view.block.number > block.number)
        start = min(newer, key=lambda view: view.block.number)
        state = start.state
        for number in range(start.block.number, block.number, -1):
            undo = self._store.undo(number)
            if undo is None:
                raise StateDiscarded(
                    f"State already discarded for 0x{block_hash.hex()}: this chain keeps the "
                    f"state of its last {HISTORY_BLOCKS} blocks"
                )
            state = state.update(undo)
        return self._remember(self._verified(block, state))

    def call(self, block_hash: bytes, function: str, data: bytes) -> bytes:
        """Answer of a runtime call on the state after a block; its writes are dropped."""
        state = self.view(block_hash).state
        return self._executor.call(state.get(CODE_KEY) or b"", function, data, Overlay(state))

    def validate(self, extrinsic: bytes) -> ValidTransaction:
        """Ask the runtime at the head. Raises InvalidTransaction, or RuntimeTrap on garbage."""
        head = self.head.block.hash
        data = _EXTERNAL_SOURCE + extrinsic + head
        return read_validity(self.call(head, "TaggedTransactionQueue_validate_transaction", data))

    def author(self, now_ms: int, transactions: list[bytes]) -> NewHead:
        """Build the next block from `transactions`, in their order, and make it the head."""
        parent = self.head
        built = self._author.author(parent.block, parent.state, now_ms, transactions)
        self._append(View(built.block, built.state), built.changes)
        return NewHead(self.head, built.changes, built.included, built.refused)

    def add(self, block: Block) -> None:
        """Execute a block that was made elsewhere and make it the head.

        Raises ChainError if it does not follow the head, its author's seal is wrong, or executing
        it does not give the state that it names.
        """
        parent, header = self.head, block.header
        if header.parent_hash != parent.block.hash or header.number != parent.block.number + 1:
            raise ChainError(
                f"block {header.number} (0x{block.hash.hex()}) does not follow block "
                f"{parent.block.number} (0x{parent.block.hash.hex()})"
            )
        overlay = Overlay(parent.state)
        code = parent.state.get(CODE_KEY) or b""
        authorities = self.call(parent.block.hash, "AuraApi_authorities", b"")
        check_seal(header, authorities)
        try:
            self._executor.call(code, "Core_execute_block", block.unsealed(), overlay)
        except RuntimeTrap as trap:
            raise ChainError(f"block {header.number} does not execute: {trap}") from trap
        state = overlay.merged()
        if state.root(self.version.state_version) != header.state_root:
            raise ChainError(f"block {header.number} names another state than executing it gives")
        self._append(View(block, state), overlay.delta())

    def rewind(self, number: int) -> None:
        """Forget every block above `number`. Raises StateDiscarded if that is too long ago."""
        block = self._store.block_at(number)
        if block is None:
            raise ChainError(f"there is no block {number}; the head is {self.head.block.number}")
        state = self.view(block.hash).state
        self._store.rewind(number)
        self.version = self._version(state)
        self.head = View(block, state)
        self._views = OrderedDict({block.hash: self.head})

    def _append(self, view: View, changes: Changes) -> None:
        """Store the view, whose block made these changes, as the head."""
        parent = self.head
        undo = {key: parent.state.get(key) for key in changes}
        self._store.append(view.block, changes, undo)
        self.head = self._remember(view)
        if CODE_KEY in changes:
            self.version = self._version(view.state)

    def _remember(self, view: View) -> View:
        self._views[view.block.hash] = view
        if len(self._views) > _VIEWS_IN_MEMORY:
            oldest = next(iter(self._views))
            if oldest == self.head.block.hash:
                self._views.move_to_end(oldest)
                oldest = next(iter(self._views))
            del self._views[oldest]
        return view

    def _version(self, state: Trie) -> RuntimeVersion:
        code = state.get(CODE_KEY) or b""
        return RuntimeVersion.decode(self._executor.call(code, "Core_version", b"", Overlay(state)))

    def _verified(self, block: Block, state: Trie) -> View:
        if state.root(self.version.state_version) != block.header.state_root:
            raise ChainError(
                f"{self._store.path}: the state of block {block.number} does not have the root "
                "that its header names; the file is damaged, start over with --fresh"
            )
        return View(block, state)
