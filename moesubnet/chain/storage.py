"""Storage keys and values of one runtime, by the names that its metadata gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from substrateinterface.utils import hasher

from moesubnet.chain.codec import CodecError
from moesubnet.chain.registry import Registry
from moesubnet.errors import ChainError

PALLET = "SubtensorModule"

_HASHERS: dict[str, Callable[[bytes], bytes]] = {
    "Blake2_128": hasher.blake2_128,
    "Blake2_128Concat": hasher.blake2_128_concat,
    "Blake2_256": hasher.blake2_256,
    "Identity": hasher.identity,
    "Twox128": hasher.xxh128,
    "Twox64Concat": hasher.two_x64_concat,
}


class NoSuchItem(ChainError):
    """The chain's runtime has no storage item of that name."""


@dataclass(frozen=True, slots=True)
class StorageItem:
    """One item of the metadata. `default` is None where an absent value reads as None."""

    name: str
    prefix: bytes
    hashers: tuple[Callable[[bytes], bytes], ...]
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
        item = self._item(name)
        if len(arguments) != len(item.key_types):
            raise CodecError(f"{name} takes {len(item.key_types)} keys, not {len(arguments)}")
        parts = [item.prefix]
        for hash_key, type_id, argument in zip(
            item.hashers, item.key_types, arguments, strict=True
        ):
            parts.append(hash_key(self.registry.encode_key(type_id, argument)))
        return "0x" + b"".join(parts).hex()

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
