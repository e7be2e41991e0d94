"""Open experts: their weights are fetched by hash, and their signed answers replayed."""

import asyncio
import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moesubnet.engine import gguf_file
from moesubnet.engine.model_folder import weights_commitment
from moesubnet.engine.open_weights import SUMS, check_offer, fetch_weights, lay_out
from moesubnet.errors import ConfigError, FetchError
from moesubnet.host.progress import ignore
from moesubnet.miner.cli import miner_app
from moesubnet.types import Hotkey, ServedModel
from moesubnet.validator.checkbook import Checkbook
from moesubnet.validator.checks import Claim, Record, Replayed, Verdict
from moesubnet.validator.cli import validator_app
from moesubnet.validator.replay import Answered, compare, held_against
from moesubnet.validator.serve import Health, Metrics, build_app
from moesubnet.wire.listening import serve
from tests.validator.open_experts import sums
from tests.validator.test_checks import V, law_from


async def fetched(url, commitment, monkeypatch, tmp_path, max_bytes=2**24):
    monkeypatch.setattr(
        "moesubnet.engine.open_weights.cache_dir", lambda *parts: tmp_path.joinpath("cache", *parts)
    )
    told = []
    weights = await fetch_weights(
        url, commitment, max_bytes=max_bytes, allow_private=True, on_size=told.append,
        on_progress=ignore,
    )  # fmt: skip
    return weights, told


async def test_weights_come_by_their_hash_go_on_where_they_stopped_and_are_fetched_once(
    offer, tiny_model, monkeypatch, tmp_path
):
    url, folder, asked = offer
    commitment = weights_commitment(tiny_model)
    whole = (folder / "model.safetensors").read_bytes()
    part = tmp_path / "cache" / "weights" / commitment / "model.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(whole[:1_000])
    weights, told = await fetched(url, commitment, monkeypatch, tmp_path)
    assert weights_commitment(part.parent) == commitment
    assert (weights.model, weights.adapter) == (str(part.parent), None)
    assert told == [sum((folder / n).stat().st_size for n in ("config.json", "model.safetensors"))]
    assert ("GET", "/model.safetensors", "bytes=1000-") in asked
    asked.clear()
    await fetched(url, commitment, monkeypatch, tmp_path)
    assert {path for method, path, _ in asked if method == "GET"} == {f"/{SUMS}"}


async def test_other_files_than_the_commitment_names_are_refused(
    offer, tiny_model, monkeypatch, tmp_path
):
    url, folder, _ = offer
    commitment = weights_commitment(tiny_model)
    with pytest.raises(FetchError, match="more than the 9 allowed"):
        await fetched(url, commitment, monkeypatch, tmp_path, max_bytes=9)
    with pytest.raises(FetchError, match="not public"):
        await check_offer(url, commitment, allow_private=False)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    for _ in range(2):  # nothing of the altered one is kept
        with pytest.raises(FetchError, match="another file"):
            await fetched(url, commitment, monkeypatch, tmp_path)
    altered = sums(folder, ["config.json", "model.safetensors"])
    with pytest.raises(FetchError, match=r"sha256sum config\.json"):
        await check_offer(url, commitment, allow_private=True)
    assert await check_offer(url, altered, allow_private=True)
    (folder / "..py").write_text("x")
    for names in (["config.json", "..py"], []):
        with pytest.raises(FetchError, match="does not name"):
            await check_offer(url, sums(folder, names), allow_private=True)


async def test_a_model_in_several_files_is_loaded_as_it_was_offered(
    offer, tiny_model, monkeypatch, tmp_path
):
    from transformers import AutoModelForCausalLM

    url, folder, _ = offer
    shutil.rmtree(folder)
    split = tmp_path / "split"
    whole = AutoModelForCausalLM.from_pretrained(tiny_model)
    whole.save_pretrained(split, max_shard_size="20KB")
    assert len(list(split.glob("*.safetensors"))) > 1
    commitment = lay_out(str(split), None, folder)
    weights, _ = await fetched(url, commitment, monkeypatch, tmp_path)
    same = AutoModelForCausalLM.from_pretrained(weights.model, use_safetensors=True)
    for name, value in whole.state_dict().items():
        assert value.equal(same.state_dict()[name]), name


async def test_an_adapter_is_offered_with_its_base(offer, tiny_model, monkeypatch, tmp_path):
    url, folder, _ = offer
    adapter = folder / "adapter"
    adapter.mkdir()
    shutil.copytree(tiny_model, folder / "base")
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    parts = [
        sums(folder / "base", ["config.json", "model.safetensors"]),
        sums(adapter, ["adapter_config.json", "adapter_model.safetensors"]),
    ]
    (folder / SUMS).write_text("".join(f"{part}\n" for part in parts))
    commitment = weights_commitment(folder / "base", str(adapter))
    weights, _ = await fetched(url, commitment, monkeypatch, tmp_path)
    assert weights_commitment(tmp_path / weights.model, weights.adapter) == commitment


@pytest.mark.parametrize("kind", ["folder", "adapter", "gguf", "split"])
async def test_what_the_command_lays_out_is_what_a_miner_offers(
    offer, tiny_model, monkeypatch, tmp_path, kind
):
    url, folder, _ = offer
    shutil.rmtree(folder)
    model, adapter, place = str(tiny_model), None, url
    if kind == "adapter":
        adapter = str(tmp_path / "lora")
        (tmp_path / "lora").mkdir()
        (tmp_path / "lora" / "adapter_config.json").write_text("{}")
        (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(b"weights")
    if kind in ("gguf", "split"):
        names = ["m.gguf"] if kind == "gguf" else [f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
        for name in names:
            (tmp_path / name).write_bytes(b"GGUF" + name.encode())
        model = str(tmp_path / names[0])
        place = url + "/m.gguf" if kind == "gguf" else url
    words = ["offer", str(folder), "--model", model, *(["--adapter", adapter] if adapter else [])]
    done = await asyncio.to_thread(CliRunner().invoke, miner_app, words)
    assert done.exit_code == 0, done.output
    commitment = done.output.split()[0]
    if kind in ("folder", "adapter"):
        assert commitment == weights_commitment(tiny_model, adapter)
    else:
        assert commitment == gguf_file.weights_commitment(Path(model))
    assert await check_offer(place, commitment, allow_private=True) > 0
    await fetched(place, commitment, monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match="not empty"):
        lay_out(model, adapter, folder)


def rounded(law):
    return dataclasses.replace(law, logp=law.logp.astype(np.float16).astype(np.float32))


def test_the_nearest_precision_counts_and_who_cannot_be_told_apart_is_unproven():
    laws = [law_from(seed) for seed in range(40)]
    answers = [Answered(i, rounded(law)) for i, law in enumerate(laws)]
    far = [law_from(seed + 1_000) for seed in range(40)]
    found = compare(answers, {"bfloat16": far, "float32": laws}, V)
    assert (found.verdict, found.rows) == (Verdict.OK, 40)
    assert compare(answers, {"float32": far}, V).verdict == Verdict.CHEAT
    assert compare(answers[:31], {"float32": laws[:31]}, V).verdict == Verdict.UNPROVEN
    assert compare([], {"float32": []}, V).verdict == Verdict.UNPROVEN
    # A model that says the same everywhere: another place's answer would pass.
    same = compare(
        [Answered(i, rounded(laws[0])) for i in range(40)], {"float32": laws[:1] * 40}, V
    )
    assert (same.verdict, "cannot tell" in same.why) == (Verdict.UNPROVEN, True)


def test_who_serves_another_model_in_some_walks_is_no_honest_median():
    """Its median over all answers is an honest one's; the sequential test sees groups of walks."""
    laws = [law_from(seed) for seed in range(16)]
    answers, ours = [], []
    for walk in range(32):
        for k, law in enumerate(laws):
            answers.append(Answered(len(answers), laws[k - 1] if walk % 8 < 2 else law, walk))
            ours.append(law)
    mixed = np.random.default_rng(0).permutation(len(answers)).tolist()  # a sheet's is by time
    found = compare([answers[k] for k in mixed], {"float32": [ours[k] for k in mixed]}, V)
    assert found.verdict == Verdict.OK
    assert found.over == (True, False, False, False) * 4
    record = Record()
    for is_over in found.over:
        record = record.after(is_over)
    assert record.verdict == Verdict.CHEAT
    honest = compare(answers[2 * 16 : 8 * 16], {"float32": ours[2 * 16 : 8 * 16]}, V)
    assert honest.over == (False,) * 3
    alike = [Answered(k, laws[0]) for k in range(64)]
    assert compare(alike, {"float32": laws[:1] * 64}, V).over == ()  # an impostor would pass


def test_an_epoch_s_answers_count_once_and_other_weights_begin_anew(tmp_path):
    book = Checkbook(tmp_path / "checks.sqlite3", Hotkey("v"))
    with contextlib.closing(book):
        ours, far = "a" * 64, (True,) * 3
        steps = [
            (3, ours, far, 3),
            (3, ours, far, 3),
            (4, ours, (False,), 4),
            (5, "b" * 64, far, 3),
        ]
        for epoch, commitment, over, pairs in steps:
            book.note_replay("x", Replayed(epoch, commitment, 96, 0.9, Verdict.CHEAT), over)
            assert book.records("replay")["x"].pairs == pairs
        assert book.convicted() == set()  # it offers nothing
        book.note_claims({"x": Claim(5, "b" * 64, "https://x")})
        assert book.convicted() == {"x"}
        book.note_claims({"x": Claim(6, ours, "https://x")})
        assert book.convicted() == set()


def test_answers_are_held_against_weights_that_were_claimed_all_along():
    ours, other = "a" * 64, "b" * 64
    all_along = [Claim(epoch, ours, "https://x") for epoch in range(3, 8)]
    assert held_against(all_along, 5, ours) is None
    assert "other weights" in held_against(all_along, 5, other)
    assert "other weights" in held_against([Claim(4, other, None), *all_along[2:]], 5, ours)
    assert held_against([Claim(3, other, None), *all_along[1:]], 5, ours) is None
    assert "nobody here" in held_against(all_along, 9, ours)
    assert "nobody here" in held_against([], 5, ours)


@pytest.mark.parametrize("replayed", ["model", "adapter"], indirect=True)
async def test_who_serves_other_weights_than_it_offers_is_caught_and_its_answers_are_none(
    replayed, tmp_path
):
    run, (honest, sibling), measurement, *_ = replayed
    code, said = await run("//Honest")
    assert (code, "ok: these weights say what it answered" in said) == (0, True), said
    assert "112 signed answers" in said
    assert measurement.convicted() == set()
    code, said = await run("//Sibling", "--json", "--dtype", "float32")
    assert (code, '"verdict": "cheat"' in said) == (1, True), said
    assert measurement.convicted() == {sibling.hotkey}
    done = await asyncio.to_thread(
        CliRunner().invoke, validator_app, ["checks", "--state-dir", str(tmp_path), "--json"]
    )
    verdicts = {row["hotkey"]: row["replayed"]["verdict"] for row in json.loads(done.output)}
    assert verdicts == {honest.hotkey: "ok", sibling.hotkey: "cheat"}
    # It offers these weights no more: it is a private expert then, as good as what it says.
    measurement._book.note_claims({sibling.hotkey: Claim(9, sibling.commitment, None)})
    assert measurement.convicted() == set()


async def test_answers_that_came_before_the_claim_convict_nobody(replayed, save_tiny_model):
    run, (_, sibling), measurement, *_ = replayed
    measurement._book.note_claims({sibling.hotkey: Claim(0, "cd" * 32, None)})
    code, said = await run("//Sibling")
    assert (code, "unproven: it claimed other weights then" in said) == (0, True), said
    assert measurement.convicted() == set()
    sibling.weights_url = None
    code, said = await run("//Sibling")
    assert "private expert can only be asked" in said
    code, said = await run("//Sibling", "--weights", str(save_tiny_model(seed=7)))
    assert "these are other weights" in said


async def test_an_expert_is_open_where_the_chain_says_so_too(replayed):
    """A card can say one thing to one caller and another to the next."""
    run, (_, sibling), measurement, *_ = replayed
    chain = measurement._gates._chain
    chain.has_models = True
    uid = [neuron.hotkey for neuron in chain.neurons].index(sibling.hotkey)

    async def claimed():
        await measurement.open_batches(await chain.metagraph(1), 1)
        return measurement._book.claims(sibling.hotkey)[-1]

    said = {
        None: "it has not said on chain which model it serves",
        ServedModel("cd" * 32, True, 7): f"{'cd' * 32} stands on chain since block 7",
        ServedModel(sibling.commitment, False, 7): "calls them private (on chain since block 7)",
    }
    for model, words in said.items():
        chain.neurons[uid] = dataclasses.replace(chain.neurons[uid], model=model)
        code, text = await run("//Sibling")
        assert (code, "unproven: " in text, words in text) == (0, True, True), text
        assert (await claimed()).url is None
        assert measurement.convicted() == set()
    agreed = ServedModel(sibling.commitment, True, 8)
    chain.neurons[uid] = dataclasses.replace(chain.neurons[uid], model=agreed)
    assert (await claimed()).url == sibling.weights_url
    code, text = await run("//Sibling")
    assert code == 1, text
    assert measurement.convicted() == {sibling.hotkey}


async def test_anybody_repeats_it_with_what_a_validator_publishes(replayed, keypair, tmp_path):
    """Without having read the cards then, nobody is called a cheat by it."""
    run, _, _, state, sheet = replayed
    app = build_app(keypair("//Validator"), state, Health(), Metrics())
    server = await serve(app, "127.0.0.1", 0, grace_s=0.1)
    try:
        elsewhere = (
            "--state-dir",
            str(tmp_path / "elsewhere"),
            "--axon",
            f"127.0.0.1:{server.port}",
        )
        code, said = await run("//Honest", *elsewhere, "--sheet", sheet.sha256.hex())
        assert (code, "ok: these weights say" in said) == (0, True), said
        code, said = await run("//Sibling", *elsewhere, "--sheet", sheet.sha256.hex())
        assert (code, "unproven: nobody here read its card" in said) == (0, True), said
    finally:
        await server.close()
    assert not (tmp_path / "elsewhere").exists()
    code, said = await run("//Honest", "--axon", "127.0.0.1:1")
    assert "--sheet HASH and --axon IP:PORT" in said
