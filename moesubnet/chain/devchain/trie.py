"""Substrate's state trie as an immutable tree: an update copies only the paths it touches.

Old roots stay valid, so the state of a past block costs what that block changed. Each node caches
its Merkle value, so a root costs what changed since the last one, whatever the size of the state.

Nibbles are lowercase hexadecimal characters: `bytes.hex()` splits a key, order is kept, and
prefixes, slices and comparisons are string operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from hashlib import blake2b

from moesubnet.chain.devchain.scale import compact

_HEX = "0123456789abcdef"
_NIBBLE = {c: i for i, c in enumerate(_HEX)}
# From this length on, state version 1 stores a value's hash in its node.
_HASHED_VALUE_BYTES = 33
# (top bits of a node's header, largest partial length that fits beside them)
_LEAF, _BRANCH, _BRANCH_VALUE = (0x40, 0x3F), (0x80, 0x3F), (0xC0, 0x3F)
_LEAF_HASHED, _BRANCH_HASHED = (0x20, 0x1F), (0x10, 0x0F)

Changes = Mapping[bytes, bytes | None]
_Item = tuple[str, bytes | None]


class _Node:
    """`children` is empty or has 16 places. Nothing but the cache is written after creation."""

    __slots__ = ("children", "partial", "reference", "value", "version")

    def __init__(self, partial: str, value: bytes | None, children: Sequence[_Node | None]) -> None:
        self.partial = partial
        self.value = value
        self.children = children
        self.reference: bytes | None = None  # how the parent refers to it, under `version`
        self.version = -1


class Trie:
    """A map from bytes to bytes with a Merkle root. Immutable; safe to read from any thread."""

    __slots__ = ("_root",)

    def __init__(self, root: _Node | None = None) -> None:
        self._root = root

    def get(self, key: bytes) -> bytes | None:
        nibbles = key.hex()
        node = self._root
        pos = 0
        end = len(nibbles)
        while node is not None:
            partial = node.partial
            if not nibbles.startswith(partial, pos):
                return None
            pos += len(partial)
            if pos == end:
                return node.value
            if not node.children:
                return None
            node = node.children[_NIBBLE[nibbles[pos]]]
            pos += 1
        return None

    def update(self, changes: Changes) -> Trie:
        """The trie with `changes` applied; None deletes a key."""
        if not changes:
            return self
        items = sorted((key.hex(), value) for key, value in changes.items())
        return Trie(_update(self._root, items, 0))

    def items(self, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Pairs in key order: those that begin with `prefix` and are not below `start`."""
        if self._root is None:
            return
        nibbles = prefix.hex()
        for key, value in _walk(self._root, "", max(nibbles, start.hex())):
            if not key.startswith(nibbles):
                return
            yield bytes.fromhex(key), value

    def next_key(self, key: bytes) -> bytes | None:
        """The smallest key above `key`."""
        for found, _ in self.items(start=key):
            if found != key:
                return found
        return None

    def root(self, version: int) -> bytes:
        """The 32-byte Merkle root under state version 0 or 1."""
        encoded = b"\0" if self._root is None else _encode(self._root, version)
        return blake2b(encoded, digest_size=32).digest()


def ordered_root(values: Sequence[bytes], version: int) -> bytes:
    """Root of the trie that maps the compact-encoded index to each value."""
    return Trie().update({compact(i): value for i, value in enumerate(values)}).root(version)


def _update(node: _Node | None, items: Sequence[_Item], depth: int) -> _Node | None:
    """Subtree `node`, which starts at nibble `depth`, with the sorted non-empty `items` applied.

    All items share the nibbles before `depth`. Returns None if nothing is left.
    """
    first, last = items[0][0], items[-1][0]
    if node is None:
        partial = first[depth : _shared(first, last, depth)]
        value: bytes | None = None
        children: list[_Node | None] = [None] * 16
    else:
        partial, value = node.partial, node.value
        if first.startswith(partial, depth) and last.startswith(partial, depth):
            children = list(node.children) or [None] * 16
        else:  # split: the old node goes below a new branch
            children = [None] * 16
            path = first[:depth] + partial
            end = min(_shared(path, first, depth), _shared(path, last, depth))
            children[_NIBBLE[path[end]]] = _Node(path[end + 1 :], value, node.children)
            partial, value = path[depth:end], None
    at = depth + len(partial)
    i = 0
    if len(first) == at:
        value = items[0][1]
        i = 1
    while i < len(items):
        nibble = items[i][0][at]
        j = i + 1
        while j < len(items) and items[j][0][at] == nibble:
            j += 1
        place = _NIBBLE[nibble]
        children[place] = _update(children[place], items[i:j], at + 1)
        i = j
    return _canonical(partial, value, children)


def _shared(a: str, b: str, start: int) -> int:
    """Length of the common prefix of two strings that share their first `start` characters."""
    if a == b:
        return len(a)
    end = min(len(a), len(b))
    return next((i for i in range(start, end) if a[i] != b[i]), end)


def _canonical(partial: str, value: bytes | None, children: list[_Node | None]) -> _Node | None:
    """A node with these parts: nothing if it is empty, its only child if it is a mere path."""
    present = 16 - children.count(None)
    if present == 0:
        return None if value is None else _Node(partial, value, ())
    if present == 1 and value is None:
        place = next(i for i, child in enumerate(children) if child is not None)
        child = children[place]
        assert child is not None
        return _Node(partial + _HEX[place] + child.partial, child.value, child.children)
    return _Node(partial, value, children)


def _walk(node: _Node, path: str, start: str) -> Iterator[tuple[str, bytes]]:
    """Pairs of the subtree at `path` whose nibbles are not below `start`, in order."""
    path += node.partial
    if path >= start:
        start = ""
    elif not start.startswith(path):
        return
    first = 0
    if start:
        first = _NIBBLE[start[len(path)]]
    elif node.value is not None:
        yield path, node.value
    for i in range(first, len(node.children)):
        child = node.children[i]
        if child is not None:
            yield from _walk(child, path + _HEX[i], start)


@cache
def _header(kind: tuple[int, int], partial_nibbles: int) -> bytes:
    bits, largest = kind
    if partial_nibbles < largest:
        return bytes((bits | partial_nibbles,))
    full, rest = divmod(partial_nibbles - largest, 255)
    return bytes((bits | largest,)) + b"\xff" * full + bytes((rest,))


def _encode(node: _Node, version: int) -> bytes:
    partial, value, children = node.partial, node.value, node.children
    parts = [bytes.fromhex("0" + partial if len(partial) & 1 else partial)]
    hashed = version > 0 and value is not None and len(value) >= _HASHED_VALUE_BYTES
    if children:
        bitmap = sum(1 << i for i, child in enumerate(children) if child is not None)
        parts.append(bitmap.to_bytes(2, "little"))
        kind = _BRANCH if value is None else _BRANCH_HASHED if hashed else _BRANCH_VALUE
    else:
        kind = _LEAF_HASHED if hashed else _LEAF
    if value is not None:
        if hashed:
            parts.append(blake2b(value, digest_size=32).digest())
        else:
            parts.append(compact(len(value)))
            parts.append(value)
    for child in children:
        if child is not None:
            parts.append(_reference(child, version))
    return _header(kind, len(partial)) + b"".join(parts)


def _reference(node: _Node, version: int) -> bytes:
    """The node's encoding if it is short, else its hash; length-prefixed as its parent wants it."""
    reference = node.reference
    if reference is None or node.version != version:
        encoded = _encode(node, version)
        if len(encoded) >= 32:
            encoded = blake2b(encoded, digest_size=32).digest()
        reference = bytes((len(encoded) << 2,)) + encoded
        node.version, node.reference = version, reference
    return reference
