"""Hyperparameters of a subnet: what each means, how it is read, shown and written.

Names, types and bounds are the pallet's (`hyperparams.rs`, `owner.rs`); a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from moesubnet.chain.rpc.view import View
from moesubnet.chain.subnets import no_subnet
from moesubnet.errors import ConfigError
from moesubnet.types import NetUid
from moesubnet.units import format_rao, parse_rao, u16_fraction

Value = int | bool


class Unit(StrEnum):
    """How a value is counted."""

    BLOCKS = "blocks"
    COUNT = ""
    EPOCHS = "epochs"
    MILLI_TEMPOS = "milli-tempos"
    PPM = "ppm"
    RAO = "τ"
    SWITCH = "yes or no"
    U16 = "of 65,535"


_U64_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Hyperparam:
    """`root_only`: the subnet's owner may not change it."""

    unit: Unit
    meaning: str
    root_only: bool = False


ROOT = True
HYPERPARAMS: Mapping[str, Hyperparam] = {
    "tempo": Hyperparam(Unit.BLOCKS, "from one epoch to the next; 0 pauses the subnet"),
    "burn": Hyperparam(Unit.RAO, "price of a registration now", ROOT),
    "max_allowed_uids": Hyperparam(Unit.COUNT, "slots for neurons"),
    "commit_reveal_weights_enabled": Hyperparam(
        Unit.SWITCH, "votes are promised first and revealed an epoch later"
    ),
    "weights_set_rate_limit": Hyperparam(Unit.BLOCKS, "between two votes of one neuron", ROOT),
    "min_allowed_weights": Hyperparam(Unit.COUNT, "least targets of a vote"),
    "reveal_period_epochs": Hyperparam(
        Unit.EPOCHS, "from commit to reveal, 1 to 100; the longer, the less a copied vote earns"
    ),
    "network_pow_registration_allowed": Hyperparam(
        Unit.SWITCH, "work may take the registration price's place"
    ),
    "difficulty": Hyperparam(Unit.COUNT, "seals to try for a registration by work now", ROOT),
    "min_difficulty": Hyperparam(Unit.COUNT, "the difficulty falls no lower", ROOT),
    "max_difficulty": Hyperparam(Unit.COUNT, "the difficulty rises no higher"),
    "max_registrations_per_block": Hyperparam(
        Unit.COUNT, "most registrations by work in a block", ROOT
    ),
    "kappa": Hyperparam(Unit.U16, "majority of stake that makes a consensus", ROOT),
    "bonds_moving_average": Hyperparam(Unit.PPM, "of a bond is kept per epoch"),
    "bonds_penalty": Hyperparam(Unit.U16, "how far bonds follow clipped rather than raw weights"),
    "yuma3": Hyperparam(Unit.SWITCH, "bonds count per miner, not over all validators"),
    "liquid_alpha": Hyperparam(
        Unit.SWITCH, "how fast bonds move depends on the distance to consensus"
    ),
    "alpha_low": Hyperparam(Unit.U16, "lowest liquid rate of bonds, at least 1,638"),
    "alpha_high": Hyperparam(Unit.U16, "highest liquid rate of bonds, at least alpha_low"),
    "alpha_sigmoid_steepness": Hyperparam(Unit.COUNT, "slope of the liquid rate, times 100"),
    "max_allowed_validators": Hyperparam(Unit.COUNT, "most validator permits", ROOT),
    "activity_cutoff_factor_milli": Hyperparam(
        Unit.MILLI_TEMPOS, "without a vote make a neuron inactive; 1,000 to 50,000"
    ),
    "stake_threshold_rao": Hyperparam(Unit.RAO, "least stake of a hotkey that votes", ROOT),
    "immunity_period": Hyperparam(
        Unit.BLOCKS,
        "in which a newcomer keeps its slot if others can go; where votes are revealed, at least "
        "(reveal_period_epochs + 1) tempos",
    ),
    "min_non_immune_uids": Hyperparam(
        Unit.COUNT, "with no more prunable neurons than this, immune ones go too", ROOT
    ),
    "immune_owner_uids_limit": Hyperparam(
        Unit.COUNT, "hotkeys of the owner that are never pruned, 1 to 10"
    ),
    "weights_version_key": Hyperparam(
        Unit.COUNT, "oldest version key accepted with a vote; 0 accepts any"
    ),
    "serving_rate_limit": Hyperparam(Unit.BLOCKS, "between two publications of an address"),
    "registration_allowed": Hyperparam(Unit.SWITCH, "anyone may register", ROOT),
    "min_burn": Hyperparam(Unit.RAO, "the registration price falls no lower"),
    "max_burn": Hyperparam(Unit.RAO, "the registration price rises no higher"),
    "burn_half_life": Hyperparam(Unit.BLOCKS, "in which the price halves, 1 to 36,100"),
    "burn_increase_ppm": Hyperparam(
        Unit.PPM, "that a registration multiplies the price by, 1,000,000 to 3,000,000"
    ),
    "owner_cut": Hyperparam(Unit.U16, "of the subnet's emission goes to its owner", ROOT),
}
_UNKNOWN = Hyperparam(Unit.COUNT, "newer than this moesubnet; see the chain's documents")
_SWITCHES = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


def read_hyperparams(view: View, netuid: NetUid) -> dict[str, Value]:
    """Every hyperparameter by name. Raises ChainError if there is no such subnet."""
    names = [name for name in HYPERPARAMS if _item(name) in view.storage]
    exists, together, *separate = view.get(
        ("NetworksAdded", netuid),
        ("SubnetHyperparams", netuid),
        *((_item(name), netuid) for name in names),
    )
    if not exists:
        raise no_subnet(netuid)
    return {**dict(zip(names, separate, strict=True)), **together}


@dataclass(frozen=True, slots=True)
class OwnerLimits:
    """What binds a subnet's owner, and not root."""

    change_every_blocks: int  # each hyperparameter; `weights_version_key` 2.5 times as rarely
    freeze_blocks: int  # before an epoch nothing changes
    least_tempo_blocks: int
    least_slots: int


def read_owner_limits(view: View, netuid: NetUid) -> OwnerLimits:
    """As `owner.rs` applies them to a subnet."""
    tempo, tempos, window, least_tempo, least_slots = view.get(
        ("Tempo", netuid),
        ("OwnerHyperparamRateLimit",),
        ("AdminFreezeWindow",),
        ("MinOwnerTempo",),
        ("MinOwnerUids",),
    )
    return OwnerLimits(tempos * tempo, min(window, tempo // 2), least_tempo, least_slots)


def about(name: str) -> Hyperparam:
    return HYPERPARAMS.get(name, _UNKNOWN)


def parse_changes(texts: Sequence[str], now: Mapping[str, Value]) -> dict[str, Value]:
    """`["tempo=360"]` → `{"tempo": 360}`, of those that exist `now`. Raises ConfigError."""
    changes: dict[str, Value] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(
                f"{text!r} sets nothing; write --set NAME=VALUE, e.g. --set tempo=360"
            )
        if name not in now:
            raise ConfigError(
                f"there is no hyperparameter {name!r}; `moesubnet subnet hyperparams` lists them"
            )
        if name in changes:
            raise ConfigError(f"{name} is set twice; say it once")
        changes[name] = parse_value(name, value)
    if all(now[name] == value for name, value in changes.items()):
        raise ConfigError(f"{', '.join(changes)}: the value is that already; nothing to change")
    return changes


def parse_value(name: str, text: str) -> Value:
    """A value as people write it: `360`, `yes`, `1.5` (tokens) or `12rao`. Raises ConfigError."""
    unit = about(name).unit
    if unit is Unit.RAO:
        return parse_rao(text)
    if unit is Unit.SWITCH:
        if text.lower() not in _SWITCHES:
            raise ConfigError(f"{name} is yes or no, not {text!r}")
        return _SWITCHES[text.lower()]
    number = text.replace(",", "").replace("_", "")
    if not re.fullmatch(r"-?\d{1,20}", number, re.ASCII):
        counted = f", counted in {unit}" if unit else ""
        raise ConfigError(f"{name} is a whole number{counted}, not {text!r}")
    return int(number)


def format_value(name: str, value: Value) -> str:
    """A value with its unit."""
    unit = about(name).unit
    match unit:
        case Unit.RAO:
            return format_rao(value)
        case Unit.SWITCH:
            return "yes" if value else "no"
        case Unit.U16:
            return f"{value:,} ({u16_fraction(value):.1%})"
        case _ if value == _U64_MAX:
            return "no limit"
        case _:
            return f"{value:,} {unit}".rstrip()


def _item(name: str) -> str:
    """Storage item of a hyperparameter that has one: `max_allowed_uids` → `MaxAllowedUids`."""
    return "".join(word.capitalize() for word in name.split("_"))
