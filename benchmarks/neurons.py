"""A subnet as a chain would show it, for benchmarks that run without one."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from moesubnet.types import Axon, BlockNumber, Coldkey, Hotkey, Metagraph, NetUid, Neuron, Uid

STAKE_RAO = 10**12  # each one's: more than anybody asks of callers


def subnet(axons: Mapping[Hotkey, Axon | None], permitted: Collection[Hotkey] = ()) -> Metagraph:
    """Neurons with uids in this order; `permitted` are validators."""
    neurons = tuple(
        Neuron(
            uid=Uid(uid),
            hotkey=hotkey,
            coldkey=Coldkey("c"),
            axon=axon,
            stake_rao=STAKE_RAO,
            incentive_u16=0,
            dividends_u16=0,
            consensus_u16=0,
            validator_trust_u16=0,
            emission_rao=0,
            active=True,
            validator_permit=hotkey in permitted,
            last_update_block=BlockNumber(0),
            registered_at_block=BlockNumber(0),
        )
        for uid, (hotkey, axon) in enumerate(axons.items())
    )
    return Metagraph(
        netuid=NetUid(1),
        block=BlockNumber(1),
        block_hash="0x",
        tempo_blocks=30,
        epoch_index=0,
        last_epoch_block=BlockNumber(0),
        next_epoch_block=BlockNumber(30),
        owner_hotkey=Hotkey("o"),
        owner_coldkey=Coldkey("o"),
        commit_reveal=True,
        spec_sha256=None,
        spec_url=None,
        neurons=neurons,
    )
