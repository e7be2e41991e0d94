"""Questions to the chain's state.

Each function takes the state after one block, so whatever it returns belongs together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from moesubnet.chain.assembly import SubnetRows, assemble_metagraph
from moesubnet.chain.nouns import (
    NEVER,
    Epoch,
    EpochRan,
    LastReveal,
    StakePosition,
    Votes,
    WeightCommit,
    WeightRow,
)
from moesubnet.chain.rpc.storage import PALLET
from moesubnet.chain.rpc.view import Event, View
from moesubnet.chain.subnets import no_subnet
from moesubnet.errors import ChainError
from moesubnet.types import (
    BlockNumber,
    Coldkey,
    Hotkey,
    Metagraph,
    NetUid,
    Uid,
)

_ROWS_ITEMS = {  # fields of `SubnetRows` that are one item of storage each
    "owner_hotkey": "SubnetOwnerHotkey",
    "owner_coldkey": "SubnetOwner",
    "commit_reveal": "CommitRevealWeightsEnabled",
    "last_update": "LastUpdate",
    "active": "Active",
    "validator_permit": "ValidatorPermit",
    "consensus_u16": "Consensus",
    "incentive_u16": "Incentive",
    "dividends_u16": "Dividends",
    "validator_trust_u16": "ValidatorTrust",
    "emission_rao": "Emission",
}


def read_epoch_begun_s(view: View, block: BlockNumber, netuid: NetUid, epoch: int) -> float | None:
    """Unix time of `block` if it is the first of that epoch."""
    then = read_epoch(view, block, netuid)
    if (then.epoch_index, then.last_epoch_block) != (epoch, block):
        return None
    return float(view.get(("Timestamp.Now",))[0]) / 1_000


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
        raise no_subnet(netuid)
    return Epoch(
        block=block,
        tempo_blocks=tempo,
        epoch_index=index,
        last_epoch_block=last,
        # As the pallet has it: after a change of the tempo the running epoch keeps its length.
        next_epoch_block=BlockNumber(pending or last + tempo) if tempo else NEVER,
        blocks_since_last_step=since,
        reveal_period_epochs=period,
        pending_epoch_at=pending,
    )


def read_metagraph(view: View, block: BlockNumber, netuid: NetUid) -> Metagraph:
    """The subnet and its neurons, in four requests. Raises ChainError if there is none."""
    epoch = read_epoch(view, block, netuid)
    neurons, *columns = view.get(
        ("SubnetworkN", netuid), *((item, netuid) for item in _ROWS_ITEMS.values())
    )
    (spec,) = view.get(("SubnetSpecs", netuid)) if "SubnetSpecs" in view.storage else (None,)
    slots = view.get(
        *(("Keys", netuid, uid) for uid in range(neurons)),
        *(("BlockAtRegistration", netuid, uid) for uid in range(neurons)),
    )
    hotkeys = slots[:neurons]
    if None in hotkeys:
        raise ChainError(f"subnet {netuid} has a slot without a hotkey at block {block}")
    has_models = "Models" in view.storage  # ours, since runtime 103
    facts = view.get(
        *(("Owner", hotkey) for hotkey in hotkeys),
        *(("Axons", netuid, hotkey) for hotkey in hotkeys),
        *(("TotalHotkeyAlpha", hotkey, netuid) for hotkey in hotkeys),
        *(("Models", netuid, hotkey) for hotkey in hotkeys if has_models),
    )
    rows = SubnetRows(
        hotkeys=hotkeys,
        coldkeys=facts[:neurons],
        axons=facts[neurons : 2 * neurons],
        stake_rao=facts[2 * neurons : 3 * neurons],
        models=facts[3 * neurons :] if has_models else None,
        registered_at=slots[neurons:],
        **dict(zip(_ROWS_ITEMS, columns, strict=True)),
        spec=spec,
    )
    return assemble_metagraph(netuid, view.block_hash, epoch, rows)


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
    _check_stake_is_ours(view)
    places = sorted(keys[0] for keys, _ in view.entries("StakingHotkeys", coldkey))
    stakes = view.get(*(("Stake", netuid, hotkey, coldkey) for netuid, hotkey in places))
    return tuple(
        StakePosition(netuid, hotkey, stake)
        for (netuid, hotkey), stake in zip(places, stakes, strict=True)
    )


def read_stake(view: View, netuid: NetUid, hotkey: Hotkey, coldkey: Coldkey) -> int:
    """One coldkey's stake on one hotkey, in rao."""
    _check_stake_is_ours(view)
    (stake,) = view.get(("Stake", netuid, hotkey, coldkey))
    return int(stake)


def _check_stake_is_ours(view: View) -> None:
    if "LastReveal" not in view.storage:  # only our own chain has it, and stake kept like this
        raise ChainError(
            "this is no chain of moesubnet's own, and keeps stake in another way: "
            "use that network's own tool, `btcli stake`"
        )


def read_rows(view: View, item: str, netuid: NetUid) -> dict[Uid, WeightRow]:
    """Weights or bonds of every neuron that gave any."""
    (neurons,) = view.get(("SubnetworkN", netuid))
    rows = view.get(*((item, netuid, uid) for uid in range(neurons)))
    return {Uid(uid): row for uid, row in enumerate(rows) if row}


def read_last_vote(view: View, netuid: NetUid, hotkey: Hotkey) -> BlockNumber | None:
    """Block of the hotkey's last plain vote or commit; None if it has no slot."""
    uid, last_update = view.get(("Uids", netuid, hotkey), ("LastUpdate", netuid))
    return BlockNumber(last_update[uid]) if uid is not None and uid < len(last_update) else None


def read_last_reveal(view: View, netuid: NetUid, hotkey: Hotkey) -> LastReveal | None:
    """None also on a chain that does not record reveals."""
    return read_last_reveals(view, netuid, [hotkey]).get(hotkey)


def read_last_reveals(
    view: View, netuid: NetUid, hotkeys: Sequence[Hotkey]
) -> dict[Hotkey, LastReveal]:
    """Of those that ever revealed; nobody on a chain that does not record it."""
    if "LastReveal" not in view.storage:
        return {}
    found = view.get(*(("LastReveal", netuid, hotkey) for hotkey in hotkeys))
    return {
        hotkey: LastReveal(last["epoch"], (last["sheet"] or "").removeprefix("0x") or None)
        for hotkey, last in zip(hotkeys, found, strict=True)
        if last is not None
    }


def read_weight_commits(view: View, netuid: NetUid, hotkey: Hotkey) -> tuple[WeightCommit, ...]:
    """Oldest first."""
    (queue,) = view.get(("WeightCommits", netuid, hotkey))
    return _commits(queue)


def _commits(queue: Sequence[Mapping[str, Any]]) -> tuple[WeightCommit, ...]:
    return tuple(
        WeightCommit(entry["hash"], entry["epoch"], entry["block"], entry["reveal_epoch"])
        for entry in queue
    )


def read_timelocked_commits(view: View, netuid: NetUid, epoch: int) -> frozenset[Hotkey]:
    """Whose encrypted commits of an epoch wait to be opened."""
    (queue,) = view.get(("TimelockedWeightCommits", netuid, epoch))
    return frozenset(Hotkey(hotkey) for hotkey, *_ in queue)


def read_votes(view: View, block: BlockNumber, netuid: NetUid) -> Votes:
    """Weights that count and commits that wait. Raises ChainError if there is no such subnet."""
    metagraph = read_metagraph(view, block, netuid)
    queues = view.get(*(("WeightCommits", netuid, neuron.hotkey) for neuron in metagraph.neurons))
    reveals = read_last_reveals(view, netuid, [neuron.hotkey for neuron in metagraph.neurons])
    vouches = _read_vouches(view, metagraph, tuple(reveals))
    return Votes(
        metagraph=metagraph,
        epoch_now=read_epoch(view, block, netuid).epoch_now,
        rows=read_rows(view, "Weights", netuid),
        commits={
            neuron.uid: _commits(queue)
            for neuron, queue in zip(metagraph.neurons, queues, strict=True)
            if queue
        },
        reveals={
            metagraph.by_hotkey[key].uid: replace(last, vouches_for=vouches.get(key, frozenset()))
            for key, last in reveals.items()
        },
    )


def _read_vouches(
    view: View, metagraph: Metagraph, hotkeys: Sequence[Hotkey]
) -> dict[Hotkey, frozenset[Uid]]:
    """Of those that vouched for anybody when they last revealed."""
    if "LastVouches" not in view.storage:  # before runtime 104
        return {}
    found = view.get(*(("LastVouches", metagraph.netuid, hotkey) for hotkey in hotkeys))
    vouches = {}
    for hotkey, said in zip(hotkeys, found, strict=True):
        if said is not None:
            bits = int.from_bytes(said["uids"], "little")
            vouches[hotkey] = frozenset(
                neuron.uid
                for neuron in metagraph.neurons
                if bits >> neuron.uid & 1 and neuron.registered_at_block < said["block"]
            )
    return vouches


def epochs_ran(events: Sequence[Event]) -> tuple[EpochRan, ...]:
    """The epochs among a block's events."""
    return tuple(
        EpochRan(**event.fields)
        for event in events
        if (event.pallet, event.name) == (PALLET, "EpochRan")
    )
