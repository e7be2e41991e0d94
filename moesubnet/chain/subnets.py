"""Subnets as those who buy, own or choose one look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesubnet.chain.rpc.view import View
from moesubnet.errors import ChainError
from moesubnet.types import BlockNumber, Coldkey, Hotkey, NetUid

_ITEMS = (
    "SubnetOwner",
    "SubnetOwnerHotkey",
    "SubnetIdentitiesV3",
    "TokenSymbol",
    "NetworkRegisteredAt",
    "SubnetLocked",
    "SubnetworkN",
    "MaxAllowedUids",
    "Tempo",
    "Burn",
    "PendingEmission",
    "PendingOwnerCut",
    "CommitRevealWeightsEnabled",
    "RevealPeriodEpochs",
    "NetworkPowRegistrationAllowed",
    "SubnetSpecs",
    "SubnetHyperparams",
)


@dataclass(frozen=True, slots=True)
class Subnet:
    """One subnet after a block, without its neurons."""

    netuid: NetUid
    name: str  # from a stranger
    symbol: str  # from a stranger
    owner_coldkey: Coldkey | None
    owner_hotkey: Hotkey | None
    created_at_block: BlockNumber
    cost_rao: int  # burned for it
    neurons: int
    slots: int
    tempo_blocks: int
    registration_price_rao: int
    registration_allowed: bool
    work_allowed: bool
    emission_share: int  # of all subnets' `emission_shares`
    emission_shares: int
    pending_neurons_rao: int  # paid at the next epoch
    pending_owner_rao: int
    commit_reveal: bool
    reveal_period_epochs: int
    spec_sha256: str | None
    spec_url: str | None
    spec_from_epoch: int | None


def read_subnets(view: View) -> tuple[Subnet, ...]:
    """Every subnet, by netuid."""
    netuids = sorted(keys[0] for keys, exists in view.entries("NetworksAdded") if exists)
    shares = read_emission_shares(view, netuids)
    values = view.get(*((item, netuid) for netuid in netuids for item in _ITEMS))
    rows = zip(*[iter(values)] * len(_ITEMS), strict=True)
    return tuple(
        _subnet(netuid, dict(zip(_ITEMS, row, strict=True)), shares)
        for netuid, row in zip(netuids, rows, strict=True)
    )


def read_subnet(view: View, netuid: NetUid) -> Subnet:
    """One subnet. Raises ChainError if there is none."""
    for subnet in read_subnets(view):
        if subnet.netuid == netuid:
            return subnet
    raise no_subnet(netuid)


def no_subnet(netuid: int) -> ChainError:
    return ChainError(
        f"there is no subnet {netuid} on this chain; `moesubnet subnet list` shows those there are"
    )


def read_emission_shares(view: View, netuids: list[NetUid]) -> dict[NetUid, int]:
    """Relative shares in the emission; even ones where root has set none."""
    (stored,) = view.get(("EmissionShares",))
    given = {NetUid(netuid): int(share) for netuid, share in stored}
    return {netuid: given.get(netuid, 0) if given else 1 for netuid in netuids}


def read_subnet_price(view: View) -> int:
    """What the next subnet costs now, in rao."""
    answer = view.call("SubnetRegistrationRuntimeApi_get_network_registration_cost")
    return int.from_bytes(answer, "little")


def first_free(subnets: tuple[Subnet, ...]) -> NetUid:
    """The number that the next subnet gets: the pallet hands out the lowest from 1 on."""
    taken = {subnet.netuid for subnet in subnets}
    return NetUid(next(n for n in range(1, len(taken) + 2) if n not in taken))


def _subnet(netuid: NetUid, row: dict[str, Any], shares: dict[NetUid, int]) -> Subnet:
    spec, identity = row["SubnetSpecs"], row["SubnetIdentitiesV3"]
    return Subnet(
        netuid=netuid,
        name=as_text(identity["subnet_name"]) if identity else "",
        symbol=as_text(row["TokenSymbol"]),
        owner_coldkey=row["SubnetOwner"],
        owner_hotkey=row["SubnetOwnerHotkey"],
        created_at_block=row["NetworkRegisteredAt"],
        cost_rao=row["SubnetLocked"],
        neurons=row["SubnetworkN"],
        slots=row["MaxAllowedUids"],
        tempo_blocks=row["Tempo"],
        registration_price_rao=row["Burn"],
        registration_allowed=row["SubnetHyperparams"]["registration_allowed"],
        work_allowed=row["NetworkPowRegistrationAllowed"],
        emission_share=shares[netuid],
        emission_shares=sum(shares.values()),
        pending_neurons_rao=row["PendingEmission"],
        pending_owner_rao=row["PendingOwnerCut"],
        commit_reveal=row["CommitRevealWeightsEnabled"],
        reveal_period_epochs=row["RevealPeriodEpochs"],
        spec_sha256=spec["hash"].removeprefix("0x") if spec else None,
        spec_url=as_text(spec["url"]) if spec else None,
        spec_from_epoch=spec["from_epoch"] if spec else None,
    )


def as_text(raw: bytes) -> str:
    """A stranger's bytes as one line that cannot steer a terminal."""
    text = raw.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
