"""The whole distillation over experts in this process: student, opponents, table, manifest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moesubnet.distill import pupils
from moesubnet.distill.cli import distill_app
from moesubnet.distill.collect import collect
from moesubnet.distill.evaluate import Row, margins, row_of, verdicts
from moesubnet.distill.forecast import Settings, check, student_job_of
from moesubnet.distill.held_out import hold_out, mixture_nats
from moesubnet.distill.job import Job
from moesubnet.distill.manifest import read_manifest
from moesubnet.distill.pupils import first_pupil
from moesubnet.distill.reading import TargetReader
from moesubnet.distill.run import Teacher, distill
from moesubnet.distill.targets import TargetSpec, TargetStore
from moesubnet.distill.train import MixtureLaws, Pupil, train_student
from moesubnet.errors import MoesubnetError, SpecError
from moesubnet.host.progress import Progress
from moesubnet.spec.content import LoadedSpec
from moesubnet.training.head import split_model
from moesubnet.training.measured import margin_words
from moesubnet.training.model import new_model, small_config
from moesubnet.training.optimizers import FULL_LR
from moesubnet.training.trainer import Schedule
from moesubnet.types import Hotkey

from .conftest import BigramEngine, LocalClient
from .played_run import played

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
    for claim, (nats, error) in report.margins.items():
        assert (nats > 0) == report.verdicts[claim]
        assert error > 0
    assert set(report.margins) == set(report.verdicts)
    assert all(set(row.error) == {"words", "digits"} for row in report.rows)
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
    student = report.student
    assert student.held_out_windows == min(2, student.held_out_of) > 0, "as many as fit, or two"
    assert f"; the mixture's {student.perplexity_mixture:.2f}, by " in student.held_out_words
    base, learnt = (
        AutoModelForCausalLM.from_pretrained(folder) for folder in (tiny_model, settings.out)
    )
    moved = [
        (old - new).abs().max().item()
        for old, new in zip(base.parameters(), learnt.parameters(), strict=True)
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


def typed(tiny_spec: LoadedSpec, tiny_model: Path, out: Path, *more: str) -> list[str]:
    """`distill run` from a model, in few steps."""
    return [
        *("run", "--hotkey", "//Alice", "--spec", str(tiny_spec.root), "--out", str(out)),
        *("--from", str(tiny_model), "--lora", "4", "--learning-rate", "5e-3"),
        *("--precision", "f32", "--epochs", "0.25", "--batch", "4", "--json", *more),
    ]


def said_by(stdout: str) -> tuple[list[float], dict[str, object]]:
    """(the student's losses, its report) of JSON lines."""
    rows = [json.loads(line) for line in stdout.splitlines()]
    [report] = [row["report"] for row in rows if "report" in row]
    return [row["loss"] for row in rows if row.get("task") == "student"], report["student"]


@pytest.mark.slow
@pytest.mark.timeout(900)  # six processes begin one after the other
def test_a_team_behind_a_launcher_trains_as_one_process_does(
    tiny_spec: LoadedSpec, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first process collects and the other waits; then both train."""
    pytest.importorskip("peft")
    monkeypatch.setattr("moesubnet.distill.app.meet_experts", played)
    told = CliRunner().invoke(distill_app, typed(tiny_spec, tiny_model, tmp_path / "one"))
    assert told.exit_code == 0, told.exception
    losses, alone = said_by(told.stdout)
    assert alone["perplexity_after"] != alone["perplexity_before"]
    assert "It will take about" in told.stderr
    assert f"{alone['steps']} steps over" in told.stderr

    options = typed(tiny_spec, tiny_model, tmp_path / "two", "--track", "tensorboard")
    launcher = "-m torch.distributed.run --standalone --nproc-per-node=2 -m"
    launched = subprocess.run(
        [sys.executable, *launcher.split(), "tests.distill.played_run", *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert launched.returncode == 0, launched.stderr[-2_000:]
    shared, together = said_by(launched.stdout)
    assert len(shared) == alone["steps"] > 3
    assert shared == pytest.approx(losses, rel=1e-4)
    for name in ("before", "after", "mixture"):
        assert together[f"perplexity_{name}"] == pytest.approx(alone[f"perplexity_{name}"], 1e-3)
    assert len(list((tmp_path / "two" / "runs").iterdir())) == 1, "one of them writes"
    one, two = (read_manifest(tmp_path / name) for name in ("one", "two"))
    assert one.files.keys() == two.files.keys()


def test_a_comparison_is_refused_behind_a_launcher(
    tiny_spec: LoadedSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MoesubnetError, match="leave it or the launcher out"):
        check(
            student_job_of(Settings(tmp_path, test=tmp_path), tiny_spec),
            tiny_spec,
            lambda text: None,
        )


async def test_accumulated_micro_batches_teach_what_a_whole_batch_does(
    panel_of, tiny_spec: LoadedSpec, tmp_path: Path
):
    vocab = tiny_spec.spec.vocab_size
    spec = TargetSpec("full", vocab, 1.0, 16, 40, 0, False, "t", "s", "g", (("a", "1"),))
    store = TargetStore(tmp_path, spec)
    windows = np.random.default_rng(0).integers(0, vocab, (40, 16)).astype(np.uint32)
    expert = LocalClient(A, BigramEngine(0, vocab))
    await collect(panel_of(expert, vocab_size=vocab), windows, store)
    laws = MixtureLaws(TargetReader(store), np.arange(40), start_id=0)
    losses: list[list[float]] = []
    for micro_batches in (1, 3):  # of 8 windows: 3, 3 and 2
        model = new_model(small_config(tiny_spec, hidden=24, layers=1, heads=2), seed=0)
        seen: list[Progress] = []
        train_student(
            Pupil(model, split_model(model), 1e-3, 8, micro_batches),
            laws,
            Schedule("run", "student", 0.0, 6),
            seed=0,
            on_progress=seen.append,
        )
        losses.append([progress.loss for progress in seen])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(set(losses[0])) == 6


def test_what_a_student_is_measured_on_it_has_not_learnt_from(tmp_path: Path):
    ids = np.random.default_rng(0).integers(0, 300, (100, 32)).astype(np.uint32)
    ids[25] = ids[7]  # one that would be held out occurs in the rest
    spec = TargetSpec("full", 300, 1.0, 32, 100, 40, False, "t", "s", "g", ())
    store = TargetStore(tmp_path, spec)
    zeros = np.zeros((100, 32, 2), np.float32)
    store.write(0, {"ids": ids, "label_log_p": zeros - 2.0, "log_w": zeros})
    targets = TargetReader(store)
    learnt, held_out = hold_out(targets, given=60)
    assert held_out.tolist() == [5, 45], "of what is given, not of what the mixture wrote"
    assert sorted({*range(100)} - {*learnt.tolist()}) == [5, 25, 45]
    assert mixture_nats(targets, held_out) == 2.0


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
    monkeypatch.setattr(pupils, "SMALL_PARAMETERS", 0)
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


def test_a_verdict_says_by_how_much_and_how_sure_that_is():
    """All models find the same windows hard, so the difference is surer than either."""
    rng = np.random.default_rng(0)
    hard = {"x": rng.normal(3.0, 1.0, 16), "y": rng.normal(2.0, 0.5, 9)}
    off = {domain: rng.normal(0.0, 0.1, len(part)) for domain, part in hard.items()}
    names = ("a", "uniform mixture", "student", "plain, equal steps", "plain, equal CPU")
    models = {name: {d: part + 0.5 for d, part in hard.items()} for name in names}
    models["gated mixture"] = {domain: part + off[domain] for domain, part in hard.items()}
    nats, error = margins(models)["gated mixture below every expert"]
    assert nats == pytest.approx(0.5 - np.mean([part.mean() for part in off.values()]))
    of_each = [part.std(ddof=1) / np.sqrt(len(part)) for part in off.values()]
    assert error == pytest.approx(np.hypot(*of_each) / 2)
    row = row_of("a", models["a"])
    assert row.error["x"] == pytest.approx(hard["x"].std(ddof=1) / 4)
    assert error < min(row.error.values()) / 2
    said = margin_words({"c": (nats, error)}, "c")
    assert said == f" ({nats:.3f} ± {error:.3f} nats a token)"
    assert margin_words({}, "c") == "", "a report of an older version"

    lone = {name: {d: part[:1] for d, part in losses.items()} for name, losses in models.items()}
    assert margins(lone) == {}
    assert row_of("a", lone["a"]).error == {}
