"""Builds one block the way a node does: initialise, inherents, transactions, finalise, seal.

Blocks are sealed with the well-known development keys, so this authors only chains whose Aura
authorities are among them. ed25519 is deterministic: the same inputs give the same block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import ed25519_zebra

from moesubnet.chain.devchain.accounts import dev_authority_secrets
from moesubnet.chain.devchain.code import CODE_KEY
from moesubnet.chain.devchain.executor import Executor, RuntimeTrap
from moesubnet.chain.devchain.header import (
    Block,
    Header,
    decode_extrinsics,
    seal_item,
    slot_item,
)
from moesubnet.chain.devchain.overlay import Overlay
from moesubnet.chain.devchain.scale import Reader, compact, vec
from moesubnet.chain.devchain.trie import Changes, Trie
from moesubnet.chain.devchain.validity import InvalidTransaction, read_error
from moesubnet.errors import ChainError

MAX_SKIPPED = 8  # transactions too large for what is left of a block, as a node does it
_NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class Authored:
    """A sealed block, the state after it, and what became of the offered transactions."""

    block: Block
    state: Trie
    changes: Changes
    included: tuple[bytes, ...]
    refused: tuple[bytes, ...]  # will never be valid; those in neither wait for another block


class Author:
    """Authors on top of given parents. `slot_ms` is the chain's slot duration."""

    def __init__(self, executor: Executor, slot_ms: int) -> None:
        self._executor = executor
        self._slot_ms = slot_ms

    def author(
        self, parent: Block, state: Trie, now_ms: int, transactions: Sequence[bytes]
    ) -> Authored:
        """The next block. Its slot is that of `now_ms`, or the one after its parent's if later.

        The timestamp is the start of the slot, which satisfies Aura and the minimum period even
        when blocks are authored faster than slots pass.
        """
        slot = max(now_ms // self._slot_ms, (parent.header.slot() or 0) + 1)
        overlay = Overlay(state)
        code = state.get(CODE_KEY) or b""

        def call(function: str, data: bytes = b"") -> bytes:
            return self._executor.call(code, function, data, overlay)

        authorities = call("AuraApi_authorities")
        opened = Header(parent.hash, parent.number + 1, _NO_HASH, _NO_HASH, (slot_item(slot),))
        only_inherents = call("Core_initialize_block", opened.encode()) == b"\1"
        inherents = call("BlockBuilder_inherent_extrinsics", _inherents(slot * self._slot_ms))
        applied = list(decode_extrinsics(inherents))
        for inherent in applied:
            if call("BlockBuilder_apply_extrinsic", inherent)[:1] != b"\0":
                raise ChainError("the runtime refused its own inherents")
        included: list[bytes] = []
        refused: list[bytes] = []
        skipped = 0
        deadline = time.monotonic() + self._slot_ms / 2000
        for extrinsic in () if only_inherents else transactions:
            error = _apply(call, overlay, extrinsic)
            if error is None:
                included.append(extrinsic)
            elif error.exhausts_resources:
                skipped += 1
            elif not error.future:
                refused.append(extrinsic)
            if skipped > MAX_SKIPPED or time.monotonic() > deadline:
                break
        closed = Header.decode(call("BlockBuilder_finalize_block"))
        header = self._seal(closed, slot, authorities)
        block = Block(header.hash(), header, (*applied, *included))
        return Authored(block, overlay.merged(), overlay.delta(), tuple(included), tuple(refused))

    def _seal(self, header: Header, slot: int, authorities: bytes) -> Header:
        reader = Reader(authorities)
        keys = [reader.take(32) for _ in range(reader.compact())]
        author = keys[slot % len(keys)] if keys else b""
        secret = dev_authority_secrets().get(author)
        if secret is None:
            raise ChainError(f"no key for the Aura authority 0x{author.hex()}")
        signature = ed25519_zebra.ed_sign(secret, header.hash())
        return replace(header, digest=(*header.digest, seal_item(signature)))


def check_seal(header: Header, authorities: bytes) -> None:
    """Whether the authority whose slot it is signed the header; `authorities` as SCALE.

    Raises ChainError otherwise.
    """
    reader = Reader(authorities)
    keys = [reader.take(32) for _ in range(reader.compact())]
    slot, seal = header.slot(), header.seal()
    if slot is None or seal is None or not keys:
        raise ChainError(f"block {header.number} has no author")
    unsigned = header.unsealed().hash()
    if len(seal) != 64 or not ed25519_zebra.ed_verify(seal, unsigned, keys[slot % len(keys)]):
        raise ChainError(f"block {header.number} is not sealed by the author of its slot")


def _inherents(timestamp_ms: int) -> bytes:
    """`InherentData` with the only inherent there is: the time."""
    return compact(1) + b"timstap0" + vec(timestamp_ms.to_bytes(8, "little"))


def _apply(
    call: Callable[[str, bytes], bytes], overlay: Overlay, extrinsic: bytes
) -> InvalidTransaction | None:
    """Apply one transaction; if it may not be included, leave no trace of it and say why."""
    depth = overlay.depth
    overlay.start_transaction()
    try:
        answer = Reader(call("BlockBuilder_apply_extrinsic", extrinsic))
        error = read_error(answer) if answer.uint(1) else None
    except RuntimeTrap as trap:
        error = InvalidTransaction(1010, "Invalid Transaction", str(trap))
    if error is None:
        overlay.commit_transaction()
    else:
        overlay.rollback_to(depth)
    return error
