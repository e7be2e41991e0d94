"""Drafts that are answered otherwise than the same places blind: seen, and shown to anybody."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from adversaries.served import as_engine
from adversaries.yes_man import YesMan
from typer.testing import CliRunner

from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.errors import BadReceipts
from moesubnet.miner.app import build_app
from moesubnet.miner.expert import Expert
from moesubnet.mixture.law import Law
from moesubnet.types import Axon, Hotkey
from moesubnet.validator import asking, drafted
from moesubnet.validator.checks import OK_PAIRS, Record, Verdict
from moesubnet.validator.cli import validator_app
from moesubnet.validator.evidence import ENOUGH, Evidence
from moesubnet.validator.shapes import Shapes
from moesubnet.validator.walks import Slots
from moesubnet.wire.listening import serve
from moesubnet.wire.protocol import Want
from moesubnet.wire.step import MAX_FURTHER
from tests.miner.conftest import FixedMetagraph, metagraph_of, neuron
from tests.validator.test_guesses import counts_on, numbers

CALLERS = ("//Validator", "//Near", "//Far")
SHAPES = Shapes(
    tuple((n, 0.1) for n in range(14, 24)),
    tuple((n, 0.1) for n in range(20, 30)),
    blind=2,
    limit=60,
    asked=(1.0, 1.0, 1.0),
    ahead=((MAX_FURTHER, 1.0),),
)


@pytest.fixture
async def serve_engine(tiny_spec, keypair):
    """`await serve_engine(uri, engine)` → a real miner over it, that answers our validator."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(uri, engine):
            signer = keypair(uri)
            hotkey = Hotkey(signer.ss58_address)
            stakes = [neuron(uid, uri, 10**12) for uid, uri in enumerate(CALLERS)]
            callers = FixedMetagraph(metagraph_of(stakes))
            expert = Expert(engine, tiny_spec, callers, hotkey=hotkey, name="test")
            stack.push_async_callback(expert.close)
            app = build_app(expert, signer, callers)
            listening = await serve(app, "127.0.0.1", 0, grace_s=0.1)
            stack.push_async_callback(listening.close)
            axon = Axon("127.0.0.1", listening.port)
            return SimpleNamespace(signer=signer, hotkey=hotkey, axon=axon)

        yield start


@pytest.fixture
def listed():
    """What part of their laws experts list."""
    return Want("full")


@pytest.fixture
async def asked(
    measure,
    start_expert,
    start_node,
    serve_engine,
    tiny_model,
    tiny_spec,
    laws,
    monkeypatch,
    listed,
):
    """A drafter that is right about most of the text, honest experts that read a block in one pass,
    and two yes-men, asked through two routers until each was told enough drafts."""
    monkeypatch.setattr("moesubnet.wire.patience.LEAST_S", 3_600.0)  # nobody is late
    monkeypatch.setattr("moesubnet.validator.walks.PATIENCE_S", 3_600.0)

    for module in (asking, drafted):
        monkeypatch.setattr(module, "want_for", lambda _: listed)

    def model(dtype):
        return TransformersEngine(str(tiny_model), tiny_spec, dtype=dtype)

    def law(ids):
        return np.log(laws[1])

    served = {
        "float32": model("float32"),
        "bfloat16": model("bfloat16"),
        "yes": as_engine(lambda spec: YesMan(law))("none", tiny_spec),
        "echo": as_engine(lambda spec: YesMan(law, counts_on))("none", tiny_spec),
    }
    experts = {name: await serve_engine(f"//{name}", e) for name, e in served.items()}
    experts["drafter"] = drafter = await start_expert("//Counting", counts_on)
    documents = {bytes([k]) * 32: numbers(k) for k in range(64)}
    nodes = [await start_node(uri[2:], experts.values()) for uri in CALLERS[1:]]
    routers = [(node.signer, node.axon) for node in nodes]
    measurement, _, chain, _ = await measure(list(experts.values()), documents, routers, twice=True)
    for node in nodes:
        node.chain = await chain.metagraph(1)
    measurement._shapes = SHAPES
    [batch, *_] = await measurement.open_batches(await chain.metagraph(1), 1)
    for _ in range(24):
        await measurement._beside.ask_drafted(measurement.round(batch.hotkeys, Slots(len(experts))))
        record = measurement._book.records("drafts").get(drafter.hotkey, Record())
        if record.pairs >= OK_PAIRS:
            break
    return measurement, experts


@pytest.mark.parametrize("listed", [Want("full"), Want("nucleus", 40, 0.98, committed=True)])
async def test_who_agrees_with_every_draft_is_found_and_an_honest_one_is_not(asked):
    measurement, experts = asked
    records = measurement._book.records("drafts")
    found = {name: records[expert.hotkey] for name, expert in experts.items()}
    assert {name: record.verdict for name, record in found.items()} == {
        "drafter": Verdict.OK,
        "float32": Verdict.OK,
        "bfloat16": Verdict.OK,
        "yes": Verdict.CHEAT,
        "echo": Verdict.CHEAT,
    }
    assert len({record.pairs for record in found.values()}) == 1  # everybody was told the same
    assert found["yes"].over == found["yes"].pairs
    assert not measurement._book.records()  # of pairs without drafts nothing is said
    assert measurement.convicted() == {experts["yes"].hotkey, experts["echo"].hotkey}
    for name in ("drafter", "float32", "bfloat16"):
        assert measurement._book.evidence(experts[name].hotkey) is None


async def test_a_drafted_answer_beside_a_blind_one_convinces_strangers(asked, tmp_path, keypair):
    measurement, experts = asked
    kept = measurement._book.evidence(experts["yes"].hotkey)
    found = Evidence.from_bytes(kept.to_bytes())
    assert found.is_proven
    assert len(found.pairs) >= ENOUGH
    one, other = found.pairs[0]
    routers = {keypair(uri).ss58_address for uri in CALLERS[1:]}
    assert {one.sender, other.sender} == routers
    assert len(one.laws(found.expert, 300)) > len(other.laws(found.expert, 300)) == 1
    # Another beginning than the hash says, one of another length, a blind answer to other drafts.
    beginning = bytes([one.base[0] ^ 1]) + one.base[1:]
    for base in (beginning, one.base[:-4], one.base + b"\0\0\0\0", b""):
        with pytest.raises(BadReceipts):
            one.model_copy(update={"base": base}).laws(found.expert, 300)
    crossed = found.model_copy(update={"pairs": [[one, found.pairs[-1][1]]]})
    with pytest.raises(BadReceipts):
        crossed.distances()
    path = tmp_path / "yes.evidence"
    path.write_bytes(found.to_bytes())
    done = CliRunner().invoke(validator_app, ["evidence", "--check", str(path)])
    assert (done.exit_code, "PROVEN" in done.output) == (0, True)
    shows = ["checks", "--state-dir", str(tmp_path)]
    rows = json.loads(CliRunner().invoke(validator_app, [*shows, "--json"]).output)
    told = {row["hotkey"]: (row["verdict"], row["drafted"]["verdict"]) for row in rows}
    assert told[experts["yes"].hotkey] == ("unproven", "cheat")
    assert told[experts["float32"].hotkey] == ("unproven", "ok")
    assert CliRunner().invoke(validator_app, shows).output.count("drafted") == len(experts)


async def test_where_users_texts_have_no_drafts_nobody_is_asked(measure, start_expert):
    drafter = await start_expert("//Counting", counts_on)
    documents = {bytes([k]) * 32: numbers(k) for k in range(8)}
    measurement, _, chain, _ = await measure([drafter], documents, twice=True)
    measurement._shapes = SHAPES
    [batch, *_] = await measurement.open_batches(await chain.metagraph(1), 1)
    for first, ahead in ((1.0, ()), (0.0, SHAPES.ahead), (1.0, SHAPES.ahead)):
        asked = len(drafter.requests)
        measurement._as_users = replace(SHAPES, asked=(first, 1.0, 1.0), ahead=ahead)
        await measurement._beside.ask_drafted(measurement.round(batch.hotkeys, Slots(1)))
        assert (len(drafter.requests) > asked) == (first > 0.0 and ahead != ())


def test_a_yes_man_says_a_law_and_bends_only_what_it_was_shown(laws):
    yes, honest = YesMan(lambda ids: np.log(laws[0])), Law(np.log(laws[0]))
    ids = np.array([4, 5], np.uint32)
    np.testing.assert_array_equal(yes(ids), honest.logp)
    shown = yes.shown(ids, 7)
    assert np.exp(shown).sum() == pytest.approx(1.0)
    assert np.exp(shown[7]) > 0.99
