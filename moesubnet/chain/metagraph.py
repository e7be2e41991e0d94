"""The metagraph kept fresh, and refused when it is not.

Whoever decides on it (who may call, whom to vote for) asks `current()` each time. It fails closed:
a chain that is away, stands still or answers nonsense makes it raise, not lie.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from moesubnet.chain.client import ChainClient
from moesubnet.errors import ChainError, StaleMetagraph
from moesubnet.types import Metagraph, NetUid

log = logging.getLogger(__name__)


class MetagraphCache:
    """The newest metagraph of one subnet. Run `run()` as a task, or call `refresh()`."""

    def __init__(
        self,
        client: ChainClient,
        netuid: NetUid,
        max_age_blocks: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_age_blocks`: two tempos by default. Age runs by `clock`, from a block's arrival."""
        self._client = client
        self._netuid = netuid
        self._max_age_blocks = max_age_blocks
        self._clock = clock
        self._metagraph: Metagraph | None = None
        self._arrived_s = 0.0

    async def refresh(self) -> Metagraph:
        """Read the chain now. Raises ChainError and leaves the old snapshot to age."""
        asked_s = self._clock()
        metagraph = await self._client.metagraph(self._netuid)
        # A chain that stands still tells nothing new: its last block goes on ageing.
        if self._metagraph is None or metagraph.block_hash != self._metagraph.block_hash:
            self._metagraph, self._arrived_s = metagraph, asked_s
        return metagraph

    async def run(self) -> None:
        """Refresh at every new block until the client is closed."""
        async for head in self._client.heads():
            try:
                await self.refresh()
            except ChainError as error:
                log.warning("netuid=%d block=%d metagraph: %s", self._netuid, head.number, error)

    def current(self) -> Metagraph:
        """The newest snapshot. Raises StaleMetagraph if there is none, or it is too old."""
        if self._metagraph is None:
            raise StaleMetagraph("the metagraph has not been read yet")
        limit_blocks = self._max_age_blocks
        if limit_blocks is None:
            limit_blocks = 2 * self._metagraph.tempo_blocks
        age_s = self._clock() - self._arrived_s
        if age_s > limit_blocks * self._client.block_seconds:
            raise StaleMetagraph(
                f"the metagraph is of block {self._metagraph.block}, {age_s:.0f} s ago: "
                "is the chain running?"
            )
        return self._metagraph
