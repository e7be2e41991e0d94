"""polkadot.js, unmodified and without type definitions of ours, against our chain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from moesubnet.chain.client import ChainClient
from moesubnet.chain.devchain.server import serve_chain
from moesubnet.chain.devchain.service import DevChain
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.types import Coldkey, NetUid
from moesubnet.units import RAO_PER_TOKEN
from tests.contract.environments import node_with, run

PACKAGE = "@polkadot/api@16.5.4"
SCRIPT = Path(__file__).with_name("polkadot.mjs")
BLOCK_S = 0.2


@pytest.fixture(scope="module")
def library() -> Path:
    """A folder in which the pinned library is installed."""
    return node_with(PACKAGE)


async def test_polkadot_js_reads_signs_watches_and_calls_runtime_apis(library: Path) -> None:
    shutil.copy(SCRIPT, library / SCRIPT.name)  # imports are looked up from the script's folder
    newcomer = keypair_from_uri("//Newcomer").ss58_address
    async with DevChain.open(seal=BLOCK_S) as dev, serve_chain(dev) as server:
        out = await run("node", SCRIPT.name, server.url, cwd=library)
        async with await ChainClient.connect(server.url, timeout_s=30) as client:
            metagraph = await client.metagraph(NetUid(2))
            balance_rao = await client.balance_rao(Coldkey(newcomer))
        version = dev.version.spec_version
    said = json.loads(out)
    assert said["specVersion"] == version
    assert (said["tempo"], said["slotMs"]) == (30, 1_000)
    assert int(said["balance"]) == balance_rao == 3 * RAO_PER_TOKEN
    assert said["hotkeys"] == [n.hotkey for n in metagraph.neurons] == [newcomer]
    assert "balances.Transfer" in said["transferred"]
    assert "subtensorModule.NeuronRegistered" in said["registered"]
    assert said["heads"] == list(range(said["heads"][0], said["heads"][0] + 3))
