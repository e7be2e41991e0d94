"""A localnet that is started again finds its chain as it left it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moesubnet.chain.client import ChainClient
from moesubnet.chain.devchain.server import serve_chain
from moesubnet.chain.devchain.service import DevChain
from moesubnet.localnet.kinds import Small
from moesubnet.localnet.onboard import hotkey_of, onboard
from moesubnet.localnet.plan import NETUID, Plan
from moesubnet.spec.content import LoadedSpec
from moesubnet.types import NetUid


async def test_epochs_whose_length_was_just_changed_keep_it_and_the_localnet_goes_on(
    tiny_spec: LoadedSpec, tmp_path: Path
) -> None:
    notes: list[str] = []
    async with (
        DevChain.open(seal="instant") as dev,
        serve_chain(dev) as server,
        await ChainClient.connect(server.url, timeout_s=30) as chain,
    ):
        plan = Plan(tmp_path, Small(0))
        for tempo_blocks in (40, 50):
            await onboard(chain, replace(plan, tempo_blocks=tempo_blocks), tiny_spec, notes.append)
        kept = await chain.hyperparams(NetUid(NETUID))
        metagraph = await chain.metagraph(NetUid(NETUID))
    assert kept["tempo"] == 40
    assert notes[-1] == "an epoch keeps its 40 blocks: it cannot be changed again so soon"
    coldkeys = {
        name: metagraph.by_hotkey[hotkey_of(plan.member(name))].coldkey
        for name in ("router", "validator-0", "validator-1")
    }
    assert coldkeys["router"] == coldkeys["validator-0"] != coldkeys["validator-1"]
    assert len(metagraph.neurons) == len(plan.members)
