"""The command itself, in a process of its own, against the embedded chain."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from moesubnet.chain.client import ChainClient
from moesubnet.chain.devchain import DevChain
from moesubnet.chain.devchain.server import serve_chain
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.engine.base import Query
from moesubnet.engine.model_folder import weights_commitment
from moesubnet.engine.target import DEFAULT_ENGINE
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.errors import ConfigError, PeerRefused, PeerUnavailable
from moesubnet.miner.cli import miner_app
from moesubnet.miner.run import MinerConfig, _check_open
from moesubnet.spec.content import LoadedSpec, save_spec
from moesubnet.types import Axon, Hotkey, NetUid, ServedModel
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.protocol import GenerateRequest, StepRequest, StepRows, Want
from moesubnet.wire.strangers import open_http_session
from tests.gguf_files import llama_server, write_gguf

from .conftest import step_of, u32

NETUID = NetUid(1)
MINER = Hotkey(keypair_from_uri("//Fay//hot").ss58_address)
SLOW_ENGINE = """
import time
from custom_engine import CacheEngine

class SlowEngine(CacheEngine):
    def rows(self, batch, want):
        time.sleep(0.1)
        return super().rows(batch, want)
"""


@dataclass
class Process:
    process: asyncio.subprocess.Process
    log: Path

    async def wait(self) -> tuple[int, str]:
        code = await asyncio.wait_for(self.process.wait(), 60)
        return code, self.log.read_text()


@dataclass
class Network:
    """A chain that knows the tiny spec, and how to start miners on it."""

    chain: ChainClient
    url: str
    tmp_path: Path
    stack: AsyncExitStack

    async def miner(self, *arguments: str, hotkey: str = "//Fay//hot") -> Process:
        (self.tmp_path / "slow_engine.py").write_text(SLOW_ENGINE)
        examples = Path(__file__).parents[2] / "examples"
        path = f"{self.tmp_path}{os.pathsep}{examples}"
        environment = os.environ | {"PYTHONPATH": path, "MOESUBNET_CHAIN": self.url}
        log = self.tmp_path / f"miner{hotkey.replace('/', '-')}.log"
        with log.open("wb") as handle:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "moesubnet", "miner", "run", "--chain", self.url),
                *("--engine", "slow_engine:SlowEngine", "--model", "none"),
                *("--hotkey", hotkey, *arguments),
                stdout=handle,
                stderr=handle,
                env=environment,
            )

        def kill() -> None:
            if process.returncode is None:
                process.kill()

        self.stack.callback(kill)
        return Process(process, log)

    async def announced(
        self, miner: Process, *, not_at: Axon | None = None, hotkey: Hotkey = MINER
    ) -> Axon:
        for _ in range(600):
            neuron = (await self.chain.metagraph(NETUID)).by_hotkey.get(hotkey)
            if neuron is not None and neuron.axon not in (None, not_at):
                assert neuron.axon is not None
                return neuron.axon
            assert miner.process.returncode is None, miner.log.read_text()
            await asyncio.sleep(0.1)
        raise AssertionError(miner.log.read_text())

    async def said(self, hotkey: Hotkey = MINER) -> ServedModel:
        """What it says on chain of its model, once it does."""
        while (model := (await self.chain.metagraph(NETUID)).by_hotkey[hotkey].model) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return model

    async def client(self, axon: Axon, hotkey: Hotkey = MINER) -> ExpertClient:
        """Of a registered, staked caller."""
        caller = keypair_from_uri("//Caller")
        if caller.ss58_address not in (await self.chain.metagraph(NETUID)).by_hotkey:
            payer = keypair_from_uri("//Bob")
            await self.chain.register(NETUID, Hotkey(caller.ss58_address), payer)
            await self.chain.add_stake(NETUID, Hotkey(caller.ss58_address), 2 * 10**9, payer)
        http = await self.stack.enter_async_context(open_http_session())
        return ExpertClient(http, caller, hotkey, axon, vocab_size=300, allow_private=True)


async def answered(client: ExpertClient, request: StepRequest) -> StepRows:
    """The rows of its one sequence, once the miner has seen the caller's stake."""
    for _ in range(50):
        try:
            (rows,) = (await client.step(request, timeout_s=10)).rows
        except PeerRefused:
            await asyncio.sleep(0.2)
        else:
            return rows
    raise AssertionError("the miner refuses the caller")


@pytest.fixture
async def network(tmp_path: Path, tiny_spec: LoadedSpec) -> AsyncIterator[Network]:
    async with AsyncExitStack() as stack:
        dev = await stack.enter_async_context(
            DevChain.open(tmp_path / "chain", preset="development", seal=0.25)
        )
        server = await stack.enter_async_context(serve_chain(dev, "127.0.0.1", 0))
        chain = await stack.enter_async_context(await ChainClient.connect(server.url))
        url = tiny_spec.root.resolve().as_uri()
        await chain.set_subnet_spec(NETUID, tiny_spec.sha256, url, keypair_from_uri("//Alice"))
        yield Network(chain, server.url, tmp_path, stack)


async def test_without_a_registration_the_exact_command_is_printed(network: Network) -> None:
    code, log = await (await network.miner()).wait()
    assert code == 2
    command = f"moesubnet register --netuid 1 --hotkey {MINER} --wallet COLDKEY"
    assert f"{command} --chain {network.url}" in log


async def test_a_slot_that_costs_too_much_is_not_bought(network: Network) -> None:
    arguments = ("--coldkey", "//Bob", "--max-price", "0.0001")
    code, log = await (await network.miner(*arguments)).wait()
    assert code == 2
    assert "more than 0.0001 τ" in log
    assert MINER not in (await network.chain.metagraph(NETUID)).by_hotkey


async def test_a_model_that_cannot_be_loaded_buys_no_slot(network: Network) -> None:
    arguments = ("--coldkey", "//Bob", "--engine", DEFAULT_ENGINE, "--model", "my-model.gguf")
    code, log = await (await network.miner(*arguments)).wait()
    assert code == 1
    assert "there is no file my-model.gguf" in log
    assert MINER not in (await network.chain.metagraph(NETUID)).by_hotkey


async def test_an_address_that_the_chain_takes_from_nobody_ends_the_miner(network: Network) -> None:
    arguments = ("--coldkey", "//Bob", "--external-ip", "203.0.113.7")  # is in no network
    code, log = await (await network.miner(*arguments)).wait()
    assert code == 2
    assert "the chain does not take 203.0.113.7:" in log
    assert "publish a public one (`--external-ip`)" in log


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ((), True),
        (("--no-allow-private",), False),
        (("--chain", "ws://10.0.0.5:9944"), False),
        (("--chain", "ws://10.0.0.5:9944", "--allow-private"), True),
    ],
)
def test_an_owner_on_a_private_address_is_believed_on_this_machine_or_when_told(
    arguments: tuple[str, ...], allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[MinerConfig] = []

    async def note(config: MinerConfig) -> None:
        configs.append(config)

    monkeypatch.setattr("moesubnet.miner.run.run_miner", note)
    usual = ["run", "--model", "none", "--hotkey", "//Fay//hot"]
    assert CliRunner().invoke(miner_app, [*usual, *arguments]).exit_code == 0
    assert [config.allow_private for config in configs] == [allowed]


async def test_two_hotkeys_of_one_model_buy_no_slots(network: Network) -> None:
    both = ("--adapter", "-", "--hotkey", "//Fay//other", "--adapter", "-")
    code, log = await (await network.miner("--coldkey", "//Bob", *both)).wait()
    assert code == 2
    assert "serves another --adapter" in log
    assert MINER not in (await network.chain.metagraph(NETUID)).by_hotkey


async def test_one_process_serves_two_adapters_each_with_its_hotkey(
    network: Network, tiny_model: Path, save_tiny_adapter: Callable[..., Path]
) -> None:
    folder = save_tiny_adapter(seed=5)
    other = Hotkey(keypair_from_uri("//Fay//other").ss58_address)
    miner = await network.miner(
        *("--coldkey", "//Bob", "--engine", "auto", "--model", str(tiny_model)),
        *("--adapter", str(folder), "--hotkey", "//Fay//other", "--adapter", "-"),
    )
    axons = [await network.announced(miner), await network.announced(miner, hotkey=other)]
    assert axons[0].port != axons[1].port
    cards = [
        await (await network.client(axon, hotkey)).card(timeout_s=10)
        for axon, hotkey in zip(axons, (MINER, other), strict=True)
    ]
    assert [card.hotkey for card in cards] == [MINER, other]
    assert [card.name for card in cards] == [folder.name, tiny_model.name]
    expected = [weights_commitment(tiny_model, adapter) for adapter in (str(folder), None)]
    assert [card.model_commitment for card in cards] == expected


async def test_attackers_of_one_process_ask_the_source_once_and_answer_by_what_it_says(
    network: Network,
) -> None:
    source = await network.client(
        await network.announced(await network.miner("--coldkey", "//Bob"))
    )
    bad = {f"//Bad//{kind}": kind for kind in ("copy-1", "liar", "validators-only", "slow")}
    first, *further = bad.items()
    gang = await network.miner(
        # Four slots one after the other: their price falls with blocks, however fast those come.
        *("--coldkey", "//Bob", "--max-price", "20", "--engine", "adversaries.live:Attacker"),
        *("--model", f"//Caller {MINER}", "--adapter", first[1]),
        *(word for uri, kind in further for word in ("--hotkey", uri, "--adapter", kind)),
        hotkey=first[0],
    )
    clients = {}
    for uri, kind in bad.items():
        hotkey = Hotkey(keypair_from_uri(uri).ss58_address)
        clients[kind] = await network.client(await network.announced(gang, hotkey=hotkey), hotkey)

    async def law(client: ExpertClient, *ids: int) -> np.ndarray:
        step = StepRequest((step_of(f"s{len(ids)}", u32(), u32(*ids)),), Want("full"))
        return np.exp((await answered(client, step)).logprobs[0])

    async def asked() -> float:
        text = await source.get_public("/metrics", max_bytes=2**20, timeout_s=10)
        name = b'moesubnet_miner_answers_total{route="/v1/step",status="200"}'
        return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(name))

    for ids in ((5, 5), (5, 5, 6)):
        said = await law(source, *ids)
        before = await asked()
        copied, lied = await law(clients["copy-1"], *ids), await law(clients["liar"], *ids)
        assert await asked() == before + 1
        assert 0.01 < np.abs(copied / said - 1.0).mean() < 0.5
        assert lied.argmax() == said.argmax() == 5
        assert lied.max() == pytest.approx(0.99, abs=1e-3)
    step = StepRequest((step_of("s", u32(), u32(5, 5)),), Want("full"))
    with pytest.raises(PeerRefused, match="5"):
        await clients["validators-only"].step(step, timeout_s=10)
    begun_s = time.monotonic()
    np.testing.assert_allclose(await law(clients["slow"], 5, 5), 1 / 300, rtol=0.01)
    assert time.monotonic() - begun_s >= 0.9


async def test_an_open_expert_says_where_its_weights_are_when_they_are_there_and_may_be_shown(
    network: Network, tiny_model: Path
) -> None:
    folder = network.tmp_path / "offered"
    shutil.copytree(tiny_model, folder)
    app = web.Application()
    app.router.add_static("/", folder)
    async with TestServer(app) as server:
        url = str(server.make_url(""))
        with pytest.raises(ConfigError, match="what `sha256sum config"):
            await _check_open(url, weights_commitment(tiny_model))
        names = ["config.json", "model.safetensors"]
        lines = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
        (folder / "SHA256SUMS").write_text("".join(lines))
        arguments = ("--coldkey", "//Bob", "--model", str(tiny_model), "--engine", "auto")
        miner = await network.miner(*arguments, "--open", url)
        client = await network.client(axon := await network.announced(miner))
        card, model = await client.card(timeout_s=10), await network.said()
        commitment = weights_commitment(tiny_model)
        assert (card.weights_url, card.model_commitment) == (None, commitment)
        assert (model.commitment, model.is_open) == (commitment, False)  # no validator knows it
        miner.process.send_signal(signal.SIGTERM)
        assert (await miner.wait())[0] == 0
        # What was open before needs nobody's word.
        await network.chain.commit_model(NETUID, commitment, True, keypair_from_uri("//Fay//hot"))
        miner = await network.miner(*arguments, "--open", url)
        client = await network.client(await network.announced(miner, not_at=axon))
        while (card := await client.card(timeout_s=10)).weights_url is None:
            assert miner.process.returncode is None
            await asyncio.sleep(0.1)
        assert card.weights_url == url
        assert (await network.said()).is_open


async def test_a_miner_serves_what_another_server_runs(
    network: Network, tiny_model: Path, tiny_spec: LoadedSpec
) -> None:
    with llama_server(write_gguf(tiny_model, network.tmp_path / "tiny.gguf"), context=64) as url:
        upstream = ("--engine", "auto", "--model", "", "--upstream", url)
        miner = await network.miner("--coldkey", "//Bob", *upstream)
        client = await network.client(await network.announced(miner))
        card = await client.card(timeout_s=10)
        assert (card.engine, card.name, card.lists) == ("upstream", "tiny", 300)
        step = StepRequest((step_of("s", u32(), u32(5, 6, 7)),), Want("full"))
        rows = await answered(client, step)
        query = Query("s", u32(5, 6, 7), 3)
        (expected,) = TransformersEngine(str(tiny_model), tiny_spec).rows([query], Want("full"))
        np.testing.assert_allclose(np.exp(rows.logprobs), np.exp(expected.logprobs), atol=5e-3)
        miner.process.send_signal(signal.SIGTERM)
        assert (await miner.wait())[0] == 0


@pytest.mark.slow
async def test_a_miner_goes_over_to_a_new_spec_at_its_epoch_without_a_pause(
    network: Network, tiny_spec: LoadedSpec
) -> None:
    miner = await network.miner("--coldkey", "//Bob")
    client = await network.client(await network.announced(miner))
    folder = network.tmp_path / "new"
    shutil.copytree(tiny_spec.root, folder)
    new = save_spec(folder, tiny_spec.spec.model_copy(update={"name": "new"}))
    owner = keypair_from_uri("//Alice")
    await network.chain.set_subnet_spec(NETUID, new.sha256, folder.as_uri(), owner)
    announced = await network.chain.metagraph(NETUID)
    assert announced.spec_epoch == announced.epoch_index + 1
    while True:
        before = await network.chain.metagraph(NETUID)
        card = await client.card(timeout_s=10)  # always there
        after = await network.chain.metagraph(NETUID)
        if after.epoch_index < announced.spec_epoch:
            assert card.spec_sha256 == tiny_spec.sha256
        elif card.spec_sha256 == new.sha256:
            break
        assert before.block < before.last_epoch_block + 25 or (
            before.epoch_index < announced.spec_epoch
        ), miner.log.read_text()
        await asyncio.sleep(0.1)
    miner.process.send_signal(signal.SIGTERM)
    code, log = await miner.wait()
    assert (code, "gone over to spec" in log) == (0, True), log


@pytest.mark.slow
async def test_a_miner_joins_serves_drains_and_comes_back_elsewhere(network: Network) -> None:
    miner = await network.miner("--coldkey", "//Bob")
    axon = await network.announced(miner)
    log = miner.log.read_text()
    assert log.index("registered hotkey") < log.index("model=none"), "loading may take minutes"
    client = await network.client(axon)
    request = StepRequest((step_of("s", u32(), u32(5, 5)),), Want("full"))
    rows = await answered(client, request)
    assert rows.logprobs[0].argmax() == 5
    model = await network.said()
    card = await client.card(timeout_s=10)
    assert (model.commitment, model.is_open) == (card.model_commitment, False)

    stream = client.generate(GenerateRequest(prompt_ids=[1], max_tokens=20, seed=1), timeout_s=30)
    count = 0
    async with aclosing(stream) as chunks:
        async for chunk in chunks:
            count += len(chunk.ids)
            if count == 2:
                miner.process.send_signal(signal.SIGTERM)
    assert chunk.finish_reason is not None  # whole, and its receipt verified
    code, log = await miner.wait()
    assert (code, "Traceback" in log) == (0, False), log
    with pytest.raises(PeerUnavailable):
        await client.card(timeout_s=5)

    again = await network.miner()
    moved = await network.announced(again, not_at=axon)
    assert (await (await network.client(moved)).card(timeout_s=10)).name == "none"
    again.process.send_signal(signal.SIGINT)
    assert (await again.wait())[0] == 0
