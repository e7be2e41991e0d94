"""The connection to a node. It lives on one worker thread; only `abort` may come from another.

Every request has a deadline. A socket that dies is replaced with growing pauses, and the request is
sent again: reads do no harm twice, and a node knows a transaction that it was sent before.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import websocket
from substrateinterface import SubstrateInterface
from substrateinterface.exceptions import BlockNotFound

from moesubnet.chain.rpc.codec import SS58_FORMAT
from moesubnet.chain.rpc.storage import Storage
from moesubnet.chain.rpc.view import View
from moesubnet.errors import ChainError, ChainUnavailable
from moesubnet.types import BlockNumber

T = TypeVar("T")

log = logging.getLogger(__name__)

_SHORTEST_WAIT_S = 0.01  # 0 would mean forever
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_DEFAULT_BLOCK_SECONDS = 12.0

# Where newer runtimes keep what the library knows under older paths.
_MOVED_TYPES = {
    "bounded_collections::bounded_vec::BoundedVec": "BoundedVec",
    "bounded_collections::weak_bounded_vec::WeakBoundedVec": "BoundedVec",
}

# Decoded metadata by (genesis hash, version): decoding takes a second, and a runtime cannot change
# without either. The code alone would not do: constants may come from the genesis.
_METADATA: dict[tuple[str, str], Any] = {}


class RpcError(ChainError):
    """The node answered a request with an error."""

    def __init__(self, code: int, message: str, data: str = "") -> None:
        super().__init__(f"{message}: {data}" if data else message)
        self.code, self.message, self.data = code, message, data


class NoSuchBlock(ChainError):
    """The node does not have that block, or not any more."""

    def __init__(self, block_hash: str) -> None:
        super().__init__(f"the chain has no block {block_hash}")


class Head(NamedTuple):
    """A block at the tip of the chain."""

    number: BlockNumber
    hash: str


@dataclass(slots=True)
class _Cache:
    """What substrate-interface asks of a metadata cache."""

    genesis_hash: str
    entries: dict[tuple[str, str], Any] = field(default_factory=lambda: _METADATA)

    def get(self, key: str) -> Any:
        return self.entries.get((self.genesis_hash, key))

    def set(self, key: str, value: Any) -> None:
        self.entries[self.genesis_hash, key] = value


class Link:
    """One WebSocket, kept alive, and the runtime behind it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.genesis_hash = ""
        self.connections = 0  # how many sockets were opened so far
        self._socket: Any = None
        self._interface: Any = None
        self.newest = Head(BlockNumber(0), "")  # block asked for last
        self._ahead = False  # whether substrate-interface is to see the next block's runtime
        self._storages: dict[int, Storage] = {}  # by version of the runtime
        self._view: View | None = None  # the last one: most questions are about the same head
        self._deadline = 0.0
        self._next_id = 1
        self._closed = threading.Event()

    def run(self, work: Callable[[Link], T], deadline: float) -> T:
        """Do `work` with every request in it bound to the monotonic `deadline`."""
        self._deadline = deadline
        return work(self)

    def abort(self) -> None:
        """End every wait, now and from now on. Thread-safe."""
        self._closed.set()
        socket = self._socket
        if socket is not None:
            socket.abort()

    def release(self) -> None:
        """Give the socket back, once no other thread uses it."""
        self._drop()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    @property
    def interface(self) -> Any:
        """substrate-interface, with its requests going through ours."""
        if self._interface is None:
            self.genesis_hash = self.request("chain_getBlockHash", 0)
            interface = SubstrateInterface(
                websocket=self._socket,
                ss58_format=SS58_FORMAT,
                auto_discover=False,
                type_registry={"types": _MOVED_TYPES},
                cache_region=_Cache(self.genesis_hash),
            )
            interface.rpc_request = self._answer
            self._interface = interface
        return self._interface

    def view(self, block_hash: str) -> View:
        """State after a block, read with the runtime that wrote it."""
        if self._view is not None and self._view.block_hash == block_hash:
            return self._view
        try:
            self.interface.init_runtime(block_hash=block_hash)
        except BlockNotFound as error:
            raise NoSuchBlock(block_hash) from error
        finally:
            # It is set before it is asked for: after a failure the next try would believe it.
            self.interface.block_hash = None
        version = self.interface.runtime_version
        if version not in self._storages:
            self._storages[version] = Storage(self.interface.metadata)
        self._view = View(self, block_hash, self._storages[version])
        return self._view

    @contextmanager
    def next_runtime(self) -> Iterator[Any]:
        """substrate-interface with the runtime of the block after the head, for signing.

        By itself it goes by the runtime that made the head. Where that block replaced the runtime
        its signatures would be refused, and a chain that seals on demand would never go on.
        Raises NoSuchBlock where another fork won between two of its questions.
        """
        interface = self.interface
        self._ahead, interface.block_hash = True, None
        try:
            yield interface
        except BlockNotFound as error:
            raise NoSuchBlock(str(error)) from error
        finally:
            self._ahead, interface.block_hash = False, None

    def block_seconds(self) -> float:
        """The slot duration that the chain's metadata gives; 12 s if it gives none."""
        slot_ms = self.interface.get_constant("Aura", "SlotDuration")
        return int(slot_ms.value) / 1_000 if slot_ms is not None else _DEFAULT_BLOCK_SECONDS

    def has_pallet(self, name: str) -> bool:
        """Whether the chain's metadata has a pallet of that name."""
        return any(pallet.name == name for pallet in self.interface.metadata.pallets)

    def request(self, method: str, *params: object) -> Any:
        """The `result` of a JSON-RPC call. Raises RpcError, ChainUnavailable."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                with self._connected() as socket:
                    return self._exchange(socket, method, params)
            except (OSError, websocket.WebSocketException, ValueError, KeyError) as error:
                self._drop()
                log.debug("chain=%s method=%s error=%s", self.url, method, error)
                remaining_s = self._deadline - time.monotonic()
                if self._closed.wait(max(0.0, min(pause_s, remaining_s))):
                    raise ChainUnavailable("the chain client is closed") from error
                if remaining_s <= pause_s:
                    raise ChainUnavailable(_unavailable(self.url, error)) from error
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _answer(self, method: str, params: list[object], result_handler: object = None) -> Any:
        assert result_handler is None, "we poll; substrate-interface's subscriptions block"
        result = self.request(method, *params)
        if self._ahead and method == "chain_getHeader" and isinstance(result, dict):
            result |= {"parentHash": params[0]}  # it takes the runtime from the parent's state
        return {"result": result}

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        if self._closed.is_set():
            raise ChainUnavailable("the chain client is closed")
        timeout_s = self._deadline - time.monotonic()
        if timeout_s <= 0:
            raise ChainUnavailable(_unavailable(self.url, TimeoutError()))
        if self._socket is None:
            # The library checks UTF-8 byte by byte in Python, half a second for a large subnet;
            # decoding the text checks it anyway.
            self._socket = websocket.create_connection(
                self.url, timeout=timeout_s, skip_utf8_validation=True
            )
            self.connections += 1
            self._check_same_chain(self._socket)
        yield self._socket

    def _check_same_chain(self, socket: Any) -> None:
        if self.genesis_hash:
            found = self._exchange(socket, "chain_getBlockHash", (0,))
            if found != self.genesis_hash:
                self._drop()
                raise ChainError(
                    f"another chain answers at {self.url} now (genesis {found[:18]}…, before "
                    f"{self.genesis_hash[:18]}…): start again if that is meant"
                )

    def _exchange(self, socket: Any, method: str, params: Iterable[object]) -> Any:
        request_id, self._next_id = self._next_id, self._next_id + 1
        socket.send(
            json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": [*params]})
        )
        while True:
            socket.settimeout(max(_SHORTEST_WAIT_S, self._deadline - time.monotonic()))
            message = json.loads(socket.recv())
            if not isinstance(message, dict):
                raise ValueError("the node does not speak JSON-RPC")
            if message.get("id") == request_id:
                break
        if error := message.get("error"):
            raise RpcError(int(error["code"]), str(error["message"]), str(error.get("data") or ""))
        return message["result"]

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.shutdown()  # no closing handshake with a node that may be gone
            self._socket = None


def _unavailable(url: str, error: Exception) -> str:
    reason = "no answer in time" if isinstance(error, TimeoutError) else str(error) or repr(error)
    return (
        f"no chain answers at {url} ({reason}): start one with `moesubnet chain dev`, "
        "or name another with --chain ws://HOST:PORT"
    )
