"""A newcomer's journey with the official SDK, run by its own interpreter: `journey.py ws://…`.

Prints one JSON object: what the SDK says after each step. The test compares it with what our own
client says about the same chain.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import sys
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bittensor as bt
from bittensor.sp_core import Keypair

HASH_NETUID, PLAIN_NETUID = 1, 2
RAO = 10**9
ANOTHER_BLOCK = Path("another-block")  # the chain makes one for it, and removes it


def wallet(name: str) -> SimpleNamespace:
    """Keys of a development account: `//name` and `//name//hotkey`."""
    cold, hot = Keypair.create_from_uri(f"//{name}"), Keypair.create_from_uri(f"//{name}//hotkey")
    return SimpleNamespace(coldkey=cold, coldkeypub=cold, hotkey=hot)


def done(result: Any) -> None:
    if not result.success:
        raise SystemExit(f"refused: {result}")


def plain(value: Any) -> Any:
    """JSON for whatever a read returns."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: plain(part) for key, part in asdict(value).items()}
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, bt.Balance):
        return value.rao
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def commit_hash(
    hotkey: Any, netuid: int, uids: list[int], values: list[int], salt: list[int]
) -> str:
    """BlakeTwo256 over SCALE (hotkey, netuid, uids, values, salt, version key 0)."""
    lists = b"".join(
        bytes((len(words) << 2,)) + struct.pack(f"<{len(words)}H", *words)
        for words in (uids, values, salt)
    )
    encoded = hotkey.public_key + struct.pack("<H", netuid) + lists + bytes(8)
    return "0x" + hashlib.blake2b(encoded, digest_size=32).hexdigest()


async def epoch(client: Any, netuid: int) -> None:
    """Wait for it, and for each block on the way as long as this machine takes."""
    waiting = asyncio.create_task(client.wait_for_epoch(netuid))
    while not waiting.done():
        ANOTHER_BLOCK.touch()  # noqa: ASYNC240
        while ANOTHER_BLOCK.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)
    await waiting


async def journey(url: str) -> dict[str, Any]:
    said: dict[str, Any] = {}
    alice, bob = wallet("Alice"), wallet("Bob")
    async with bt.Client(url) as client:
        said["subnets"] = plain(await client.subnets.all())
        said["hyperparameters"] = plain(await client.read("subnet_hyperparameters", netuid=1))
        said["balance"] = plain(await client.balances.get(bob.coldkey.ss58_address))

        for netuid in (HASH_NETUID, PLAIN_NETUID):
            for who in (alice, bob):
                call = bt.calls.SubtensorModule.register_limit(
                    netuid=netuid, hotkey=who.hotkey.ss58_address, limit_price=2 * RAO
                )
                done(await client.submit_call(call, who))
            stake = bt.AddStake(alice.hotkey.ss58_address, netuid, bt.tao(100))
            done(await client.execute(stake, alice))
        unstake = bt.RemoveStake(
            alice.hotkey.ss58_address, PLAIN_NETUID, bt.alpha(10, PLAIN_NETUID)
        )
        done(await client.execute(unstake, alice))
        said["stakes"] = plain(
            await client.read("stake_for_coldkey", coldkey_ss58=alice.coldkey.ss58_address)
        )

        done(await client.execute(bt.ServeAxon(PLAIN_NETUID, "8.8.4.4", 8091), bob))
        done(
            await client.execute(
                bt.Transfer(wallet("Newcomer").coldkey.ss58_address, bt.tao(3)), bob
            )
        )

        await epoch(client, PLAIN_NETUID)  # the first epoch gives Alice her permit
        done(await client.execute(bt.SetWeights(PLAIN_NETUID, [0, 1], [0.25, 1.0]), alice))
        said["weights"] = plain(await client.read("weights", netuid=PLAIN_NETUID))
        uids, values, salt = [1], [65_535], list(range(8))
        commit = bt.calls.SubtensorModule.commit_weights(
            netuid=HASH_NETUID,
            commit_hash=commit_hash(alice.hotkey, HASH_NETUID, uids, values, salt),
        )
        done(await client.submit_call(commit, alice, signer="hotkey"))
        await epoch(client, HASH_NETUID)
        done(await client.execute(bt.RevealWeights(HASH_NETUID, uids, [1.0], salt), alice))
        said["revealed"] = plain(await client.read("weights", netuid=HASH_NETUID))
        metagraph = await client.subnets.metagraph(PLAIN_NETUID)
        said["metagraph"] = {
            "hotkeys": [neuron.hotkey for neuron in metagraph.neurons],
            "block": metagraph.block,
        }
        said["neurons"] = [plain(n) for n in await client.neurons.all(PLAIN_NETUID, lite=True)]
        whole = await client.neurons.all(PLAIN_NETUID, lite=False)
        said["axons"] = [plain(neuron)["raw"]["axon_info"]["port"] for neuron in whole]
        said["blocks_to_epoch"] = plain(await client.read("blocks_until_next_epoch", netuid=1))
    return said


if __name__ == "__main__":
    print(json.dumps(asyncio.run(journey(sys.argv[1]))))
