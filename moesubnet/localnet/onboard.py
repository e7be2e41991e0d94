"""Brings a fresh development chain to a living subnet: tokens, registrations, stake, spec."""

from __future__ import annotations

from collections.abc import Callable

from moesubnet.chain.client import ChainClient
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.localnet.plan import NETUID, OWNER, Plan
from moesubnet.spec import LoadedSpec
from moesubnet.types import NetUid


async def onboard(
    chain: ChainClient, plan: Plan, spec: LoadedSpec, note: Callable[[str], None]
) -> None:
    """Idempotent: what is already on chain is left alone, so a second start continues."""
    owner = keypair_from_uri(OWNER)
    netuid = NetUid(NETUID)
    metagraph = await chain.metagraph(netuid)
    if metagraph.spec_sha256 != spec.sha256:
        url = spec.root.resolve().as_uri()
        await chain.set_subnet_spec(netuid, spec.sha256, url, owner)
        note(f"spec {spec.sha256[:12]}… put on chain by the owner")
    for member in plan.members:
        coldkey, hotkey = keypair_from_uri(member.coldkey), keypair_from_uri(member.hotkey)
        neuron = metagraph.by_hotkey.get(hotkey.ss58_address)
        if neuron is None:
            if await chain.balance_rao(coldkey.ss58_address) < member.grant_rao:
                await chain.transfer(coldkey.ss58_address, member.grant_rao, owner)
            await chain.register(netuid, hotkey.ss58_address, coldkey)
            note(f"{member.name} registered")
        staked_rao = neuron.stake_rao if neuron is not None else 0
        if staked_rao < member.stake_rao:
            await chain.add_stake(
                netuid, hotkey.ss58_address, member.stake_rao - staked_rao, coldkey
            )
