"""A TCP proxy that stands for a distance: everything takes half a round trip each way, a new
connection one round trip more. Throughput is not limited, and bytes keep their order.

    python benchmarks/distance.py ROUND_TRIP_MS TARGET_PORT [TARGET_PORT …]

Prints the ports that it listens on, one for each target, and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys

CHUNK_BYTES = 1 << 16


async def _carry(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, one_way_s: float
) -> None:
    """Write what is read, each piece `one_way_s` after it came."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def read() -> None:
        data = b"-"
        while data:
            try:
                data = await source.read(CHUNK_BYTES)
            except ConnectionError:
                data = b""
            pieces.put_nowait((loop.time() + one_way_s, data))

    reading = asyncio.create_task(read())
    with contextlib.suppress(ConnectionError):
        while True:
            due_s, data = await pieces.get()
            await asyncio.sleep(due_s - loop.time())
            if not data:
                break
            sink.write(data)
            await sink.drain()
    reading.cancel()
    sink.close()


async def _connected(
    port: int, round_trip_s: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await asyncio.sleep(round_trip_s)  # for the handshake, which this end answers at once
    upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(asyncio.CancelledError):  # at the end; the server would report it
        await asyncio.gather(
            _carry(reader, upstream_writer, round_trip_s / 2),
            _carry(upstream_reader, writer, round_trip_s / 2),
        )


async def serve(round_trip_s: float, targets: list[int]) -> list[int]:
    """Begin to listen on this machine; the ports, in the targets' order."""
    ports = []
    for target in targets:
        connected = functools.partial(_connected, target, round_trip_s)
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
    return ports


async def main() -> None:
    ports = await serve(float(sys.argv[1]) / 1e3, [int(port) for port in sys.argv[2:]])
    print(*ports, flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
