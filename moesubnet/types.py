"""The nouns that cross module boundaries: keys, neurons, the metagraph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NewType, Protocol

Hotkey = NewType("Hotkey", str)  # SS58, prefix 42
Coldkey = NewType("Coldkey", str)  # SS58, prefix 42
NetUid = NewType("NetUid", int)
Uid = NewType("Uid", int)  # a slot; reused after deregistration: key lasting state by hotkey
BlockNumber = NewType("BlockNumber", int)


class Signer(Protocol):
    """What can sign: `substrateinterface.Keypair` and its like."""

    @property
    def ss58_address(self) -> str: ...

    @property
    def public_key(self) -> bytes: ...

    def sign(self, data: bytes) -> bytes:
        """64-byte sr25519 signature over `data` with signing context `substrate`."""
        ...


@dataclass(frozen=True, slots=True)
class Axon:
    """Where a neuron says that it listens. From a stranger: check before connecting."""

    ip: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a hotkey says on chain of the model that it serves."""

    commitment: str  # SHA-256 that names its weights, lower-case hex
    is_open: bool  # whether everybody can fetch them
    block: BlockNumber  # in which it said so


@dataclass(frozen=True, slots=True)
class Neuron:
    """One uid of a subnet at one block. `*_u16` are fractions of 65535."""

    uid: Uid
    hotkey: Hotkey
    coldkey: Coldkey
    axon: Axon | None
    stake_rao: int
    incentive_u16: int
    dividends_u16: int
    consensus_u16: int
    validator_trust_u16: int
    emission_rao: int  # paid at the last epoch
    active: bool
    validator_permit: bool
    last_update_block: BlockNumber
    registered_at_block: BlockNumber
    model: ServedModel | None = None


@dataclass(frozen=True)
class Metagraph:
    """A subnet at one block. Immutable; says its block so that readers can refuse an old one."""

    netuid: NetUid
    block: BlockNumber
    block_hash: str
    tempo_blocks: int
    epoch_index: int
    last_epoch_block: BlockNumber
    next_epoch_block: BlockNumber
    owner_hotkey: Hotkey
    owner_coldkey: Coldkey
    commit_reveal: bool
    spec_sha256: str | None
    spec_url: str | None
    neurons: tuple[Neuron, ...]
    spec_epoch: int | None = None  # the first in which that spec holds
    reveal_period_epochs: int = 1  # from a vote's commit to its reveal
    has_models: bool = False  # whether this chain keeps what hotkeys say of their models

    @cached_property
    def by_hotkey(self) -> dict[Hotkey, Neuron]:
        return {neuron.hotkey: neuron for neuron in self.neurons}


class MetagraphSource(Protocol):
    def current(self) -> Metagraph:
        """The newest metagraph; raises StaleMetagraph when it is too old."""
        ...
