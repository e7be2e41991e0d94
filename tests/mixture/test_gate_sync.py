"""Sheets are fetched by the hash that the chain holds, and nobody else's word counts."""

import dataclasses
import gc
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from moesubnet.mixture.gate import WeightedSheet, fit
from moesubnet.mixture.gate_sync import GateSync, fetch_revealed_sheets
from moesubnet.mixture.sheet import sheet_seed
from moesubnet.mixture.sheet_cache import SheetCache, keep_sheet
from moesubnet.types import Axon, Hotkey, Metagraph, Neuron
from moesubnet.wire.listening import serve
from moesubnet.wire.strangers import open_http_session

EXPERTS = tuple(Hotkey(f"expert{i}") for i in range(3))


@dataclass
class Reveal:
    epoch: int
    sheet_sha256: str | None


class FakeChain:
    def __init__(self):
        self.reveals = {}
        self.first_block = None  # the metagraph that the epoch began with, if it is still known

    async def metagraph_at(self, netuid, block):
        assert block == 300
        return self.first_block

    async def last_reveal(self, netuid, hotkey):
        return self.reveals.get(hotkey)


class Validators:
    """Axons of validators: `files` maps hash to body, as each of them serves it."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []

    async def sheet(self, request):
        digest = request.match_info["sha256"]
        self.asked.append(digest)
        if digest not in self.files:
            raise web.HTTPNotFound
        return web.Response(body=self.files[digest])


@pytest.fixture
async def validators():
    source = Validators()
    app = web.Application()
    app.router.add_get("/v1/sheet/{sha256}", source.sheet)
    source.server = await serve(app, "127.0.0.1", 0)
    yield source
    await source.server.close()


def neuron(uid, hotkey, axon, stake_rao=10**12, permit=True):
    return Neuron(uid, hotkey, "c", axon, stake_rao, 0, 0, 0, 0, 0, True, permit, 0, 0)


def metagraph(neurons, epoch=10):
    return Metagraph(1, 300, "0x", 30, epoch, 300, 330, "o", "o", True, None, None, tuple(neurons))


def history(make_sheet, epochs, **kwargs):
    """Sheets of one validator, each naming the one before it."""
    sheets, previous = [], bytes(32)
    for epoch in epochs:
        sheet = make_sheet(EXPERTS, epoch=epoch, seed=epoch, walk_count=4, domains=True)
        linked = {"previous_sha256": previous, "seed": sheet_seed(previous, epoch)}
        if sheets:  # where the one before ended
            linked["ema_before"] = sheets[-1].ema_after
            linked["novelty_before"] = sheets[-1].novelty_after
        sheets.append(dataclasses.replace(sheet, **linked, **kwargs))
        previous = sheets[-1].sha256
    return sheets


async def test_a_newcomer_fetches_the_whole_history_and_fits_what_is_settled(
    validators, make_sheet, tmp_path
):
    sheets = history(make_sheet, [5, 6, 8, 9])
    validators.files = {sheet.sha256.hex(): sheet.to_bytes() for sheet in sheets}
    chain = FakeChain()
    chain.reveals["validator"] = Reveal(9, sheets[-1].sha256.hex())
    graph = metagraph(
        [neuron(0, "validator", Axon("127.0.0.1", validators.server.port))]
        + [neuron(i + 1, hotkey, None, 0, False) for i, hotkey in enumerate(EXPERTS)]
    )
    async with open_http_session() as http:
        sync = GateSync(chain, http, tmp_path, allow_private=True)
        assert sync.gate.hotkeys == ()
        gate = await sync.refresh(graph)
        assert {item.sheet.epoch for item in sync.sheets} == {5, 6, 8, 9}
        settled = [item for item in sync.sheets if item.sheet.epoch <= 8]
        assert gate.sha256 == fit(settled).sha256 == sync.gate.sha256
        validators.asked.clear()
        assert (await sync.refresh(graph)).sha256 == gate.sha256
        assert validators.asked == []  # verified once, kept on disk
        await validators.server.close()
        again = await fetch_revealed_sheets(
            chain, graph, http, SheetCache(tmp_path), allow_private=True
        )
        assert len(again) == 4


async def test_all_who_ask_within_an_epoch_fit_the_same_gate(validators, make_sheet, tmp_path):
    """Between two of them a validator lost its permit, moved, and an expert left."""
    sheets = history(make_sheet, [6, 7, 8])
    validators.files = {sheet.sha256.hex(): sheet.to_bytes() for sheet in sheets}
    chain, home = FakeChain(), Axon("127.0.0.1", validators.server.port)
    chain.reveals[Hotkey("validator")] = Reveal(8, sheets[-1].sha256.hex())
    experts = [neuron(i + 1, hotkey, None, 0, False) for i, hotkey in enumerate(EXPERTS)]
    chain.first_block = metagraph([neuron(0, "validator", Axon("127.0.0.1", 1)), *experts])
    late = metagraph([neuron(0, "validator", home, 5, permit=False), *experts[:-1]])
    gates = []
    async with open_http_session() as http:
        for name, graph in (("early", chain.first_block), ("late", late)):
            folder = tmp_path / name
            sync = GateSync(chain, http, folder, allow_private=True)
            if name == "early":  # nobody answers at the old address, but the cache has it all
                folder.mkdir()
                for sheet in sheets:
                    (folder / f"{sheet.sha256.hex()}.sheet").write_bytes(sheet.to_bytes())
            gates.append(await sync.refresh(graph))
        assert gates[0].sha256 == gates[1].sha256
        assert gates[0].hotkeys
        chain.first_block = None  # a node that has forgotten the block: what it knows must do
        other = await GateSync(chain, http, tmp_path / "other", allow_private=True).refresh(late)
        assert other.sha256 != gates[0].sha256


async def test_where_votes_stay_secret_for_long_a_reveal_of_now_is_not_in_the_gate_yet(
    validators, make_sheet, tmp_path
):
    """Or it would be another gate before the epoch's first reveals than after them."""
    sheets = history(make_sheet, [4, 5, 6])
    validators.files = {sheet.sha256.hex(): sheet.to_bytes() for sheet in sheets}
    chain, home = FakeChain(), Axon("127.0.0.1", validators.server.port)
    experts = [neuron(i + 1, hotkey, None, 0, False) for i, hotkey in enumerate(EXPERTS)]
    graph = metagraph([neuron(0, "validator", home), *experts])  # epoch 10
    graph = dataclasses.replace(graph, reveal_period_epochs=4)
    gates = []
    async with open_http_session() as http:
        for last in sheets[1:]:  # of epoch 5, then of 6: revealed in epoch 9, in 10
            chain.reveals["validator"] = Reveal(last.epoch, last.sha256.hex())
            sync = GateSync(chain, http, tmp_path / str(last.epoch), allow_private=True)
            gates.append(await sync.refresh(graph))
            assert max(item.sheet.epoch for item in sync.sheets) == last.epoch
    assert gates[0].hotkeys
    assert gates[0].sha256 == gates[1].sha256


async def test_lies_about_hash_author_subnet_and_epoch_are_ignored(
    validators, make_sheet, tmp_path
):
    honest = history(make_sheet, [8])[0]
    forged = {
        "hash": honest,
        "author": dataclasses.replace(honest, validator=Hotkey("other")),
        "subnet": dataclasses.replace(honest, netuid=2),
        "epoch": dataclasses.replace(honest, epoch=7, seed=sheet_seed(bytes(32), 7)),
        "garbage": honest,
    }
    chain = FakeChain()
    axon = Axon("127.0.0.1", validators.server.port)
    for name, sheet in forged.items():
        validator = Hotkey("validator")
        validators.files = {sheet.sha256.hex(): sheet.to_bytes()}
        chain.reveals[validator] = Reveal(8, sheet.sha256.hex())
        if name == "hash":
            chain.reveals[validator] = Reveal(8, "ab" * 32)
            validators.files = {"ab" * 32: sheet.to_bytes()}
        if name == "garbage":
            validators.files = dict.fromkeys(validators.files, b"\x93garbage")
        async with open_http_session() as http:
            graph = metagraph([neuron(0, validator, axon)])
            found = await fetch_revealed_sheets(
                chain, graph, http, SheetCache(tmp_path / name), allow_private=True
            )
        assert found == [], name
        assert validators.asked


async def test_only_staked_voters_at_reachable_addresses_are_asked(
    validators, make_sheet, tmp_path
):
    sheet = history(make_sheet, [8])[0]
    validators.files = {sheet.sha256.hex(): sheet.to_bytes()}
    chain = FakeChain()
    chain.reveals["validator"] = Reveal(8, sheet.sha256.hex())
    axon = Axon("127.0.0.1", validators.server.port)
    async with open_http_session() as http:
        for voter in (
            neuron(0, "validator", axon, stake_rao=0),
            neuron(0, "validator", axon, permit=False),
            neuron(0, "validator", None),
            neuron(0, "other", axon),
        ):
            graph = metagraph([voter])
            assert not await fetch_revealed_sheets(
                chain, graph, http, SheetCache(tmp_path), allow_private=True
            )
        graph = metagraph([neuron(0, "validator", axon)])
        assert not await fetch_revealed_sheets(chain, graph, http, SheetCache(tmp_path))  # loopback
        assert validators.asked == []


async def test_a_history_that_came_in_part_is_fetched_to_its_beginning(
    validators, make_sheet, tmp_path
):
    sheets = history(make_sheet, [6, 7, 8])
    keep_sheet(tmp_path, sheets[-1].to_bytes())
    validators.files = {sheet.sha256.hex(): sheet.to_bytes() for sheet in sheets}
    chain = FakeChain()
    chain.reveals["validator"] = Reveal(8, sheets[-1].sha256.hex())
    graph = metagraph([neuron(0, "validator", Axon("127.0.0.1", validators.server.port))])
    async with open_http_session() as http:
        found = await fetch_revealed_sheets(
            chain, graph, http, SheetCache(tmp_path), allow_private=True
        )
    assert {item.sheet.epoch for item in found} == {6, 7, 8}


async def test_who_tells_another_history_with_each_reveal_is_heard_once_an_epoch(
    validators, make_sheet, tmp_path
):
    """The chain has the newest sheet's hash alone. All that was told would count several times, and
    for those alone who have heard it all."""
    told = [
        history(make_sheet, [5, 6, 7, last], standing_ppm=(standing,) * 3)
        for last, standing in ((7, 1), (8, 2), (9, 3))
    ]
    told[0] = told[0][:-1]
    validators.files = {s.sha256.hex(): s.to_bytes() for sheets in told for s in sheets}
    chain = FakeChain()
    home = Axon("127.0.0.1", validators.server.port)
    graph = metagraph([neuron(0, "validator", home)], epoch=11)
    async with open_http_session() as http:

        async def heard(folder):
            found = await fetch_revealed_sheets(
                chain, graph, http, SheetCache(tmp_path / folder), allow_private=True
            )
            return {item.sheet.sha256 for item in found}, [item.sheet.epoch for item in found]

        for sheets in told:
            chain.reveals["validator"] = Reveal(sheets[-1].epoch, sheets[-1].sha256.hex())
            hashes, epochs = await heard("always there")
            assert hashes == {sheet.sha256 for sheet in sheets}
            assert len(set(epochs)) == len(epochs)
        assert (await heard("a newcomer"))[0] == hashes


async def test_what_is_in_memory_does_not_grow_with_what_validators_measured(make_sheet, tmp_path):
    """Sheets that would be 24 MB in memory; of 64 validators they may be 10 GiB."""
    voters, chain = [neuron(uid, f"validator{uid}", None) for uid in range(8)], FakeChain()
    for voter in voters:
        for epoch in (7, 8):
            many = make_sheet(EXPERTS, epoch=epoch, seed=voter.uid, walk_count=512, steps=16)
            who = {"validator": voter.hotkey, "senders": (voter.hotkey,)}
            sheet = dataclasses.replace(many, **who)
            keep_sheet(tmp_path, sheet.to_bytes())
            chain.reveals[voter.hotkey] = Reveal(epoch, sheet.sha256.hex())
    experts = [neuron(i + 8, hotkey, None, 0, False) for i, hotkey in enumerate(EXPERTS)]
    on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert on_disk > 6_000_000
    async with open_http_session() as http:
        sync = GateSync(chain, http, tmp_path)
        await sync.refresh(metagraph([*voters, *experts]))  # what is loaded once and for all
        sync = GateSync(chain, http, tmp_path)
        tracemalloc.start()
        gate = await sync.refresh(metagraph([*voters, *experts]))
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(sync.sheets) == 16
    assert held < on_disk / 20
    whole = [WeightedSheet(item.sheet.read(), item.stake_rao) for item in sync.sheets]
    assert fit(whole).sha256 == gate.sha256


async def test_a_sheet_whose_file_was_damaged_since_is_left_out_and_fetched_again(
    validators, make_sheet, tmp_path
):
    sheets = history(make_sheet, [7, 8])
    validators.files = {sheet.sha256.hex(): sheet.to_bytes() for sheet in sheets}
    chain, cache = FakeChain(), SheetCache(tmp_path)
    chain.reveals["validator"] = Reveal(8, sheets[-1].sha256.hex())
    graph = metagraph([neuron(0, "validator", Axon("127.0.0.1", validators.server.port))])
    async with open_http_session() as http:
        found = await fetch_revealed_sheets(chain, graph, http, cache, allow_private=True)
        (tmp_path / f"{sheets[0].sha256.hex()}.sheet").write_bytes(b"torn")
        assert fit(found).sha256 == fit([WeightedSheet(sheets[1], 10**12)]).sha256
        again = await fetch_revealed_sheets(chain, graph, http, cache, allow_private=True)
    assert fit(again).sha256 == fit([WeightedSheet(sheet, 10**12) for sheet in sheets]).sha256


async def test_old_and_damaged_files_leave_the_cache(validators, make_sheet, tmp_path, caplog):
    old, fresh = history(make_sheet, [1, 30])
    (tmp_path / f"{old.sha256.hex()}.sheet").write_bytes(old.to_bytes())
    (tmp_path / f"{fresh.sha256.hex()}.sheet").write_bytes(fresh.to_bytes())
    for name in ("ab", "cd"):
        (tmp_path / f"{name * 32}.sheet").write_bytes(b"torn")
    graph, chain = metagraph([neuron(0, "validator", None)], epoch=40), FakeChain()
    chain.reveals["validator"] = Reveal(30, fresh.sha256.hex())
    async with open_http_session() as http:
        found = await fetch_revealed_sheets(chain, graph, http, SheetCache(tmp_path))
    assert [item.sheet.epoch for item in found] == [30]
    assert len(list(tmp_path.iterdir())) == 1
    [said] = [record.getMessage() for record in caplog.records if "removed" in record.msg]
    assert said.startswith("2 sheets removed"), "one line, however many are of an older version"


async def test_sheets_of_the_same_keys_on_another_chain_do_not_count(make_sheet, tmp_path):
    """As those of a localnet that was started over, in the cache of `miner status`."""
    ours, same_epoch, later = (history(make_sheet, epochs)[-1] for epochs in ([5, 6], [6], [77]))
    for sheet in (ours, same_epoch, later):
        keep_sheet(tmp_path, sheet.to_bytes())
    graph, chain = metagraph([neuron(0, "validator", None)], epoch=8), FakeChain()
    async with open_http_session() as http:
        assert (
            await fetch_revealed_sheets(chain, graph, http, SheetCache(tmp_path)) == []
        )  # it never revealed
        chain.reveals["validator"] = Reveal(6, ours.sha256.hex())
        found = await fetch_revealed_sheets(chain, graph, http, SheetCache(tmp_path))
    assert [item.sheet.sha256 for item in found] == [ours.sha256]


async def test_a_full_disk_costs_the_cache_and_nothing_else(
    validators, make_sheet, tmp_path, monkeypatch
):
    [sheet] = history(make_sheet, [30])
    keep_sheet(tmp_path, sheet.to_bytes())
    with monkeypatch.context() as full:

        def no_space(*_: object) -> None:
            raise OSError(28, "No space left on device")

        full.setattr(Path, "write_bytes", no_space)
        full.setattr(Path, "read_bytes", no_space)
        keep_sheet(tmp_path / "other", sheet.to_bytes())
        graph = metagraph([neuron(0, "validator", None)], epoch=40)
        async with open_http_session() as http:
            assert await fetch_revealed_sheets(FakeChain(), graph, http, SheetCache(tmp_path)) == []
    assert len(list(tmp_path.glob("*.sheet"))) == 1, "what cannot be read now is not damaged"
    assert not list((tmp_path / "other").iterdir())
