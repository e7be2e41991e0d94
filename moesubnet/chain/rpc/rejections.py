"""Why a call was refused: one name per reason, and words for what to do about it.

Pallet errors have their name in the chain's metadata. The pool says `Custom error: n`: upstream's
numbers, and from 100 on the pallet's errors by index. So the same failure has the same name
whichever side finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesubnet.chain.rpc.advice import ADVICE
from moesubnet.chain.rpc.link import RpcError
from moesubnet.chain.rpc.view import Event
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
    "A call was labelled as mandatory": "BadMandatory",
    "Transaction dispatch is mandatory": "MandatoryValidation",
    "Invalid signing address": "BadSigner",
    "The implicit data was unable to be calculated": "IndeterminateImplicit",
    "The transaction extension did not authorize any origin": "UnknownOrigin",
    "Could not lookup information": "CannotLookup",
    "Could not find an unsigned validator": "NoUnsignedValidator",
}
_BY_CODE = {
    1012: "Banned",
    1013: "AlreadyImported",
    1014: "PriorityTooLow",
    1016: "PoolFull",
    1019: "NoTags",
}


def rejected(name: str, otherwise: str = "", about: str = "") -> CallRejected:
    """The error of that name, with advice if we have some, else the chain's own text.

    `about` is what the error is about, "tempo" for example.
    """
    return CallRejected(name, ": ".join(filter(None, (about, ADVICE.get(name, otherwise)))))


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
            return dispatch_error(event.fields["dispatch_error"], metadata)
        if (event.pallet, event.name) == ("Sudo", "Sudid"):
            outcome = event.fields["sudo_result"]
            if isinstance(outcome, Mapping) and "Err" in outcome:
                return dispatch_error(outcome["Err"], metadata)
    return None


def dispatch_error(error: Any, metadata: Any) -> CallRejected:
    """The `DispatchError` that the chain gave, by name."""
    if isinstance(error, str):
        return rejected(error)
    ((kind, detail),) = error.items()
    if kind == "Module":
        code, *rest = detail["error"]
        found = metadata.get_module_error(module_index=detail["index"], error_index=code)
        about = _about(found.value["fields"], rest, metadata)
        return rejected(found.name, " ".join(found.docs), about)
    return rejected(f"{kind}.{detail}")


def _about(fields: list[dict[str, Any]], rest: list[int], metadata: Any) -> str:
    """What an error with a field is about, "tempo" for example, or nothing."""
    if not fields:
        return ""
    kind = metadata.portable_registry["types"][fields[0]["type"]].value["type"]["def"]
    names = {variant["index"]: variant["name"] for variant in kind["variant"]["variants"]}
    return str(names.get(rest[0], "")) if rest else ""
