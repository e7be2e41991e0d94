"""What the chain client answers with, beside the nouns of `moesubnet.types`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moesubnet.types import BlockNumber, Hotkey, Metagraph, NetUid, Uid

NEVER = BlockNumber(2**64 - 1)

WeightRow = tuple[tuple[Uid, int], ...]  # (target, u16), ascending by target


@dataclass(frozen=True, slots=True)
class Epoch:
    """Where a subnet stands in its epochs, after block `block`."""

    block: BlockNumber
    tempo_blocks: int
    epoch_index: int  # the epoch that `block` belongs to
    last_epoch_block: BlockNumber
    next_epoch_block: BlockNumber  # NEVER while the subnet is paused
    blocks_since_last_step: int
    reveal_period_epochs: int
    pending_epoch_at: int = 0  # block of an epoch out of turn; 0: none

    @property
    def epoch_now(self) -> int:
        """The epoch of a call that the next block includes: one more if that block starts it."""
        return self.epoch_index + (self.block + 1 >= self.next_epoch_block)


@dataclass(frozen=True, slots=True)
class StakePosition:
    """What one coldkey has staked on one hotkey in one subnet."""

    netuid: NetUid
    hotkey: Hotkey
    stake_rao: int


@dataclass(frozen=True, slots=True)
class LastReveal:
    """The weights that a hotkey revealed last: epoch of their commit, and their score sheet."""

    epoch: int
    sheet_sha256: str | None  # lower-case hex; None if the salt named no sheet
    vouches_for: frozenset[Uid] = frozenset()  # nobody who took a uid since the commit


@dataclass(frozen=True, slots=True)
class WeightCommit:
    """A commit that waits for its reveal."""

    commit_hash: str  # 0x…
    epoch: int
    block: BlockNumber
    reveal_epoch: int


@dataclass(frozen=True, slots=True)
class Votes:
    """Who votes what in a subnet at one block."""

    metagraph: Metagraph
    epoch_now: int  # as in `Epoch`
    rows: Mapping[Uid, WeightRow]  # those that count; by voter
    commits: Mapping[Uid, tuple[WeightCommit, ...]]  # those that wait; oldest first
    reveals: Mapping[Uid, LastReveal]  # the last one of each who ever revealed

    def vouched_part(self, uid: Uid) -> float | None:
        """Of the stake of all other active voters, how much vouches for a voter: its vote is heard
        if that is more than half. None where all votes are heard: those of whom it is more than
        half hold no more than half of all such stake (`yuma::vouching`)."""
        voters = {
            neuron.uid: neuron.stake_rao
            for neuron in self.metagraph.neurons
            if neuron.validator_permit and neuron.active and self.rows.get(neuron.uid)
        }
        total = sum(voters.values())
        nobody = LastReveal(0, None)
        behind = {
            voter: sum(
                rao
                for other, rao in voters.items()
                if other != voter and voter in self.reveals.get(other, nobody).vouches_for
            )
            for voter in voters
        }
        heard = sum(rao for v, rao in voters.items() if 2 * behind[v] > total - rao)
        if uid not in voters or 2 * heard <= total:
            return None
        others = total - voters[uid]
        return behind[uid] / others if others else 0.0


@dataclass(frozen=True, slots=True)
class EpochRan:
    """What an epoch paid. `emission_rao` = `server_rao` + `validator_rao` + `dust_rao`."""

    netuid: NetUid
    epoch: int
    block: BlockNumber
    neurons: int
    emission_rao: int
    server_rao: int
    validator_rao: int
    dust_rao: int
    owner_rao: int
