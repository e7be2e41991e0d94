"""A subnet's storage made into a metagraph; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moesubnet.chain.nouns import Epoch
from moesubnet.chain.subnets import as_text
from moesubnet.errors import ChainError
from moesubnet.types import (
    Axon,
    BlockNumber,
    Coldkey,
    Hotkey,
    Metagraph,
    NetUid,
    Neuron,
    ServedModel,
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
    models: Sequence[Mapping[str, Any] | None] | None = None  # None: the chain keeps none


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
        [None] * len(rows.hotkeys) if rows.models is None else rows.models,
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
        spec_url=as_text(rows.spec["url"]) if rows.spec else None,
        neurons=neurons,
        spec_epoch=rows.spec["from_epoch"] if rows.spec else None,
        reveal_period_epochs=epoch.reveal_period_epochs,
        has_models=rows.models is not None,
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
    model: Mapping[str, Any] | None,
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
        model=_model(model),
    )


def _model(entry: Mapping[str, Any] | None) -> ServedModel | None:
    if entry is None:
        return None
    digest = str(entry["commitment"]).removeprefix("0x")
    return ServedModel(digest, bool(entry["is_open"]), BlockNumber(entry["block"]))
