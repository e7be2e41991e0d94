"""Time that passes without being waited for."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from virtual_time import AtOnce, run


def test_a_day_of_sleeping_takes_no_time_and_keeps_its_order():
    order = []

    async def main():
        async def sleeper(hours):
            await asyncio.sleep(3_600 * hours)
            order.append((hours, asyncio.get_running_loop().time()))

        await asyncio.gather(*map(sleeper, (24, 3, 12)))

    run(main())
    assert order == [(3, 10_800.0), (12, 43_200.0), (24, 86_400.0)]


def test_a_deadline_cuts_what_sleeps_longer():
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(6)
        return asyncio.get_running_loop().time()

    assert run(main()) == 5.0


def test_the_clock_stands_while_a_thread_works():
    release = threading.Event()

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(60, release.set)  # not before the thread is done
        began_s = loop.time()
        await asyncio.to_thread(time.sleep, 0.02)
        assert not release.is_set()
        return loop.time() - began_s

    assert run(main()) == 0.0


def test_what_is_done_at_once_is_done_in_its_thread_and_lets_nobody_in_between():
    async def main():
        loop = asyncio.get_running_loop()
        others = []
        loop.call_soon(others.append, "in between")
        with ThreadPoolExecutor(1) as thread:
            there = await loop.run_in_executor(AtOnce(thread), threading.get_ident)
            here = await loop.run_in_executor(AtOnce(), threading.get_ident)
        assert not others
        return there, here

    there, here = run(main())
    assert here == threading.get_ident() != there
