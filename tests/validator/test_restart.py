"""The process may die anywhere: one commit an epoch, every reveal on time, no text used twice."""

import asyncio
import contextlib
import copy
import dataclasses
import functools
import sqlite3
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from moesubnet.errors import ConfigError, PoolSpent
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import uniform_gate
from moesubnet.mixture.gate_sync import GateSync
from moesubnet.mixture.law import Law
from moesubnet.mixture.sheet import Sheet
from moesubnet.spec.roll import NextSpec
from moesubnet.types import Axon, Hotkey
from moesubnet.validator.loop import Validator
from moesubnet.validator.measure import Measurement
from moesubnet.validator.pool import ONE_WINDOW, PREFIX_TOKENS, WINDOW_TOKENS, TextPool
from moesubnet.validator.records import Phase, Window
from moesubnet.validator.serve import Health, Metrics
from moesubnet.validator.shapes import Shapes
from moesubnet.validator.state import State, only_one
from moesubnet.validator.weighed import Weighed, score_step
from moesubnet.validator.weights import VERSION_KEY, row_of

NETUID = 1
EXPERTS = tuple(Hotkey(f"expert{i}") for i in range(2))


class Nobody:
    """Experts who are known and have no address."""

    clients = dict.fromkeys(EXPERTS)

    async def refresh(self, metagraph) -> None:
        return


class Killed(BaseException):
    """kill −9, at a point that the test chose."""


class Faults:
    """Dies at the k-th point. Each watched call has a point just before and one just after."""

    def __init__(self, at=None):
        self.at, self.passed = at, 0

    def point(self):
        self.passed += 1
        if self.passed == self.at:
            raise Killed

    def watch(self, target, *names):
        for name in names:
            setattr(target, name, self._wrap(getattr(target, name)))
        return target

    def _wrap(self, method):
        if asyncio.iscoroutinefunction(method):

            @functools.wraps(method)
            async def slow(*args, **kwargs):
                self.point()
                result = await method(*args, **kwargs)
                self.point()
                return result

            return slow

        @functools.wraps(method)
        def quick(*args, **kwargs):
            self.point()
            result = method(*args, **kwargs)
            self.point()
            return result

        return quick


class KillOn(Faults):
    """Dies just before the named call."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def watch(self, target, *names):
        if self.name in names:
            self.at = 1
            super().watch(target, self.name)
        return target


class TwoSteps(Measurement):
    """Real text, real storage; the answers are made up: expert0 is good, expert1 is poor."""

    def __init__(self, *args, sent):
        super().__init__(*args)
        self.sent = sent

    async def run(self, batches, spread_s=0.0):
        [batch] = batches
        weighed = [
            Weighed(self.gate, ids[:PREFIX_TOKENS], batch.hotkeys, batch.hotkeys)
            for ids in batch.walks
        ]
        self.sent += [row.tobytes() for row in batch.walks]
        for position in (PREFIX_TOKENS, PREFIX_TOKENS + 1):
            labels = batch.walks[:, position]
            rng = np.random.default_rng(int(labels.sum()))
            laws = []
            skills = {EXPERTS[0]: 0.3 + 0.2 * rng.random(len(labels))}
            for hotkey in batch.hotkeys:
                skill = skills.get(hotkey, np.full(len(labels), 1e-4))
                law = np.full((len(labels), 300), np.log((1 - skill[:, None]) / 299))
                law[np.arange(len(labels)), labels] = np.log(skill)
                laws.append([Law(row) for row in law.astype(np.float32)])
            step = score_step(weighed, position, labels, laws, self._baseline.law)
            await self._state.apart(self._state.add_step, batch, step)


class World:
    """One validator on a fake chain, that can be killed and started again."""

    def __init__(self, path, chain, signer, documents):
        self.path, self.chain, self.signer = path, chain, signer
        self.pool = TextPool(documents)
        self.sent: list[bytes] = []
        self.submitted: list[str] = []
        chain.add(signer, Axon("127.0.0.1", 9))
        for hotkey in EXPERTS:
            neuron = dataclasses.replace(chain.neurons[0], uid=len(chain.neurons), hotkey=hotkey)
            chain.neurons.append(dataclasses.replace(neuron, axon=None, validator_permit=False))

    async def live(self, until_block, faults=None):
        """Start a process and run it block by block."""
        faults = faults or Faults()
        state = faults.watch(
            State(self.path / "state.sqlite3"),
            "start_batch",
            "add_step",
            "close_epoch",
            "note_submitted",
            "note_committed",
            "note_phase",
        )
        chain = faults.watch(_Link(self.chain, self.submitted), "commit_weights", "reveal_weights")
        metrics = Metrics()
        http = None  # nobody here has an address
        experts = Nobody()
        sheets = self.path / "sheets"
        measurement = TwoSteps(
            state,
            Hotkey(self.signer.ss58_address),
            self.pool,
            "ab" * 32,
            Unigram.build(np.arange(300), 300),
            experts,
            GateSync(chain, http, sheets, allow_private=True),
            metrics,
            Shapes.fixed(ONE_WINDOW),
            sent=self.sent,
        )
        spec = SimpleNamespace(sha256="ab" * 32)
        validator = Validator(
            chain,
            NETUID,
            self.signer,
            NextSpec(spec, lambda _: measurement, folder=None, allow_private=False),
            Axon("127.0.0.1", 9),
            state,
            measurement,
            sheets,
            Health(),
            metrics,
        )
        validator.health.block = 1
        try:
            while self.chain.block < until_block:
                self.chain.next_block()
                async with asyncio.TaskGroup() as walking:
                    await validator.on_block(walking)
        finally:
            state.close()
        return validator

    async def late_commit(self):
        """What the killed process had sent is included now."""
        state = self.state()
        (vote,) = state.waiting_votes()
        state.close()
        row = row_of(vote.sheet)
        await _Link(self.chain, self.submitted).commit_weights(
            NETUID, *row, vote.salt, VERSION_KEY, self.signer
        )

    def state(self):
        return State(self.path / "state.sqlite3")


class _Link:
    """One process's connection: what it sends is counted, the chain itself lives on."""

    def __init__(self, chain, submitted):
        self._chain, self._submitted = chain, submitted

    def __getattr__(self, name):
        return getattr(self._chain, name)

    async def commit_weights(self, *args):
        await self._chain.commit_weights(*args)
        self._submitted.append(self._chain.queues[args[-1].ss58_address][-1].commit_hash)

    async def reveal_weights(self, *args):
        await self._chain.reveal_weights(*args)


@pytest.fixture
def make_world(new_chain, keypair, make_documents):
    def build(path, documents=None):
        path.mkdir(exist_ok=True)
        return World(path, new_chain(), keypair("//Validator"), documents or make_documents(120))

    return build


@pytest.fixture
def folder(tmp_path):
    """In memory where the system has such a place: a simulated kill does not need a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.fixture
def world(folder, make_world):
    return make_world(folder)


def check(world, epochs):
    """Everything that must hold, whatever happened."""
    assert len(world.sent) == len(set(world.sent)), "a text was sent twice"
    assert len(world.submitted) == len(set(world.submitted)), "a vote was committed twice"
    reveals = world.chain.reveals[world.signer.ss58_address]
    assert [reveal.epoch for reveal in reveals] == epochs
    previous = bytes(32)
    for reveal in reveals:
        state = world.state()
        body = state.archive.sheet(bytes.fromhex(reveal.sheet_sha256))
        assert state.previous_sha256() != bytes(32)
        state.close()
        sheet = Sheet.from_bytes(body)
        assert sheet.epoch == reveal.epoch
        assert sheet.previous_sha256 == previous
        previous = sheet.sha256
        uid = sheet.uids[sheet.hotkeys.index(EXPERTS[0])]
        assert ([uid], [65_535]) in world.chain.rows[world.signer.ss58_address]


async def test_three_quiet_epochs(world):
    await world.live(100)
    check(world, [0, 1, 2])
    assert len(world.sent) == 32 * 4
    state = world.state()
    waiting = state.waiting_votes()
    assert [vote.sheet.epoch for vote in waiting] == []
    scores = state.scores()
    assert scores[EXPERTS[0]] > 0
    assert scores[EXPERTS[1]] == 0
    state.close()


async def test_killed_at_any_point_it_goes_on_as_if_nothing_had_happened(folder, make_world):
    counting = Faults()
    await make_world(folder / "count").live(35, counting)
    assert counting.passed > 40
    for at in range(1, counting.passed + 1):
        world = make_world(folder / str(at))
        with pytest.raises((Killed, BaseExceptionGroup)):
            await world.live(35, Faults(at))
        await world.live(40)
        check(world, [0])


async def test_killed_again_and_again(folder, make_world):
    world = make_world(folder)
    rng = np.random.default_rng(0)
    while world.chain.block < 100:
        with contextlib.suppress(Killed, BaseExceptionGroup):
            await world.live(100, Faults(int(rng.integers(1, 25))))
    check(world, [0, 1, 2])


async def test_no_walk_begins_in_an_epoch_whose_sheet_is_closed(world):
    """It woke up in the second half, closed an empty sheet, and a fork led back to the first."""
    world.chain.block = 15
    await world.live(16)
    world.chain.block = 5
    await world.live(12)
    assert world.sent == []
    await world.live(100)
    check(world, [1, 2])


async def test_a_commit_still_in_the_pool_is_not_sent_again_after_a_crash(world):
    await world.live(14)
    with pytest.raises((Killed, BaseExceptionGroup)):
        await world.live(29, KillOn("commit_weights"))
    # It was on its way, and comes into a block while nobody looks.
    world.chain.next_block()
    await world.late_commit()
    await world.live(58)
    check(world, [0])
    assert len(world.submitted) == 2  # epochs 0 and 1


async def test_a_commit_lost_on_the_way_is_sent_again_in_time(world, monkeypatch):
    monkeypatch.setattr("moesubnet.validator.weights.SUBMIT_GRACE_S", 0.1)
    world.chain.lost_calls = 1
    await world.live(58)
    check(world, [0])


@pytest.mark.parametrize(
    "refusals",
    [["CommittingWeightsTooFast"], ["TooManyUnrevealedCommits"] * 3],
)
async def test_a_refused_commit_is_tried_again(world, refusals):
    await world.live(14)
    world.chain.refusals = list(refusals)
    await world.live(58)
    check(world, [0])


@pytest.mark.parametrize("name", ["RevealTooEarly", "NeuronNoValidatorPermit", "ExhaustsResources"])
async def test_a_refused_reveal_is_tried_again_at_every_block(world, name):
    await world.live(28)
    world.chain.refusals = [name] * 4
    await world.live(34)
    check(world, [0])


async def test_a_reveal_that_never_passes_is_lost_and_its_sheet_public_as_later_ones_name_it(world):
    await world.live(28)
    state = world.state()
    (vote,) = state.waiting_votes()
    state.close()
    world.chain.refusals = ["NotEnoughStakeToSetWeights"] * 1000
    await world.live(62)
    world.chain.refusals.clear()
    await world.live(125)
    assert [r.epoch for r in world.chain.reveals[world.signer.ss58_address]] == [2, 3]
    state = world.state()
    public = [Sheet.from_bytes(body) for body in state.archive.public_sheets()]
    state.close()
    assert [sheet.epoch for sheet in public] == [3, 2, 0]
    assert [sheet.previous_sha256 for sheet in public[:2]] == [s.sha256 for s in public[1:]]
    assert public[2].sha256 == vote.sheet.sha256


async def test_votes_that_stay_secret_for_epochs_still_link_every_sheet_to_the_one_before(world):
    """Or whoever comes later would find one sheet in so many."""
    world.chain.reveal_period_epochs = 3
    await world.live(190)
    check(world, [0, 1, 2, 3])


async def test_a_validator_that_slept_through_its_reveal_starts_over(world):
    await world.live(20)
    for _ in range(50):
        world.chain.next_block()
    await world.live(125)
    assert [r.epoch for r in world.chain.reveals[world.signer.ss58_address]] == [2, 3]
    state = world.state()
    assert state.waiting_votes() == []
    state.close()


async def test_without_commit_reveal_the_row_is_set_at_once_and_the_sheet_is_public(world):
    world.chain.commit_reveal = False
    await world.live(20)
    assert len(world.chain.rows[world.signer.ss58_address]) == 1
    assert not world.chain.queues
    state = world.state()
    assert len(state.archive.public_sheets()) == 1
    state.close()


def fork(chain):
    """Returns how to make another fork win: the chain forgets what it did since, but not time."""
    past = copy.deepcopy((chain.queues, chain.reveals, chain.rows, chain.voted_at))

    def take_back():
        chain.queues, chain.reveals, chain.rows, chain.voted_at = copy.deepcopy(past)

    return take_back


def phases(world):
    """Of the votes that are not settled, and how many sheets are public."""
    state = world.state()
    found = [vote.phase for vote in state.waiting_votes()]
    public = len(state.archive.public_sheets())
    state.close()
    return found, public


async def test_a_commit_that_a_fork_took_back_is_sent_again(world):
    take_back = fork(world.chain)
    await world.live(20)
    assert phases(world) == ([Phase.COMMITTED], 0)
    (promise,) = set(world.submitted)
    take_back()
    await world.live(22)
    assert world.submitted == [promise], "nodes bring it back by themselves; they get some blocks"
    await world.live(28)
    assert world.submitted == [promise, promise]
    world.submitted.clear()
    await world.live(100)
    check(world, [0, 1, 2])


async def test_a_commit_that_a_fork_moved_to_the_next_epoch_is_revealed_with_it(world):
    await world.live(28)
    (hotkey,) = world.chain.queues
    ((commit,),) = world.chain.queues.values()
    world.chain.queues[hotkey] = []
    for _ in range(4):  # nobody is awake; then the block that has it belongs to the next epoch
        world.chain.next_block()
    world.chain.queues[hotkey] = [dataclasses.replace(commit, epoch=1, reveal_epoch=2)]
    await world.live(40)
    state = world.state()
    assert [vote.reveal_epoch for vote in state.waiting_votes()] == [2]
    state.close()
    await world.live(100)
    reveals = world.chain.reveals[hotkey]
    assert [reveal.epoch for reveal in reveals] == [1, 1, 2]
    assert phases(world)[1] == 3


async def test_a_reveal_that_a_fork_took_back_is_sent_again_and_its_sheet_waits_for_it(world):
    await world.live(28)
    take_back = fork(world.chain)
    await world.live(32)
    assert phases(world) == ([], 1)
    take_back()
    world.chain.refusals = ["ExhaustsResources"]
    await world.live(33)
    assert phases(world) == ([Phase.COMMITTED], 0)
    await world.live(34)
    assert phases(world) == ([], 1)
    await world.live(100)
    check(world, [0, 1, 2])


async def test_a_reveal_and_its_commit_taken_back_together_are_lost(world):
    take_back = fork(world.chain)
    await world.live(32)
    (sheet,) = world.chain.reveals[world.signer.ss58_address]
    take_back()
    await world.live(125)
    assert [r.epoch for r in world.chain.reveals[world.signer.ss58_address]] == [1, 2, 3]
    state = world.state()
    public = [Sheet.from_bytes(body) for body in state.archive.public_sheets()]
    state.close()
    assert public[-2].previous_sha256.hex() == sheet.sheet_sha256  # it is named, and so served
    assert public[-1].sha256.hex() == sheet.sheet_sha256


async def test_a_plain_vote_that_a_fork_took_back_is_sent_again(world):
    world.chain.commit_reveal = False
    take_back = fork(world.chain)
    await world.live(16)
    assert phases(world) == ([], 1)
    take_back()
    await world.live(17)
    assert phases(world) == ([Phase.PREPARED], 0)
    await world.live(25)
    assert phases(world) == ([], 1)
    assert len(world.chain.rows[world.signer.ss58_address]) == 1


async def test_on_a_chain_with_drand_votes_are_timelocked_and_the_chain_opens_them(world):
    world.chain.has_drand = True
    await world.live(20)
    assert phases(world) == ([Phase.COMMITTED], 0)
    world.chain.timelocked.clear()  # a fork takes it back
    await world.live(28)
    assert list(world.chain.timelocked) == [0]
    assert phases(world) == ([Phase.COMMITTED], 0)
    await world.live(31)
    assert phases(world) == ([], 1)
    await world.live(100)
    assert len(world.chain.rows[world.signer.ss58_address]) == 3
    assert not world.chain.queues
    assert phases(world) == ([], 3)


async def test_a_sheet_is_public_only_after_its_reveal(world):
    await world.live(28)
    state = world.state()
    (vote,) = state.waiting_votes()
    assert vote.phase == Phase.COMMITTED
    assert not state.archive.is_public(vote.sheet.sha256)
    state.close()
    await world.live(31)
    state = world.state()
    assert state.archive.is_public(vote.sheet.sha256)
    assert state.archive.sheet(vote.sheet.sha256) == vote.sheet.to_bytes()
    state.close()


async def test_spent_text_repeats_the_last_vote_and_says_what_to_do(folder, make_world):
    documents = {bytes([i]) * 32: np.full(WINDOW_TOKENS, i, np.uint32) for i in range(40)}
    world = make_world(folder, documents)
    validator = await world.live(130)
    assert len(world.sent) == 40
    assert "add fresh text" in validator.health.problems["text"]
    rows = world.chain.rows[world.signer.ss58_address]
    assert len(rows) == 4
    assert rows[-1] == rows[-2] == rows[1]
    check(world, [0, 1, 2, 3])
    with pytest.raises(PoolSpent):
        world.pool.draw([ONE_WINDOW], {document: {0} for document in documents}, b"")


async def test_an_expert_that_left_and_whose_uid_changed_hands_passes_nothing_on(world):
    await world.live(45)
    good = next(n for n in world.chain.neurons if n.hotkey == EXPERTS[0])
    heir = dataclasses.replace(good, hotkey=Hotkey("heir"))
    world.chain.neurons[world.chain.neurons.index(good)] = heir
    await world.live(80)
    state = world.state()
    sheet = state.archive.newest_sheets(1)[0]
    assert EXPERTS[0] not in sheet.hotkeys
    assert "heir" not in sheet.hotkeys
    assert not any(sheet.row_u16)
    assert state.scores()[EXPERTS[0]] > 0  # remembered by hotkey, should it come back
    state.close()


async def test_a_uid_that_changes_hands_before_the_commit_inherits_nothing(world):
    """Killed between the count and the commit; meanwhile the best expert got another uid."""
    with contextlib.suppress(Killed, BaseExceptionGroup):
        await world.live(100, KillOn("note_submitted"))
    old = next(n for n in world.chain.neurons if n.hotkey == EXPERTS[0])
    moved = dataclasses.replace(old, uid=len(world.chain.neurons))
    world.chain.neurons[old.uid] = dataclasses.replace(old, hotkey=Hotkey("newcomer"))
    world.chain.neurons.append(moved)
    await world.live(70)
    rows = world.chain.rows[world.signer.ss58_address]
    assert rows[0] == ([moved.uid], [65_535])
    check(world, [0, 1])
    state = world.state()
    sheet = Sheet.from_bytes(state.archive.public_sheets()[-1])
    state.close()
    assert set(sheet.ema_before) == {None}, "the averages moved once, from nothing"


def test_two_validators_cannot_share_a_state(tmp_path):
    with (
        only_one(tmp_path),
        pytest.raises(ConfigError, match="another validator"),
        only_one(tmp_path),
    ):
        pass
    with only_one(tmp_path):
        pass


async def test_a_state_belongs_to_one_chain_subnet_and_hotkey(world):
    await world.live(100)
    state = world.state()
    state.claim("0xgenesis 1 5Validator", 3)
    state.claim("0xgenesis 1 5Validator", 4)
    for owner, epoch in (("0xother 1 5Validator", 4), ("0xgenesis 1 5Validator", 1)):
        with pytest.raises(ConfigError, match="--state-dir"):
            state.claim(owner, epoch)
    state.close()


def test_a_file_that_is_no_database_is_refused_in_words(tmp_path):
    (tmp_path / "state.sqlite3").write_bytes(b"not a database, whatever it says" * 100)
    with pytest.raises(ConfigError, match="not a validator's state"):
        State(tmp_path / "state.sqlite3")


def test_nobody_else_on_the_machine_reads_what_a_validator_keeps(tmp_path):
    (tmp_path / "state.sqlite3").touch(0o644)
    state = State(tmp_path / "state.sqlite3")
    state.claim("0xgenesis 1 5Validator", 4)
    kept = list(tmp_path.glob("state.sqlite3*"))
    assert len(kept) > 1
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    state.close()


def test_a_state_of_an_earlier_layout_keeps_its_scores_and_the_text_that_was_used(tmp_path):
    path = tmp_path / "state.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(
            "CREATE TABLE used (document BLOB, start INTEGER, spec TEXT);"
            "CREATE TABLE score (hotkey TEXT PRIMARY KEY, ema_nano INTEGER);"
            "CREATE TABLE vote (epoch INTEGER PRIMARY KEY, sheet BLOB);"
            "INSERT INTO used VALUES (x'ab', 48, 's'); INSERT INTO score VALUES ('h', 7);"
            "INSERT INTO vote VALUES (1, x'00');"
        )
    for _ in range(2):
        state = State(path)
        assert state.used_starts("s") == {b"\xab": {48}}
        assert state.scores() == {"h": 7}
        assert state.waiting_votes() == []
        state.close()


def test_a_position_that_is_being_stored_when_its_walk_is_ended_is_in_the_sheet(tmp_path):
    """Or it would wait for the next one, with labels that this one has published."""
    state, label = State(tmp_path / "state.sqlite3"), np.array([7], np.uint32)
    text = Window(bytes(32), (0,), np.arange(WINDOW_TOKENS, dtype=np.uint32), PREFIX_TOKENS)
    batch = state.start_batch(1, EXPERTS, [text], "ab" * 32, validator=EXPERTS[0])
    weighed = [Weighed(uniform_gate(), text.ids[:PREFIX_TOKENS], EXPERTS, EXPERTS)]
    law = Law(np.full(300, -np.log(300), np.float32))
    step = score_step(weighed, PREFIX_TOKENS, label, [[law]] * len(EXPERTS), law)
    begun, go_on = threading.Event(), threading.Event()
    add = state.add_step

    def slow(*args):
        begun.set()
        go_on.wait(30)
        return add(*args)

    async def main():
        walking = asyncio.create_task(state.apart(slow, batch, step))
        await asyncio.to_thread(begun.wait, 30)
        walking.cancel()
        await asyncio.gather(walking, return_exceptions=True)
        closing = asyncio.create_task(state.apart(state.open_batches))
        go_on.set()
        return await closing

    [kept] = asyncio.run(main())
    state.close()
    assert [s.position for s in kept.steps] == [step.position]
