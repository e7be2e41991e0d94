"""Draft against blind: one private text, walked by two callers at once, with drafts and without.

A draft is seen before its law is given. What an expert says of it is no evidence and no item
(`mixture.drafting`), but users' tokens are drawn by it: who agrees with every draft, or says what
the drafter would say, bends them by its weight and loses nothing. So the same laws are asked for
where no draft was sent. Both walks are asked as all others are, by the same code.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import numpy as np

from moesubnet.types import Hotkey
from moesubnet.validator.checkbook import Checkbook
from moesubnet.validator.choices import Answers
from moesubnet.validator.evidence import Said
from moesubnet.validator.twice import count
from moesubnet.wire.protocol import (
    Ids,
    Proof,
    SequenceStep,
    StepRequest,
    StepResponse,
    base_hash,
    want_for,
)


class Heard:
    """What a walk's experts answered and signed: of each call the ids sent by then, and proofs."""

    def __init__(self) -> None:
        self.session = ""
        self.calls: list[tuple[Ids, dict[Hotkey, Proof]]] = []

    def __call__(self, session: str, ids: Ids, answers: Answers) -> None:
        given = {h: a.proof for h, a in answers.items() if isinstance(a, StepResponse)}
        self.session = session
        self.calls.append((ids, {h: proof for h, proof in given.items() if proof is not None}))

    def hotkeys(self) -> set[Hotkey]:
        return {hotkey for _, proofs in self.calls for hotkey in proofs}


async def compare(
    book: Checkbook,
    text: Ids,
    drafted: Heard,
    blind: Heard,
    vocab_size: int,
    lots: Random,
) -> None:
    """Count a pair for each block of drafts that an expert answered: one of the drafted places, by
    lot, that it was asked blind too."""
    for hotkey in sorted(drafted.hotkeys() & blind.hotkeys()):
        for one, other in _pairs(hotkey, text, drafted, blind, lots):
            pair = [
                _said(book.own_hotkey, heard.session, ids, proofs[hotkey], vocab_size)
                for heard, (ids, proofs) in ((drafted, one), (blind, other))
            ]
            count(book, hotkey, vocab_size, pair, "drafts")
            await asyncio.sleep(0)  # 2 ms each, as in `ask_twice`


_Call = tuple[Ids, dict[Hotkey, Proof]]


def _pairs(
    hotkey: Hotkey, text: Ids, drafted: Heard, blind: Heard, lots: Random
) -> Iterator[tuple[_Call, _Call]]:
    """A call with drafts, and the one that asked for one of its rows without."""
    alone = {len(call[0]): call for call in blind.calls if hotkey in call[1]}
    for call in drafted.calls:
        ids, proofs = call
        if hotkey not in proofs:
            continue
        # Rows before the last are of tokens that were sent; of the text's up to the first that is
        # not the text's, and of that one.
        agreed = sum(itertools.takewhile(bool, (ids == text[: len(ids)]).tolist()))
        first = len(ids) - proofs[hotkey].rows[0] + 1
        places = [p for p in range(first, len(ids)) if p <= agreed and p in alone]
        if places:
            yield call, alone[lots.choice(places)]


def _said(own: Hotkey, session: str, ids: Ids, proof: Proof, vocab_size: int) -> Said:
    """As the expert was asked it, byte by byte: the proof says how."""
    held, reveals = proof.base_lens[0], proof.reveals
    step = SequenceStep(
        session,
        held,
        base_hash(ids[:held]),
        ids[held:],
        first=len(ids) - proof.rows[0] + 1,
        reveal=reveals[0] if reveals else None,
        further=proof.further[0],
    )
    want = replace(want_for(vocab_size), committed=reveals is not None)
    return Said(
        sender=proof.sender or own,
        nonce_ns=proof.nonce_ns,
        receipt=bytes(proof.receipt),
        request=StepRequest((step,), want).to_bytes(),
        body=bytes(proof.body),
        base=np.asarray(ids[:held], "<u4").tobytes(),
    )
