"""The whole distillation over experts in this process: student, opponents, table, manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moesubnet.distill import jobs
from moesubnet.distill.evaluate import Row, verdicts
from moesubnet.distill.jobs import Job, first_pupil
from moesubnet.distill.manifest import read_manifest
from moesubnet.distill.run import Settings, Teacher, distill
from moesubnet.errors import MoesubnetError, SpecError
from moesubnet.host.progress import Progress
from moesubnet.spec.content import LoadedSpec
from moesubnet.training.optimizers import FULL_LR
from moesubnet.types import Hotkey

from .conftest import BigramEngine, LocalClient

A, B = Hotkey("a"), Hotkey("b")


@pytest.mark.slow
async def test_a_distillation_ends_in_a_student_a_table_and_a_manifest(
    panel_of, tiny_spec: LoadedSpec, tmp_path: Path
):
    from transformers import AutoModelForCausalLM

    vocab = tiny_spec.spec.vocab_size
    test = tmp_path / "test"
    test.mkdir()
    for domain, text in (("words", "one two three " * 60), ("digits", "12 345 6789 " * 60)):
        (test / f"{domain}.jsonl").write_text(json.dumps({"domain": domain, "text": text}) + "\n")

    def teacher() -> Teacher:
        clients = [LocalClient(k, BigramEngine(n, vocab)) for n, k in enumerate((A, B))]
        return Teacher(panel_of(*clients, vocab_size=vocab), {A: "aa", B: "bb"}, {})

    settings = Settings(tmp_path / "out", test, student_s=0.1, min_steps=12, window=32)
    seen: list[Progress] = []
    report = await distill(tiny_spec, teacher(), settings, seen.append)
    assert [row.name for row in report.rows] == [
        *("a", "b", "uniform mixture", "gated mixture"),
        *("student", "plain, equal steps", "plain, equal CPU"),
    ]
    assert all(set(row.loss) == {"words", "digits"} for row in report.rows)
    assert len(report.verdicts) == 5
    assert report.student.steps == report.plain_equal_steps.steps == 12
    assert report.plain_equal_cpu.steps >= 1
    assert {p.task for p in seen} >= {"targets", "student", "plain, equal CPU", "evaluation"}

    manifest = read_manifest(settings.out)
    assert manifest.sha256 == report.student_sha256
    assert manifest.experts == {"a": "aa", "b": "bb"}
    assert manifest.perplexity == pytest.approx(report.rows[4].perplexity)
    AutoModelForCausalLM.from_pretrained(settings.out)
    assert json.loads((settings.out / "report.json").read_text())["tokens"] == report.tokens

    again = await distill(tiny_spec, teacher(), settings)
    unchanged = replace(report, elapsed_s=again.elapsed_s)
    assert again == unchanged, "what is done is not done again"
    assert again.elapsed_s < report.elapsed_s

    weights = settings.out / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(SpecError, match="not those of its manifest"):
        read_manifest(settings.out)


async def test_a_student_may_begin_as_a_model_and_be_given_little_time(
    panel_of, tiny_spec: LoadedSpec, tiny_model: Path, tmp_path: Path, caplog
):
    from transformers import AutoModelForCausalLM

    vocab = tiny_spec.spec.vocab_size
    members = panel_of(LocalClient(A, BigramEngine(0, vocab)), vocab_size=vocab)
    settings = Settings(tmp_path / "out", student_s=0.01, base=str(tiny_model), window=32)
    report = await distill(tiny_spec, Teacher(members, {A: "aa"}, {}), settings)
    assert report.student.steps == 1, "as many as fit, and no least number"
    assert "give more --student-seconds" in caplog.text
    base, student = (
        AutoModelForCausalLM.from_pretrained(folder) for folder in (tiny_model, settings.out)
    )
    moved = [
        (old - new).abs().max().item()
        for old, new in zip(base.parameters(), student.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 1e-3
    manifest = read_manifest(settings.out)
    assert manifest.files["tokenizer.json"] == tiny_spec.spec.tokenizer.sha256
    assert manifest.parent_sha256 is None

    on = Settings(
        tmp_path / "on", student_s=0.01, base=str(settings.out), written_tokens=50, window=32
    )
    further = await distill(tiny_spec, Teacher(members, {A: "aa"}, {}), on)
    assert read_manifest(on.out).parent_sha256 == manifest.sha256, "it went on from a student"
    assert further.tokens == report.tokens + 2 * 32, "whole windows"


async def test_a_student_may_learn_in_an_adapter_and_is_a_whole_model(
    panel_of, tiny_spec: LoadedSpec, tiny_model: Path, tmp_path: Path, monkeypatch
):
    pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    vocab = tiny_spec.spec.vocab_size
    members = panel_of(LocalClient(A, BigramEngine(0, vocab)), vocab_size=vocab)
    settings = Settings(
        tmp_path / "out", student_s=0.01, base=str(tiny_model), lora_rank=2, window=32
    )
    await distill(tiny_spec, Teacher(members, {A: "aa"}, {}), settings)
    base, student = (
        dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
        for folder in (tiny_model, settings.out)
    )
    moved = {name for name in base if not bool((base[name] == student[name]).all())}
    assert moved
    assert all("_proj" in name for name in moved), "what an adapter lies over, and nothing else"
    assert not list(settings.out.glob("adapter*"))
    alone = replace(settings, base=None, out=tmp_path / "alone")
    with pytest.raises(MoesubnetError, match="--lora needs a model"):
        await distill(tiny_spec, Teacher(members, {A: "aa"}, {}), alone)
    assert not (tmp_path / "alone").exists()
    with monkeypatch.context() as without:
        without.setattr("moesubnet.training.base_model.find_spec", lambda _: None)
        settings = replace(settings, out=tmp_path / "alone")
        with pytest.raises(MoesubnetError, match="peft"):
            await distill(tiny_spec, Teacher(members, {A: "aa"}, {}), settings)


@pytest.mark.parametrize("wrong", ["base", "test"])
async def test_what_the_end_could_not_use_is_refused_before_anybody_is_asked(
    panel_of, tiny_spec: LoadedSpec, tmp_path: Path, wrong: str
):
    vocab = tiny_spec.spec.vocab_size
    members = panel_of(LocalClient(A, BigramEngine(0, vocab)), vocab_size=vocab)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    settings = Settings(tmp_path / "out", window=32)
    changes = {"base": {"base": str(tmp_path / "empty")}, "test": {"test": tmp_path / "empty"}}
    with pytest.raises(MoesubnetError, match=r"no \*\.safetensors|no <domain>\.jsonl"):
        await distill(
            tiny_spec, Teacher(members, {A: "aa"}, {}), replace(settings, **changes[wrong])
        )
    assert not settings.out.exists()


def test_a_small_model_goes_on_at_the_pace_of_small_ones(
    tiny_spec: LoadedSpec, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job = Job(
        kind="student",
        name="student",
        spec_root=tiny_spec.root,
        out=tmp_path,
        base=str(tiny_model),
        window=32,
        steps=1,
        seed=0,
    )
    assert first_pupil(job, tiny_spec).peak_lr is None
    monkeypatch.setattr(jobs, "SMALL_PARAMETERS", 0)
    assert first_pupil(job, tiny_spec).peak_lr == FULL_LR


def test_verdicts_compare_mixed_perplexities():
    losses = {
        "a": (1.0, 5.0),
        "b": (5.0, 1.0),
        "uniform mixture": (2.0, 2.0),
        "gated mixture": (1.2, 1.2),
        "student": (1.8, 1.8),
        "plain, equal steps": (1.7, 1.7),
        "plain, equal CPU": (2.1, 1.9),
    }
    rows = [Row(name, dict(zip("xy", loss, strict=True))) for name, loss in losses.items()]
    assert list(verdicts(rows).values()) == [True, True, True, False, True]
