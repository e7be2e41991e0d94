"""Audits by lot: a sheet that its own receipts contradict is named in the auditor's next one."""

import asyncio
import dataclasses
from random import Random

import pytest

from moesubnet.chain.client import Votes
from moesubnet.mixture.gate import WeightedSheet
from moesubnet.mixture.law import Law
from moesubnet.mixture.sheet import sheet_seed
from moesubnet.types import Axon, Hotkey
from moesubnet.validator import watching
from moesubnet.validator.answers import kept_epochs
from moesubnet.validator.audit import audit
from moesubnet.validator.receipts import Receipts
from moesubnet.validator.records import Phase
from moesubnet.validator.serve import Health, Metrics, build_app
from moesubnet.validator.vouching import FRESH_EPOCHS, VOUCHED_EPOCHS, Looks
from moesubnet.validator.watching import MOST_ACCUSED, Watcher, to_audit
from moesubnet.wire.listening import serve
from moesubnet.wire.strangers import open_http_session
from tests.validator.test_audit import measured

__all__ = ["measured"]


@pytest.fixture
async def published(measured, keypair, new_chain, tmp_path):
    """A validator that serves an honest sheet and two that are not; an auditor on the chain."""
    state, sheet = measured
    signer = keypair("//Validator")
    lies = []
    for epoch, changes in ((4, {"receipts": (bytes(32),) * 2}), (5, {})):
        seed = sheet_seed(sheet.previous_sha256, epoch)
        lies.append(dataclasses.replace(sheet, epoch=epoch, seed=seed, **changes))
    receipts = state.archive.receipts(sheet.sha256)
    state.close_epoch(lies[0], (1,), Phase.REVEALED, [], receipts)
    state.close_epoch(lies[1], (1,), Phase.REVEALED, [], None)  # nothing to prove it with
    server = await serve(build_app(signer, state, Health(), Metrics()), "127.0.0.1", 0, grace_s=0.1)
    chain = new_chain()
    chain.add(signer, Axon("127.0.0.1", server.port))
    chain.add(keypair("//Auditor"))
    async with open_http_session() as http:
        own = Hotkey(keypair("//Auditor").ss58_address)
        looks = Looks(tmp_path / "looks.sqlite3")
        auditor = Watcher(chain, http, own, sheet.spec_sha256.hex(), looks, allow_private=True)
        chain.epoch_index = sheet.epoch + kept_epochs(1)
        yield auditor, await chain.metagraph(1), sheet, *lies
    looks.close()
    await server.close()


async def test_an_honest_sheet_is_left_in_peace_and_others_are_named(published, laws):
    auditor, metagraph, honest, altered, bare = published
    baseline = Law(laws[0])
    for sheet, is_wrong in ((honest, False), (altered, True), (bare, True)):
        found = await auditor.contradicted([WeightedSheet(sheet, 5)], metagraph, baseline)
        assert found == ({sheet.sha256} if is_wrong else set())


async def test_who_keeps_back_answers_that_must_be_kept_is_named(published, laws):
    """For as long as they are: then receipts are what is left."""
    auditor, metagraph, honest, *_ = published  # whose answers have been removed since
    for epoch, found in (
        (honest.epoch + kept_epochs(1) - 1, {honest.sha256}),
        (metagraph.epoch_index, set()),
    ):
        now = dataclasses.replace(metagraph, epoch_index=epoch)
        assert await auditor.contradicted([WeightedSheet(honest, 5)], now, Law(laws[0])) == found


async def test_a_longer_period_asks_nobody_for_answers_that_were_removed_before(published, laws):
    auditor, metagraph, honest, *_ = published
    for period in (1, 4):
        now = dataclasses.replace(metagraph, reveal_period_epochs=period)
        assert await auditor.contradicted([WeightedSheet(honest, 5)], now, Law(laws[0])) == set()
    fresh = Watcher(
        auditor._chain, auditor._http, auditor._own_hotkey, honest.spec_sha256.hex(),
        auditor._looks, allow_private=True,
    )  # fmt: skip
    assert await fresh.contradicted([WeightedSheet(honest, 5)], now, Law(laws[0])), "can fail"


async def test_who_votes_otherwise_than_its_sheet_is_named(published, laws, monkeypatch):
    """All are compared, not the one alone that is drawn."""
    auditor, metagraph, honest, *_ = published
    seen, votes = [], Votes(metagraph, metagraph.epoch_index, {}, {}, {})

    def differs(sheet, on_chain):
        seen.append(on_chain)
        return {honest.sha256: 3}.get(sheet.sha256)

    async def at_the_head(netuid):
        return votes

    monkeypatch.setattr(auditor._chain, "votes", at_the_head, raising=False)
    monkeypatch.setattr(watching, "differs_on_chain", differs)
    mine = dataclasses.replace(honest, validator=metagraph.neurons[1].hotkey)
    sheets = [WeightedSheet(sheet, 5) for sheet in (honest, mine)]
    assert await auditor.contradicted(sheets, metagraph, Law(laws[0])) == set()
    assert not seen  # no votes were read yet
    await auditor.note_votes(metagraph.netuid)
    assert await auditor.contradicted(sheets, metagraph, Law(laws[0])) == {honest.sha256}
    assert seen == [votes, votes]


async def test_who_asked_when_its_sheet_could_be_read_is_named(published, measured, laws):
    auditor, metagraph, honest, *_ = published
    receipts = Receipts.from_bytes(measured[0].archive.receipts(honest.sha256), honest)
    last_s = float(receipts.records["nonce_ns"].max()) / 1e9
    for begun_s, is_wrong in ((last_s + 1.0, False), (last_s - 1e-3, True)):
        auditor._chain.begun_s = {honest.epoch + 1: begun_s}
        found = await auditor.contradicted([WeightedSheet(honest, 5)], metagraph, Law(laws[0]))
        assert found == ({honest.sha256} if is_wrong else set())


async def test_a_line_that_is_down_accuses_nobody(published, laws):
    auditor, metagraph, _, altered, _ = published
    moved = dataclasses.replace(metagraph.neurons[0], axon=Axon("127.0.0.1", 1))
    away = dataclasses.replace(metagraph, neurons=(moved, metagraph.neurons[1]))
    assert await auditor.contradicted([WeightedSheet(altered, 5)], away, Law(laws[0])) == set()


async def test_one_is_drawn_and_whom_others_accuse_is_looked_at(published):
    _, metagraph, honest, altered, _ = published
    own = metagraph.neurons[1].hotkey
    accuser = dataclasses.replace(altered, validator=own, contradicted=(honest.sha256,))
    sheets = [WeightedSheet(s, 5) for s in (honest, altered, accuser)]
    drawn = to_audit(sheets, metagraph, own, Random(1))
    assert drawn == [altered, honest]  # the newest of the only other one, and the accused
    assert to_audit([], metagraph, own, Random(1)) == []


async def test_whom_others_accuse_is_not_hidden_behind_many_that_one_accuses(published):
    _, metagraph, honest, altered, _ = published
    own = metagraph.neurons[1].hotkey
    many = [dataclasses.replace(honest, epoch=epoch) for epoch in range(20, 50)]
    says = tuple(sorted(sheet.sha256 for sheet in (altered, *many)))
    accuser = dataclasses.replace(honest, validator=own, contradicted=says)
    sheets = [WeightedSheet(s, 5) for s in (*many, altered, accuser)]
    drawn = [to_audit(sheets, metagraph, own, Random(seed)) for seed in range(40)]
    assert max(map(len, drawn)) <= 1 + MOST_ACCUSED
    assert any(altered in of_epoch for of_epoch in drawn)


async def test_a_sheet_of_the_spec_before_is_not_read_with_the_baseline_of_now(
    published, laws, monkeypatch
):
    """Or all would accuse each other in the first epoch of a new spec."""
    auditor, metagraph, honest, *_ = published
    read_with = []

    async def contradicts(http, axon, sheet, baseline, lots, **more):
        read_with.append(baseline)
        return False

    monkeypatch.setattr(watching, "contradicts", contradicts)
    baseline = Law(laws[0])
    before = dataclasses.replace(honest, spec_sha256=bytes(32))
    for sheet in (honest, before):
        await auditor.contradicted([WeightedSheet(sheet, 5)], metagraph, baseline)
    assert read_with == [baseline, None]


async def test_an_audit_that_takes_too_long_goes_on_in_no_thread(published, laws, monkeypatch):
    auditor, metagraph, honest, *_ = published
    monkeypatch.setattr(watching, "ALL_S", 0.0)
    asked = []

    async def contradicts(*arguments, given_up, **more):
        asked.append(given_up)
        assert not given_up()
        await asyncio.Event().wait()

    monkeypatch.setattr(watching, "contradicts", contradicts)
    found = await auditor.contradicted([WeightedSheet(honest, 5)], metagraph, Law(laws[0]))
    assert found == set()
    assert [given_up() for given_up in asked] == [True]
    with pytest.raises(TimeoutError):
        audit(honest, None, {}, given_up=asked[0])


async def test_who_is_audited_and_votes_as_it_says_is_vouched_for_until_it_is_caught(
    published, laws, monkeypatch
):
    auditor, metagraph, honest, altered, _ = published
    validator, epoch, baseline = honest.validator, metagraph.epoch_index, Law(laws[0])
    monkeypatch.setattr(watching, "differs_on_chain", lambda sheet, votes: 0)
    await auditor.contradicted([WeightedSheet(honest, 5)], metagraph, baseline)
    assert auditor.vouched(epoch) == set()  # its vote has not been seen
    auditor._votes = Votes(metagraph, epoch, {}, {}, {})
    await auditor.contradicted([WeightedSheet(honest, 5)], metagraph, baseline)
    assert auditor.vouched(epoch) == {validator}
    await auditor.contradicted([WeightedSheet(altered, 5)], metagraph, baseline)
    assert auditor.vouched(epoch) == set()


async def test_whose_sheets_show_that_it_is_not_heard_is_not_vouched_for(
    published, laws, monkeypatch
):
    auditor, metagraph, honest, *_ = published
    monkeypatch.setattr(watching, "differs_on_chain", lambda sheet, votes: 0)
    auditor._votes = Votes(metagraph, metagraph.epoch_index, {}, {}, {})
    silenced = {honest.validator: "it asks for its own text of before"}
    await auditor.contradicted([WeightedSheet(honest, 5)], metagraph, Law(laws[0]), silenced)
    assert auditor.vouched(metagraph.epoch_index) == set()


async def test_everybody_is_looked_into_before_what_was_found_is_too_old(published):
    """Of thirty validators, by the lots of forty epochs."""
    _, metagraph, honest, *_ = published
    hotkeys = [Hotkey(f"5V{i}") for i in range(30)]
    neurons = tuple(dataclasses.replace(metagraph.neurons[0], hotkey=h) for h in hotkeys)
    metagraph = dataclasses.replace(metagraph, neurons=neurons)
    sheets = [WeightedSheet(dataclasses.replace(honest, validator=h), 5) for h in hotkeys]
    last: dict[Hotkey, int] = {}
    lots, missed = Random(3), 0
    for epoch in range(40):
        fresh = {h for h, then in last.items() if then > epoch - FRESH_EPOCHS}
        drawn = to_audit(sheets, metagraph, Hotkey("5Own"), lots, fresh)
        assert len(drawn) <= 1 + 30 // 6
        last |= {sheet.validator: epoch for sheet in drawn}
        if epoch >= VOUCHED_EPOCHS:
            missed += sum(last.get(h, -99) <= epoch - VOUCHED_EPOCHS for h in hotkeys)
    assert missed <= 0.05 * 30 * 32
