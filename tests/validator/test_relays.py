"""Walks through routers: what miners see of them, what is proven, who is to blame."""

import asyncio
import dataclasses
import itertools
import os
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.errors import FrameError, MalformedAuth, PeerUnavailable, RelayLost
from moesubnet.mixture.sheet import LOG_Q_ABSENT, LOG_Q_UNANSWERED, Sheet
from moesubnet.router import node
from moesubnet.types import Hotkey
from moesubnet.validator.audit import audit
from moesubnet.validator.usage import usage_losses
from moesubnet.validator.walks import _sender
from moesubnet.wire.lanes import LENGTH_BYTES, Given, Lane, pack_answers, unpack_answers
from moesubnet.wire.protocol import Proof, SequenceStep, StepRequest, StepResponse, Want, base_hash
from moesubnet.wire.relay import Brought, Question, RelayClient, Relayed
from moesubnet.wire.strangers import open_http_session
from moesubnet.wire.usage import Seen, Usage
from tests.sheets import closed
from tests.validator.nodes import RouterNode
from tests.validator.test_labels import adversary


def knows(law):
    log_law = np.log(0.98 * law + 0.02 / len(law))
    return lambda ids: log_law


class InTurn:
    """Lots that fall on one after another: of eight walks some go through either of two routers."""

    def __init__(self):
        self.turns = itertools.count()

    def choices(self, population, weights=None):
        at = next(self.turns) if len(population) > 1 else 0
        return [population[at % len(population)]]

    def sample(self, population, count):
        return population[:count]


@pytest.fixture
async def two_and_two(start_expert, start_node, measure, laws, monkeypatch):
    """Two experts, two routers, and a validator that has met them."""
    experts = [await start_expert(f"//Expert{i}", knows(laws[i])) for i in range(2)]
    nodes = [await start_node(f"Router{i}", experts) for i in range(2)]
    measurement, state, chain, _ = await measure(
        experts, routers=[(one.signer, one.axon) for one in nodes]
    )
    for one in nodes:
        one.chain = await chain.metagraph(1)
    lots, draw = InTurn(), measurement._routers.draw
    monkeypatch.setattr(measurement._routers, "draw", lambda _: draw(lots))
    return experts, nodes, measurement, state, chain


async def test_no_expert_is_told_by_us_which_of_its_routers_sessions_were_probes(two_and_two):
    experts, _, measurement, state, chain = two_and_two
    await walked(measurement, state, chain)
    await asyncio.gather(*measurement._asking._closing)
    assert [expert.closed for expert in experts] == [[], []]


async def walked(measurement, state, chain, walks=8):
    metagraph = await chain.metagraph(1)
    await measurement.run(await measurement.open_batches(metagraph, walks))
    return closed(
        state.open_batches(),
        metagraph,
        Hotkey(chain.neurons[0].hotkey),
    )


async def test_miners_see_routers_and_the_sheet_proves_each_answer(two_and_two):
    experts, nodes, measurement, state, chain = two_and_two
    sheet, receipts = await walked(measurement, state, chain)
    assert Sheet.from_bytes(sheet.to_bytes()).senders == sheet.senders
    assert set(sheet.senders[1:]) == {one.hotkey for one in nodes}
    for expert in experts:
        assert set(expert.callers) == {one.hotkey for one in nodes}
    assert np.all(sheet.log_q > LOG_Q_UNANSWERED)
    assert np.all(sheet.sender > 0)
    for walk in range(len(sheet.walks)):
        assert len(np.unique(sheet.sender[sheet.walk == walk])) == 1
    result = audit(sheet, receipts, {})
    assert result.is_clean
    assert all(e.signed == e.blind == e.answered for e in result.experts)
    # Under another sender's name nothing is signed.
    swapped = np.where(sheet.sender == 1, 2, 1).astype(np.uint8)
    lie = audit(dataclasses.replace(sheet, sender=swapped), receipts, {})
    assert all(e.signed == 0 for e in lie.experts)


async def test_a_copied_sheet_is_contradicted_though_it_went_through_the_same_routers(
    two_and_two, keypair
):
    """Experts signed for routers, but in sessions that are the validator's and nobody else's."""
    _, _, measurement, state, chain = two_and_two
    sheet, receipts = await walked(measurement, state, chain)
    copier = Hotkey(keypair("//Copier").ss58_address)
    copy = adversary("copying_validator").as_own(sheet, copier)
    assert Sheet.from_bytes(copy.to_bytes()).validator == copier
    salts = tuple(os.urandom(16) for _ in sheet.walks)
    own_salts = dataclasses.replace(receipts, salts=salts)
    assert audit(sheet, receipts, {}).is_clean
    for shown in (receipts, own_salts):
        result = audit(copy, shown, {})
        assert not result.is_clean
        assert [expert.signed for expert in result.experts] == [0, 0]


@pytest.mark.parametrize("forged", ["body", "status"])
async def test_a_router_that_dies_or_forges_costs_nobody_an_answer(two_and_two, forged):
    _, nodes, measurement, state, chain = two_and_two
    metagraph = await chain.metagraph(1)
    [batch] = await measurement.open_batches(metagraph, 6)
    nodes[0].forges = forged
    await measurement.run([batch])
    sheet, receipts = await walked(measurement, state, chain, walks=2)
    assert np.all(sheet.log_q > LOG_Q_UNANSWERED)
    assert sheet.senders[1:] == (nodes[1].hotkey,)
    assert audit(sheet, receipts, {}).is_clean


async def test_what_one_router_loses_is_no_failure_until_another_agrees(two_and_two):
    experts, nodes, measurement, state, chain = two_and_two
    victim = experts[0].hotkey
    nodes[0].loses = {victim}
    sheet, _ = await walked(measurement, state, chain)
    column = sheet.hotkeys.index(victim)
    through_it = sheet.sender[:, column] == sheet.senders.index(nodes[0].hotkey)
    assert through_it.any()
    assert not through_it.all()
    assert np.all(sheet.log_q[through_it, column] == LOG_Q_ABSENT)
    assert sheet.reliability_ppm == (1_000_000, 1_000_000)


async def test_what_two_routers_miss_is_a_failure(two_and_two):
    experts, nodes, measurement, state, chain = two_and_two
    victim = experts[0].hotkey
    for one in nodes:
        one.loses = {victim}
    sheet, _ = await walked(measurement, state, chain)
    column = sheet.hotkeys.index(victim)
    assert np.all(sheet.log_q[:, column] == LOG_Q_UNANSWERED)
    assert sheet.reliability_ppm[column] == 0


def test_a_proven_answer_stands_under_the_sender_that_it_was_signed_for():
    """Its router may have been left since, over a leaf: under the next one's name the sheet would
    be contradicted by its own receipts."""
    expert = SimpleNamespace(hotkey=Hotkey("e"))
    client = Relayed(expert, [SimpleNamespace(hotkey=Hotkey("second"))])
    proof = Proof(1, (0,), b"", b"", sender=Hotkey("first"))
    assert _sender(StepResponse((), proof), client) == b"first"
    assert _sender(StepResponse((), proof._replace(sender=None)), client) == b""
    assert _sender(PeerUnavailable("late"), client) == _sender(None, client) == b"second"
    assert _sender(None, Relayed(expert, [])) == b""


async def test_without_routers_experts_are_asked_directly(start_expert, measure, laws):
    expert = await start_expert("//Expert", knows(laws[0]))
    measurement, state, chain, _ = await measure([expert])
    sheet, receipts = await walked(measurement, state, chain, walks=3)
    assert set(expert.callers) == {sheet.validator}
    assert sheet.senders == (sheet.validator,)
    assert audit(sheet, receipts, {}).is_clean


async def test_a_node_serves_validators_within_their_budget_and_nobody_else(
    two_and_two, keypair, monkeypatch
):
    monkeypatch.setattr(node, "STEPS_AT_ONCE", 2.0)
    monkeypatch.setattr(node, "STEPS_PER_S", 0.0)
    experts, nodes, _, _, chain = two_and_two
    chain.add(keypair("//Poor"), stake_rao=0)
    one = await RouterNode(nodes[0].signer, nodes[0].spec, experts).start()
    one.chain = await chain.metagraph(1)
    prefix = np.arange(8, dtype=np.uint32)
    step = StepRequest((SequenceStep("s", 0, base_hash(prefix[:0]), prefix),), Want("full"))
    validator, stranger = keypair("//Validator"), keypair("//Poor")
    async with open_http_session() as http:

        async def ask(signer, expert=experts[0].hotkey):
            client = RelayClient(
                http, signer, one.hotkey, one.axon, vocab_size=300, allow_private=True
            )
            return await client.relay(expert, step, timeout_s=5.0)

        assert (await ask(validator)).proof.sender == one.hotkey
        with pytest.raises(RelayLost, match="403"):
            await ask(stranger)  # registered, without a permit
        with pytest.raises(RelayLost, match="403"):
            await ask(keypair("//Nobody"))
        with pytest.raises(RelayLost, match="does not ask"):
            await ask(validator, Hotkey(stranger.ss58_address[:-1] + "z"))
        await ask(validator)
        with pytest.raises(RelayLost, match="429"):
            await ask(validator)
    await one.close()


async def test_a_node_does_not_fetch_answers_that_no_probe_asks_for(
    two_and_two, keypair, monkeypatch
):
    monkeypatch.setattr(node, "MAX_RELAYED_VALUES", 2 * 300)
    experts, nodes, _, _, _ = two_and_two
    ids = np.arange(8, dtype=np.uint32)
    async with open_http_session() as http:
        client = RelayClient(
            http, keypair("//Validator"), nodes[0].hotkey, nodes[0].axon,
            vocab_size=300, allow_private=True,
        )  # fmt: skip
        for first, refused in ((7, False), (6, True)):
            sequence = SequenceStep("s", 0, base_hash(ids[:0]), ids, first=first)
            asking = client.relay(
                experts[0].hotkey, StepRequest((sequence,), Want("full")), timeout_s=5.0
            )
            if refused:
                with pytest.raises(RelayLost, match="400"):
                    await asking
            else:
                assert (await asking).rows[0].count == 2


async def test_steps_to_many_experts_share_a_request_and_each_has_its_own_fate(
    two_and_two, keypair
):
    experts, nodes, _, _, _ = two_and_two
    one = nodes[0]
    one.loses = {experts[1].hotkey}
    ids = np.arange(40, dtype=np.uint32)
    steps = [
        StepRequest((SequenceStep(f"s{i}", 0, base_hash(ids[:0]), ids[: i + 1]),), Want("full"))
        for i in range(20)
    ]
    async with open_http_session() as http:
        client = RelayClient(
            http, keypair("//Validator"), one.hotkey, one.axon, vocab_size=300, allow_private=True
        )
        sign, signed = client._sign, []
        client._sign = lambda path, *rest: signed.append(path) or sign(path, *rest)
        answers = await asyncio.gather(
            *(
                client.relay(expert.hotkey, step, timeout_s=5.0)
                for step in steps
                for expert in experts
            ),
            return_exceptions=True,
        )
    [path] = signed
    assert path.startswith("/v1/relay?root=")
    for step, answer in zip(steps, answers[::2], strict=True):
        assert answer.rows[0].first == step.sequences[0].end
        assert answer.proof.sender == one.hotkey
    assert all(type(lost) is PeerUnavailable for lost in answers[1::2])
    # To the expert they went in the router's own lanes: many have one nonce.
    assert len({answer.proof.nonce_ns for answer in answers[::2]}) < len(steps) / 2


async def test_a_validators_prompts_leave_users_their_places(two_and_two, keypair, monkeypatch):
    """However many a validator has, and however long the expert takes."""
    monkeypatch.setattr(node, "PLACE_S", 0.05)
    experts, nodes, _, _, _ = two_and_two
    one, client = nodes[0], nodes[0].clients[experts[0].hotkey]
    go, begun = asyncio.Event(), []
    carry = client._carry

    async def slow(parcels, come):
        begun.append(parcels)
        await go.wait()
        await carry(parcels, come)

    client._carry = slow
    ids = np.arange(40, dtype=np.uint32)
    prompts = [
        StepRequest((SequenceStep(f"p{i}", 0, base_hash(ids[:0]), ids),), Want("full"))
        for i in range(30)
    ]
    async with open_http_session() as http:
        relay = RelayClient(
            http, keypair("//Validator"), one.hotkey, one.axon, vocab_size=300, allow_private=True
        )
        probes = [
            asyncio.create_task(relay.relay(experts[0].hotkey, prompt, timeout_s=5.0))
            for prompt in prompts
        ]
        refused, _ = await asyncio.wait(probes[node.PROMPTS :])
        for task in refused:
            with pytest.raises(RelayLost, match="429"):
                task.result()
        user = asyncio.ensure_future(client.step(prompts[0], timeout_s=5.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(begun) == node.PROMPTS + 1
        go.set()
        await user
        await asyncio.gather(*probes[: node.PROMPTS])


@given(
    st.sampled_from((node.LOST, 200, 409, 404, 500)),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=300),
    st.binary(max_size=40),
)
def test_what_a_relay_brings_is_read_as_it_was_written_or_refused(status, nonce, receipt, body):
    brought = Brought(status, nonce, receipt, body)
    data = brought.to_bytes()
    try:
        assert Brought.from_bytes(data) == brought
    except MalformedAuth:
        assert status not in (200, 409) or not 0 < nonce < 2**63 or not 0 < len(receipt) <= 276
    with pytest.raises(MalformedAuth):
        Brought.from_bytes(data[:11])


def test_a_question_names_its_expert_and_its_time(keypair):
    expert = Hotkey(keypair("//Expert").ss58_address)
    asked = Question(expert, 5_000, b"\n any bytes")
    assert Question.from_bytes(asked.to_bytes()) == asked
    for wrong in (b"", b" 5000\nx", f"{expert} 0\nx".encode(), f"{expert} 5000".encode()):
        with pytest.raises(FrameError):
            Question.from_bytes(wrong)


async def test_a_nonce_that_no_clock_gives_is_not_believed(two_and_two, keypair):
    """An expert can sign whatever number its friend among the routers likes."""
    _, nodes, _, _, _ = two_and_two
    router, friend = nodes[0], keypair("//Friend")
    hotkey = Hotkey(friend.ss58_address)

    class Expert:
        async def forward(self, step, *, timeout_s):
            lane, nonce_ns = Lane.of([step.to_bytes()]), 2**63
            given = [Given(0, 200, b"rows")]
            frame = pack_answers(given, lane, nonce_ns, router.hotkey, friend)[LENGTH_BYTES:]
            [(_, receipt)] = unpack_answers(frame, lane, nonce_ns, hotkey, router.hotkey)
            return 200, b"rows", Proof.of(step, nonce_ns, receipt, b"rows")

    router.clients[hotkey] = Expert()
    ids = np.arange(8, dtype=np.uint32)
    step = StepRequest((SequenceStep("s", 0, base_hash(ids[:0]), ids),), Want("full"))
    async with open_http_session() as http:
        client = RelayClient(
            http, keypair("//Validator"), router.hotkey, router.axon,
            vocab_size=300, allow_private=True,
        )  # fmt: skip
        with pytest.raises(RelayLost, match="not what a relay brings"):
            await client.relay(hotkey, step, timeout_s=5.0)


async def test_a_validator_hears_what_routers_saw(two_and_two, keypair):
    experts, nodes, measurement, _, chain = two_and_two
    victim = experts[0].hotkey
    rows = sorted(
        Seen(e.hotkey, 100, 900 if e.hotkey == victim else 0, 0) for e in (experts[0], experts[1])
    )
    for one, epoch in zip(nodes, (2, 1), strict=True):  # the second says something else's epoch
        usage = Usage(netuid=1, epoch=epoch, router=one.hotkey, rows=rows)
        one.usage[2] = usage.signed(one.signer)
    await measurement._routers.refresh(await chain.metagraph(1), ())
    [(heard, stake)] = await measurement._routers.usage(1, 2)
    assert heard.router == nodes[0].hotkey
    losses = usage_losses([(heard, stake)], [victim, experts[1].hotkey])
    assert losses[0] > 0 == losses[1]
