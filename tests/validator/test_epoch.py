"""Whole epochs over real sockets: who earns, what is public when, and that it can be checked."""

import asyncio
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from moesubnet.errors import ConfigError, PeerRefused
from moesubnet.mixture.sheet import Sheet
from moesubnet.spec.content import save_spec
from moesubnet.validator.audit import audit
from moesubnet.validator.explain import explain
from moesubnet.validator.pool import PREFIX_TOKENS
from moesubnet.validator.published import fetched
from moesubnet.validator.scoring import recount


def knows(law):
    log_law = np.log(0.98 * law + 0.02 / len(law))
    return lambda ids: log_law


def copies(law):
    """Answers as another does, once it has that one's answer."""
    source = knows(law)

    def late(ids):
        time.sleep(0.01)
        return source(ids)

    return late


def noise(ids):
    return np.full(300, -np.log(300))


def echo(ids):
    law = np.full(300, np.log(1e-9))
    law[np.unique(ids)] = 0.0
    return law - np.log(np.exp(law).sum())


@pytest.fixture
async def network(
    tmp_path,
    new_chain,
    keypair,
    tiny_spec,
    make_documents,
    start_expert,
    laws,
    open_node,
    monkeypatch,
):
    """Two validators with different text; three specialists, a copy, noise and an echo."""
    monkeypatch.setattr("moesubnet.validator.loop.BATCHES_PER_EPOCH", 1)
    chain = new_chain()
    chain.spec_sha256 = tiny_spec.sha256
    nodes = []
    for index in range(2):
        signer = keypair(f"//Validator{index}")
        chain.add(signer)
        path = tmp_path / str(index)
        path.mkdir()
        documents = make_documents(30, seed=index)
        nodes.append(await open_node(path, chain, signer, tiny_spec, documents))
    experts = {}
    for name, law in {
        "kind0": knows(laws[0]),
        "kind1": knows(laws[1]),
        "kind2": knows(laws[2]),
        "copy": copies(0.995 * laws[0] + 0.005 / 300),
        "noise": noise,
        "echo": echo,
    }.items():
        experts[name] = await start_expert(f"//{name}", law)
        chain.add(experts[name].signer, experts[name].axon, stake_rao=0)
    experts["copy"].in_thread = True
    return chain, nodes, experts


async def run_to(chain, nodes, block):
    while chain.block < block:
        chain.next_block()
        for node in nodes:
            await node.block()


async def test_all_go_over_to_a_new_spec_at_its_epoch_and_nobody_loses_pay(
    network, tiny_spec, tmp_path
):
    chain, nodes, experts = network
    await run_to(chain, nodes, 10)
    shutil.copytree(tiny_spec.root, tmp_path / "new")
    new = save_spec(tmp_path / "new", tiny_spec.spec.model_copy(update={"name": "new"}))
    chain.spec_sha256, chain.spec_url, chain.spec_epoch = new.sha256, new.root.as_uri(), 1
    used = [len(node.state.used_starts(tiny_spec.spec.tokenizer.sha256)) for node in nodes]
    await run_to(chain, nodes, 29)  # it is seen when the sheet is closed, and fetched meanwhile
    for node in nodes:
        assert node.validator.next_spec.current.sha256 == tiny_spec.sha256
        assert len(node.state.archive.newest_sheets(1)[0].walk) == 16 * 16
        for _ in range(500):
            if node.validator.next_spec.is_ready:
                break
            await asyncio.sleep(0.01)
    await run_to(chain, nodes, 31)
    for expert in experts.values():  # a block later than the validators
        expert.spec = new
    await run_to(chain, nodes, 58)
    for index, node in enumerate(nodes):
        sheet = node.state.archive.newest_sheets(1)[0]
        assert (sheet.epoch, sheet.spec_sha256.hex()) == (1, new.sha256)
        assert len(sheet.walk) == 16 * 16
        assert sheet.reliability_ppm == (1_000_000,) * 6
        assert "spec" not in node.health.problems
        starts = node.state.used_starts(new.spec.tokenizer.sha256)
        assert len(starts) >= used[index]
        assert None not in starts.values()  # the text goes on where it was


async def test_nobody_is_measured_under_a_spec_that_no_longer_holds(network, tiny_spec, tmp_path):
    chain, nodes, _ = network
    await run_to(chain, nodes, 20)
    assert [node.state.walks_started(1) for node in nodes] == [16, 16]  # since the close of 0
    chain.spec_sha256, chain.spec_url, chain.spec_epoch = "ab" * 32, "file:///nowhere", 1
    await run_to(chain, nodes, 44)
    await asyncio.sleep(0.3)
    await run_to(chain, nodes, 45)
    for node in nodes:
        assert node.state.walks_started(1) == 0
        assert node.state.open_batches() == []
        assert "cannot read" in node.health.problems["spec"]


async def test_three_epochs_of_a_small_subnet(network):
    chain, nodes, experts = network
    await run_to(chain, nodes, 28)
    (vote,) = nodes[0].state.waiting_votes()
    digest = vote.sheet.sha256.hex()
    with pytest.raises(PeerRefused) as refused:
        await nodes[0].get(f"/v1/sheet/{digest}")
    assert refused.value.status == 404
    for page in ("receipts", f"answers/{experts['kind0'].hotkey}"):
        with pytest.raises(PeerRefused):
            await nodes[0].get(f"/v1/sheet/{digest}/{page}")
    for page in ("/healthz", "/metrics"):  # nothing shows a score before its reveal
        body = (await nodes[0].get(page)).decode()
        assert not any(expert.hotkey in body for expert in experts.values())

    await run_to(chain, nodes, 95)
    body = await nodes[0].get(f"/v1/sheet/{digest}")
    sheet = Sheet.from_bytes(body)
    assert sheet.sha256.hex() == digest
    assert recount(sheet).row_u16 == sheet.row_u16
    for node in nodes:
        newest = node.state.archive.newest_sheets(1)[0]
        row = dict(zip(newest.hotkeys, newest.row_u16, strict=True))
        paid = {name: row[expert.hotkey] for name, expert in experts.items()}
        assert min(paid["kind0"], paid["kind1"], paid["kind2"]) > 5_000, paid
        assert paid["copy"] < 0.05 * paid["kind0"], paid
        # The bound is a 90 % one, and the text differs from run to run: signatures are random.
        assert max(paid["noise"], paid["echo"]) < 3_000, paid
        assert len(newest.walk) == 16 * 16
        assert newest.reliability_ppm == (1_000_000,) * 6
    reveals = [chain.reveals[node.signer.ss58_address] for node in nodes]
    assert [len(each) for each in reveals] == [3, 3]

    # Both fitted the same gate, on the sheets of both, and say so in their sheets.
    gates = {node.gates.gate.sha256 for node in nodes}
    assert len(gates) == 1
    assert gates == {node.gates.gate.sha256 for node in nodes}
    assert {node.signer.ss58_address for node in nodes} == {
        item.sheet.validator for item in nodes[0].gates.sheets
    }
    assert nodes[0].gates.gate.hotkeys != ()

    # Anybody can check what the experts signed and said.
    found = await fetched(f"127.0.0.1:{nodes[0].axon.port}", digest, None)
    assert found.sheet.sha256 == sheet.sha256
    checked = audit(found.sheet, found.receipts, found.answers)
    assert checked.is_clean
    assert [expert.agreeing for expert in checked.experts] == [16 * 16] * 6
    with pytest.raises(ConfigError, match="does not publish"):
        await fetched(f"127.0.0.1:{nodes[1].axon.port}", digest, None)

    words = explain([sheet], experts["kind0"].hotkey)
    assert "It earns because" in words
    assert "the vote is right" in words
    assert "there before it adds nothing" in explain([sheet], experts["copy"].hotkey)
    assert "recounted" in explain([sheet], experts["noise"].hotkey).lower()
    assert len(words.splitlines()) <= 24


async def test_walks_begin_all_over_the_time_between_two_closes(
    tmp_path, new_chain, keypair, tiny_spec, make_documents, start_expert, laws, open_node
):
    """A miner that reads the clock learns nothing of what is asked."""
    chain, signer = new_chain(), keypair("//Validator")
    chain.add(signer)
    expert = await start_expert("//kind", knows(laws[0]))
    chain.add(expert.signer, expert.axon, stake_rao=0)
    node = await open_node(tmp_path, chain, signer, tiny_spec, make_documents(30))
    started = {}
    while chain.block < 76:
        await run_to(chain, [node], chain.block + 1)
        started[chain.block] = node.state.walks_started(2)
    assert [block for block in started if started[block] > started.get(block - 1, 0)] == [
        46, 53, 60, 68,
    ]  # fmt: skip
    assert started[76] == 16
    sheets = node.state.archive.newest_sheets(3)
    assert [(sheet.epoch, len(sheet.walk)) for sheet in sheets] == [
        (2, 16 * 16), (1, 16 * 16), (0, 16 * 16),
    ]  # fmt: skip


async def test_garbage_and_signed_calls_find_nothing_to_do(network):
    _, (node, _), _ = network
    for path in ("/v1/sheet/" + "ab" * 32, "/v1/sheet/../etc", "/v1/sheet/xyz", "/v1/step", "/"):
        with pytest.raises(PeerRefused) as refused:
            await node.get(path)
        assert refused.value.status in (401, 403, 404)
    async with node.http.post(node.axon.url + "/v1/step", data=b"x" * 1000) as response:
        assert response.status in (401, 404, 413)


async def test_sheets_are_rate_limited_per_address(network):
    _, (node, _), _ = network
    statuses = []
    for _ in range(140):
        async with node.http.get(f"{node.axon.url}/v1/sheet/{'ab' * 32}") as response:
            statuses.append(response.status)
    assert 429 in statuses
    assert statuses[0] == 404


async def test_a_vote_that_is_counted_again_leaves_the_next_sheets_walks_alone(
    tmp_path, new_chain, keypair, tiny_spec, make_documents, start_expert, laws, open_node
):
    """The commit was refused, the next walks began, and then a uid changed hands."""
    chain, signer = new_chain(), keypair("//Validator")
    is_held, go_on = threading.Event(), threading.Event()

    def holds(ids):
        if chain.block > 15 and len(ids) >= PREFIX_TOKENS + 4:
            is_held.set()
            go_on.wait()
        return answers(ids)

    chain.add(signer)
    answers = knows(laws[0])
    for name, law in {"one": answers, "other": holds}.items():
        expert = await start_expert(f"//{name}", law)
        chain.add(expert.signer, expert.axon, stake_rao=0)
    expert.in_thread = True
    node = await open_node(tmp_path, chain, signer, tiny_spec, make_documents(30))
    await run_to(chain, [node], 14)
    chain.refusals = ["CommittingWeightsTooFast"]
    await run_to(chain, [node], 15)
    [first] = node.state.archive.newest_sheets(1)
    try:
        async with asyncio.TaskGroup() as walking:
            chain.next_block()
            await node.validator.on_block(walking)
            while not is_held.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            one, other = chain.neurons[1:]
            chain.neurons[1:] = (replace(other, uid=1), replace(one, uid=2))
            while not chain.queues:
                chain.next_block()
                await node.validator.on_block(walking)
            go_on.set()
    finally:
        go_on.set()
    [again] = node.state.archive.newest_sheets(1)
    assert again.uids == first.uids[::-1]
    assert len(again.walk) == len(first.walk) == 16 * 16
    await run_to(chain, [node], 50)
    newest, _ = node.state.archive.newest_sheets(2)
    assert (newest.epoch, len(newest.walk)) == (1, 16 * 16)
    assert [reveal.epoch for reveal in chain.reveals[signer.ss58_address]] == [0]
