"""Steps of many streams in one request: they leave together, and each is answered by itself."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from substrateinterface import Keypair

from moesubnet.errors import (
    AuthError,
    BadSignature,
    EngineError,
    FrameError,
    Overloaded,
    PeerRefused,
    PeerUnavailable,
    UnknownBase,
    WireError,
)
from moesubnet.types import Hotkey
from moesubnet.wire import departures, frames, merkle, server
from moesubnet.wire.departures import MOST_UNDER_WAY, Departures, Parcel
from moesubnet.wire.lanes import (
    LANE_PATH,
    LENGTH_BYTES,
    MAX_STEPS,
    Given,
    Lane,
    pack_answers,
    unpack_answers,
    verify_step,
)
from moesubnet.wire.protocol import SequenceStep, StepRequest, Want, base_hash
from moesubnet.wire.signing import lane_text

ALICE, BOB = (Keypair.create_from_uri(uri) for uri in ("//Alice", "//Bob"))
CALLER, EXPERT = Hotkey(ALICE.ss58_address), Hotkey(BOB.ss58_address)
VECTORS = Path(__file__).parents[1] / "vectors" / "lane.json"
NONCE_NS = 1_752_076_800_000_000_000


def step(session: str = "s", base: int = 0, append: int = 1) -> StepRequest:
    ids = np.arange(base + append, dtype=np.uint32) % 30
    return StepRequest(
        (SequenceStep(session, base, base_hash(ids[:base]), ids[base:]),), Want("full")
    )


# The formats.


@given(st.integers(1, MAX_STEPS), st.data())
def test_every_leaf_leads_to_the_root_and_only_from_its_own_place(count: int, data: Any) -> None:
    leaves = [merkle.leaf(bytes([i])) for i in range(count)]
    tree = merkle.levels(leaves)
    place = data.draw(st.integers(0, count - 1))
    path = merkle.path(tree, place)
    assert len(path) == merkle.path_bytes(place, count) <= 6 * 32
    assert merkle.root_of(leaves[place], place, count, path) == tree[-1][0]
    assert merkle.root_of(merkle.leaf(b"other"), place, count, path) != tree[-1][0]
    with pytest.raises(ValueError, match="path"):
        merkle.root_of(leaves[place], place, count, path + bytes(32))
    other = data.draw(st.integers(0, count - 1))
    if other != place and merkle.path_bytes(other, count) == len(path):
        assert merkle.root_of(leaves[place], other, count, path) != tree[-1][0]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=MAX_STEPS))
def test_a_lane_is_read_as_it_was_written_under_its_own_root_alone(steps: list[bytes]) -> None:
    lane = Lane.of(steps)
    read = Lane.from_bytes(lane.to_bytes(), lane.query)
    assert (read.steps, read.salts) == (lane.steps, lane.salts)
    with pytest.raises(FrameError):
        Lane.from_bytes(lane.to_bytes(), Lane.of(steps).query)  # other salts


@pytest.mark.parametrize("change", ["none", "many", "sizes", "salts"])
def test_a_malformed_lane_is_refused(change: str) -> None:
    lane = Lane.of([b""] * (MAX_STEPS + 1) if change == "many" else [b"ab", b"c"])
    tensors = dict(
        frames.decode(lane.to_bytes(), schema="moesubnet-lane/1", limits=frames.Limits()).tensors
    )
    if change == "none":
        tensors = {name: tensor[:0] for name, tensor in tensors.items()}
    elif change == "sizes":
        tensors["sizes"] = np.array([2, 2**32 - 1], np.uint32)
    elif change == "salts":
        tensors["salts"] = tensors["salts"][:1]
    with pytest.raises(FrameError):
        Lane.from_bytes(frames.encode("moesubnet-lane/1", {}, tensors), lane.query)


def test_one_answer_is_proven_without_the_others() -> None:
    lane = Lane.of([b"ask %d" % i for i in range(5)])
    given = [Given(4, 200, b"four"), Given(1, 409, b"one"), Given(2, 200, b"two")]
    frame = pack_answers(given, lane, NONCE_NS, CALLER, BOB)[LENGTH_BYTES:]
    read = unpack_answers(frame, lane, NONCE_NS, EXPERT, CALLER)
    assert [g for g, _ in read] == given

    def verify(ask: bytes, status: int, body: bytes, nonce_ns: int = NONCE_NS) -> None:
        hashes = hashlib.sha256(ask).digest(), status, hashlib.sha256(body).digest()
        verify_step(receipt, *hashes, nonce_ns, EXPERT, CALLER)

    _, receipt = read[1]
    verify(b"ask 1", 409, b"one")
    for wrong in (
        (b"ask 2", 409, b"one"),
        (b"ask 1", 200, b"one"),
        (b"ask 1", 409, b"two"),
        (b"ask 1", 409, b"one", NONCE_NS + 1),
    ):
        with pytest.raises(BadSignature):
            verify(*wrong)
    for damaged in (receipt[:-1], receipt + bytes(32), b"", bytes([9]) + receipt[1:]):
        with pytest.raises(AuthError):
            verify_step(damaged, bytes(32), 409, bytes(32), NONCE_NS, EXPERT, CALLER)


@pytest.mark.parametrize("places", [[], [0, 0], [2], [2**32 - 1]])
def test_answers_to_steps_that_nobody_asked_are_refused(places: list[int]) -> None:
    lane = Lane.of([b"a", b"b"])
    tensors: dict[str, Any] = {
        "answers": np.array([(place, 200, 0) for place in places], np.uint32).reshape(-1, 3),
        "receipt": np.zeros(64, np.uint8),
        "bodies": np.zeros(0, np.uint8),
    }
    with pytest.raises(FrameError):
        unpack_answers(
            frames.encode("moesubnet-lane-answers/1", {}, tensors), lane, NONCE_NS, EXPERT, CALLER
        )


def test_the_vectors_hold() -> None:
    """Written by hand of the formulas in docs/protocol.md; the signature is Bob's, once made."""
    known = json.loads(VECTORS.read_text())
    lane = Lane(*(tuple(map(bytes.fromhex, known[name])) for name in ("steps", "salts")))
    assert f"{LANE_PATH}?{lane.query}" == known["target"]
    assert hashlib.sha256(lane.to_bytes()).hexdigest() == known["body_sha256"]
    leaves = []
    for (place, status, body), leaf in zip(known["answers"], known["leaves"], strict=True):
        said, asked = (
            hashlib.sha256(raw).digest() for raw in (bytes.fromhex(body), lane.steps[place])
        )
        by_hand = b"\0" + lane.salts[place] + asked + status.to_bytes(2, "little") + said
        assert hashlib.sha256(by_hand).hexdigest() == leaf
        leaves.append(bytes.fromhex(leaf))
    pair = hashlib.sha256(b"\1" + leaves[0] + leaves[1]).digest()
    root = hashlib.sha256(b"\1" + pair + leaves[2]).digest()
    text = lane_text(known["nonce_ns"], root, EXPERT, CALLER)
    assert text.decode() == "\n".join(known["receipt_text"])
    place, status, body = known["answers"][2]
    said = hashlib.sha256(bytes.fromhex(body)).digest()
    receipt = bytes.fromhex(known["receipt"])
    assert receipt[:20] == bytes([2, 0, 3, 0]) + lane.salts[place]
    assert receipt[84:] == pair
    verify_step(receipt, lane.hashes[place], status, said, known["nonce_ns"], EXPERT, CALLER)


# Leaving.


class Carrier:
    """What a lane is given to; tests answer by hand."""

    def __init__(self) -> None:
        self.loads: list[list[Parcel]] = []
        self.come: list[Any] = []
        self.ends: list[asyncio.Event] = []
        self.dropped = 0

    async def __call__(self, parcels: Any, come: Any) -> None:
        end = asyncio.Event()
        self.loads.append(list(parcels))
        self.come.append(come)
        self.ends.append(end)
        try:
            await end.wait()
        except asyncio.CancelledError:
            self.dropped += 1
            raise

    def answer(self, load: int, *places: int) -> None:
        for place in places:
            self.loads[load][place].give((200, b"", 0, b""))
        self.come[load]()

    def names(self) -> list[list[str]]:
        return [[p.body.decode() for p in load] for load in self.loads]


def started(
    departures: Departures, *names: str, timeout_s: float = 9.0
) -> list[asyncio.Future[Any]]:
    """Of each name its first letter is where it goes."""
    parcels = [Parcel(n.encode(), 100, timeout_s, lambda: None, stream=n, to=n[0]) for n in names]
    return [asyncio.ensure_future(departures.step(parcel)) for parcel in parcels]


@pytest.fixture(autouse=True)
def long_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody leaves because nothing has come for a part of a round, unless a test waits for it."""
    monkeypatch.setattr(departures, "FIRST_ROUND_S", 2.0)


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def test_what_is_ready_together_leaves_together_and_what_comes_meanwhile_waits() -> None:
    carrier = Carrier()
    lane = Departures(carrier)
    first = started(lane, "a", "b")
    await settle()
    later = started(lane, "c")
    await settle()
    later += started(lane, "d")
    await settle()
    assert carrier.names() == [["a", "b"]]
    carrier.answer(0, 0, 1)
    carrier.ends[0].set()
    await settle()
    assert carrier.names() == [["a", "b"], ["c", "d"]]
    carrier.answer(1, 0, 1)
    await asyncio.gather(*first, *later)
    assert carrier.dropped == 0


async def test_a_slow_stream_never_holds_the_others() -> None:
    carrier = Carrier()
    lane = Departures(carrier)
    slow, quick = started(lane, "slow", "quick")
    await settle()
    carrier.answer(0, 1)  # the request goes on, for the slow one alone
    await quick
    again = started(lane, "quick")[0]
    await settle()
    assert carrier.names() == [["slow", "quick"], ["quick"]]
    carrier.answer(1, 0)
    await again
    assert not slow.done()
    carrier.answer(0, 0)
    await slow


async def test_where_nobody_waits_for_others_a_step_leaves_beside_those_under_way() -> None:
    """Of walks on their way to a router: users' steps wait once, there."""
    carrier = Carrier()
    lane = Departures(carrier, waited_part=0.0)
    first = started(lane, "a", "b")
    await settle()
    started(lane, "c", "d")
    await settle()
    assert carrier.names() == [["a", "b"], ["c", "d"]]
    carrier.answer(0, 0, 1)  # both are about to be back
    await asyncio.gather(*first)
    started(lane, "e")
    await settle()
    assert carrier.names()[2:] == [["e"]]


async def test_nothing_coming_back_holds_the_next_for_a_part_of_a_round_only() -> None:
    carrier = Carrier()
    lane = Departures(carrier)
    one = started(lane, "one")[0]
    await settle()
    carrier.answer(0, 0)
    carrier.ends[0].set()
    await one
    started(lane, "stuck")
    await settle()
    waiting = started(lane, "x", "y")
    await settle()
    assert len(carrier.loads) == 2
    for _ in range(200):
        await asyncio.sleep(0.01)
        if len(carrier.loads) == 3:
            break
    assert carrier.names()[2] == ["x", "y"]
    for task in waiting:
        task.cancel()


async def test_who_waits_leaves_though_others_left_before_they_were_looked_for() -> None:
    """What would have been looked for later left at once: that look is no longer to come."""
    carrier = Carrier()
    lane = Departures(carrier)
    tasks = started(lane, "stuck")
    await settle()
    tasks += started(lane, "early")  # is to be looked for in a part of a round
    tasks += started(lane, *(f"early {i}" for i in range(1, MAX_STEPS)))  # a whole lane: at once
    await settle()
    tasks += started(lane, "late")
    for _ in range(200):
        await asyncio.sleep(0.01)
        if len(carrier.loads) == 3:
            break
    assert carrier.names()[2] == ["late"]
    for task in tasks:
        task.cancel()


async def test_at_most_a_few_requests_are_under_way() -> None:
    carrier = Carrier()
    lane = Departures(carrier)
    tasks = []
    for wave in range(6):
        tasks += started(lane, *(f"{wave}.{i}" for i in range(MAX_STEPS)))
        await settle()
    assert [len(load) for load in carrier.loads] == [MAX_STEPS] * MOST_UNDER_WAY
    carrier.answer(1, *range(MAX_STEPS))
    carrier.ends[1].set()
    await settle()
    assert len(carrier.loads) == MOST_UNDER_WAY + 1
    for task in tasks:
        task.cancel()
    await settle()
    assert carrier.dropped == MOST_UNDER_WAY


async def test_those_with_one_destination_leave_together_and_nothing_beyond_a_window() -> None:
    carrier = Carrier()
    lane = Departures(carrier, most_under_way=9, window_bytes=100 * MAX_STEPS + 1)
    names = [f"{to}{i}" for i in range(MAX_STEPS // 2) for to in "abcdef"]
    tasks = started(lane, *names)
    await settle()
    assert [{name[0] for name in load} for load in carrier.names()] == [{"a", "b"}, {"c", "d"}]
    carrier.answer(0, *range(MAX_STEPS - 2))  # the others are still awaited
    await settle()
    assert len(carrier.loads) == 2
    carrier.answer(0, MAX_STEPS - 2, MAX_STEPS - 1)
    await settle()
    assert [name[0] for name in carrier.names()[2]] == ["e"] * 32 + ["f"] * 32
    for task in tasks:
        task.cancel()
    await settle()
    assert lane._awaited_bytes == 0


async def test_who_gives_up_takes_nobody_along_and_the_last_drops_the_request() -> None:
    carrier = Carrier()
    lane = Departures(carrier)
    gone, stays, late = (*started(lane, "gone", "stays"), *started(lane, "late", timeout_s=0.02))
    await settle()
    gone.cancel()
    with pytest.raises(PeerUnavailable, match="within"):
        await late
    assert not stays.done()
    assert carrier.dropped == 0
    stays.cancel()
    await settle()
    assert carrier.dropped == 1
    # Who gives up while it waits does not leave at all.
    started(lane, "first")
    await settle()
    started(lane, "second")[0].cancel()
    third = started(lane, "third")[0]
    await settle()
    carrier.answer(1, 0)
    await settle()
    assert carrier.names()[-1] == ["third"]
    third.cancel()


# Over a real socket.


async def test_each_step_of_a_lane_has_its_own_fate(stage: Any) -> None:
    expert, client = await stage.expert("//Bob")
    hold = asyncio.Event()
    lanes: set[int] = set()

    async def manner(request: StepRequest) -> bytes | None:
        name = request.sequences[0].session
        if name == "full":
            raise Overloaded("no place")
        if name == "broken":
            raise EngineError("no engine")
        if name == "bug":
            raise RuntimeError("a bug of theirs")
        if name == "lies":
            return b"no frame"
        if name == "slow":
            await hold.wait()
        return None

    expert.manner = manner
    asked = {
        "good": step("good"),
        "lost": step("lost", base=3),
        "slow": step("slow"),
        **{name: step(name) for name in ("full", "broken", "bug", "lies")},
    }
    tasks = {name: asyncio.ensure_future(client.step(s, timeout_s=9)) for name, s in asked.items()}
    left = {tasks["slow"]}
    done, _ = await asyncio.wait(set(tasks.values()) - left, timeout=5)
    assert done == set(tasks.values()) - left
    good = tasks["good"].result()
    lanes.add(good.proof.nonce_ns)
    errors = {name: task.exception() for name, task in tasks.items() if task.done()}
    assert errors["lost"].held_tokens == (0,)
    assert isinstance(errors["lost"], UnknownBase)
    for name, status in (("full", 429), ("broken", 503), ("bug", 500)):
        assert isinstance(errors[name], PeerRefused)
        assert errors[name].status == status
    assert isinstance(errors["lies"], FrameError)
    again = await client.step(step("good", base=1), timeout_s=9)  # while one is still waited for
    assert again.rows[0].first == 2
    hold.set()
    slow = await tasks["slow"]
    lanes.add(slow.proof.nonce_ns)
    assert len(lanes) == 1  # one request
    for answer, request in ((good, asked["good"]), (slow, asked["slow"])):
        proof = answer.proof
        said = hashlib.sha256(proof.body).digest()
        asked_sha256 = hashlib.sha256(request.to_bytes()).digest()
        shown = proof.receipt, asked_sha256, 200, said, proof.nonce_ns
        verify_step(*shown, client.hotkey, CALLER)


async def test_streams_in_step_share_their_requests(stage: Any) -> None:
    expert, client = await stage.expert("//Bob")
    nonces: set[int] = set()

    async def write(name: str) -> None:
        for base in range(8):
            answer = await client.step(step(name, base=base), timeout_s=9)
            assert answer.proof is not None
            nonces.add(answer.proof.nonce_ns)

    await asyncio.gather(*(write(f"s{i}") for i in range(16)))
    assert len(expert.requests) == 16 * 8
    assert len(nonces) <= 16


async def test_a_prompt_travels_apart_and_ends_when_its_caller_leaves(stage: Any) -> None:
    expert, client = await stage.expert("//Bob")
    left = asyncio.Event()
    begun = asyncio.Event()

    async def manner(request: StepRequest) -> None:
        if request.is_prompt:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                left.set()

    expert.manner = manner
    prompt = asyncio.ensure_future(client.step(step("p", append=200), timeout_s=30))
    await asyncio.wait_for(begun.wait(), 5)
    await client.step(step("s"), timeout_s=9)
    prompt.cancel()
    await asyncio.wait_for(left.wait(), 5)


async def test_what_its_caller_does_not_take_of_a_lane_is_bounded(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expert, client = await stage.expert("//Bob")
    one = await client.step(step("one"), timeout_s=9)
    monkeypatch.setattr(server, "MAX_HELD_BYTES", 2 * len(one.proof.body))
    begun: set[str] = set()
    all_begun = asyncio.Event()

    async def manner(request: StepRequest) -> None:
        begun.add(request.sequences[0].session)
        if len(begun) == 4:
            all_begun.set()
        await all_begun.wait()

    expert.manner = manner
    asked = (client.step(step(f"s{i}"), timeout_s=9) for i in range(4))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, PeerRefused)]
    assert [error.status for error in refused] == [429, 429]
    expert.manner = None
    await asyncio.gather(*(client.step(step(f"s{i}", base=0), timeout_s=9) for i in range(2)))


async def test_an_error_as_long_as_an_answer_is_not_parsed(stage: Any) -> None:
    expert, client = await stage.expert("//Bob")

    async def manner(request: StepRequest) -> None:
        raise UnknownBase((10**9,) * 2_000)

    expert.manner = manner
    ids = np.arange(30, dtype=np.uint32)
    many = (SequenceStep(f"s{i}", 0, base_hash(ids[:0]), ids, first=0) for i in range(20))
    with pytest.raises(WireError, match="without held_tokens"):
        await client.step(StepRequest(tuple(many), Want("full")), timeout_s=9)
