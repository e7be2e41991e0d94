"""A chain whose runtime is replaced while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from moesubnet.chain.client import Call, ChainClient
from moesubnet.chain.devchain.blob import runtime_wasm
from moesubnet.chain.devchain.code import RuntimeVersion
from moesubnet.chain.devchain.pool import PoolError
from moesubnet.chain.devchain.server import serve_chain
from moesubnet.chain.devchain.service import DevChain
from moesubnet.chain.rpc.submission import _sign
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import CallRejected
from moesubnet.types import NetUid

if TYPE_CHECKING:
    from conftest import LiveChain

NETUID, TOKEN = NetUid(1), 10**9
ALICE, BOB = keypair_from_uri("//Alice"), keypair_from_uri("//Bob")
Upgrade = Callable[[bytes], Call]


def remark(word: str) -> Call:
    return Call("System", "remark", {"remark": word})


async def test_the_chain_and_its_clients_go_on_across_an_upgrade(
    live: LiveChain, next_runtime: bytes, upgrade_call: Upgrade
) -> None:
    client, before = live.client, live.dev.version
    await client.register(NETUID, BOB.ss58_address, BOB)
    signed_before = await client._run(lambda link: _sign(link, remark("late"), BOB))

    receipt = await client.submit(upgrade_call(next_runtime), ALICE)
    assert receipt.event("System", "CodeUpdated") is not None
    assert live.dev.version.spec_version == before.spec_version + 1

    # What was signed for the runtime before is refused: it may mean something else now.
    with pytest.raises(PoolError, match="bad signature") as refused:
        await live.dev.submit(bytes.fromhex(signed_before.signed[-1][2:]))
    assert refused.value.code == 1010

    # At once, although no block of the new runtime exists yet.
    await client.add_stake(NETUID, BOB.ss58_address, 5 * TOKEN, BOB)
    await live.blocks(2)
    assert (await client.metagraph(NETUID)).by_hotkey[BOB.ss58_address].stake_rao == 5 * TOKEN
    (last,) = await client.query(("System.LastRuntimeUpgrade",))
    assert last == {"spec_version": before.spec_version + 1, "spec_name": "moesubnet"}
    older = await client.metagraph(NETUID, receipt.block_hash)  # the old runtime's last block
    assert older.by_hotkey[BOB.ss58_address].stake_rao == 0

    async with await ChainClient.connect(client.url, timeout_s=30) as newcomer:
        await newcomer.transfer(BOB.ss58_address, TOKEN, ALICE)
    told = RuntimeVersion.decode(await live.dev.run(call_version, live.dev))
    assert told == live.dev.version


def call_version(dev: DevChain) -> bytes:
    return dev.chain.call(dev.head.block.hash, "Core_version", b"")


async def test_an_epoch_across_an_upgrade_pays_what_it_owes(
    live: LiveChain, next_runtime: bytes, upgrade_call: Upgrade
) -> None:
    await live.client.register(NETUID, BOB.ss58_address, BOB)
    await live.client.add_stake(NETUID, BOB.ss58_address, 5 * TOKEN, BOB)
    epoch = await live.client.epoch(NETUID)
    await live.until_block(epoch.next_epoch_block - 2)
    await live.client.submit(upgrade_call(next_runtime), ALICE)
    await live.until_block(epoch.next_epoch_block)
    (ran,) = await live.client.epoch_events((await live.client.head()).hash)
    assert ran.emission_rao == ran.server_rao + ran.validator_rao + ran.dust_rao > 0


async def test_only_a_higher_version_of_this_chain_replaces_the_runtime(
    live: LiveChain, upgrade_call: Upgrade
) -> None:
    version = live.dev.version
    for code, reason in (
        (runtime_wasm(), "SpecVersionNeedsToIncrease"),
        (b"\0asm\1\0\0\0", "FailedToExtractRuntimeVersion"),
    ):
        with pytest.raises(CallRejected) as refused:
            await live.client.submit(upgrade_call(code), ALICE)
        assert refused.value.name == reason
    with pytest.raises(CallRejected, match="RequireSudo"):
        await live.client.submit(upgrade_call(runtime_wasm()), BOB)
    assert live.dev.version == version


async def test_a_chain_on_a_timer_takes_an_upgrade_between_two_calls(
    next_runtime: bytes, upgrade_call: Upgrade
) -> None:
    async with (
        DevChain.open(seal=0.2) as dev,
        serve_chain(dev) as server,
        await ChainClient.connect(server.url, timeout_s=30) as client,
    ):
        await client.submit(upgrade_call(next_runtime), ALICE)
        for word in ("at once", "and later"):
            await client.submit(remark(word), BOB)
