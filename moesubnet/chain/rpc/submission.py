"""From a call to its receipt: sign, hand to the pool, find it in a block.

A transaction is looked for in the blocks themselves, by its bytes. Subscriptions to its fate get
lost with the socket; blocks do not, and neither a restarted node nor a fork goes unnoticed.

Whatever happens to it, a call is executed at most once: what is signed anew, because its era is
over or its fork lost, keeps its nonce, and no chain has two transactions of one nonce. What a block
had and another fork has not is sent again, the same bytes while they are good.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from moesubnet.chain.rpc.extrinsics import (
    ERA_BLOCKS,
    Call,
    build_extrinsic,
    compose,
    next_nonce,
)
from moesubnet.chain.rpc.link import Head, Link, NoSuchBlock, RpcError
from moesubnet.chain.rpc.rejections import dispatch_failure, pool_rejection, rejected
from moesubnet.chain.rpc.view import Event
from moesubnet.errors import CallRejected, ChainError
from moesubnet.types import BlockNumber, Signer

_SIGNING_ATTEMPTS = 10
_REBROADCAST_S = 5.0
_TAKEN_NONCE = {"Stale", "PriorityTooLow"}
_POOL_CODES = range(1_000, 1_100)  # what a node's pool answers with
_WAITING = {"AlreadyImported", "PriorityTooLow", "PoolFull"}
# Said of bytes that were good once: their era is over, their fork lost, or the runtime is new. A
# pool that threw them out for that bans them, and then says no more.
_DEAD = {"AncientBirthBlock", "BadProof", "Banned"}


@dataclass(frozen=True, slots=True)
class Receipt:
    """A call that took effect in a block of the best chain.

    `is_final`: that block cannot be reverted any more. Otherwise another fork may win, and then
    the nodes bring the transaction into that one if it is still valid there; nobody watches it.
    """

    block: BlockNumber
    block_hash: str
    extrinsic_hash: str
    fee_rao: int
    events: tuple[Event, ...]  # of this extrinsic only
    is_final: bool

    def event(self, pallet: str, name: str) -> Event | None:
        """The first event of that name."""
        return next((e for e in self.events if (e.pallet, e.name) == (pallet, name)), None)


@dataclass(frozen=True, slots=True)
class Pending:
    """A transaction handed to the pool, and how far its search has come."""

    call: Call
    signer: Signer
    signed: tuple[str, ...]  # 0x…, the newest last; all of one nonce
    nonce: int
    since: BlockNumber  # where the first one's era begins: only later blocks can include it
    searched: BlockNumber  # not in any block up to here, which is …
    searched_hash: str
    sent_at_s: float  # monotonic
    connections: int  # of the link when it was last sent
    refusal: CallRejected | None = None  # by the pool, which may have seen blocks that we have not


def head_of(link: Link, finalized: bool = False) -> Head:
    """The best or the last finalized block."""
    method = "chain_getFinalizedHead" if finalized else "chain_getHead"
    return block_of(link, str(link.request(method)))


def block_of(link: Link, block_hash: str) -> Head:
    """The block with this hash. Raises NoSuchBlock."""
    if block_hash == link.newest.hash:
        return link.newest
    header = link.request("chain_getHeader", block_hash)
    if header is None:
        raise NoSuchBlock(block_hash)
    try:
        link.newest = Head(BlockNumber(int(header["number"], 16)), block_hash)
    except (TypeError, KeyError, ValueError) as error:
        raise ChainError(f"{link.url} does not answer as a chain does") from error
    return link.newest


def send(link: Link, call: Call, signer: Signer) -> Pending:
    """Sign with the next free nonce and hand to the pool. Raises CallRejected, NoSuchBlock."""
    for attempt in range(1, _SIGNING_ATTEMPTS + 1):
        try:
            pending = _sign(link, call, signer)
        except NoSuchBlock:
            if attempt < _SIGNING_ATTEMPTS:
                continue  # another fork won while we looked at the head of this one
            raise
        refusal = _offer(link, pending)
        if refusal is not None:
            resent = link.connections > pending.connections
            # After a lost connection the refusal may be the echo of our own first sending.
            may_pass = refusal.name in _TAKEN_NONCE | _DEAD
            if refusal.name != "AlreadyImported" and not (resent and may_pass):
                if may_pass and attempt < _SIGNING_ATTEMPTS:
                    continue  # another process signs with this key too, or the runtime is new
                raise refusal
        return replace(pending, sent_at_s=time.monotonic(), connections=link.connections)
    raise AssertionError("unreachable")


def search(link: Link, pending: Pending, finalized: bool = False) -> Receipt | Pending:
    """Look into the blocks, or only the final ones, that came since the last search.

    Raises CallRejected if it was included and failed, or if the best chain refuses it now.
    """
    number, head_hash = head_of(link, finalized)
    if head_hash != pending.searched_hash and not _is_best(link, pending):
        # Another fork won: look again.
        since_hash = str(link.request("chain_getBlockHash", pending.since))
        pending = replace(pending, searched=pending.since, searched_hash=since_hash)
    for block in range(pending.searched + 1, number + 1):
        block_hash = link.request("chain_getBlockHash", block)
        body = block_hash and link.request("chain_getBlock", block_hash)
        if not body:
            return pending  # a fork with fewer blocks won just now
        for index, extrinsic in enumerate(body["block"]["extrinsics"]):
            if extrinsic in pending.signed:
                return _receipt(link, extrinsic, BlockNumber(block), block_hash, index)
    if number > pending.searched:
        pending = replace(pending, searched=number, searched_hash=head_hash)
    if pending.refusal is not None:
        _judge(link, pending, pending.refusal)
        pending = replace(pending, refusal=None)
    return _remind(link, pending)


def _judge(link: Link, pending: Pending, refusal: CallRejected) -> None:
    """Raise a refusal that holds although the blocks were searched up to where it was made.

    A nonce is lost to another transaction once that one is final: until then its fork may lose,
    and ours take the place after its owner was told to send it again.
    """
    if refusal.name != "Stale":
        raise refusal
    number, final_hash = head_of(link, finalized=True)
    # Asked after the final block is known: what was searched is its chain, and reaches it.
    is_searched = number <= pending.searched and _is_best(link, pending)
    if is_searched and _nonce(link, pending.signer, final_hash) > pending.nonce:
        raise refusal


def _is_best(link: Link, pending: Pending) -> bool:
    """Whether the blocks that were searched still belong to the best chain."""
    found: str | None = link.request("chain_getBlockHash", pending.searched)
    return found == pending.searched_hash


def _remind(link: Link, pending: Pending) -> Pending:
    """Send it again now and then: a node that restarts forgets what waited in its pool."""
    now = time.monotonic()
    if link.connections == pending.connections and now - pending.sent_at_s < _REBROADCAST_S:
        return pending
    refusal = _offer(link, pending)
    if refusal is not None and refusal.name in _DEAD:
        if _nonce(link, pending.signer, head_of(link).hash) > pending.nonce:
            refusal = rejected("Stale")  # perhaps by ourselves, in a block that came just now
        else:
            pending = _sign_again(link, pending)
            refusal = _offer(link, pending)
    if refusal is not None and refusal.name in _WAITING:
        refusal = None
    return replace(pending, refusal=refusal, sent_at_s=now, connections=link.connections)


def _offer(link: Link, pending: Pending) -> CallRejected | None:
    """Hand the newest bytes to the pool; what it has against them, if anything."""
    try:
        link.request("author_submitExtrinsic", pending.signed[-1])
    except RpcError as error:
        if error.code not in _POOL_CODES:
            raise
        return pool_rejection(error, link.interface.metadata)
    return None


def _nonce(link: Link, signer: Signer, block_hash: str) -> int:
    """The signer's next nonce after a block."""
    (account,) = link.view(block_hash).get(("System.Account", signer.ss58_address))
    return int(account["nonce"])


def _sign(link: Link, call: Call, signer: Signer) -> Pending:
    head, head_hash = head_of(link)
    anchor = _anchor(link, head)
    with link.next_runtime() as interface:
        composed = compose(interface, call, head_hash)
        nonce = next_nonce(link, signer)  # as late as possible: others may sign with this key too
        signed = _signed(interface, composed, signer, nonce, anchor)
    return Pending(
        call=call,
        signer=signer,
        signed=(signed,),
        nonce=nonce,
        since=anchor,
        searched=head,
        searched_hash=head_hash,
        sent_at_s=time.monotonic(),
        connections=link.connections,
    )


def _sign_again(link: Link, pending: Pending) -> Pending:
    """The same call and nonce with a new era: whichever comes into a block shuts out the other."""
    head, head_hash = head_of(link)
    anchor = _anchor(link, head)
    with link.next_runtime() as interface:
        composed = compose(interface, pending.call, head_hash)
        newest = _signed(interface, composed, pending.signer, pending.nonce, anchor)
    return replace(pending, signed=(*pending.signed, newest))


def _anchor(link: Link, head: BlockNumber) -> BlockNumber:
    """Where an era begins: the last final block, which no fork can take away.

    Where finality stands still it would be over before it began, so then half an era back.
    """
    final, _ = head_of(link, finalized=True)
    return BlockNumber(max(final, head - ERA_BLOCKS // 2))


def _signed(interface: Any, composed: Any, signer: Signer, nonce: int, anchor: BlockNumber) -> str:
    return "0x" + build_extrinsic(interface, composed, signer, signer.sign, nonce, anchor).hex()


def _receipt(
    link: Link, extrinsic: str, block: BlockNumber, block_hash: str, index: int
) -> Receipt:
    events = tuple(
        event for event in link.view(block_hash).events() if event.extrinsic_index == index
    )
    if failure := dispatch_failure(events, link.interface.metadata):
        raise failure
    digest = blake2b(bytes.fromhex(extrinsic.removeprefix("0x")), digest_size=32).hexdigest()
    reached = head_of(link, finalized=True).number >= block
    # Another fork may have won, and be final, since the block was found.
    is_final = reached and link.request("chain_getBlockHash", block) == block_hash
    receipt = Receipt(block, block_hash, "0x" + digest, 0, events, is_final)
    paid = receipt.event("TransactionPayment", "TransactionFeePaid")
    return replace(receipt, fee_rao=int(paid.fields["actual_fee"])) if paid else receipt
