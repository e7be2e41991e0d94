"""The chain as a service: seals blocks, runs the pool, tells subscribers. asyncio on the outside.

One worker thread owns the chain (WASM and SQLite); the event loop owns the pool and only does I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from moesubnet.chain.devchain.blob import runtime_wasm
from moesubnet.chain.devchain.chain import Chain, NewHead
from moesubnet.chain.devchain.code import RuntimeVersion
from moesubnet.chain.devchain.executor import RuntimeTrap
from moesubnet.chain.devchain.header import Block, is_extrinsic
from moesubnet.chain.devchain.pool import Pool, Watcher
from moesubnet.chain.devchain.validity import PoolError
from moesubnet.errors import ChainError

Seal = Literal["instant", "slot", "manual"] | float
# Sealing instantly: so many blocks in a row that take nothing, before the next submission is waited
# for. Epochs fill one now and then; what still does not fit then never will.
_IDLE_BLOCKS = 3
"""When blocks are made: as soon as a transaction is ready, once per slot, only on
`produce_block()`, or every so many seconds."""

P = ParamSpec("P")
T = TypeVar("T")


class DevChain:
    """A running chain. Open it with `DevChain.open`.

    `head` is the newest block and its state. `sealing` ends only if blocks can no longer be made.
    """

    sealing: asyncio.Task[None]

    def __init__(
        self, worker: ThreadPoolExecutor, chain: Chain, preset: str, clock: Callable[[], float]
    ) -> None:
        self._worker = worker
        self._chain = chain
        self.preset = preset
        self._clock = clock
        # Both change on the event loop only, and together: clients read types by the version.
        self.head = chain.head
        self.version: RuntimeVersion = chain.version  # of the runtime at the head
        self.pool = Pool()
        self._sealing = asyncio.Lock()
        self._submitted = asyncio.Event()
        self._listeners: list[Callable[[NewHead], None]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        base_path: Path | None = None,
        *,
        preset: str = "development",
        seal: Seal = "slot",
        clock: Callable[[], float] = time.time,
        fresh: bool = False,
        runtime: bytes | None = None,
    ) -> AsyncIterator[DevChain]:
        """The chain in the directory `base_path` (None: a temporary one), sealing until closed.

        `clock` gives Unix seconds. `fresh` deletes the chain first. `runtime` replaces the runtime
        that comes with the package.
        Raises ConfigError if the directory holds a chain of another kind or is in use.
        """
        loop = asyncio.get_running_loop()
        worker = ThreadPoolExecutor(1, thread_name_prefix="devchain")
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(worker.shutdown)
            if base_path is None:
                base_path = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            code = runtime if runtime is not None else runtime_wasm()
            chain = await loop.run_in_executor(worker, Chain, base_path, code, preset, fresh)
            stack.callback(lambda: worker.submit(chain.close).result())
            service = cls(worker, chain, preset, clock)
            service.sealing = asyncio.create_task(service._seal_blocks(seal))
            try:
                yield service
                if service.sealing.done():
                    service.sealing.result()
            finally:
                service.sealing.cancel()
                await asyncio.gather(service.sealing, return_exceptions=True)

    @property
    def genesis_hash(self) -> bytes:
        return self._chain.genesis_hash

    @property
    def slot_ms(self) -> int:
        return self._chain.slot_ms

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of the chain on the thread that owns it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, lambda: function(*args, **kwargs))

    @property
    def chain(self) -> Chain:
        """For `run` only: everything but its plain attributes belongs to the worker thread."""
        return self._chain

    async def submit(self, extrinsic: bytes, watcher: Watcher | None = None) -> bytes:
        """Put a signed extrinsic into the pool; returns its 32-byte hash. Raises PoolError."""
        if not is_extrinsic(extrinsic):
            raise PoolError(1001, "Extrinsic has invalid format: not length-prefixed bytes")
        self.pool.check_new(extrinsic, self.head.block.number)
        while True:
            head = self.head
            try:
                valid = await self.run(self._chain.validate, extrinsic)
            except RuntimeTrap as trap:
                raise PoolError(1002, "Verification Error", str(trap)) from trap
            if head is self.head:  # else a block came in between: the answer may be outdated
                break
        watchers = () if watcher is None else (watcher,)
        tx_hash = self.pool.add(extrinsic, valid, head.block.number, watchers)
        self._submitted.set()
        return tx_hash

    async def produce_block(self) -> Block:
        """Make a block now from what is ready; the time is the clock's, or the next slot's."""
        # Not to be stopped halfway: the pool must learn of a block that is stored.
        return await asyncio.shield(asyncio.create_task(self._produce_block()))

    def listen(self, listener: Callable[[NewHead], None]) -> Callable[[], None]:
        """Call `listener` on the event loop for every new block; returns how to stop it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def _produce_block(self) -> Block:
        async with self._sealing:
            now_ms = int(self._clock() * 1000)
            new = await self.run(self._chain.author, now_ms, self.pool.ready())
            self.head, self.version = new.view, self._chain.version
            block = new.view.block
            self.pool.settle(block.number, block.hash, new.included, new.refused)
            for listener in tuple(self._listeners):
                listener(new)
            return block

    async def _seal_blocks(self, seal: Seal) -> None:
        if seal == "manual":
            return
        if seal == "instant":
            while True:
                await self._submitted.wait()
                self._submitted.clear()
                idle = 0
                while self.pool.ready() and idle < _IDLE_BLOCKS:
                    before = len(self.pool)
                    await self.produce_block()
                    idle = idle + 1 if len(self.pool) == before else 0
        interval_s = self._chain.slot_ms / 1000 if seal == "slot" else float(seal)
        if interval_s <= 0:
            raise ChainError("the sealing interval must be positive")
        tick = 0
        while True:
            # Never the same tick twice, even if a timer fires a little before the clock agrees.
            tick = max(tick, int(self._clock() // interval_s)) + 1
            # At most one interval: a clock that is set back must not stop the chain.
            await asyncio.sleep(min(tick * interval_s - self._clock(), interval_s))
            await self.produce_block()
