"""Rows become a metagraph whole or not at all; the cache refuses what it cannot trust."""

from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.chain.assembly import SubnetRows, assemble_metagraph, parse_axon
from moesubnet.chain.client import ChainClient
from moesubnet.chain.metagraph import MetagraphCache
from moesubnet.chain.nouns import NEVER, Epoch
from moesubnet.chain.rpc.codec import address
from moesubnet.chain.rpc.link import Head
from moesubnet.errors import ChainError, ChainUnavailable, StaleMetagraph
from moesubnet.types import BlockNumber, Metagraph, NetUid, ServedModel

U16, U64 = st.integers(0, 2**16 - 1), st.integers(0, 2**64 - 1)
ADDRESS = st.binary(min_size=32, max_size=32).map(address)
AXON = st.fixed_dictionaries(
    {"ip": st.integers(0, 2**128 - 1), "port": U16, "ip_type": st.integers(0, 255)}
)
MODEL = st.none() | st.fixed_dictionaries(
    {"commitment": st.just("0x" + "ab" * 32), "is_open": st.booleans(), "block": U64}
)
EPOCH = Epoch(BlockNumber(70), 30, 2, BlockNumber(60), BlockNumber(90), 10, 1)
COLUMNS = {
    "hotkeys": ADDRESS,
    "coldkeys": ADDRESS,
    "axons": st.none() | AXON,
    "stake_rao": U64,
    "registered_at": U64,
    "last_update": U64,
    "active": st.booleans(),
    "validator_permit": st.booleans(),
    "consensus_u16": U16,
    "incentive_u16": U16,
    "dividends_u16": U16,
    "validator_trust_u16": U16,
    "emission_rao": U64,
}


@st.composite
def subnet_rows(draw: st.DrawFn) -> SubnetRows:
    count = draw(st.integers(0, 6))
    columns: dict[str, Any] = {
        name: draw(st.lists(values, min_size=count, max_size=count))
        for name, values in COLUMNS.items()
    }
    return SubnetRows(
        **columns,
        owner_hotkey=draw(ADDRESS),
        owner_coldkey=draw(ADDRESS),
        commit_reveal=draw(st.booleans()),
        spec=draw(st.none() | st.just(SPEC)),
        models=draw(st.none() | st.lists(MODEL, min_size=count, max_size=count)),
    )


@given(subnet_rows())
def test_every_row_becomes_its_neuron(rows: SubnetRows) -> None:
    metagraph = assemble_metagraph(NetUid(1), "0xhash", EPOCH, rows)
    assert (metagraph.block, metagraph.block_hash, metagraph.tempo_blocks) == (70, "0xhash", 30)
    assert [neuron.uid for neuron in metagraph.neurons] == list(range(len(rows.hotkeys)))
    assert [neuron.hotkey for neuron in metagraph.neurons] == list(rows.hotkeys)
    assert [neuron.coldkey for neuron in metagraph.neurons] == list(rows.coldkeys)
    for ours, theirs in (
        ("last_update_block", "last_update"),
        ("registered_at_block", "registered_at"),
        *((name, name) for name in COLUMNS if name not in NAMED_OTHERWISE),
    ):
        assert [getattr(n, ours) for n in metagraph.neurons] == list(getattr(rows, theirs))
    assert metagraph.has_models == (rows.models is not None)
    for neuron, entry in zip(metagraph.neurons, rows.models or (), strict=False):
        assert neuron.model == (entry and ServedModel("ab" * 32, entry["is_open"], entry["block"]))
    assert metagraph.spec_sha256 == ("ab" * 32 if rows.spec else None)
    assert metagraph.spec_epoch == (4 if rows.spec else None)


SPEC = {"hash": "0x" + "ab" * 32, "url": b"file:///spec", "from_epoch": 4}
NAMED_OTHERWISE = {"hotkeys", "coldkeys", "axons", "last_update", "registered_at"}


@given(subnet_rows(), st.sampled_from(sorted(COLUMNS)))
def test_a_column_of_another_length_is_an_error(rows: SubnetRows, name: str) -> None:
    changes: dict[str, Any] = {name: [*getattr(rows, name), None]}
    with pytest.raises(ChainError, match="inconsistent"):
        assemble_metagraph(NetUid(1), "0x", EPOCH, replace(rows, **changes))


@given(AXON)
def test_an_axon_is_an_address_or_nothing(entry: dict[str, int]) -> None:
    axon = parse_axon(entry)
    fits = {4: entry["ip"] < 2**32, 6: True}.get(entry["ip_type"], False)
    assert (axon is not None) == bool(entry["ip"] and entry["port"] and fits)
    if axon is not None:
        assert ip_address(axon.ip).version == entry["ip_type"]
        assert int(ip_address(axon.ip)) == entry["ip"]
        assert axon.port == entry["port"]


def test_the_epoch_of_the_next_block_looks_ahead() -> None:
    assert EPOCH.epoch_now == 2
    assert replace(EPOCH, block=BlockNumber(88)).epoch_now == 2
    assert replace(EPOCH, block=BlockNumber(89)).epoch_now == 3
    assert replace(EPOCH, next_epoch_block=NEVER).epoch_now == 2


class Chain:
    """A chain whose head, mood and clock the test decides."""

    block_seconds = 1.0

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.block = 1
        self.away = False

    async def metagraph(self, netuid: NetUid) -> Metagraph:
        if self.away:
            raise ChainUnavailable("away")
        fields: dict[str, Any] = dict.fromkeys(Metagraph.__dataclass_fields__)
        fields |= {"block": self.block, "block_hash": hex(self.block), "tempo_blocks": 30}
        return Metagraph(**fields)

    async def heads(self) -> AsyncIterator[Head]:
        for number in range(2, 6):
            self.block, self.away = number, number == 4
            yield Head(BlockNumber(number), hex(number))


def cache_of(chain: Chain, max_age_blocks: int | None = None) -> MetagraphCache:
    return MetagraphCache(
        cast(ChainClient, chain), NetUid(1), max_age_blocks, clock=lambda: chain.now_s
    )


async def test_nothing_is_trusted_before_the_first_reading() -> None:
    with pytest.raises(StaleMetagraph, match="not been read"):
        cache_of(Chain()).current()


async def test_two_tempos_without_a_new_block_are_too_old() -> None:
    chain = Chain()
    cache = cache_of(chain)
    await cache.refresh()
    chain.now_s += 60
    assert cache.current().block == 1
    chain.now_s += 1
    with pytest.raises(StaleMetagraph, match="block 1"):
        cache.current()
    chain.block = 2
    await cache.refresh()
    assert cache.current().block == 2


async def test_a_chain_that_stands_still_grows_old_although_it_answers() -> None:
    chain = Chain()
    cache = cache_of(chain, max_age_blocks=5)
    for _ in range(3):
        await cache.refresh()
        cache.current()
        chain.now_s += 2
    await cache.refresh()
    with pytest.raises(StaleMetagraph):
        cache.current()


async def test_an_absent_chain_leaves_the_old_snapshot_to_age() -> None:
    chain = Chain()
    cache = cache_of(chain)
    await cache.refresh()
    chain.away = True
    with pytest.raises(ChainUnavailable):
        await cache.refresh()
    assert cache.current().block == 1


async def test_following_the_heads_survives_a_failing_one() -> None:
    chain = Chain()
    cache = cache_of(chain)
    await cache.run()
    assert cache.current().block == 5
