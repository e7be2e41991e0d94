"""A vote's way to the chain: committed with its sheet's hash in the salt, revealed an epoch later.

Each function moves one stored vote at most one step, from what the chain shows, and may be called
again at every block and after any crash: the chain, not our memory, says what has happened. That
goes for steps that were made, too: a fork may take back a commit or a reveal that was seen.

Where the chain itself opens votes (`VoteScheme.TIMELOCKED`) there is nothing to reveal and no salt,
so nothing on chain names the sheet.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
from collections.abc import Awaitable, Collection
from typing import TYPE_CHECKING

from moesubnet.chain.weights import VoteScheme, vote_scheme, weights_commit_hash
from moesubnet.errors import CallRejected
from moesubnet.mixture.sheet import Sheet
from moesubnet.types import Hotkey, NetUid, Signer, Uid
from moesubnet.validator.records import Phase, Vote
from moesubnet.validator.state import State

if TYPE_CHECKING:
    from moesubnet.chain.client import ChainClient, Epoch, Receipt

RANDOM_WORDS = 8  # 128 bits: nobody guesses the weights behind the hash
VOUCHES_BYTES = 32
VERSION_KEY = 0
PATIENCE_BLOCKS = 3  # before something sent, and seen nowhere, is sent again
SUBMIT_TIMEOUT_BLOCKS = 4
SUBMIT_GRACE_S = 5.0  # for the chain's own slowness

log = logging.getLogger(__name__)


def salt_for(
    sheet: Sheet, vouched: Collection[Uid] = (), random: bytes | None = None
) -> tuple[int, ...]:
    """Words 0–15 are the sheet's SHA-256 (word k = bytes 2k, 2k + 1), then 8 random ones, then 16
    of a bit for each uid that is vouched for (byte uid / 8, bit uid % 8)."""
    random = secrets.token_bytes(2 * RANDOM_WORDS) if random is None else random
    bits = sum(1 << uid for uid in vouched if uid < 8 * VOUCHES_BYTES)
    raw = sheet.sha256 + random + bits.to_bytes(VOUCHES_BYTES, "little")
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
        for vote in self._state.fresh_votes(epoch.epoch_now):
            if not await self._is_out(vote):
                log.warning("a fork took back the vote of epoch=%d", vote.sheet.epoch)
                if vote.reveal_epoch is None:
                    self._state.note_reverted(vote, epoch.block)
                else:
                    self._state.note_phase(vote, Phase.COMMITTED)
        for vote in self._state.waiting_votes():
            if vote.phase == Phase.COMMITTED:
                await (self._open if self._chain.has_drand else self._reveal)(vote, epoch)

    async def commit_due(self, epoch: Epoch, *, commit_reveal: bool) -> None:
        """Put prepared votes on chain: a commit, or plain weights where there is no secrecy."""
        scheme = vote_scheme(commit_reveal=commit_reveal, has_drand=self._chain.has_drand)
        for vote in self._state.waiting_votes():
            if vote.phase != Phase.PREPARED:
                continue
            if vote.submitted_block is not None and await self._note_sent(vote, scheme, epoch):
                continue
            if epoch.epoch_now != vote.sheet.epoch:
                log.error("vote of epoch=%d lost: it was not committed in time", vote.sheet.epoch)
                self._state.note_phase(vote, Phase.LOST)
            elif epoch.block < (vote.submitted_block or 0) + PATIENCE_BLOCKS:
                continue  # it may be on its way
            elif await self._has_moved(vote):
                log.warning("a uid of epoch=%d changed hands; counting again", vote.sheet.epoch)
                await self._state.apart(self._state.reopen, vote)
            else:
                sent = dataclasses.replace(vote, submitted_block=epoch.block)
                self._state.note_submitted(sent, epoch.block)
                if await self._included(self._send(sent, scheme)):
                    await self._note_sent(sent, scheme, epoch)

    def _send(self, vote: Vote, scheme: VoteScheme) -> Awaitable[Receipt]:
        uids, values = row_of(vote.sheet)
        match scheme:
            case VoteScheme.PLAIN:
                return self._chain.set_weights(
                    self._netuid, uids, values, VERSION_KEY, self._signer
                )
            case VoteScheme.HASHED:
                return self._chain.commit_weights(
                    self._netuid, uids, values, vote.salt, VERSION_KEY, self._signer
                )
            case VoteScheme.TIMELOCKED:
                return self._chain.commit_timelocked(
                    self._netuid, uids, values, VERSION_KEY, self._signer
                )

    async def _note_sent(self, vote: Vote, scheme: VoteScheme, epoch: Epoch) -> bool:
        """Whether the chain holds what was sent; if so, that is remembered."""
        match scheme:
            case VoteScheme.PLAIN:
                if not await self._is_out(vote):
                    return False
                self._state.note_phase(vote, Phase.REVEALED)
                return True
            case VoteScheme.HASHED:
                reveal_epoch = await self._reveal_epoch(vote)
            case VoteScheme.TIMELOCKED:
                reveal_epoch = await self._opening_epoch(vote, epoch)
        if reveal_epoch is None:
            return False
        self._state.note_committed(vote, reveal_epoch)
        log.info("committed epoch=%d reveal_epoch=%d", vote.sheet.epoch, reveal_epoch)
        return True

    async def _reveal(self, vote: Vote, epoch: Epoch) -> None:
        """The next step of a vote committed by its hash."""
        assert vote.reveal_epoch is not None
        if epoch.epoch_now >= vote.reveal_epoch and await self._note_reveal(vote):
            return
        reveal_epoch = await self._reveal_epoch(vote)
        if reveal_epoch is None and epoch.epoch_now == vote.sheet.epoch:
            self._take_back(vote, epoch)
            return
        if reveal_epoch is None:
            reveal_epoch = vote.reveal_epoch
        elif reveal_epoch != vote.reveal_epoch:  # a fork has it in another epoch
            self._state.note_committed(vote, reveal_epoch)
        if epoch.epoch_now > reveal_epoch:
            log.error("vote of epoch=%d lost: its reveal came too late", vote.sheet.epoch)
            self._state.note_phase(vote, Phase.LOST)
        elif epoch.epoch_now == reveal_epoch:
            uids, values = row_of(vote.sheet)
            # A refusal is no verdict: it may be a block too early, or have been revealed just
            # before a crash. The next block asks the chain again.
            await self._included(
                self._chain.reveal_weights(
                    self._netuid, uids, values, vote.salt, VERSION_KEY, self._signer
                )
            )
            await self._note_reveal(vote)

    async def _open(self, vote: Vote, epoch: Epoch) -> None:
        """The next step of a timelocked vote: the chain has opened it, or lost it to a fork."""
        waits = await self._opening_epoch(vote, epoch) is not None
        if not waits and epoch.epoch_now == vote.sheet.epoch:
            self._take_back(vote, epoch)
        elif not waits and epoch.epoch_now >= (vote.reveal_epoch or 0):
            self._state.note_phase(vote, Phase.REVEALED)

    def _take_back(self, vote: Vote, epoch: Epoch) -> None:
        log.warning("a fork took back the commit of epoch=%d", vote.sheet.epoch)
        self._state.note_reverted(vote, epoch.block)

    async def _has_moved(self, vote: Vote) -> bool:
        """Whether a uid that is voted for belongs to another hotkey now than when it was counted.

        From the commit on the pallet sees to that; before it, a newcomer would inherit the vote.
        """
        owners = {n.uid: n.hotkey for n in (await self._chain.metagraph(self._netuid)).neurons}
        votes = zip(vote.sheet.uids, vote.sheet.hotkeys, vote.sheet.row_u16, strict=True)
        return any(value and owners.get(Uid(uid)) != hotkey for uid, hotkey, value in votes)

    async def _reveal_epoch(self, vote: Vote) -> int | None:
        """When the chain lets this vote's commit be revealed; None if it holds no such commit."""
        uids, values = row_of(vote.sheet)
        digest = weights_commit_hash(
            self._signer.public_key, self._netuid, uids, values, vote.salt, VERSION_KEY
        )
        commits = await self._chain.weight_commits(self._netuid, self._hotkey)
        mine = (c for c in commits if c.commit_hash.removeprefix("0x") == digest.hex())
        return next((commit.reveal_epoch for commit in mine), None)

    async def _opening_epoch(self, vote: Vote, epoch: Epoch) -> int | None:
        """When the chain opens this vote's commit; None if it holds none that waits."""
        waiting = await self._chain.timelocked_commits(self._netuid, vote.sheet.epoch)
        if self._hotkey not in waiting:
            return None
        return vote.sheet.epoch + epoch.reveal_period_epochs

    async def _is_out(self, vote: Vote) -> bool:
        """Whether the chain shows a revealed or plain vote, or a newer one."""
        if vote.reveal_epoch is None:
            voted_block = await self._chain.last_vote_block(self._netuid, self._hotkey)
            return voted_block is not None and voted_block > (vote.submitted_block or 0)
        if self._chain.has_drand:
            return True  # it was opened; what a fork may do to that the chain does not show
        last = await self._chain.last_reveal(self._netuid, self._hotkey)
        if last is None:
            return False
        return last.epoch > vote.sheet.epoch or last.sheet_sha256 == vote.sheet.sha256.hex()

    async def _note_reveal(self, vote: Vote) -> bool:
        """Whether the chain shows this vote's reveal; if so, its sheet is public from now on."""
        last = await self._chain.last_reveal(self._netuid, self._hotkey)
        if last is None or last.sheet_sha256 != vote.sheet.sha256.hex():
            return False
        self._state.note_phase(vote, Phase.REVEALED)
        log.info("revealed epoch=%d sheet=%s", vote.sheet.epoch, last.sheet_sha256)
        return True

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
