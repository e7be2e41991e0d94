"""asyncio on the outside, one worker thread with one socket inside.

Everything polls: a subscription that died with its socket looks like a quiet chain.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Literal, Self, TypeVar

from moesubnet.chain.rpc.extrinsics import Call
from moesubnet.chain.rpc.link import Head, Link, NoSuchBlock, RpcError
from moesubnet.chain.rpc.submission import Receipt, block_of, head_of, search, send
from moesubnet.chain.rpc.view import Event, View
from moesubnet.errors import ChainUnavailable, ConfigError
from moesubnet.types import Signer

DEFAULT_URL = "ws://127.0.0.1:9944"
DEFAULT_TIMEOUT_S = 10.0
SUBMIT_TIMEOUT_S = 120.0

Wait = Literal["inclusion", "finalization"]

T = TypeVar("T")

log = logging.getLogger(__name__)

_DECODING_S = 60.0
_GRACE_S = 2.0  # for the thread to notice its own deadline
_FIRST_POLL_S, _SLOWEST_POLL_S = 0.02, 1.0
_STALL_BLOCKS, _STALL_S = 10, 30.0


class ChainConnection:
    """One connection to a node. Open it with `connect`; it is an async context manager.

    Every method raises ChainUnavailable when no answer comes in time, and ChainError when the
    chain is not what it should be. A connection that dies is made again behind the scenes.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        if not url.startswith(("ws://", "wss://")):
            raise ConfigError(f"{url!r} is no chain's address; write ws://HOST:PORT")
        self.url = url
        self.block_seconds = 0.0
        self.has_drand = False  # the chain opens votes encrypted to drand, as subtensor does
        self._timeout_s = timeout_s
        self._link = Link(url)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="chain-client")

    @classmethod
    async def connect(cls, url: str = DEFAULT_URL, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Self:
        """Connect and read the chain's metadata; `timeout_s` then bounds every request."""
        client = cls(url, timeout_s)
        try:
            await client.head()
            # Decoding the metadata takes seconds on a busy core: more than an answer may.
            client.block_seconds, client.has_drand = await client._run(
                lambda link: (link.block_seconds(), link.has_pallet("Drand")),
                timeout_s + _DECODING_S,
            )
        except BaseException:
            await client.close()
            raise
        return client

    async def close(self) -> None:
        """End every wait and the connection. Later requests raise ChainUnavailable."""
        self._link.abort()
        await asyncio.to_thread(self._worker.shutdown)
        self._link.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def genesis_hash(self) -> str:
        """`0x…` hash of block 0: which chain this is."""
        return self._link.genesis_hash

    # --- the tip -------------------------------------------------------------------------------

    async def head(self) -> Head:
        """The best block."""
        return await self._run(head_of)

    async def heads(self, poll_s: float | None = None) -> AsyncIterator[Head]:
        """The head now, then each new one until the client is closed.

        A slow reader gets the newest head and misses those between. While the chain is silent or
        away the log says so, and the iterator goes on as soon as it is back. Raises ChainError if
        another chain comes back.
        """
        poll_s = poll_s if poll_s is not None else self._poll_s
        last: Head | None = None
        news_at = warned_at = time.monotonic()
        while not self._link.closed:
            problem = "no new block"
            try:
                head = await self.head()
            except (ChainUnavailable, RpcError, NoSuchBlock) as error:
                problem, head = str(error), None
            if head is not None and head != last:
                last, news_at = head, time.monotonic()
                yield head
            now = time.monotonic()
            patience_s = max(_STALL_BLOCKS * self.block_seconds, _STALL_S)
            if now - max(news_at, warned_at) > patience_s and not self._link.closed:
                log.warning("chain=%s silent_s=%.0f reason=%s", self.url, now - news_at, problem)
                warned_at = now
            await asyncio.sleep(poll_s)

    async def events(self, block_hash: str) -> tuple[Event, ...]:
        """A block's events, in order."""
        return await self._read(lambda view, _: view.events(), block_hash)

    async def query(self, *wanted: tuple[object, ...]) -> list[object]:
        """Storage values at the head, `(item, *keys)` each; `registry` says how they look."""
        return await self._read(lambda view, _: view.get(*wanted))

    async def submit(
        self,
        call: Call,
        signer: Signer,
        *,
        wait: Wait = "inclusion",
        timeout_s: float = SUBMIT_TIMEOUT_S,
    ) -> Receipt:
        """Sign, send, and wait until a block of the best chain has it, or a final one.

        While it waits, a call whose block loses to another fork is brought into that one; it is
        never executed twice. Afterwards nobody watches it: where a reverted call costs something,
        wait for finalization, or look at the chain again.
        Raises CallRejected, named as in the chain's metadata, when pool or pallet refuse it.
        After ChainUnavailable (no verdict in `timeout_s`) it may still be included, for at most
        `ERA_BLOCKS` blocks: look at the chain before sending it again.
        """
        deadline = time.monotonic() + timeout_s
        finalized = wait == "finalization"
        pending = await self._run(lambda link: send(link, call, signer))
        pause_s = _FIRST_POLL_S
        while time.monotonic() + pause_s < deadline:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._poll_s)
            try:
                found = await self._run(partial(search, pending=pending, finalized=finalized))
            except (ChainUnavailable, RpcError, NoSuchBlock) as error:
                if self._link.closed:
                    raise
                log.debug("chain=%s call=%s error=%s", self.url, call, error)
                continue  # it may come back before the deadline
            if isinstance(found, Receipt):
                return found
            pending = found
        kind = "final block" if finalized else "block"
        raise ChainUnavailable(
            f"{call} is in no {kind} after {timeout_s:.0f} s; it may still come into one"
        )

    # --- the thread ----------------------------------------------------------------------------

    @property
    def _poll_s(self) -> float:
        return min(self.block_seconds / 4, _SLOWEST_POLL_S)

    async def _read(self, question: Callable[[View, Head], T], block_hash: str | None = None) -> T:
        def ask(link: Link) -> T:
            head = block_of(link, block_hash) if block_hash else head_of(link)
            return question(link.view(head.hash), head)

        return await self._run(ask)

    async def _run(self, work: Callable[[Link], T], timeout_s: float | None = None) -> T:
        timeout_s = timeout_s if timeout_s is not None else self._timeout_s
        deadline = time.monotonic() + timeout_s
        if self._link.closed:
            raise ChainUnavailable("the chain client is closed")
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._worker, self._link.run, work, deadline)
        try:
            async with asyncio.timeout(timeout_s + _GRACE_S):
                return await future
        except TimeoutError as error:
            raise ChainUnavailable(f"no answer from {self.url} in {timeout_s:.0f} s") from error
