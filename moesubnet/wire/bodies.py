"""Bodies of requests on their way in: the one reader of every HTTP door of ours.

What is claimed costs nothing; what has arrived counts, from its first byte until its reader is
done with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from moesubnet.wire.limits import SharedBudget


class Bodies:
    """All bodies under way share `budget_bytes`; no sender can use it up (`SharedBudget`).

    A body may take `timeout_s` to arrive.
    """

    def __init__(self, budget_bytes: int, timeout_s: float) -> None:
        self._budget = SharedBudget(budget_bytes)
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def read(self, request: web.Request, sender: str, max_bytes: int) -> AsyncIterator[bytes]:
        """The body, which counts against `sender` until the block ends.

        Raises HTTPRequestEntityTooLarge, HTTPRequestTimeout for a body that trickles,
        HTTPServiceUnavailable when too much is arriving, HTTPBadRequest for a broken one.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._fill(body, request, sender, max_bytes)
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        else:
            yield bytes(body)
        finally:
            self._budget.give_back(sender, len(body))

    async def _fill(
        self, body: bytearray, request: web.Request, sender: str, max_bytes: int
    ) -> None:
        size = request.content_length or 0
        try:
            while size <= max_bytes and (chunk := await request.content.readany()):
                size = max(size, len(body) + len(chunk))
                if not self._budget.take(sender, len(chunk)):
                    raise web.HTTPServiceUnavailable
                body += chunk
        except (web.RequestPayloadError, asyncio.IncompleteReadError):
            raise web.HTTPBadRequest from None
        if size > max_bytes:
            raise web.HTTPRequestEntityTooLarge(max_bytes, size)
