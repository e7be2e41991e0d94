"""The clock that the other tests run on."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.patient_loop import PatientLoop


def stall() -> None:
    """A machine that gives its processor to others."""
    time.sleep(0.1)


async def test_work_does_not_bring_a_deadline_nearer() -> None:
    assert isinstance(asyncio.get_running_loop(), PatientLoop)
    async with asyncio.timeout(0.05):
        for _ in range(3):
            stall()
            await asyncio.sleep(0)


async def test_what_came_during_a_stall_is_read_before_time_passes() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    late = asyncio.create_task(asyncio.sleep(0.01))
    await asyncio.sleep(0)
    theirs.send(b"x")
    stall()
    assert await reader.read(1) == b"x"
    assert not late.done()
    await late
    writer.close()
    theirs.close()


async def test_who_really_waits_too_long_is_cut_off() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.to_thread(time.sleep, 0.2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.sleep(0.2)


async def test_time_passes_for_who_only_looks_again_and_again() -> None:
    async def look() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(look(), 0.05)


async def test_it_is_never_ahead_of_the_machines_clock() -> None:
    loop, begun_s = asyncio.get_running_loop(), time.monotonic()
    begun_loop_s = loop.time()
    await asyncio.sleep(0.05)
    assert 0.05 <= loop.time() - begun_loop_s <= time.monotonic() - begun_s
