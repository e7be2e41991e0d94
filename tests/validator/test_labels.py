"""A label is never public before it was asked: a slow partner and one who reads the sheets."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.errors import FrameError
from moesubnet.mixture.sheet import Sheet
from moesubnet.types import Hotkey
from moesubnet.validator.pool import PREFIX_TOKENS, WINDOW_TOKENS
from moesubnet.validator.receipts import RECORD
from moesubnet.validator.records import SENDER, Batch, Step
from tests.sheets import closed

ADVERSARIES = Path(__file__).resolve().parents[2] / "examples" / "adversaries"


def adversary(name):
    spec = importlib.util.spec_from_file_location(f"adversaries_{name}", ADVERSARIES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def knows(law):
    log_law = np.log(0.98 * law + 0.02 / len(law))
    return lambda ids: log_law


def positions(node):
    return min((len(batch.steps) for batch in node.state.open_batches()), default=0)


async def test_a_slow_partner_buys_a_label_looker_nothing(
    tmp_path, new_chain, keypair, tiny_spec, make_documents, start_expert, laws, open_node
):
    """With the partner a walk would last 16 × 0.25 s; the sheet is public long before."""
    slow = adversary("slow_partner").SlowPartner(knows(laws[1]), pause_s=0.25)
    looker = adversary("label_looker").LabelLooker(knows(laws[0]))
    chain, signer = new_chain(), keypair("//Validator")
    chain.add(signer)
    experts = []
    for name, law in {"honest": knows(laws[2]), "slow": slow, "looker": looker}.items():
        experts.append(await start_expert(f"//{name}", law))
        chain.add(experts[-1].signer, experts[-1].axon, stake_rao=0)
    experts[1].in_thread = True
    node = await open_node(tmp_path, chain, signer, tiny_spec, make_documents())

    async with asyncio.TaskGroup() as walking:
        while not chain.reveals:
            chain.next_block()
            assert chain.block < 3 * chain.tempo
            await node.validator.on_block(walking)
            # Until there is enough to vote on the chain waits; then it runs ahead.
            while not (node.state.voted(0) or positions(node) >= 6):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        [sheet] = [Sheet.from_bytes(body) for body in node.state.archive.public_sheets()]
        looker.read(sheet.walks)
        published = {ids.tobytes() for ids in sheet.walks}
        for _ in range(chain.tempo):
            chain.next_block()
            await node.validator.on_block(walking)
            await asyncio.sleep(0.02)
        for task in tuple(node.validator._walks):
            task.cancel()

    lengths = {len(ids) for ids in sheet.walks}
    assert max(lengths) < WINDOW_TOKENS, "the walks were whole: nothing was at stake"
    assert max(lengths) > PREFIX_TOKENS
    assert looker.found == 0
    for expert in experts:
        # What was sent of a published walk ends before its last published label.
        for ids in expert.sessions.values():
            whole = [walk for walk in published if walk.startswith(ids[:PREFIX_TOKENS].tobytes())]
            assert all(len(ids) * 4 <= len(walk) for walk in whole)


async def test_after_a_restart_nothing_of_an_unfinished_walk_is_asked_again(
    tmp_path, new_chain, keypair, tiny_spec, make_documents, start_expert, laws, open_node
):
    slow = adversary("slow_partner").SlowPartner(knows(laws[1]), pause_s=0.1)
    chain, signer = new_chain(), keypair("//Validator")
    chain.add(signer)
    expert = await start_expert("//slow", slow)
    expert.in_thread = True
    chain.add(expert.signer, expert.axon, stake_rao=0)
    first = await open_node(tmp_path, chain, signer, tiny_spec, make_documents())
    chain.next_block()
    walking = asyncio.create_task(_on_block(first))
    while not first.state.open_batches():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    walking.cancel()
    await asyncio.gather(walking, return_exceptions=True)
    begun = set(expert.sessions)
    await first.close()

    expert.in_thread = False
    expert.law = knows(laws[1])
    expert.requests.clear()
    second = await open_node(tmp_path, chain, signer, tiny_spec, make_documents())
    while not second.state.voted(0):
        chain.next_block()
        await _on_block(second)
    asked = {s.session for request in expert.requests for s in request.sequences}
    assert not asked & begun
    [vote] = second.state.waiting_votes()
    assert len(vote.sheet.walk) > 0


async def test_killed_while_it_closes_it_publishes_what_was_measured_and_asks_no_more(
    tmp_path, new_chain, keypair, tiny_spec, make_documents, start_expert, laws, open_node
):
    """Walks are stopped and the sheet is made, and then the process dies before it is stored."""

    class Killed(Exception):
        pass

    def die(*_):
        raise Killed

    chain, signer = new_chain(), keypair("//Validator")
    chain.add(signer)
    expert = await start_expert(
        "//slow", adversary("slow_partner").SlowPartner(knows(laws[1]), 0.1)
    )
    expert.in_thread = True
    chain.add(expert.signer, expert.axon, stake_rao=0)
    first = await open_node(tmp_path, chain, signer, tiny_spec, make_documents())
    first.state.close_epoch = die

    async def live():
        async with asyncio.TaskGroup() as walking:
            while True:
                chain.next_block()
                await first.validator.on_block(walking)
                while not first.state.open_batches():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    with pytest.raises(ExceptionGroup) as died:
        await live()
    assert died.group_contains(Killed)
    stored = {
        batch.walks[k, : batch.steps[-1].position + 1].tobytes()
        for batch in first.state.open_batches()
        for k in range(len(batch.walks))
    }
    await first.close()

    expert.in_thread, expert.law = False, knows(laws[1])
    expert.requests.clear()
    second = await open_node(tmp_path, chain, signer, tiny_spec, make_documents())
    await _on_block(second)
    assert second.state.voted(0)
    assert expert.requests == []
    sheet = second.state.archive.newest_sheets(1)[0]
    assert {ids.tobytes() for ids in sheet.walks} == stored
    assert max(len(ids) for ids in sheet.walks) < WINDOW_TOKENS


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 16)), min_size=1, max_size=5))
def test_no_sheet_holds_an_id_beyond_what_was_measured(sizes):
    """sizes: walks and positions of each batch."""
    keys, rng = (Hotkey("a"), Hotkey("b")), np.random.default_rng(0)
    batches = []
    for number, (walks, positions) in enumerate(sizes):
        steps = tuple(
            Step(
                PREFIX_TOKENS + position,
                np.full((walks, 3), -1_000_000, "<i4"),
                np.full((walks, 3), -1_098_612, "<i4"),
                np.zeros((walks, 2), "<i4"),
                np.ones((walks, 2), np.uint8),
                np.full((walks, 2), 10, "<i4"),
                np.zeros((walks, 2), SENDER),
                np.zeros((walks, 2), RECORD),
                (),
            )
            for position in range(positions)
        )
        ids = rng.integers(0, 300, (walks, WINDOW_TOKENS)).astype("<u4")
        names = tuple(f"{number}.{k}" for k in range(walks))
        batches.append(Batch(number, keys, ids, PREFIX_TOKENS, names, steps))
    neurons = {h: SimpleNamespace(uid=i, registered_at_block=i) for i, h in enumerate(keys)}
    sheet, _ = closed(
        batches,
        SimpleNamespace(
            netuid=1, epoch_index=3, tempo_blocks=30, last_epoch_block=90, by_hotkey=neurons
        ),
        Hotkey("v"),
    )
    for k, ids in enumerate(sheet.walks):
        assert len(ids) == sheet.position[sheet.walk == k].max() + 1
    assert Sheet.from_bytes(sheet.to_bytes()).sha256 == sheet.sha256
    more = (*sheet.walks[:-1], np.append(sheet.walks[-1], np.uint32(7)).astype("<u4"))
    less = (*sheet.walks[:-1], sheet.walks[-1][:-1])
    for wrong in (more, less, (*sheet.walks, sheet.walks[0])):  # the last: nobody was asked
        with pytest.raises(FrameError):
            Sheet.from_bytes(dataclasses.replace(sheet, walks=wrong).to_bytes())


async def _on_block(node):
    async with asyncio.TaskGroup() as walking:
        await node.validator.on_block(walking)
