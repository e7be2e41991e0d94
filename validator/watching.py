"""Looking over other validators' shoulders: a sheet of somebody's each epoch, held against what the
experts signed, and every vote against the sheet that it names. What is contradicted is named in our
next sheet (`Sheet.contradicted`); for those who were found right our next vote vouches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Protocol

import aiohttp
import numpy as np

from moesubnet.errors import ChainError, FrameError, PeerError, PeerRefused, WireError
from moesubnet.mixture.gate import WeightedSheet
from moesubnet.mixture.law import Law
from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, MAX_SHEET_BYTES
from moesubnet.mixture.sheet_cache import AnySheet
from moesubnet.types import Axon, Hotkey, Metagraph, NetUid
from moesubnet.validator.answers import kept_epochs
from moesubnet.validator.audit import audit
from moesubnet.validator.receipts import (
    MAX_ANSWERS_BYTES,
    MAX_RECEIPTS_BYTES,
    Receipts,
    unpack_answers,
)
from moesubnet.validator.voted import differs_on_chain
from moesubnet.validator.vouching import Looks
from moesubnet.wire.addresses import check_axon
from moesubnet.wire.strangers import get_public

if TYPE_CHECKING:
    from moesubnet.chain.nouns import Votes

TIMEOUT_S = 30.0
ALL_S = 60.0
PARTS = 6  # so that hardly anybody is passed over for `VOUCHED_EPOCHS`
MOST_ACCUSED = 8  # whom others accuse is looked at by all; so many an epoch at most

log = logging.getLogger(__name__)


def to_audit(
    sheets: Sequence[WeightedSheet],
    metagraph: Metagraph,
    own: Hotkey,
    lots: Random,
    fresh: Collection[Hotkey] = (),
) -> list[AnySheet]:
    """The newest sheets of one validator of all, so that nobody is safe, and of a part of those
    that are not `fresh`, by lot; and sheets that others accuse."""
    newest: dict[Hotkey, AnySheet] = {}
    for item in sorted(sheets, key=lambda item: item.sheet.epoch):
        if item.sheet.validator != own and item.sheet.validator in metagraph.by_hotkey:
            newest[item.sheet.validator] = item.sheet
    drawn = [newest[lots.choice(sorted(newest))]] if newest else []
    due = sorted(newest.keys() - set(fresh))
    count = min(len(due), -(-len(newest) // PARTS))
    drawn += [newest[hotkey] for hotkey in lots.sample(due, count) if newest[hotkey] not in drawn]
    accused = {digest for item in sheets for digest in item.sheet.contradicted}
    found = [i.sheet for i in sheets if i.sheet.sha256 in accused and i.sheet.validator in newest]
    # By lot here too: who accuses many must not hide the one that others accuse.
    looked_at = lots.sample(found, min(len(found), MOST_ACCUSED))
    return drawn + [sheet for sheet in looked_at if sheet not in drawn]


async def contradicts(
    http: aiohttp.ClientSession,
    axon: Axon,
    kept: AnySheet,
    baseline: Law | None,
    lots: Random,
    *,
    answers_since: int,
    public_s: float | None,
    allow_private: bool,
    given_up: Callable[[], bool] = lambda: False,
) -> bool | None:
    """Whether what its validator serves beside a sheet contradicts it: the receipts of all, and
    the answers of one expert, which sheets have from the epoch `answers_since` on. public_s: as
    in `audit`. None where it could not be looked at: nobody is accused because a line is down;
    who serves the sheet and not what proves it, is."""
    if (sheet := await asyncio.to_thread(kept.read)) is None:
        return None
    base = f"/v1/sheet/{sheet.sha256.hex()}"

    async def get(path: str, max_bytes: int) -> bytes | None:
        try:
            return await get_public(http, axon, path, max_bytes=max_bytes, timeout_s=TIMEOUT_S)
        except PeerRefused as error:
            if error.status != 404:
                raise
            return None

    try:
        check_axon(axon, allow_private=allow_private)
        if await get(base, MAX_SHEET_BYTES) is None:
            return None  # it serves the last 50 epochs'
        raw = await get(f"{base}/receipts", MAX_RECEIPTS_BYTES)
        if raw is None:
            return True
        answers = {}
        has_answered = (sheet.log_q[:, :-1] > LOG_Q_UNANSWERED).any(axis=0)
        if has_answered.any():
            hotkey = sheet.hotkeys[lots.choice(np.flatnonzero(has_answered).tolist())]
            given = await get(f"{base}/answers/{hotkey}", MAX_ANSWERS_BYTES)
            if given is not None:
                answers[hotkey] = await asyncio.to_thread(unpack_answers, given, sheet)
            elif sheet.epoch >= answers_since:
                return True
        receipts = await asyncio.to_thread(Receipts.from_bytes, raw, sheet)
    except FrameError:
        return True
    except (PeerError, WireError) as error:
        log.info("sheet of=%s not audited: %s", sheet.validator, error)
        return None
    result = await asyncio.to_thread(
        audit, sheet, receipts, answers, baseline, public_s, given_up=given_up
    )
    if not result.is_clean:
        log.warning(
            "the sheet %s of %s is contradicted: `moesubnet validator audit` shows it",
            sheet.sha256.hex(),
            sheet.validator,
        )
    return not result.is_clean


class Chain(Protocol):
    """What is asked of it."""

    async def votes(self, netuid: NetUid) -> Votes: ...

    async def epoch_begun_s(self, netuid: NetUid, epoch: int) -> float | None: ...


class Watcher:
    """Audits by lot that nobody can foresee. Time for all of them together is bounded."""

    _votes: Votes | None = None
    _answers_since = 0  # the epoch; what was removed once does not come back with a longer period

    def __init__(
        self,
        chain: Chain,
        http: aiohttp.ClientSession,
        own_hotkey: Hotkey,
        spec_sha256: str,
        looks: Looks,
        *,
        allow_private: bool,
    ) -> None:
        """looks: what it found of whom is kept there."""
        self._looks = looks
        self._chain = chain
        self._http = http
        self._own_hotkey = own_hotkey
        self._spec_sha256 = bytes.fromhex(spec_sha256)
        self._allow_private = allow_private

    async def note_votes(self, netuid: NetUid) -> None:
        """When an epoch begins, of whose sheets gates are fit. Raises ChainError."""
        self._votes = await self._chain.votes(netuid)
        own = self._votes.metagraph.by_hotkey.get(self._own_hotkey)
        part = None if own is None else self._votes.vouched_part(own.uid)
        if part is not None and part <= 0.5:
            log.warning(
                "our vote is not heard and earns nothing: %.0f %% of the other validators' stake "
                "vouches for it. They fetch our sheets and answers from our axon (can it be "
                "reached?) and hold them against our vote; a new validator waits three epochs",
                100 * part,
            )

    def vouched(self, epoch: int) -> set[Hotkey]:
        """The validators that were found right lately, and not wrong."""
        return self._looks.vouched(epoch)

    async def contradicted(
        self,
        sheets: Sequence[WeightedSheet],
        metagraph: Metagraph,
        baseline: Law,
        silenced: Collection[Hotkey] = (),
    ) -> set[bytes]:
        """Hashes of the sheets that this epoch's audits contradict, or their validators' votes.
        silenced: whose sheets alone show that they are not heard (`mixture.watched`)."""
        lots, ended, epoch = SystemRandom(), threading.Event(), metagraph.epoch_index
        voted, otherwise = self._compare_votes(sheets)
        held: set[Hotkey] = set()
        wrong = {sheet.sha256: sheet.validator for sheet in otherwise}
        kept = kept_epochs(metagraph.reveal_period_epochs)
        self._answers_since = max(self._answers_since, epoch - kept + 1)
        fresh = self._looks.fresh(epoch)
        with contextlib.suppress(TimeoutError), contextlib.ExitStack() as stack:
            stack.callback(ended.set)  # a thread that still audits
            async with asyncio.timeout(ALL_S):
                for sheet in to_audit(sheets, metagraph, self._own_hotkey, lots, fresh):
                    found = await self._audit(sheet, metagraph, baseline, lots, ended)
                    if found:
                        wrong[sheet.sha256] = sheet.validator
                    elif found is not None:
                        held.add(sheet.validator)
        accused = {*wrong.values(), *silenced}
        self._looks.note(epoch, voted=voted, audited=held, wrong=accused)
        return set(wrong)

    async def _audit(
        self,
        sheet: AnySheet,
        metagraph: Metagraph,
        baseline: Law,
        lots: Random,
        ended: threading.Event,
    ) -> bool | None:
        axon = metagraph.by_hotkey[sheet.validator].axon
        if axon is None:
            return None
        # Tails of another spec's answers have the shape of another baseline.
        is_ours = sheet.spec_sha256 == self._spec_sha256
        try:  # where the chain does not tell, what was asked too late is not seen
            public_s = await self._chain.epoch_begun_s(metagraph.netuid, sheet.epoch + 1)
        except ChainError as error:
            log.info("sheet of=%s not audited: %s", sheet.validator, error)
            return None
        return await contradicts(
            self._http,
            axon,
            sheet,
            baseline if is_ours else None,
            lots,
            answers_since=self._answers_since,
            public_s=public_s,
            allow_private=self._allow_private,
            given_up=ended.is_set,
        )

    def _compare_votes(self, sheets: Sequence[WeightedSheet]) -> tuple[set[Hotkey], list[AnySheet]]:
        """Who voted what its sheet says, and the sheets of those who did not."""
        right, otherwise = set(), list[AnySheet]()
        for sheet in (item.sheet for item in sheets):
            differs = None if self._votes is None else differs_on_chain(sheet, self._votes)
            if sheet.validator == self._own_hotkey or differs is None:
                continue
            if not differs:
                right.add(sheet.validator)
                continue
            log.warning(
                "the vote of %s is not that of its sheet %s: up to %d of 65535 apart",
                sheet.validator,
                sheet.sha256.hex(),
                differs,
            )
            otherwise.append(sheet)
        return right, otherwise
