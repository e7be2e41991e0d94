"""The ecosystem's own client, unmodified, against our chain; its answers against our client's.

`bittensor` stands in an environment of its own, outside the checkout, made once per version.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from moesubnet.chain.client import Call, ChainClient
from moesubnet.chain.devchain.server import serve_chain
from moesubnet.chain.devchain.service import DevChain
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.types import Coldkey, NetUid
from moesubnet.units import RAO_PER_TOKEN
from tests.contract.environments import python_with
from tests.contract.environments import run as run_in

PACKAGE = "bittensor==11.3.0"
JOURNEY = Path(__file__).with_name("journey.py")
BLOCK_S = 0.2
ANOTHER_BLOCK = "another-block"  # what journey.py asks for


@pytest.fixture(scope="module")
def official() -> Path:
    """The bin folder of an environment that holds the pinned SDK."""
    return python_with(PACKAGE).parent


@pytest.fixture
async def chain() -> AsyncIterator[str]:
    """The URL of a chain with a block every fifth of a second."""
    async with DevChain.open(seal=BLOCK_S) as dev, serve_chain(dev) as server:
        yield server.url


@pytest.fixture
async def patient_chain(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a chain with a block for each call, and when the journey asks for one: however
    slow the machine, an epoch passes only where the journey waits for it."""
    wish = tmp_path / ANOTHER_BLOCK

    async def make_blocks(dev: DevChain) -> None:
        while True:
            await asyncio.sleep(0.02)
            if wish.exists():
                await dev.produce_block()
                wish.unlink()

    async with DevChain.open(seal="instant") as dev, serve_chain(dev) as server:
        making = asyncio.create_task(make_blocks(dev))
        yield server.url
        making.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await making


async def run(official: Path, home: Path, *words: str) -> str:
    """A command of the official environment, in a home of its own (it caches metadata there)."""
    return await run_in(
        official / words[0], *words[1:], cwd=home, env={"NO_COLOR": "1", "COLUMNS": "200"}
    )


@pytest.mark.parametrize("upgraded", [False, True], ids=["as shipped", "after an upgrade"])
async def test_the_sdks_journey_sees_what_our_client_sees(
    official: Path,
    patient_chain: str,
    tmp_path: Path,
    upgraded: bool,
    next_runtime: bytes,
    upgrade_call: Callable[[bytes], Call],
) -> None:
    if upgraded:
        async with await ChainClient.connect(patient_chain, timeout_s=30) as client:
            await client.submit(upgrade_call(next_runtime), keypair_from_uri("//Alice"))
    said = json.loads(await run(official, tmp_path, "python", str(JOURNEY), patient_chain))
    alice, bob = keypair_from_uri("//Alice"), keypair_from_uri("//Bob")
    newcomer = Coldkey(keypair_from_uri("//Newcomer").ss58_address)
    async with await ChainClient.connect(patient_chain, timeout_s=30) as client:
        metagraph = await client.metagraph(NetUid(2))
        assert await client.balance_rao(newcomer) == 3 * RAO_PER_TOKEN
    ours = {neuron.uid: neuron for neuron in metagraph.neurons}
    assert [s["netuid"] for s in said["subnets"]] == [1, 2]
    assert said["balance"] == 1_000_000 * RAO_PER_TOKEN
    assert said["hyperparameters"]["tempo"] == 30
    assert [ours[uid].hotkey for uid in sorted(ours)] == said["metagraph"]["hotkeys"]
    assert said["metagraph"]["hotkeys"] == [
        keypair_from_uri(f"//{who}//hotkey").ss58_address for who in ("Alice", "Bob")
    ]
    for theirs in said["neurons"]:
        neuron = ours[theirs["uid"]]
        assert theirs["hotkey"] == neuron.hotkey
        assert theirs["coldkey"] == neuron.coldkey
        assert theirs["validator_permit"] == neuron.validator_permit
    assert [n["coldkey"] for n in said["neurons"]] == [alice.ss58_address, bob.ss58_address]
    assert said["weights"] == {"0": pytest.approx({"0": 0.2, "1": 0.8}, abs=1e-5)}
    assert said["revealed"] == {"0": {"1": 1.0}}
    assert said["axons"] == [0, 8091]
    assert 0 <= said["blocks_to_epoch"] <= 30
    positions = {(p["netuid"], p["stake"]) for p in said["stakes"]}
    assert positions == {(1, 100 * RAO_PER_TOKEN), (2, 90 * RAO_PER_TOKEN)}


async def test_the_official_command_line_registers_stakes_and_shows(
    official: Path, chain: str, tmp_path: Path
) -> None:
    async def btcli(*words: str) -> Any:
        return json.loads(
            await run(official, tmp_path, "btcli", *words, "--network", chain, "--json")
        )

    made = await own_wallet(tmp_path)
    coldkey, hotkey = made["coldkey"]["address"], made["hotkey"]["address"]
    async with await ChainClient.connect(chain, timeout_s=30) as client:
        await client.transfer(Coldkey(coldkey), 100 * RAO_PER_TOKEN, keypair_from_uri("//Alice"))
        arguments = {"netuid": 2, "hotkey": hotkey, "limit_price": 2 * RAO_PER_TOKEN}
        mine = ("-w", "mine", "-y")
        await btcli(
            "call", "SubtensorModule.register_limit", "--args", json.dumps(arguments), *mine
        )
        await btcli("stake", "add", "--hotkey", hotkey, "--netuid", "2", "--amount", "20", *mine)
        metagraph = await client.metagraph(NetUid(2))
        balance_rao = await client.balance_rao(Coldkey(coldkey))
    (neuron,) = metagraph.neurons  # of the subnet without emission: what is staked is all
    assert (neuron.hotkey, neuron.coldkey) == (hotkey, coldkey)
    assert neuron.stake_rao == 20 * RAO_PER_TOKEN

    listed = await btcli("subnets", "list")
    assert [(s["netuid"], s["name"], s["neurons"]) for s in listed] == [
        (1, "mixture", 0),
        (2, "plain", 1),
    ]
    assert (await btcli("subnets", "show", "1"))["tempo"] == 30
    assert (await btcli("subnets", "metagraph", "2"))["num_uids"] == 1
    assert (await btcli("subnets", "hyperparameters", "1"))["commit_reveal_weights_enabled"] is True
    shown = json.dumps(await btcli("wallet", "balance", coldkey))
    assert str(balance_rao // RAO_PER_TOKEN) in shown
    assert hotkey in json.dumps(await btcli("stake", "list", "--coldkey", coldkey))


async def test_a_wallet_without_tokens_joins_with_one_official_command(
    official: Path, chain: str, tmp_path: Path
) -> None:
    made = await own_wallet(tmp_path)
    register = ("subnets", "register", "--netuid", "1", "--pow", "--pow-backend", "cpu")
    await run(official, tmp_path, "btcli", *register, "-w", "mine", "-y", "--network", chain)
    async with await ChainClient.connect(chain, timeout_s=30) as client:
        metagraph = await client.metagraph(NetUid(1))
        assert await client.balance_rao(Coldkey(made["coldkey"]["address"])) == 0
    assert [neuron.hotkey for neuron in metagraph.neurons] == [made["hotkey"]["address"]]


async def own_wallet(home: Path) -> dict[str, Any]:
    """A wallet that our command makes where the official tool looks."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moesubnet", "wallet", "new", "mine", "--no-password", "--json"),
        stdout=subprocess.PIPE,
        env=os.environ | {"HOME": str(home)},
    )
    out, _ = await process.communicate()
    made: dict[str, Any] = json.loads(out)
    return made
