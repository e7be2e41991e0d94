"""What `validator run --dry-run` foretells is what then happens."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import numpy as np
import pytest
from typer.testing import CliRunner

from moesubnet.chain.client import ChainClient
from moesubnet.types import Axon
from moesubnet.validator.cli import validator_app
from moesubnet.validator.forecast import Forecast, Traffic
from moesubnet.validator.pool import ONE_WINDOW, STEP_TOKENS, WINDOW_TOKENS, TextPool
from moesubnet.validator.shapes import Shapes
from moesubnet.validator.state import State

OF_ONE_WINDOW = Shapes.fixed(ONE_WINDOW)


async def test_an_epoch_asks_as_often_as_was_foretold(
    measure, start_expert, laws, tiny_spec
) -> None:
    experts = [await start_expert(f"//e{i}", lambda ids: np.log(laws[0])) for i in range(3)]
    measurement, state, chain, _ = await measure(experts)
    windows = measurement._pool.free_windows({})
    foretold = Forecast(
        windows, walks=8, experts=3, vocab_size=300, epoch_s=360.0, shapes=OF_ONE_WINDOW
    )
    [batch] = await measurement.open_batches(await chain.metagraph(1), 8)
    await measurement.run([batch])
    asked = [request for expert in experts for request in expert.requests]
    assert len(asked) == foretold.questions == 8 * STEP_TOKENS * 3
    read = sum(len(s.append_ids) for s in (r.sequences[0] for r in experts[0].requests))
    assert read + 8 == foretold.positions  # the last label is told to nobody
    left = measurement._pool.free_windows(state.used_starts(tiny_spec.spec.tokenizer.sha256))
    assert windows - left == 8


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


class Wire:
    """Passes on what comes for a port, and counts it."""

    def __init__(self, port: int) -> None:
        self._port, self.sent_bytes, self.received_bytes = port, 0, 0

    async def start(self, stack: AsyncExitStack) -> Axon:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        stack.callback(server.close)
        return Axon("127.0.0.1", server.sockets[0].getsockname()[1])

    async def _connected(self, reader, writer) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)

        async def sent() -> None:
            while data := await reader.read(2**16):
                self.sent_bytes += len(data)
                back.write(data)
            back.close()

        async def received() -> None:
            while data := await there.read(2**16):
                self.received_bytes += len(data)
                writer.write(data)
            writer.close()

        await asyncio.gather(sent(), received(), return_exceptions=True)


@pytest.mark.parametrize("experts", [1, 6])
@pytest.mark.parametrize("through_routers", [True, False])
async def test_the_traffic_is_about_what_was_foretold(
    measure, start_expert, start_node, laws, monkeypatch, stack, experts, through_routers
) -> None:
    """Every byte that travels is counted. Walks come one by one, and have no drafts."""
    monkeypatch.setattr("moesubnet.wire.patience.LEAST_S", 3_600.0)  # nobody is late
    monkeypatch.setattr("moesubnet.validator.walks.PATIENCE_S", 3_600.0)
    asked = [await start_expert(f"//e{i}", lambda ids: np.log(laws[0])) for i in range(experts)]
    if through_routers:
        node = await start_node("Router", asked)
        wires = [Wire(node.axon.port)]
        routers = [(node.signer, await wires[0].start(stack))]
    else:
        node, routers = None, []
        wires = [Wire(expert.axon.port) for expert in asked]
        for expert, wire in zip(asked, wires, strict=True):
            expert.axon = await wire.start(stack)
    measurement, _, chain, _ = await measure(asked, routers=routers)
    metagraph = await chain.metagraph(1)
    if node is not None:
        node.chain = metagraph
    walks = [await measurement.open_batches(metagraph, 1) for _ in range(8)]
    before = sum(w.sent_bytes for w in wires), sum(w.received_bytes for w in wires)
    for walk in walks:
        await measurement.run(walk)
    await asyncio.gather(*measurement._asking._closing)
    foretold = Forecast(1, 8, experts, 300, 1.0, OF_ONE_WINDOW)
    assert sum(len(expert.requests) for expert in asked) == foretold.questions
    said = foretold.traffic(through_routers=through_routers)
    sent_bytes = sum(w.sent_bytes for w in wires) - before[0]
    received_bytes = sum(w.received_bytes for w in wires) - before[1]
    assert 0.85 < sent_bytes / said.sent_bytes < 1.15
    assert 0.85 < received_bytes / said.received_bytes < 1.15


@pytest.mark.parametrize("vocab_size", [300, 2_048, 262_144])
def test_the_words_say_how_long_the_text_lasts_and_call_estimates_so(vocab_size: int) -> None:
    text = Forecast(6_500, 32, 7, vocab_size, 4_332.0, OF_ONE_WINDOW).as_text()
    for words in (
        "6,500 unused windows of 48 tokens",
        "lasts 169 epochs, 8 days",
        "32 walks (1,536 tokens)",
        "3,584 questions",
        "each expert computes 1,536 positions",
        "estimated",
    ):
        assert words in text
    small, large = (Forecast(1, 32, 7, size, 60.0, OF_ONE_WINDOW) for size in (2_048, 262_144))
    for through_routers in (False, True):  # a listed part, not a whole law
        listed, whole = (f.traffic(through_routers=through_routers) for f in (large, small))
        assert listed.received_bytes < whole.received_bytes
    many = Forecast(1, 32, 64, 2_048, 60.0, OF_ONE_WINDOW)
    assert many.traffic(through_routers=True).cpu_s < many.traffic(through_routers=False).cpu_s


def test_no_experts_cost_nothing_and_too_little_text_lasts_no_epoch() -> None:
    nothing = Forecast(10, 32, 0, 300, 60.0, OF_ONE_WINDOW)
    assert (nothing.epochs, nothing.questions) == (0, 0)
    assert nothing.traffic(through_routers=True) == Traffic(0, 0, 0.0)
    assert "lasts 0 epochs" in nothing.as_text()


@pytest.fixture
def dry_run(tiny_spec, tmp_path, new_chain, monkeypatch):
    """`dry_run(chain)` → what the command says, with 40 windows of text and the state as it is."""

    def run(chain, name: str = "text.txt") -> str:
        @contextlib.asynccontextmanager
        async def connected():
            yield chain

        async def connect(url: str):
            return connected()

        monkeypatch.setattr(ChainClient, "connect", connect)
        text = tmp_path / name
        if name == "text.txt":
            text.write_text(" ".join(f"{i}" for i in range(1_100)))
        places = ("--text", text, "--spec", tiny_spec.root, "--state-dir", tmp_path / "state")
        options = ("--dry-run", "--hotkey", "//Validator", "--walks", "8", *map(str, places))
        result = CliRunner().invoke(validator_app, ["run", *options])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    return run


def test_a_dry_run_says_it_for_this_subnet_and_this_state_and_changes_neither(
    dry_run, new_chain, keypair, tiny_spec, tmp_path
) -> None:
    chain, validator = new_chain(), keypair("//Validator")
    for name in ("//a", "//b", "//c"):
        chain.add(keypair(name), Axon("192.0.2.1", 9) if name != "//c" else None)
    said = dry_run(chain)
    assert "is not registered: moesubnet register" in said
    assert "2 neurons have an address" in said
    foretold = Forecast(1, 8, 2, 300, 1.0, Shapes.public(tiny_spec.spec.context_tokens))
    assert f"{foretold.questions} questions an epoch" in said
    assert not (tmp_path / "state").exists()
    chain.add(validator, stake_rao=0)
    assert "no stake on this hotkey" in dry_run(chain)

    unused = int(re.findall(r"([\d,]+) unused windows", said)[0].replace(",", ""))
    state = State(tmp_path / "state" / "validator.sqlite3")
    document = hashlib.sha256((tmp_path / "text.txt").read_bytes()).digest()
    state.mark_used([(document, 0)], tiny_spec.sha256)  # as it was once remembered
    state.mark_used([(document, WINDOW_TOKENS)], tiny_spec.spec.tokenizer.sha256)
    state.close()
    assert f"{unused - 2:,} unused windows" in dry_run(chain)


def test_a_dry_run_counts_conversations(dry_run, new_chain, keypair, tmp_path, tiny_spec) -> None:
    said = [("user", "who?"), ("assistant", "the fox")]
    lines = [
        {"messages": [{"role": role, "content": f"{k} {text}"} for role, text in said]}
        for k in range(52)
    ]
    path = tmp_path / "talks.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    chain = new_chain()
    chain.add(keypair("//Validator"))
    assert "or one of 52 unused conversations: it lasts 4 epochs" in dry_run(chain, path.name)
    state = State(tmp_path / "state" / "validator.sqlite3")
    [document, *_] = TextPool.load(str(path), list, turns=lambda _: [1]).conversations.free({})
    state.mark_used([(document, 0)], tiny_spec.spec.tokenizer.sha256)
    state.close()
    assert "or one of 51 unused conversations: it lasts 3 epochs" in dry_run(chain, path.name)


def test_a_dry_run_with_too_little_text_says_so(
    dry_run, new_chain, keypair, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("moesubnet.validator.pool.TextPool.free_windows", lambda *_: 3)
    chain = new_chain()
    chain.add(keypair("//Validator"))
    assert "less text than one epoch takes" in dry_run(chain)
