"""A vote's way to the chain: committed with its sheet's hash in the salt, revealed an epoch later.

Each function moves one stored vote at most one step, from what the chain shows, and may be called
again at every block and after any crash: the chain, not our memory, says what has happened.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from moesubnet.chain.weights import weights_commit_hash
from moesubnet.errors import CallRejected
from moesubnet.sheet import Sheet
from moesubnet.types import Hotkey, NetUid, Signer, Uid
from moesubnet.validator.records import Phase, Vote
from moesubnet.validator.state import State

if TYPE_CHECKING:
    from moesubnet.chain.client import ChainClient, Epoch, Receipt

RANDOM_WORDS = 8  # 128 bits: nobody guesses the weights behind the hash
VERSION_KEY = 0
PATIENCE_BLOCKS = 3  # before something sent, and seen nowhere, is sent again
SUBMIT_TIMEOUT_BLOCKS = 4
SUBMIT_GRACE_S = 5.0  # for the chain's own slowness

log = logging.getLogger(__name__)


def salt_for(sheet: Sheet, random: bytes | None = None) -> tuple[int, ...]:
    """Words 0–15 are the sheet's SHA-256 (word k = bytes 2k, 2k + 1), then 8 random ones."""
    random = secrets.token_bytes(2 * RANDOM_WORDS) if random is None else random
    raw = sheet.sha256 + random
    return tuple(int.from_bytes(raw[k : k + 2], "little") for k in range(0, len(raw), 2))


def row_of(sheet: Sheet) -> tuple[list[int], list[int]]:
    """uids and u16 values to vote: the positive ones, by uid."""
    row = sorted((u, v) for u, v in zip(sheet.uids, sheet.row_u16, strict=True) if v > 0)
    return [uid for uid, _ in row], [value for _, value in row]


class Votes:
    """Moves a validator's stored votes. All methods raise ChainUnavailable; call them again."""

    def __init__(self, chain: ChainClient, netuid: NetUid, signer: Signer, state: State) -> None:
        self._chain = chain
        self._netuid = netuid
        self._signer = signer
        self._hotkey = Hotkey(signer.ss58_address)
        self._state = state

    async def reveal_due(self, epoch: Epoch) -> None:
        """Reveal the committed votes whose epoch this is. At every block, before anything else."""
        for vote in self._state.waiting_votes():
            if vote.phase != Phase.COMMITTED or vote.reveal_epoch is None:
                continue
            if epoch.epoch_now < vote.reveal_epoch or await self._note_reveal(vote):
                continue
            if epoch.epoch_now > vote.reveal_epoch:
                log.error("vote of epoch=%d lost: its reveal came too late", vote.sheet.epoch)
                self._state.note_phase(vote, Phase.LOST)
                continue
            uids, values = row_of(vote.sheet)
            # A refusal is no verdict: it may be a block too early, or have been revealed just
            # before a crash. The next block asks the chain again.
            await self._included(
                self._chain.reveal_weights(
                    self._netuid, uids, values, vote.salt, VERSION_KEY, self._signer
                )
            )
            await self._note_reveal(vote)

    async def commit_due(self, epoch: Epoch, *, commit_reveal: bool) -> None:
        """Put prepared votes on chain: a commit, or plain weights where there is no secrecy."""
        for vote in self._state.waiting_votes():
            if vote.phase != Phase.PREPARED:
                continue
            if commit_reveal and await self._note_commit(vote):
                continue
            if epoch.epoch_now != vote.sheet.epoch:
                log.error("vote of epoch=%d lost: it was not committed in time", vote.sheet.epoch)
                self._state.note_phase(vote, Phase.LOST)
            elif vote.submitted_block is None and await self._has_moved(vote):
                log.warning("a uid of epoch=%d changed hands; counting again", vote.sheet.epoch)
                self._state.reopen(vote)
            elif epoch.block >= (vote.submitted_block or 0) + PATIENCE_BLOCKS:
                self._state.note_submitted(vote, epoch.block)
                await (self._commit(vote) if commit_reveal else self._set(vote))

    async def _has_moved(self, vote: Vote) -> bool:
        """Whether a uid that is voted for belongs to another hotkey now than when it was counted.

        From the commit on the pallet sees to that; before it, a newcomer would inherit the vote.
        """
        owners = {n.uid: n.hotkey for n in (await self._chain.metagraph(self._netuid)).neurons}
        votes = zip(vote.sheet.uids, vote.sheet.hotkeys, vote.sheet.row_u16, strict=True)
        return any(value and owners.get(Uid(uid)) != hotkey for uid, hotkey, value in votes)

    async def _note_commit(self, vote: Vote) -> bool:
        """Whether the chain holds this vote's commit; if so, that is remembered."""
        uids, values = row_of(vote.sheet)
        digest = weights_commit_hash(
            self._signer.public_key, self._netuid, uids, values, vote.salt, VERSION_KEY
        )
        for commit in await self._chain.weight_commits(self._netuid, self._hotkey):
            if commit.commit_hash.removeprefix("0x") == digest.hex():
                self._state.note_committed(vote, commit.reveal_epoch)
                log.info("committed epoch=%d reveal_epoch=%d", commit.epoch, commit.reveal_epoch)
                return True
        return False

    async def _note_reveal(self, vote: Vote) -> bool:
        """Whether the chain shows this vote's reveal; if so, its sheet is public from now on."""
        last = await self._chain.last_reveal(self._netuid, self._hotkey)
        if last is None or last.sheet_sha256 != vote.sheet.sha256.hex():
            return False
        self._state.note_phase(vote, Phase.REVEALED)
        log.info("revealed epoch=%d sheet=%s", vote.sheet.epoch, last.sheet_sha256)
        return True

    async def _commit(self, vote: Vote) -> None:
        uids, values = row_of(vote.sheet)
        call = self._chain.commit_weights(
            self._netuid, uids, values, vote.salt, VERSION_KEY, self._signer
        )
        if await self._included(call):
            await self._note_commit(vote)

    async def _set(self, vote: Vote) -> None:
        uids, values = row_of(vote.sheet)
        call = self._chain.set_weights(self._netuid, uids, values, VERSION_KEY, self._signer)
        if await self._included(call):
            self._state.note_phase(vote, Phase.REVEALED)

    async def _included(self, call: Awaitable[Receipt]) -> bool:
        """Whether the call came into a block soon; a refusal is logged and tried again later."""
        try:
            blocks_s = SUBMIT_TIMEOUT_BLOCKS * self._chain.block_seconds
            async with asyncio.timeout(blocks_s + SUBMIT_GRACE_S):
                await call
        except CallRejected as error:
            log.warning("vote refused reason=%s", error)
            return False
        except TimeoutError:
            log.warning("vote not in a block yet; asking the chain again at the next one")
            return False
        return True
