"""A validator's life, block by block: reveal, measure, close the sheet, commit.

Every step looks at the chain and the stored state, does at most one thing and may be repeated, so
a block missed, a chain away for a while or a restart needs no special case.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moesubnet.chain.client import ChainClient, Epoch
from moesubnet.errors import CallRejected, ChainError, PoolSpent
from moesubnet.mixture.sheet_cache import keep_sheet
from moesubnet.spec.roll import NextSpec
from moesubnet.types import Axon, Hotkey, Metagraph, NetUid, Signer
from moesubnet.validator.archive import Archive
from moesubnet.validator.before import Again
from moesubnet.validator.closing import close_sheet
from moesubnet.validator.company import Known, known_by
from moesubnet.validator.cuckoos import cuckoos, watched
from moesubnet.validator.measure import Measurement
from moesubnet.validator.records import Batch, Phase
from moesubnet.validator.replaying import Replaying
from moesubnet.validator.senders import EPOCHS, SUSPICIOUS_P, Difference, differences
from moesubnet.validator.serve import Health, Metrics
from moesubnet.validator.state import State
from moesubnet.validator.turned import turned
from moesubnet.validator.weights import Votes, salt_for

BATCHES_PER_EPOCH = 4
LAST_BLOCKS = 2  # before the close, in which no walk begins: it would hardly be asked anything
BLOCKS_TO_GO_OVER = 3  # to another spec, before experts are asked under it

log = logging.getLogger(__name__)


@dataclass
class Validator:
    """Wires the steps together. `run` returns only when the chain client is closed."""

    chain: ChainClient
    netuid: NetUid
    signer: Signer
    next_spec: NextSpec[Measurement]
    axon: Axon  # as published
    state: State
    measurement: Measurement
    sheets_dir: Path  # where fetched sheets, and our own, are kept for the gate
    health: Health
    metrics: Metrics
    walks_per_epoch: int = 32
    with_feedback: bool = False
    replaying: Replaying | None = None

    def __post_init__(self) -> None:
        self._hotkey = Hotkey(self.signer.ss58_address)
        self._votes = Votes(self.chain, self.netuid, self.signer, self.state)
        self._begun_epoch = -1
        self._commit_reveal = True
        self._is_opening = False  # a batch; the next one waits for it
        self._walks: dict[asyncio.Task[None], int] = {}  # the epochs of their sheets
        self._first_block = 0  # before it no walk begins

    async def run(self) -> None:
        async with asyncio.TaskGroup() as walking:
            async for _ in self.chain.heads():
                try:
                    await self.on_block(walking)
                except ChainError as error:
                    log.warning("chain: %s; again at the next block", error)

    async def on_block(self, walking: asyncio.TaskGroup) -> None:
        """One block. Batches of walks go on in `walking`. Raises ChainError."""
        epoch = await self.chain.epoch(self.netuid)
        self._show(epoch)
        await self._votes.reveal_due(epoch)
        if epoch.epoch_index != self._begun_epoch:
            await self._begin_epoch(walking)
            self._begun_epoch = epoch.epoch_index
        await self._go_over(epoch)
        is_closed = self.state.voted(epoch.epoch_index)
        sheet_epoch = epoch.epoch_index + is_closed
        walks, spread_blocks = self._walks_due(epoch, sheet_epoch)
        due = walks - self.state.walks_started(sheet_epoch)
        if due > 0 and not self._is_opening:
            metagraph = await self._read_metagraph()
            self._is_opening = True
            spread_s = spread_blocks * self.chain.block_seconds
            task = walking.create_task(self._walk(metagraph, sheet_epoch, due, spread_s))
            self._walks[task] = sheet_epoch
            task.add_done_callback(self._walks.pop)
        if self._is_closing_time(epoch) and not is_closed:
            await self._close_epoch(epoch.epoch_index)
        await self._votes.commit_due(epoch, commit_reveal=self._commit_reveal)

    async def _begin_epoch(self, beside: asyncio.TaskGroup) -> None:
        """Publish our axon, and keep our own revealed sheets where the gate finds them."""
        self.measurement.show_verdicts()
        if self.replaying is not None:
            self.replaying.begin(beside)
        metagraph = await self._read_metagraph()
        await self._publish_axon(metagraph)
        await asyncio.to_thread(_keep_own, self.state.archive.path, self.sheets_dir)
        await self._watch_seniors()

    async def _go_over(self, epoch: Epoch) -> None:
        """To the spec that holds from this epoch on; miners get some blocks to do the same. What
        was asked under the other one is in no sheet."""
        self._report("spec", self.next_spec.problem)
        if not self.next_spec.holds(epoch.epoch_index):
            return
        if self.state.walks_started(epoch.epoch_index):
            await self._end_walks(epoch.epoch_index)
            await self.state.apart(self.state.drop_open)
        if (measurement := self.next_spec.take(epoch.epoch_index)) is not None:
            self.measurement = measurement
            self._first_block = epoch.block + BLOCKS_TO_GO_OVER

    def _walks_due(self, epoch: Epoch, sheet_epoch: int) -> tuple[int, float]:
        """Walks of a sheet that should have started by now, and within how many blocks the newest
        ones begin. They are spread from one sheet's close to the next one's, as users' calls are:
        an epoch's clock tells nothing."""
        done = epoch.block - _half_of(epoch)
        if sheet_epoch == epoch.epoch_index:
            done += epoch.tempo_blocks
        left = epoch.tempo_blocks - LAST_BLOCKS - done
        if done < 0 or left <= 0 or epoch.block < self._first_block:
            return 0, 0.0
        if self.next_spec.holds(sheet_epoch):
            return 0, 0.0
        batches = 1 + done * BATCHES_PER_EPOCH // epoch.tempo_blocks
        until = batches * epoch.tempo_blocks / BATCHES_PER_EPOCH
        walks = self.walks_per_epoch * batches // BATCHES_PER_EPOCH
        return walks, min(until - done, left)

    async def _walk(
        self, metagraph: Metagraph, sheet_epoch: int, count: int, spread_s: float
    ) -> None:
        """Some walks on fresh text, begun within `spread_s`; beside the blocks: no stranger can
        hold up a vote."""
        batches: list[Batch] = []
        try:
            batches = await self.measurement.open_batches(metagraph, count, sheet_epoch)
            self._report("text", None)
        except PoolSpent as error:
            self._report("text", str(error))
        except ChainError as error:
            log.warning("chain: %s; no walks now", error)
        except Exception:
            log.exception("no walks now")
        finally:
            self._is_opening = False
        if batches:
            try:
                await self.measurement.run(batches, spread_s)
            except Exception:  # whatever strangers answer: votes go on
                log.exception("failed after walks")

    def _is_closing_time(self, epoch: Epoch) -> bool:
        """The epoch's second half, while a commit still falls into this epoch."""
        return epoch.block >= _half_of(epoch) and epoch.epoch_now == epoch.epoch_index

    async def _close_epoch(self, epoch_index: int) -> None:
        """Make the sheet of everything answered so far; it is stored with its salt, then voted.

        Walks end here: a text of which a part is published is not asked about any more, or who
        answers late could look its labels up. Those for the next sheet go on, if any have begun: a
        vote that could not be sent is counted again.
        """
        metagraph = await self._read_metagraph()
        if metagraph.epoch_index != epoch_index:
            return  # the epoch ended meanwhile
        again = self.measurement.again()
        echoes = await asyncio.to_thread(_echoes, self.state.archive.path, again)
        changed = self.measurement.changed(epoch_index) | echoes
        await self._end_walks(epoch_index)
        batches = await self.state.apart(self.state.open_batches, epoch_index)
        sheet, receipts = await asyncio.to_thread(
            close_sheet,
            batches,
            metagraph,
            validator=self._hotkey,
            spec_sha256=self.next_spec.current.sha256,
            gate_sha256=self.measurement.gate.sha256,
            previous_sha256=self.state.previous_sha256(),
            scores=self.state.scores(),
            merits=self.state.merits(),
            vocab_size=self.measurement.vocab_size,
            convicted=self.measurement.convicted(),
            changed=changed,
            usage=self.measurement.usage,
            with_feedback=self.with_feedback,
            contradicted=self.measurement.contradicted,
        )
        is_worth_voting = any(sheet.row_u16)
        phase = Phase.PREPARED if is_worth_voting else Phase.LOST
        await self.state.apart(
            self.state.close_epoch,
            sheet,
            salt_for(sheet, self.measurement.vouched(metagraph)),
            phase,
            batches,
            await asyncio.to_thread(receipts.to_bytes),
            metagraph.reveal_period_epochs,
        )
        log.info("closed epoch=%d items=%d vote=%s", sheet.epoch, len(sheet.walk), phase)
        self.measurement.begins_anew(changed)
        await self._watch_seniors()
        await self._compare_routers()

    async def _watch_seniors(self) -> None:
        path = self.state.archive.path
        self.measurement.watched = await asyncio.to_thread(_watched, path)
        self.measurement.known = await asyncio.to_thread(_known, path)

    async def _compare_routers(self) -> None:
        """Say which experts answer otherwise through one router than through the others."""
        for found in await asyncio.to_thread(_differences, self.state.archive.path):
            if found.p <= SUSPICIOUS_P:
                log.warning(
                    "expert %s is %+.3f nats a token apart from itself through router %s "
                    "(p = %.4f, %d walks): are they friends?",
                    found.hotkey,
                    found.nats,
                    found.sender,
                    found.p,
                    found.walks,
                )

    async def _end_walks(self, epoch_index: int) -> None:
        """Stop asking for this epoch's sheet; a position that is under way is dropped, one that is
        stored counts."""
        ended = [task for task, epoch in self._walks.items() if epoch <= epoch_index]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        if ended:
            log.info(
                "the epoch is closed: %d groups of walks ended before their last position",
                len(ended),
            )

    async def _read_metagraph(self) -> Metagraph:
        """Raises ChainError."""
        metagraph = await self.chain.metagraph(self.netuid)
        self._commit_reveal = metagraph.commit_reveal
        lost_slot = self._hotkey not in metagraph.by_hotkey
        self.next_spec.see(metagraph)
        self._report("slot", "the hotkey has no slot: `moesubnet register`" if lost_slot else None)
        return metagraph

    async def _publish_axon(self, metagraph: Metagraph) -> None:
        """Say on chain where our sheets are, if it says something else."""
        neuron = metagraph.by_hotkey.get(self._hotkey)
        if neuron is None or neuron.axon == self.axon:
            return
        problem = None
        try:
            await self.chain.serve_axon(self.netuid, self.axon.ip, self.axon.port, self.signer)
        except CallRejected as error:
            problem = f"our sheets cannot be found at {self.axon.url}: {error}"
        self._report("axon", problem)

    def _report(self, name: str, problem: str | None) -> None:
        """Note what a person has to do, or that it is done; logged when it changes."""
        if problem is None:
            self.health.problems.pop(name, None)
        elif self.health.problems.get(name) != problem:
            self.health.problems[name] = problem
            log.error("%s", problem)

    def _show(self, epoch: Epoch) -> None:
        self.health.block, self.health.epoch = epoch.block, epoch.epoch_index
        self.metrics.block.set(epoch.block)
        self.metrics.epoch.set(epoch.epoch_index)


def _half_of(epoch: Epoch) -> int:
    """The block from which on the epoch's sheet is closed, and the next one's walks begin."""
    return epoch.last_epoch_block + epoch.tempo_blocks // 2


def _differences(path: Path) -> list[Difference]:
    """Of the last sheets, read by a reader of its own: megabytes, in a thread."""
    with contextlib.closing(Archive.open(path)) as archive:
        return differences(archive.newest_sheets(EPOCHS)[::-1])


def _keep_own(path: Path, sheets_dir: Path) -> None:
    """The same way."""
    with contextlib.closing(Archive.open(path)) as archive:
        for body in archive.public_sheets():
            keep_sheet(sheets_dir, body)


def _echoes(path: Path, again: Sequence[Again]) -> set[Hotkey]:
    """The same way."""
    with contextlib.closing(Archive.open(path)) as archive:
        return turned(archive.newest_sheets) | cuckoos(archive.newest_sheets, again)


def _watched(path: Path) -> Mapping[Hotkey, Sequence[int]]:
    """The same way."""
    with contextlib.closing(Archive.open(path)) as archive:
        return watched(archive.newest_sheets)


def _known(path: Path) -> Known:
    """The same way."""
    with contextlib.closing(Archive.open(path)) as archive:
        return known_by(archive.newest_sheets)
