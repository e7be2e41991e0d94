"""A subnet as a chain would show it, for benchmarks that run without one."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import aiohttp

from moesubnet.router.experts import ExpertBook
from moesubnet.spec.content import LoadedSpec
from moesubnet.types import (
    Axon,
    BlockNumber,
    Coldkey,
    Hotkey,
    Metagraph,
    NetUid,
    Neuron,
    Signer,
    Uid,
)
from moesubnet.wire.roster import Roster

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


async def book_of(
    http: aiohttp.ClientSession, router: Signer, spec: LoadedSpec, axons: Mapping[Hotkey, Axon]
) -> ExpertBook:
    """A router's, of these experts; SystemExit where one shows no card."""
    roster = Roster(
        http, router, spec_sha256=spec.sha256, vocab_size=spec.spec.vocab_size, allow_private=True
    )
    book = ExpertBook(roster)
    await book.refresh(subnet({Hotkey(router.ss58_address): None, **axons}))
    if len(book.known()) < len(axons):
        raise SystemExit("a miner shows no card")
    return book
