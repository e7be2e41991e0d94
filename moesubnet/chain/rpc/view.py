"""The chain's state after one block: values, maps and events, decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from moesubnet.chain.rpc.storage import Storage
from moesubnet.errors import ChainError

_KEYS_PER_REQUEST = 1_000


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a block. Unnamed fields are under their position: `"0"`, `"1"`."""

    pallet: str
    name: str
    extrinsic_index: int | None
    fields: dict[str, Any]


class Node(Protocol):
    """Who answers a view's questions."""

    url: str

    @property
    def interface(self) -> Any:
        """substrate-interface over it."""
        ...

    def request(self, method: str, *params: object) -> Any:
        """The `result` of a JSON-RPC call. Raises RpcError, ChainUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """The chain's state after one block."""

    link: Node
    block_hash: str
    storage: Storage

    def get(self, *wanted: tuple[object, ...]) -> list[Any]:
        """Values of `(item, *keys)` each, in order, with as few requests as possible."""
        keys = [self.storage.key(str(name), *arguments) for name, *arguments in wanted]
        raw = self._raw(keys)
        return [
            self.storage.value(str(ask[0]), raw.get(key))
            for ask, key in zip(wanted, keys, strict=True)
        ]

    def entries(self, name: str, *first_keys: object) -> list[tuple[tuple[Any, ...], Any]]:
        """All `(other keys, value)` of a map under its first keys."""
        prefix = self.storage.prefix(name, *first_keys)
        keys: list[str] = []
        while True:
            start = keys[-1] if keys else None
            page = self.link.request(
                "state_getKeysPaged", prefix, _KEYS_PER_REQUEST, start, self.block_hash
            )
            keys += page
            if len(page) < _KEYS_PER_REQUEST:
                break
        raw = self._raw(keys)
        return [
            (self.storage.rest_of_key(name, prefix, key), self.storage.value(name, raw.get(key)))
            for key in keys
        ]

    def call(self, function: str, arguments: bytes = b"") -> bytes:
        """What the runtime answers to `Api_method`, SCALE on both sides. Raises RpcError."""
        answer = self.link.request("state_call", function, "0x" + arguments.hex(), self.block_hash)
        try:
            return bytes.fromhex(str(answer).removeprefix("0x"))
        except ValueError as error:
            raise ChainError(f"{self.link.url} does not answer as a chain does") from error

    def events(self) -> tuple[Event, ...]:
        """The block's events, in order."""
        (records,) = self.get(("System.Events",))
        return tuple(_events(records))

    def _raw(self, keys: list[str]) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for start in range(0, len(keys), _KEYS_PER_REQUEST):
            batch = keys[start : start + _KEYS_PER_REQUEST]
            for change in self.link.request("state_queryStorageAt", batch, self.block_hash):
                found.update(change["changes"])
        return found


def _events(records: Iterable[Any]) -> Iterator[Event]:
    for record in records:
        ((pallet, body),) = record["event"].items()
        name, fields = next(iter(body.items())) if isinstance(body, dict) else (body, {})
        if not isinstance(fields, dict):
            values = fields if isinstance(fields, tuple) else (fields,)
            fields = {str(position): value for position, value in enumerate(values)}
        phase = record["phase"]
        index = phase.get("ApplyExtrinsic") if isinstance(phase, dict) else None
        yield Event(pallet, name, index, fields)
