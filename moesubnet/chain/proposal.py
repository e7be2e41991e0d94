"""What the chain says about a call before anybody signs it.

The fee comes from `payment_queryInfo` for the same bytes with an empty signature. Whether the next
block would take the call comes from our runtime's `DryRunRuntimeApi`; other runtimes do not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from substrateinterface import Keypair

from moesubnet.chain.reads import read_balance
from moesubnet.chain.rpc.codec import SS58_FORMAT, public_key
from moesubnet.chain.rpc.extrinsics import Call, build_extrinsic, compose, next_nonce
from moesubnet.chain.rpc.link import Link, RpcError
from moesubnet.chain.rpc.rejections import dispatch_error, rejected
from moesubnet.chain.rpc.submission import head_of
from moesubnet.chain.rpc.view import View
from moesubnet.errors import CallRejected, ChainError
from moesubnet.types import Coldkey
from moesubnet.units import format_rao

_NO_SIGNATURE = bytes(64)
_OK = b"\0"
TRY = "DryRunRuntimeApi_dry_run_call"
_AMOUNTS_RAO = {"amount_staked", "amount_unstaked", "limit_price", "value"}  # in our calls

Outcome = tuple[bool | None, CallRejected | None]  # as in `Proposal`


@dataclass(frozen=True, slots=True)
class Proposal:
    """A call that nobody signed, and what it would come to."""

    call: Call
    signer: Coldkey
    fee_rao: int
    balance_rao: int  # of the signer
    accepted: bool | None  # None: this chain's runtime cannot say
    refusal: CallRejected | None  # why not, where it is not accepted


def propose(link: Link, call: Call, signer: Coldkey) -> Proposal:
    """Ask about a call at the head. Raises ChainError if the chain does not know the call."""
    head, head_hash = head_of(link)
    view = link.view(head_hash)
    nobody = Keypair(ss58_address=signer, ss58_format=SS58_FORMAT)
    with link.next_runtime() as interface:
        composed = compose(interface, call, head_hash)
        nonce = next_nonce(link, nobody)
        unsigned = build_extrinsic(
            interface, composed, nobody, lambda _: _NO_SIGNATURE, nonce, head
        )
    info = link.request("payment_queryInfo", "0x" + unsigned.hex(), head_hash)
    try:
        fee_rao = int(info["partialFee"])
        paid = fee_rao.to_bytes(8, "little")
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ChainError(f"{link.url} does not answer as a chain does") from error
    balance_rao = read_balance(view, signer)
    data = public_key(signer) + paid + bytes(composed.data.data)
    payment: Outcome = (False, rejected("Payment"))
    accepted, refusal = payment if fee_rao > balance_rao else _try(view, data)
    return Proposal(call, signer, fee_rao, balance_rao, accepted, refusal)


def describe(proposal: Proposal) -> tuple[dict[str, object], str]:
    """A dry run, for machines and for people."""
    call = proposal.call
    data = {
        "dry_run": True,
        "call": str(call),
        "arguments": dict(call.args),
        "signer": proposal.signer,
        "balance_rao": proposal.balance_rao,
        "fee_rao": proposal.fee_rao,
        "accepted": proposal.accepted,
        "refusal": proposal.refusal.name if proposal.refusal else None,
    }
    outcome = {
        True: "the next block would take it",
        False: "the chain would refuse it",
        None: "this chain's runtime cannot say beforehand",
    }
    lines = [
        "dry run: nothing is signed or sent",
        *_describe_call(str(call), call.args),
        f"signer     {proposal.signer}, holds {format_rao(proposal.balance_rao)}",
        f"fee        {format_rao(proposal.fee_rao)}",
        f"outcome    {outcome[proposal.accepted]}",
    ]
    return data, "\n".join(lines)


def _describe_call(name: str, arguments: Mapping[str, Any]) -> list[str]:
    inner = arguments.get("calls")
    if isinstance(inner, list):
        return [
            line
            for call in inner
            for line in _describe_call(
                f"{call['call_module']}.{call['call_function']}", call["call_args"]
            )
        ]
    return [
        f"call       {name}",
        *(f"  {key} = {_plain(key, value)}" for key, value in arguments.items()),
    ]


def _plain(name: str, value: object) -> str:
    if isinstance(value, Mapping):  # an update: only what it names
        return ", ".join(f"{key}={item}" for key, item in value.items() if item is not None)
    if isinstance(value, int) and name in _AMOUNTS_RAO:
        return f"{value} ({format_rao(value)})"
    return str(value)


def _try(view: View, arguments: bytes) -> Outcome:
    try:
        answer = view.call(TRY, arguments)
    except RpcError:  # no such API; or the call breaks the runtime, which its block will say too
        return None, None
    if answer == _OK:
        return True, None
    error = view.storage.registry.decode_named(("sp_runtime", "DispatchError"), answer[1:])
    return False, dispatch_error(error, view.link.interface.metadata)
