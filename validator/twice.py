"""Asking the same twice: one prefix, in one moment, by two callers; and once more in a later epoch.

The text is never published, and no label of it is ever sent: whoever answers callers differently,
or makes fresh noise, cannot tell these prefixes from others.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace

from moesubnet.errors import AuthError, BadReceipts, PeerError, WireError
from moesubnet.types import Hotkey
from moesubnet.validator.checkbook import Check, Checkbook
from moesubnet.validator.checks import TWICE_DISTANCE, total_variation
from moesubnet.validator.evidence import Said
from moesubnet.wire.asked import Asked
from moesubnet.wire.protocol import Ids, SequenceStep, StepRequest, base_hash, want_for

AT_ONCE = 64

log = logging.getLogger(__name__)


async def ask_twice(
    book: Checkbook,
    ways: Sequence[Mapping[Hotkey, Asked]],
    ids: Ids,
    *,
    epoch: int,
    windows_sha256: str,
    vocab_size: int,
    timeout_s: float,
) -> None:
    """One prefix through two ways at once, and a prefix of an earlier epoch through the first.

    windows_sha256: what made ids of the text, as `Spec.windows_sha256`.
    Only pairs of two proven answers count: whoever is silent, or whose router is, fails nothing
    here.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def ask(way: Mapping[Hotkey, Asked], hotkey: Hotkey, prefix: Ids) -> Said | None:
        client = way.get(hotkey)
        if client is None:
            return None
        async with slots:
            return await _ask(client, prefix, book.own_hotkey, vocab_size, timeout_s)

    hotkeys = sorted(ways[0])
    answers = await asyncio.gather(
        *(asyncio.gather(*(ask(way, hotkey, ids) for way in ways)) for hotkey in hotkeys)
    )
    held: dict[Hotkey, Said] = {}
    for hotkey, pair in zip(hotkeys, answers, strict=True):
        given = [said for said in pair if said is not None]
        if given:
            held[hotkey] = given[0]
        if len(given) == len(ways):
            count(book, hotkey, vocab_size, given)
            await asyncio.sleep(0)  # 2 ms each: walks go on between them, and their clocks
    earlier = book.take_held(epoch, windows_sha256)
    book.hold(epoch, windows_sha256, ids, held)
    if earlier is not None:
        then, prefix, before = earlier
        again = sorted(before.keys() & ways[0].keys())
        answered = await asyncio.gather(*(ask(ways[0], hotkey, prefix) for hotkey in again))
        for hotkey, now in zip(again, answered, strict=True):
            if now is None:
                continue
            try:
                [law], [again_law] = (
                    said.laws(hotkey, vocab_size).values() for said in (before[hotkey], now)
                )
            except BadReceipts:
                continue  # of another vocabulary
            book.note_later(hotkey, then, epoch, total_variation(law, again_law))


def count(
    book: Checkbook,
    hotkey: Hotkey,
    vocab_size: int,
    pair: Sequence[Said],
    check: Check = "callers",
) -> None:
    """A pair, if it is one; logged where it is apart."""
    try:
        distance = book.add_pair(hotkey, vocab_size, pair, check)
    except BadReceipts as error:
        log.info("pair of=%s not counted: %s", hotkey, error)
        return
    if distance > TWICE_DISTANCE:
        how = ", one of them drafted" if check == "drafts" else ""
        log.warning("expert %s answers one prefix in two ways%s, %.3f apart", hotkey, how, distance)


async def _ask(
    client: Asked, prefix: Ids, own_hotkey: Hotkey, vocab_size: int, timeout_s: float
) -> Said | None:
    want = want_for(vocab_size)
    want = replace(want, committed=want.committed and client.commits)
    step = SequenceStep(secrets.token_hex(16), 0, base_hash(prefix[:0]), prefix)
    request = StepRequest((step,), want)
    try:
        proof = (await client.step(request, timeout_s=timeout_s)).proof
    except (PeerError, WireError, AuthError):
        return None
    if proof is None:  # no wire, nothing signed
        return None
    return Said(
        sender=proof.sender or own_hotkey,
        nonce_ns=proof.nonce_ns,
        receipt=bytes(proof.receipt),
        request=request.to_bytes(),
        body=bytes(proof.body),
    )
