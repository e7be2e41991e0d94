"""Which routers a walk goes through."""

from random import Random

import aiohttp
import pytest
from substrateinterface import Keypair

from moesubnet.wire.routers import Routers, _Found


@pytest.fixture
async def routers():
    async with aiohttp.ClientSession() as http:
        yield Routers(
            http,
            Keypair.create_from_uri("//Validator"),
            spec_sha256="",
            vocab_size=8,
            min_stake_rao=0,
            allow_private=True,
        )


@pytest.mark.parametrize("count", range(1, 12))
async def test_every_router_has_walks_however_little_its_stake(routers, count):
    """One has all of the stake but a thousandth."""
    names = [f"router-{i}" for i in range(count)]
    routers._found = {
        name: _Found(name, 10**12 if i == 0 else 10**9) for i, name in enumerate(names)
    }
    for seed in range(20):
        ways = [routers.draw(Random(seed * 100 + walk)) for walk in range(2 * count)]
        assert {way[0] for way in ways} == set(names)
        assert all(len(set(way)) == min(2, count) for way in ways)


async def test_half_of_the_walks_go_by_stake(routers):
    routers._found = {
        f"router-{i}": _Found(f"router-{i}", stake) for i, stake in enumerate((8, 1, 1))
    }
    lots = Random(1)
    first = [routers.draw(lots)[0] for _ in range(3_000)]
    assert first.count("router-0") / 3_000 == pytest.approx((0.8 + 1 / 3) / 2, abs=0.03)


async def test_a_router_that_has_left_is_no_way_any_more(routers):
    routers._found = {name: _Found(name, 1) for name in "abc"}
    lots = Random(2)
    routers.draw(lots), routers.draw(lots)
    del routers._found["b"]
    assert "b" not in {way for _ in range(20) for way in routers.draw(lots)}


async def test_where_no_router_is_nobody_is_drawn(routers):
    assert [routers.draw(Random(0)) for _ in range(3)] == [[], [], []]
