"""Why a call was refused: one name per reason, and words for what to do about it.

Pallet errors have their name in the chain's metadata. The pool says `Custom error: n`: upstream's
numbers, and from 100 on the pallet's errors by index. So the same failure has the same name
whichever side finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesubnet.chain.link import RpcError
from moesubnet.chain.view import Event
from moesubnet.errors import CallRejected

_CUSTOM = {
    1: "StakeAmountTooLow",
    2: "NotEnoughBalanceToStake",
    3: "SubnetNotExists",
    4: "HotKeyAccountNotExists",
    5: "NotEnoughStakeToWithdraw",
    6: "RateLimitExceeded",
    7: "InsufficientLiquidity",
    8: "SlippageTooHigh",
    9: "TransferDisallowed",
    10: "HotKeyNotRegisteredInNetwork",
    11: "InvalidIpAddress",
    12: "ServingRateLimitExceeded",
    13: "InvalidPort",
    15: "InvalidRevealRound",
    16: "NoWeightsCommitFound",
    17: "RevealTooEarly",
    18: "InputLengthsUnequal",
    19: "HotKeyNotRegisteredInSubNet",
    25: "NonAssociatedColdKey",
    26: "DelegateTakeTooLow",
    27: "DelegateTakeTooHigh",
    255: "BadRequest",
}

_PALLET = "SubtensorModule"
_FIRST_OWN_CODE = 100

# How the pool words what every Substrate chain can refuse.
_STANDARD = {
    "Inability to pay some fees": "Payment",
    "Transaction is outdated": "Stale",
    "Transaction will be valid in the future": "Future",
    "Transaction has an ancient birth block": "AncientBirthBlock",
    "Transaction has a bad signature": "BadProof",
    "Transaction would exhaust the block limits": "ExhaustsResources",
    "Transaction call is not expected": "Call",
}
_BY_CODE = {
    1012: "Banned",
    1013: "AlreadyImported",
    1014: "PriorityTooLow",
    1016: "PoolFull",
}

_FUND = "fund it: `moesubnet faucet` on a development chain, `moesubnet transfer` elsewhere"
_REGISTER = "register it first: `moesubnet register`"
_ADVICE = {
    "AlreadyImported": "the node has this very transaction already",
    "AmountTooLow": "stake more at once; when unstaking, take all rather than leave a crumb",
    "AncientBirthBlock": "it waited too long before it was sent; send it again",
    "Arithmetic.Underflow": f"the balance is too low; {_FUND}",
    "BadOrigin": "this key may not make this call",
    "BadProof": "the chain does not accept how this client signs; is it of another version?",
    "BadRequest": "it would fail now. To vote, a hotkey needs a validator permit (stake more and "
    "wait for the next epoch), targets that are neurons, and the subnet's way of voting; "
    "a commit can be revealed in its one epoch only",
    "Banned": "the node refused this very transaction a moment ago; wait a minute",
    "CommitRevealDisabled": "this subnet takes weights without commit and reveal",
    "CommitRevealEnabled": "this subnet takes weights through commit and reveal only",
    "CommittingWeightsTooFast": "wait for the subnet's weights rate limit",
    "ExpiredWeightCommit": "the epoch for this reveal is over; commit again",
    "ExhaustsResources": "the block is full; send it again",
    "HotKeyAccountNotExists": f"the hotkey was never registered; {_REGISTER}",
    "HotKeyAlreadyRegisteredInSubNet": "the hotkey has a slot already; nothing to do",
    "HotKeyNotRegisteredInNetwork": f"the hotkey has no slot in this subnet; {_REGISTER}",
    "HotKeyNotRegisteredInSubNet": f"the hotkey has no slot in this subnet; {_REGISTER}",
    "InvalidIpAddress": "others cannot reach this address; publish a public one",
    "InvalidRevealCommitHashNotMatch": "what was revealed is not what was committed",
    "NeuronNoValidatorPermit": "only the neurons with most stake may vote: stake more on the "
    "hotkey (`moesubnet stake add`) and wait for the next epoch",
    "NoNeuronIdAvailable": "the subnet is full of neurons in their immunity period; try later",
    "NoWeightsCommitFound": "nothing is committed, or it has been revealed already",
    "NonAssociatedColdKey": "another coldkey owns this hotkey; use that one or a new hotkey",
    "NotEnoughBalanceToStake": f"the coldkey's balance is too low; {_FUND}",
    "NotEnoughStakeToSetWeights": "stake more on the hotkey: `moesubnet stake add`",
    "NotEnoughStakeToWithdraw": "the stake is smaller; see `moesubnet stake show`",
    "NotSubnetOwner": "only the coldkey that owns the subnet may do this",
    "Payment": f"the key cannot pay the fee, or is unknown to the chain; {_FUND}",
    "PoolFull": "the node has too many transactions waiting; send it again",
    "PriorityTooLow": "another transaction of this key has its place; send it again",
    "RateLimitExceeded": "too soon after the last one; wait some blocks",
    "RegistrationPriceLimitExceeded": "the price rose above the limit; run it again",
    "RevealTooEarly": "reveal it in the epoch after the commit's",
    "ServingRateLimitExceeded": "the address was published a moment ago; wait some blocks",
    "SettingWeightsTooFast": "wait for the subnet's weights rate limit",
    "StakeAmountTooLow": "stake more on the hotkey: `moesubnet stake add`",
    "Stale": "another transaction of this key took its place; send it again",
    "SubNetRegistrationDisabled": "the subnet's owner has closed registration",
    "SubnetNotExists": "there is no such subnet; choose another --netuid",
    "Token.BelowMinimum": "the receiver would hold less than an account must; send more",
    "Token.FundsUnavailable": f"the balance is too low; {_FUND}",
    "Token.NotExpendable": "the rest would be less than an account must hold; send less",
    "TooManyUnrevealedCommits": "reveal, or let old commits expire",
}


def rejected(name: str, otherwise: str = "") -> CallRejected:
    """The error of that name, with advice if we have some, else the chain's own text."""
    return CallRejected(name, _ADVICE.get(name, otherwise))


def pool_rejection(error: RpcError, metadata: Any) -> CallRejected:
    """What the pool refused, by name."""
    text = error.data or error.message
    if text.startswith("Custom error:"):
        number = text.removeprefix("Custom error:").strip()
        return _custom(int(number), metadata) if number.isdecimal() else rejected(text)
    for words, name in _STANDARD.items():
        if text.startswith(words):
            return rejected(name)
    return rejected(_BY_CODE.get(error.code, error.message), error.data)


def _custom(code: int, metadata: Any) -> CallRejected:
    if name := _CUSTOM.get(code):
        return rejected(name)
    named = (pallet.errors for pallet in metadata.pallets if pallet.name == _PALLET)
    errors = next(named, None) or ()
    if not 0 <= code - _FIRST_OWN_CODE < len(errors):
        return rejected(f"Custom error: {code}")
    found = errors[code - _FIRST_OWN_CODE]
    return rejected(found.name, " ".join(found.docs))


def dispatch_failure(events: tuple[Event, ...], metadata: Any) -> CallRejected | None:
    """Why the extrinsic with these events failed, or None if it did not.

    A call inside `sudo` fails without its extrinsic failing; that counts as failed here.
    """
    for event in events:
        if (event.pallet, event.name) == ("System", "ExtrinsicFailed"):
            return _dispatch_error(event.fields["dispatch_error"], metadata)
        if (event.pallet, event.name) == ("Sudo", "Sudid"):
            outcome = event.fields["sudo_result"]
            if isinstance(outcome, Mapping) and "Err" in outcome:
                return _dispatch_error(outcome["Err"], metadata)
    return None


def _dispatch_error(error: Any, metadata: Any) -> CallRejected:
    if isinstance(error, str):
        return rejected(error)
    ((kind, detail),) = error.items()
    if kind == "Module":
        code, *rest = detail["error"]
        found = metadata.get_module_error(module_index=detail["index"], error_index=code)
        about = _about(found.value["fields"], rest, metadata)
        return rejected(found.name, about + " ".join(found.docs))
    return rejected(f"{kind}.{detail}")


def _about(fields: list[dict[str, Any]], rest: list[int], metadata: Any) -> str:
    """What an error with a field is about, "tempo: " for example, or nothing."""
    if not fields:
        return ""
    kind = metadata.portable_registry["types"][fields[0]["type"]].value["type"]["def"]
    names = {variant["index"]: variant["name"] for variant in kind["variant"]["variants"]}
    return f"{names[rest[0]]}: " if rest and rest[0] in names else ""
