"""Storage keys and values of one runtime, by the names that its metadata gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from substrateinterface.utils import hasher

from moesubnet.chain.rpc.codec import CodecError
from moesubnet.chain.rpc.registry import Registry
from moesubnet.errors import ChainError

PALLET = "SubtensorModule"


@dataclass(frozen=True, slots=True)
class Hasher:
    """How a key enters storage. `digest_bytes` go before the key itself; None: it is not there."""

    hash: Callable[[bytes], bytes]
    digest_bytes: int | None


_HASHERS = {
    "Blake2_128": Hasher(hasher.blake2_128, None),
    "Blake2_128Concat": Hasher(hasher.blake2_128_concat, 16),
    "Blake2_256": Hasher(hasher.blake2_256, None),
    "Identity": Hasher(hasher.identity, 0),
    "Twox128": Hasher(hasher.xxh128, None),
    "Twox64Concat": Hasher(hasher.two_x64_concat, 8),
}


class NoSuchItem(ChainError):
    """The chain's runtime has no storage item of that name."""


@dataclass(frozen=True, slots=True)
class StorageItem:
    """One item of the metadata. `default` is None where an absent value reads as None."""

    name: str
    prefix: bytes
    hashers: tuple[Hasher, ...]
    key_types: tuple[int, ...]
    value_type: int
    default: bytes | None


class Storage:
    """Names to keys, bytes to values. An item is named `Item` (of our pallet) or `Pallet.Item`."""

    def __init__(self, metadata: Any) -> None:
        self.registry = Registry(metadata.portable_registry["types"].value)
        self._metadata = metadata
        self._items: dict[str, StorageItem] = {}

    def __contains__(self, name: str) -> bool:
        try:
            self._item(name)
        except NoSuchItem:
            return False
        return True

    def key(self, name: str, *arguments: object) -> str:
        """`0x…` key of an item; a map takes all of its keys. Raises NoSuchItem, CodecError."""
        if len(arguments) != len(self._item(name).key_types):
            raise CodecError(f"{name} takes {len(self._item(name).key_types)} keys")
        return self.prefix(name, *arguments)

    def prefix(self, name: str, *arguments: object) -> str:
        """What all keys of a map begin with whose first keys these are."""
        item = self._item(name)
        parts = [item.prefix]
        for how, type_id, argument in zip(item.hashers, item.key_types, arguments, strict=False):
            parts.append(how.hash(self.registry.encode_key(type_id, argument)))
        return "0x" + b"".join(parts).hex()

    def rest_of_key(self, name: str, prefix: str, key: str) -> tuple[Any, ...]:
        """The keys of a map's entry that come after `prefix` in its `0x…` key."""
        item = self._item(name)
        data = bytes.fromhex(key.removeprefix("0x"))
        at = len(item.prefix)
        found = []
        for how, type_id in zip(item.hashers, item.key_types, strict=True):
            if how.digest_bytes is None:
                raise CodecError(f"{name} does not store its keys")
            value, at = self.registry.read(type_id, data, at + how.digest_bytes)
            if 2 * at + 2 > len(prefix):
                found.append(value)
        return tuple(found)

    def value(self, name: str, raw: str | None) -> Any:
        """What the `0x…` bytes at a key of the item mean; its default when there are none."""
        item = self._item(name)
        data = item.default if raw is None else bytes.fromhex(raw.removeprefix("0x"))
        return None if data is None else self.registry.decode(item.value_type, data)

    def _item(self, name: str) -> StorageItem:
        if name not in self._items:
            self._items[name] = self._find(name)
        return self._items[name]

    def _find(self, name: str) -> StorageItem:
        pallet_name, _, item_name = name.rpartition(".")
        pallet = self._metadata.get_metadata_pallet(pallet_name or PALLET)
        entry = pallet and pallet.get_storage_function(item_name)
        if not entry:
            raise NoSuchItem(
                f"this chain has no storage item {pallet_name or PALLET}.{item_name}: "
                "it is no moesubnet chain, or of another version"
            )
        ((kind, body),) = entry.value["type"].items()
        prefix = hasher.xxh128(pallet.value["storage"]["prefix"].encode()) + hasher.xxh128(
            item_name.encode()
        )
        optional = entry.value["modifier"] == "Optional"
        default = None if optional else bytes(entry.value_object["default"].value_object)
        if kind == "Plain":
            return StorageItem(name, prefix, (), (), body, default)
        hashers = tuple(_HASHERS[hash_name] for hash_name in body["hashers"])
        key_types = (
            (body["key"],) if len(hashers) == 1 else self.registry.tuple_members(body["key"])
        )
        return StorageItem(name, prefix, hashers, key_types, body["value"], default)
