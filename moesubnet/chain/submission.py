"""From a call to its receipt: sign, hand to the pool, find it in a block.

A transaction is looked for in the blocks themselves, by its hash. Subscriptions to its fate get
lost with the socket; blocks do not, and neither a restarted node nor a fork goes unnoticed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from scalecodec.exceptions import RemainingScaleBytesNotEmptyException

from moesubnet.chain.link import Link, RpcError
from moesubnet.chain.rejections import dispatch_failure, pool_rejection, rejected
from moesubnet.chain.view import Event
from moesubnet.errors import CallRejected, ChainError
from moesubnet.types import BlockNumber, Signer

ERA_BLOCKS = 128  # a transaction can be included for about this long after it was signed
_SR25519 = b"\x01"
_SIGNING_ATTEMPTS = 10
_REBROADCAST_S = 5.0
_TAKEN_NONCE = {"Stale", "PriorityTooLow"}


@dataclass(frozen=True, slots=True)
class Call:
    """A call by the names in the chain's metadata; `args` as substrate-interface takes them."""

    module: str
    function: str
    args: Mapping[str, object]

    def __str__(self) -> str:
        return f"{self.module}.{self.function}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A call that took effect."""

    block: BlockNumber
    block_hash: str
    extrinsic_hash: str
    fee_rao: int
    events: tuple[Event, ...]  # of this extrinsic only

    def event(self, pallet: str, name: str) -> Event | None:
        """The first event of that name."""
        return next((e for e in self.events if (e.pallet, e.name) == (pallet, name)), None)


@dataclass(frozen=True, slots=True)
class Pending:
    """A transaction handed to the pool, and how far its search has come."""

    call: str
    data: str  # 0x…, signed
    extrinsic_hash: str
    account: str
    nonce: int
    dies_at: BlockNumber  # first block that cannot include it
    since: BlockNumber  # it can only be in later blocks than this
    searched: BlockNumber  # not in any block up to here, which is …
    searched_hash: str
    sent_at_s: float  # monotonic
    connections: int  # of the link when it was last sent
    lost_nonce_at: BlockNumber | None = None  # where the pool said that the nonce is used


def head_of(link: Link, finalized: bool = False) -> tuple[BlockNumber, str]:
    """Number and hash of the best or the last finalized block."""
    method = "chain_getFinalizedHead" if finalized else "chain_getHead"
    return block_of(link, str(link.request(method)))


def block_of(link: Link, block_hash: str) -> tuple[BlockNumber, str]:
    """Number and hash of the block with this hash. Raises ChainError if there is none."""
    header = link.request("chain_getHeader", block_hash)
    if header is None:
        raise ChainError(f"the chain has no block {block_hash}")
    try:
        return BlockNumber(int(header["number"], 16)), block_hash
    except (TypeError, KeyError, ValueError) as error:
        raise ChainError(f"{link.url} does not answer as a chain does") from error


def send(link: Link, call: Call, signer: Signer) -> Pending:
    """Sign with the next free nonce and hand to the pool. Raises CallRejected."""
    for attempt in range(1, _SIGNING_ATTEMPTS + 1):
        pending = _sign(link, call, signer)
        try:
            link.request("author_submitExtrinsic", pending.data)
        except RpcError as error:
            refusal = pool_rejection(error, link.interface.metadata)
            resent = link.connections > pending.connections
            # After a lost connection the refusal may be the echo of our own first sending.
            if refusal.name != "AlreadyImported" and not (resent and refusal.name in _TAKEN_NONCE):
                if refusal.name in _TAKEN_NONCE and attempt < _SIGNING_ATTEMPTS:
                    continue  # another process signs with this key too
                raise refusal from error
        return replace(pending, sent_at_s=time.monotonic(), connections=link.connections)
    raise AssertionError("unreachable")


def search(link: Link, pending: Pending, finalized: bool = False) -> Receipt | Pending:
    """Look into the blocks, or only the final ones, that came since the last search.

    Raises CallRejected if it was included and failed, or cannot be included any more.
    """
    number, head_hash = head_of(link, finalized)
    if link.request("chain_getBlockHash", pending.searched) != pending.searched_hash:
        # Another fork won: look again.
        since_hash = str(link.request("chain_getBlockHash", pending.since))
        pending = replace(pending, searched=pending.since, searched_hash=since_hash)
    for block in range(pending.searched + 1, number + 1):
        block_hash = link.request("chain_getBlockHash", block)
        if block_hash is None:
            return pending  # a fork with fewer blocks won just now
        extrinsics = link.request("chain_getBlock", block_hash)["block"]["extrinsics"]
        if pending.data in extrinsics:
            index = extrinsics.index(pending.data)
            return _receipt(link, pending, BlockNumber(block), block_hash, index)
    if number > pending.searched:
        pending = replace(pending, searched=number, searched_hash=head_hash)
    if pending.lost_nonce_at is not None and number >= pending.lost_nonce_at:
        raise rejected("Stale")
    if number >= pending.dies_at:
        raise CallRejected("Expired", "no block included it in time; it is safe to send again")
    return _remind(link, pending)


def _remind(link: Link, pending: Pending) -> Pending:
    """Send it again now and then: a node that restarts forgets what waited in its pool."""
    now = time.monotonic()
    if link.connections == pending.connections and now - pending.sent_at_s < _REBROADCAST_S:
        return pending
    pending = replace(pending, sent_at_s=now)
    try:
        link.request("author_submitExtrinsic", pending.data)
    except RpcError as error:
        refusal = pool_rejection(error, link.interface.metadata)
        if refusal.name == "Stale":
            # Used by a block up to the head of now, perhaps ours: one more search decides.
            pending = replace(pending, lost_nonce_at=head_of(link)[0])
        elif refusal.name not in {"AlreadyImported", "Banned", "PriorityTooLow", "PoolFull"}:
            raise refusal from error
    return replace(pending, connections=link.connections)


def _sign(link: Link, call: Call, signer: Signer) -> Pending:
    head, head_hash = head_of(link)
    final, _ = head_of(link, finalized=True)
    era = {"period": ERA_BLOCKS, "current": final}
    with link.next_runtime() as interface:
        composed = _compose(interface, call, head_hash)
        # As late as possible: others may sign with this key too.
        nonce = int(link.request("system_accountNextIndex", signer.ss58_address))
        payload = interface.generate_signature_payload(call=composed, era=dict(era), nonce=nonce)
        signature = _SR25519 + signer.sign(bytes(payload.data))
        extrinsic = interface.create_signed_extrinsic(
            call=composed, keypair=signer, era=dict(era), nonce=nonce, signature=signature
        )
    data = bytes(extrinsic.data.data)
    return Pending(
        call=str(call),
        data="0x" + data.hex(),
        extrinsic_hash="0x" + blake2b(data, digest_size=32).hexdigest(),
        account=signer.ss58_address,
        nonce=nonce,
        dies_at=BlockNumber(final + ERA_BLOCKS),
        since=head,
        searched=head,
        searched_hash=head_hash,
        sent_at_s=time.monotonic(),
        connections=link.connections,
    )


def _compose(interface: Any, call: Call, head_hash: str) -> Any:
    try:
        return interface.compose_call(
            call.module, call.function, dict(call.args), block_hash=head_hash
        )
    except (
        ValueError,
        TypeError,
        NotImplementedError,
        RemainingScaleBytesNotEmptyException,
    ) as error:
        raise ChainError(f"this chain cannot take {call}: {error}") from error


def _receipt(
    link: Link, pending: Pending, block: BlockNumber, block_hash: str, index: int
) -> Receipt:
    events = tuple(
        event for event in link.view(block_hash).events() if event.extrinsic_index == index
    )
    if failure := dispatch_failure(events, link.interface.metadata):
        raise failure
    receipt = Receipt(block, block_hash, pending.extrinsic_hash, 0, events)
    paid = receipt.event("TransactionPayment", "TransactionFeePaid")
    return replace(receipt, fee_rao=int(paid.fields["actual_fee"])) if paid else receipt
