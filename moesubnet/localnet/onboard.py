"""Brings a fresh development chain to a living subnet: tokens, registrations, stake, spec."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from moesubnet.chain.client import ChainClient
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import CallRejected
from moesubnet.localnet.plan import NETUID, OWNER, Member, Plan
from moesubnet.spec.content import LoadedSpec
from moesubnet.types import Coldkey, Hotkey, NetUid

IMMUNITY_EPOCHS = 4  # as the development preset has it


async def onboard(
    chain: ChainClient, plan: Plan, spec: LoadedSpec, note: Callable[[str], None]
) -> None:
    """Idempotent: what is already on chain is left alone, so a second start continues.

    Each kind of call is sent for all members at once and shares a block or two.
    """
    owner = keypair_from_uri(OWNER)
    netuid = NetUid(NETUID)
    metagraph = await chain.metagraph(netuid)
    newcomers = [m for m in plan.members if hotkey_of(m) not in metagraph.by_hotkey]
    if metagraph.spec_sha256 != spec.sha256:
        url = spec.root.resolve().as_uri()
        await chain.set_subnet_spec(netuid, spec.sha256, url, owner)
        note(f"spec {spec.sha256[:12]}… put on chain by the owner")

    async def grant(member: Member) -> None:
        coldkey = Coldkey(keypair_from_uri(member.coldkey).ss58_address)
        if await chain.balance_rao(coldkey) < member.grant_rao:
            await chain.transfer(coldkey, member.grant_rao, owner)

    async def register(member: Member) -> None:
        # The price rises with every registration, also within a block: the grant is the limit.
        limit_rao = member.grant_rao - member.stake_rao
        await chain.register(netuid, hotkey_of(member), keypair_from_uri(member.coldkey), limit_rao)

    async def stake(member: Member) -> None:
        neuron = metagraph.by_hotkey.get(hotkey_of(member))
        missing_rao = member.stake_rao - (neuron.stake_rao if neuron else 0)
        if missing_rao > 0:
            coldkey = keypair_from_uri(member.coldkey)
            await chain.add_stake(netuid, hotkey_of(member), missing_rao, coldkey)

    if metagraph.tempo_blocks != plan.tempo_blocks:
        tempo = {"tempo": plan.tempo_blocks, "immunity_period": IMMUNITY_EPOCHS * plan.tempo_blocks}
        try:
            await chain.set_hyperparams(netuid, tempo, owner)
            note(f"an epoch has {plan.tempo_blocks} blocks: what these experts take to be measured")
        except CallRejected as error:
            if error.name != "TxRateLimitExceeded":
                raise
            kept = metagraph.tempo_blocks
            note(f"an epoch keeps its {kept} blocks: it cannot be changed again so soon")
    await asyncio.gather(*(grant(member) for member in newcomers))
    await asyncio.gather(*(register(member) for member in newcomers))
    await asyncio.gather(*(stake(member) for member in plan.members))
    if newcomers:
        note("registered and staked: " + ", ".join(member.name for member in newcomers))


def hotkey_of(member: Member) -> Hotkey:
    return Hotkey(keypair_from_uri(member.hotkey).ss58_address)
