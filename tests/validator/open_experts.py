"""Fixtures: experts whose weights are offered to everybody, and what a replay says of them."""

import asyncio
import contextlib
import hashlib
import shutil

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from moesubnet.chain.client import ChainClient
from moesubnet.engine.base import Query
from moesubnet.engine.model_folder import weights_commitment
from moesubnet.engine.open_weights import SUMS, lay_out
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.errors import ConfigError
from moesubnet.types import Hotkey
from moesubnet.validator.cli import validator_app
from moesubnet.validator.records import Phase
from moesubnet.wire.protocol import Want
from tests.sheets import closed


def sums(folder, names):
    lines = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    (folder / SUMS).write_text("".join(lines))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.fixture
async def offer(tiny_model, tmp_path):
    """(URL, folder, what was asked): a static server of the tiny model's files."""
    folder, asked = tmp_path / "offered", []
    shutil.copytree(tiny_model, folder)
    sums(folder, ["config.json", "model.safetensors"])

    @web.middleware
    async def note(request, handler):
        asked.append((request.method, request.path, request.headers.get("Range")))
        return await handler(request)

    app = web.Application(middlewares=[note])
    app.router.add_static("/", folder)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/"), folder, asked


def offered_adapter(folder, base, tmp_path):
    """A LoRA of the tiny model, which `folder` then offers with it; where it is here."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    config = peft.LoraConfig(
        r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model = AutoModelForCausalLM.from_pretrained(base)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    shutil.rmtree(folder)
    lay_out(str(base), str(tmp_path / "adapter"), folder)
    return str(tmp_path / "adapter")


@pytest.fixture(params=["model"])
async def replayed(
    request,
    offer,
    tiny_model,
    save_tiny_model,
    tiny_spec,
    measure,
    start_expert,
    monkeypatch,
    tmp_path,
):
    """`await replayed(uri, *options)` → (status, what the command says), of experts that all claim
    the tiny model: an honest one and a sibling; and what the validator then makes of it. Or of an
    adapter of it, and of one who serves the model alone."""
    url, folder, _ = offer
    adapter = None
    if request.param == "adapter":
        adapter = offered_adapter(folder, tiny_model, tmp_path)
    honest, sibling = (
        TransformersEngine(str(model), tiny_spec, dtype="float32", adapter=own)
        for model, own in (
            (tiny_model, adapter),
            (tiny_model if adapter else save_tiny_model(seed=7), None),
        )
    )

    def law_by(engine):
        return lambda ids: engine.rows([Query("x", ids, len(ids))], Want("full"))[0].logprobs[0]

    experts = [
        await start_expert("//Honest", law_by(honest)),
        await start_expert("//Sibling", law_by(sibling)),
    ]
    for expert in experts:
        expert.commitment, expert.weights_url = weights_commitment(tiny_model, adapter), url
    measurement, state, chain, _ = await measure(experts, twice=True)
    metagraph = await chain.metagraph(1)
    await measurement.run(await measurement.open_batches(metagraph, 7))
    batches = state.open_batches()
    sheet, receipts = closed(
        batches,
        metagraph,
        Hotkey(chain.neurons[0].hotkey),
        spec_sha256=tiny_spec.sha256,
    )
    state.close_epoch(sheet, (1,), Phase.REVEALED, batches, receipts.to_bytes())
    chain.spec_sha256 = tiny_spec.sha256
    monkeypatch.setattr(
        "moesubnet.engine.open_weights.cache_dir", lambda *parts: tmp_path.joinpath("cache", *parts)
    )

    @contextlib.asynccontextmanager
    async def connected():
        yield chain

    async def connect(url):
        return connected()

    monkeypatch.setattr(ChainClient, "connect", connect)

    async def run(uri, *options):
        places = ("--state-dir", str(tmp_path), "--spec", str(tiny_spec.root), "--allow-private")
        arguments = ["replay", uri, *places, *options]
        done = await asyncio.to_thread(CliRunner().invoke, validator_app, arguments)
        if isinstance(done.exception, ConfigError):
            return done.exit_code, str(done.exception)
        return done.exit_code, done.output

    return run, experts, measurement, state, sheet
