"""Questions to the chain's state, and its rows made into our nouns.

Each function takes the state after one block, so whatever it returns belongs together.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moesubnet.chain.link import Event, View
from moesubnet.chain.nouns import (
    NEVER,
    Epoch,
    EpochRan,
    LastReveal,
    StakePosition,
    WeightCommit,
    WeightRow,
)
from moesubnet.chain.storage import PALLET
from moesubnet.errors import ChainError
from moesubnet.types import (
    Axon,
    BlockNumber,
    Coldkey,
    Hotkey,
    Metagraph,
    NetUid,
    Neuron,
    Uid,
)


@dataclass(frozen=True, slots=True)
class SubnetRows:
    """A subnet's storage: columns by uid, everything else as decoded."""

    hotkeys: Sequence[Hotkey | None]
    coldkeys: Sequence[Coldkey | None]
    axons: Sequence[Mapping[str, int] | None]
    stake_rao: Sequence[int]
    registered_at: Sequence[int]
    last_update: Sequence[int]
    active: Sequence[bool]
    validator_permit: Sequence[bool]
    consensus_u16: Sequence[int]
    incentive_u16: Sequence[int]
    dividends_u16: Sequence[int]
    validator_trust_u16: Sequence[int]
    emission_rao: Sequence[int]
    owner_hotkey: Hotkey | None
    owner_coldkey: Coldkey | None
    commit_reveal: bool
    spec: Mapping[str, Any] | None


def read_epoch(view: View, block: BlockNumber, netuid: NetUid) -> Epoch:
    """Raises ChainError when there is no such subnet."""
    exists, tempo, index, last, pending, since, period = view.get(
        ("NetworksAdded", netuid),
        ("Tempo", netuid),
        ("SubnetEpochIndex", netuid),
        ("LastEpochBlock", netuid),
        ("PendingEpochAt", netuid),
        ("BlocksSinceLastStep", netuid),
        ("RevealPeriodEpochs", netuid),
    )
    if not exists:
        raise ChainError(f"there is no subnet {netuid} on this chain; choose another --netuid")
    due = last + tempo if tempo else NEVER
    return Epoch(
        block=block,
        tempo_blocks=tempo,
        epoch_index=index,
        last_epoch_block=last,
        next_epoch_block=BlockNumber(min(due, pending) if pending and tempo else due),
        blocks_since_last_step=since,
        reveal_period_epochs=period,
    )


def read_metagraph(view: View, block: BlockNumber, netuid: NetUid) -> Metagraph:
    """The subnet and its neurons, in four requests. Raises ChainError if there is none."""
    epoch = read_epoch(view, block, netuid)
    (
        neurons,
        owner_hotkey,
        owner_coldkey,
        commit_reveal,
        last_update,
        active,
        validator_permit,
        consensus,
        incentive,
        dividends,
        validator_trust,
        emission,
    ) = view.get(
        ("SubnetworkN", netuid),
        ("SubnetOwnerHotkey", netuid),
        ("SubnetOwner", netuid),
        ("CommitRevealWeightsEnabled", netuid),
        ("LastUpdate", netuid),
        ("Active", netuid),
        ("ValidatorPermit", netuid),
        ("Consensus", netuid),
        ("Incentive", netuid),
        ("Dividends", netuid),
        ("ValidatorTrust", netuid),
        ("Emission", netuid),
    )
    (spec,) = view.get(("SubnetSpecs", netuid)) if "SubnetSpecs" in view.storage else (None,)
    slots = view.get(
        *(("Keys", netuid, uid) for uid in range(neurons)),
        *(("BlockAtRegistration", netuid, uid) for uid in range(neurons)),
    )
    hotkeys = slots[:neurons]
    if None in hotkeys:
        raise ChainError(f"subnet {netuid} has a slot without a hotkey at block {block}")
    facts = view.get(
        *(("Owner", hotkey) for hotkey in hotkeys),
        *(("Axons", netuid, hotkey) for hotkey in hotkeys),
        *(("TotalHotkeyAlpha", hotkey, netuid) for hotkey in hotkeys),
    )
    rows = SubnetRows(
        hotkeys=hotkeys,
        coldkeys=facts[:neurons],
        axons=facts[neurons : 2 * neurons],
        stake_rao=facts[2 * neurons :],
        registered_at=slots[neurons:],
        last_update=last_update,
        active=active,
        validator_permit=validator_permit,
        consensus_u16=consensus,
        incentive_u16=incentive,
        dividends_u16=dividends,
        validator_trust_u16=validator_trust,
        emission_rao=emission,
        owner_hotkey=owner_hotkey,
        owner_coldkey=owner_coldkey,
        commit_reveal=commit_reveal,
        spec=spec,
    )
    return assemble_metagraph(netuid, view.block_hash, epoch, rows)


def assemble_metagraph(
    netuid: NetUid, block_hash: str, epoch: Epoch, rows: SubnetRows
) -> Metagraph:
    """Rows to nouns; pure. Raises ChainError when columns have different lengths."""
    if rows.owner_hotkey is None or rows.owner_coldkey is None:
        raise ChainError(f"subnet {netuid} has no owner at block {epoch.block}")
    columns = zip(
        rows.hotkeys,
        rows.coldkeys,
        rows.axons,
        rows.stake_rao,
        rows.incentive_u16,
        rows.dividends_u16,
        rows.consensus_u16,
        rows.validator_trust_u16,
        rows.emission_rao,
        rows.active,
        rows.validator_permit,
        rows.last_update,
        rows.registered_at,
        strict=True,
    )
    try:
        neurons = tuple(_neuron(uid, *row) for uid, row in enumerate(columns))
    except ValueError as error:
        raise ChainError(f"subnet {netuid} is inconsistent at block {epoch.block}") from error
    return Metagraph(
        netuid=netuid,
        block=epoch.block,
        block_hash=block_hash,
        tempo_blocks=epoch.tempo_blocks,
        epoch_index=epoch.epoch_index,
        last_epoch_block=epoch.last_epoch_block,
        next_epoch_block=epoch.next_epoch_block,
        owner_hotkey=rows.owner_hotkey,
        owner_coldkey=rows.owner_coldkey,
        commit_reveal=rows.commit_reveal,
        spec_sha256=rows.spec["hash"].removeprefix("0x") if rows.spec else None,
        spec_url=rows.spec["url"].decode(errors="replace") if rows.spec else None,
        neurons=neurons,
    )


def read_root_key(view: View) -> Coldkey | None:
    """The sudo key."""
    if "Sudo.Key" not in view.storage:
        return None
    (key,) = view.get(("Sudo.Key",))
    return Coldkey(key) if key else None


def read_balance(view: View, account: Coldkey | Hotkey) -> int:
    """Free balance in rao."""
    (entry,) = view.get(("System.Account", account))
    return int(entry["data"]["free"])


def read_stakes(view: View, coldkey: Coldkey) -> tuple[StakePosition, ...]:
    """Everything that a coldkey has staked, by subnet and hotkey."""
    places = sorted(keys[0] for keys, _ in view.entries("StakingHotkeys", coldkey))
    stakes = view.get(*(("Stake", netuid, hotkey, coldkey) for netuid, hotkey in places))
    return tuple(
        StakePosition(netuid, hotkey, stake)
        for (netuid, hotkey), stake in zip(places, stakes, strict=True)
    )


def read_rows(view: View, item: str, netuid: NetUid) -> dict[Uid, WeightRow]:
    """Weights or bonds of every neuron that gave any."""
    (neurons,) = view.get(("SubnetworkN", netuid))
    rows = view.get(*((item, netuid, uid) for uid in range(neurons)))
    return {Uid(uid): row for uid, row in enumerate(rows) if row}


def read_last_reveal(view: View, netuid: NetUid, hotkey: Hotkey) -> LastReveal | None:
    (found,) = view.get(("LastReveal", netuid, hotkey))
    if found is None:
        return None
    sheet = found["sheet"]
    return LastReveal(found["epoch"], sheet.removeprefix("0x") if sheet else None)


def read_weight_commits(view: View, netuid: NetUid, hotkey: Hotkey) -> tuple[WeightCommit, ...]:
    """Oldest first."""
    (queue,) = view.get(("WeightCommits", netuid, hotkey))
    return tuple(
        WeightCommit(entry["hash"], entry["epoch"], entry["block"], entry["reveal_epoch"])
        for entry in queue
    )


def epochs_ran(events: Sequence[Event]) -> tuple[EpochRan, ...]:
    """The epochs among a block's events."""
    return tuple(
        EpochRan(**event.fields)
        for event in events
        if (event.pallet, event.name) == (PALLET, "EpochRan")
    )


def parse_axon(entry: Mapping[str, int] | None) -> Axon | None:
    """The address that a neuron published, or None if it is none that anyone can connect to."""
    if entry is None or not entry["ip"] or not entry["port"]:
        return None
    kinds: dict[int, type[ipaddress.IPv4Address | ipaddress.IPv6Address]] = {
        4: ipaddress.IPv4Address,
        6: ipaddress.IPv6Address,
    }
    kind = kinds.get(entry["ip_type"])
    if kind is None:
        return None
    try:
        return Axon(str(kind(entry["ip"])), entry["port"])
    except ipaddress.AddressValueError:
        return None


def _neuron(
    uid: int,
    hotkey: Hotkey | None,
    coldkey: Coldkey | None,
    axon: Mapping[str, int] | None,
    stake_rao: int,
    incentive_u16: int,
    dividends_u16: int,
    consensus_u16: int,
    validator_trust_u16: int,
    emission_rao: int,
    active: bool,
    validator_permit: bool,
    last_update: int,
    registered_at: int,
) -> Neuron:
    if hotkey is None or coldkey is None:
        raise ValueError(f"uid {uid} has no keys")
    return Neuron(
        uid=Uid(uid),
        hotkey=hotkey,
        coldkey=coldkey,
        axon=parse_axon(axon),
        stake_rao=stake_rao,
        incentive_u16=incentive_u16,
        dividends_u16=dividends_u16,
        consensus_u16=consensus_u16,
        validator_trust_u16=validator_trust_u16,
        emission_rao=emission_rao,
        active=active,
        validator_permit=validator_permit,
        last_update_block=BlockNumber(last_update),
        registered_at_block=BlockNumber(registered_at),
    )
