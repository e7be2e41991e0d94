"""Fine-tuning a model that somebody has: adapters and whole models, interrupted and shared."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    MambaConfig,
    MixtralConfig,
    T5Config,
)
from typer.testing import CliRunner

from moesubnet.errors import ConfigError, EngineError
from moesubnet.host.interrupt import first_interrupt
from moesubnet.host.progress import Progress
from moesubnet.spec.content import LoadedSpec
from moesubnet.training import estimate, plan
from moesubnet.training.base_model import Size, size_of
from moesubnet.training.cli import _in_words
from moesubnet.training.estimate import footprint
from moesubnet.training.finetune import FineTuning, fine_tune
from moesubnet.training.learner import NextTokens
from moesubnet.training.tracking import tracked

IDS = torch.arange(3, 40)[None]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents that have a pattern, and no twelve tokens in common."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("text") / "mine.jsonl"
    rows = (" ".join(f"{word} {word + 1}" for word in rng.integers(0, 999, 40)) for _ in range(60))
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


def tuning(model: Path, **changes: object) -> FineTuning:
    usual = FineTuning(str(model), window=64, batch=4, epochs=0.5, lr=2e-2, precision="f32")
    return replace(usual, **changes)  # type: ignore[arg-type]


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits


def test_an_adapter_is_an_ordinary_peft_folder_and_makes_unseen_text_likelier(
    tiny_spec: LoadedSpec, tiny_model: Path, text_file: Path, tmp_path: Path
):
    from peft import PeftModel

    out, said, seen = tmp_path / "adapter", [], []
    settings = tuning(tiny_model, lora_rank=4)
    report = fine_tune(
        [text_file], out, tiny_spec, settings, say=said.append, on_progress=seen.append
    )
    assert report.perplexity_after < 0.8 * report.perplexity_before
    assert report.trained_parameters < report.parameters / 2
    assert report.held_out_tokens > 100
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in out.iterdir()}
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model.resolve())
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    plain = logits(base)
    assert not torch.allclose(logits(PeftModel.from_pretrained(base, out)), plain, atol=0.1)
    assert "GB are free" in said[0]
    assert f"{report.steps} steps over" in said[1]
    assert {p.task for p in seen} == {
        "adapter",
        "adapter held out, before",
        "adapter held out, after",
    }
    assert not (out / "training.state").exists()
    assert report.seen_tokens < report.train_tokens
    read = f"{report.seen_tokens:,} tokens, of a text of {report.train_tokens:,}"
    assert read in _in_words(out, report)

    assert fine_tune([text_file], out, tiny_spec, settings) == report, "done is done"


def test_a_run_of_few_seconds_measures_few_windows_and_says_so(
    tiny_spec: LoadedSpec, tiny_model: Path, text_file: Path, tmp_path: Path
):
    """Before and after by the same ones; a run that ends at once still has a figure."""
    settings = tuning(tiny_model, lora_rank=4, seconds=1e-6)
    report = fine_tune([text_file], tmp_path, tiny_spec, settings)
    assert report.held_out_windows == 2 < report.held_out_of
    assert 0 < report.held_out_tokens <= 2 * settings.window
    assert report.error_before > 0
    assert report.error_after > 0
    gain = math.log(report.perplexity_before / report.perplexity_after)
    assert report.gain_nats == pytest.approx(gain)
    said = _in_words(tmp_path, report)
    assert f"by 2 of {report.held_out_of} windows" in said
    assert f"{report.perplexity_after:.2f} ± {report.error_after:.2f} after" in said

    older = json.loads((tmp_path / "report.json").read_text())
    for name in ("held_out_windows", "held_out_of", "gain_nats", "gain_error"):
        del older["report"][name]
    for name in ("error_before", "error_after"):
        del older["report"][name]
    (tmp_path / "report.json").write_text(json.dumps(older))
    kept = fine_tune([text_file], tmp_path, tiny_spec, settings)
    assert kept.perplexity_after == report.perplexity_after, "an older version's is as good"
    assert "windows" not in kept.held_out_words


def test_time_is_told_from_as_many_windows_at_once_as_are_learnt(
    tiny_spec: LoadedSpec, tiny_model: Path, text_file: Path, tmp_path: Path, monkeypatch
):
    """One window takes several times its part of a step."""
    loss, learnt = NextTokens.loss, []

    def counted(self, split, picks):
        if torch.is_grad_enabled():
            learnt.append(len(picks))
        return loss(self, split, picks)

    monkeypatch.setattr(NextTokens, "loss", counted)
    fine_tune([text_file], tmp_path, tiny_spec, tuning(tiny_model, batch=4, epochs=0.1))
    assert learnt
    assert set(learnt) == {4}


def test_a_whole_model_is_trained_and_keeps_number_format_and_tokenizer(
    tiny_spec: LoadedSpec, tiny_model: Path, text_file: Path, tmp_path: Path
):
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    AutoModelForCausalLM.from_pretrained(base).to(torch.bfloat16).save_pretrained(base)
    out = tmp_path / "tuned"
    report = fine_tune([text_file], out, tiny_spec, tuning(base, lr=3e-3))
    assert report.trained_parameters == report.parameters
    assert report.perplexity_after < report.perplexity_before
    assert AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype == torch.bfloat16
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    AutoTokenizer.from_pretrained(out)


def test_a_merged_adapter_is_a_model_that_says_the_same(
    tiny_spec: LoadedSpec, tiny_model: Path, text_file: Path, tmp_path: Path
):
    from peft import PeftModel

    out = tmp_path / "merged"
    settings = tuning(tiny_model, lora_rank=4, merge=True, epochs=0.1)
    fine_tune([text_file], out, tiny_spec, settings)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    apart = logits(PeftModel.from_pretrained(base, out / "adapter"))
    together = logits(AutoModelForCausalLM.from_pretrained(out))
    torch.testing.assert_close(together, apart, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_a_stopped_run_leaves_what_there_is_and_goes_on_as_if_unbroken(
    tiny_spec: LoadedSpec, tiny_model: Path, text_file: Path, tmp_path: Path, lora_rank: int | None
):
    settings = tuning(tiny_model, lora_rank=lora_rank, lr=2e-3)
    unbroken = fine_tune([text_file], tmp_path / "a", tiny_spec, settings)
    steps: list[Progress] = []
    out = tmp_path / "b"
    stopped = fine_tune(
        [text_file],
        out,
        tiny_spec,
        settings,
        on_progress=lambda p: steps.append(p) if p.task == "b" else None,
        should_stop=lambda: len(steps) == 2,
    )
    assert stopped is None
    assert len(steps) == 3
    weights = out / ("model.safetensors" if lora_rank is None else "adapter_model.safetensors")
    assert weights.exists()
    with pytest.raises(ConfigError, match="--fresh"):
        fine_tune([text_file], out, tiny_spec, replace(settings, seed=1))
    later = replace(settings, seconds=900.0)
    resumed = fine_tune([text_file], out, tiny_spec, later)
    assert resumed.steps == unbroken.steps
    assert resumed.seen_tokens == unbroken.seen_tokens
    assert resumed.perplexity_before == unbroken.perplexity_before
    assert resumed.perplexity_after == pytest.approx(unbroken.perplexity_after, rel=1e-4)


@pytest.mark.slow
def test_two_devices_do_what_one_does(
    tiny_spec: LoadedSpec, tiny_model: Path, text_file: Path, tmp_path: Path
):
    settings = tuning(tiny_model, lora_rank=4, epochs=0.25, lr=5e-3)
    losses: list[float] = []
    alone = fine_tune(
        [text_file],
        tmp_path / "one",
        tiny_spec,
        settings,
        on_progress=lambda p: losses.append(p.loss) if p.task == "one" else None,
    )
    options = (
        f"--from {tiny_model} --lora 4 --text {text_file} --spec {tiny_spec.root} "
        f"--out {tmp_path / 'two'} --window 64 --batch 4 --epochs 0.25 --learning-rate 5e-3 "
        "--precision f32 --json"
    )
    launcher = "-m torch.distributed.run --standalone --nproc-per-node=2 -m moesubnet expert train"
    launched = subprocess.run(
        [sys.executable, *launcher.split(), *options.split()],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert launched.returncode == 0, launched.stderr[-2_000:]
    rows = [json.loads(line) for line in launched.stdout.splitlines()]
    reports = [row["report"] for row in rows if "report" in row]
    assert len(reports) == 1, "only the first device speaks"
    assert [row["loss"] for row in rows if row.get("task") == "two"] == pytest.approx(
        losses, rel=1e-4
    )
    assert reports[0]["seen_tokens"] == alone.seen_tokens
    assert reports[0]["perplexity_after"] == pytest.approx(alone.perplexity_after, rel=1e-3)


def test_what_cannot_work_is_refused_in_words(
    tiny_spec: LoadedSpec,
    tiny_model: Path,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def attempt(model: Path, text: Path = text_file, **changes: object) -> None:
        fine_tune([text], tmp_path / "out", tiny_spec, tuning(model, **changes))

    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][1:]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(EngineError, match="does not have the tokenizer"):
        attempt(other)
    quantised = tmp_path / "quantised"
    shutil.copytree(tiny_model, quantised)
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (quantised / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="quantised"):
        attempt(quantised)
    short = tmp_path / "short.txt"
    short.write_text("short")
    with pytest.raises(ConfigError, match="tokens are too little text"):
        attempt(tiny_model, short)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"moesubnet\[lora\]"):
        attempt(tiny_model, lora_rank=4)
    monkeypatch.setattr(plan, "free_memory_bytes", lambda device: 1 << 20)
    with pytest.raises(ConfigError, match="--lora 16"):
        attempt(tiny_model)


def test_a_model_that_writes_no_text_is_refused_before_it_is_trained(
    tiny_spec: LoadedSpec,
    save_tiny_model: Callable[..., Path],
    text_file: Path,
    tmp_path: Path,
):
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    small |= {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "pad_token_id": 0}
    encoder = save_tiny_model(config=BertConfig(initializer_range=0.5, **small))
    with pytest.raises(EngineError, match="sees what follows"):
        fine_tune([text_file], tmp_path / "out", tiny_spec, tuning(encoder))
    translator = tmp_path / "translator"
    shutil.copytree(encoder, translator)
    T5Config(vocab_size=300).save_pretrained(translator)
    with pytest.raises(EngineError, match=r"t5 model.*take one that was made to write"):
        fine_tune([text_file], tmp_path / "out", tiny_spec, tuning(translator))


def test_a_model_that_takes_no_adapter_says_to_train_all_of_it(
    tiny_spec: LoadedSpec,
    save_tiny_model: Callable[..., Path],
    text_file: Path,
    tmp_path: Path,
):
    mamba = MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, eos_token_id=0)
    with pytest.raises(ConfigError, match=r"no adapter on this mamba model.*leave out --lora"):
        fine_tune(
            [text_file],
            tmp_path / "out",
            tiny_spec,
            tuning(save_tiny_model(config=mamba), lora_rank=4),
        )


def test_a_model_that_reads_less_than_the_context_is_refused_before_it_is_trained(
    tiny_spec: LoadedSpec,
    save_tiny_model: Callable[..., Path],
    text_file: Path,
    tmp_path: Path,
):
    short = save_tiny_model(
        config=GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=2, n_positions=32)
    )
    with pytest.raises(EngineError, match="reads 32 tokens at most"):
        fine_tune([text_file], tmp_path / "out", tiny_spec, tuning(short))


def test_the_base_is_not_written_over(
    tiny_spec: LoadedSpec, tiny_model: Path, text_file: Path, tmp_path: Path
):
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    with pytest.raises(ConfigError, match="give another folder"):
        fine_tune([text_file], base, tiny_spec, tuning(base))
    assert {path.name for path in base.iterdir()} == {path.name for path in tiny_model.iterdir()}


def test_no_seconds_are_not_all_there_are(
    tiny_spec: LoadedSpec, tiny_model: Path, text_file: Path, tmp_path: Path
):
    settings = tuning(tiny_model, epochs=9.0, seconds=0.0)
    assert fine_tune([text_file], tmp_path / "out", tiny_spec, settings).steps == 1


def test_a_stopped_adapter_that_goes_on_to_be_merged_leaves_no_adapter_beside_the_model(
    tiny_spec: LoadedSpec, tiny_model: Path, text_file: Path, tmp_path: Path
):
    out, settings = tmp_path / "out", tuning(tiny_model, lora_rank=4)
    assert fine_tune([text_file], out, tiny_spec, settings, should_stop=lambda: True) is None
    assert (out / "adapter_config.json").exists()
    assert fine_tune([text_file], out, tiny_spec, replace(settings, merge=True))
    assert not list(out.glob("adapter_*"))
    merged, plain = (AutoModelForCausalLM.from_pretrained(folder) for folder in (out, tiny_model))
    assert not hasattr(merged, "peft_config")
    assert not torch.allclose(logits(merged), logits(plain), atol=0.1)


def test_of_a_subnet_over_bytes_a_model_is_trained_over_its_own_tokens(
    tiny_model: Path, text_file: Path, tmp_path: Path
):
    from moesubnet.cli import build_app

    def typed(*words: str) -> object:
        return CliRunner().invoke(build_app(), words)

    text = ("--text", str(text_file))
    typed("spec", "new", "--unit", "bytes", *text, "--out", str(tmp_path / "bytes"))
    usual = ("--spec", str(tmp_path / "bytes"), "--out", str(tmp_path / "out"))
    result = typed("expert", "train", *text, *usual, "--from", str(tiny_model))
    assert f"moesubnet spec new --from {tiny_model}" in str(result.exception), result.output


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_a_disk_that_would_be_full_at_the_end_is_said_at_the_start(
    tiny_spec: LoadedSpec,
    tiny_model: Path,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lora_rank: int | None,
):
    settings, out = tuning(tiny_model, lora_rank=lora_rank, merge=bool(lora_rank)), tmp_path / "out"
    needed = estimate.disk_bytes(size_of(tiny_model, lora_rank), writes_whole=True)
    free = SimpleNamespace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(ConfigError, match="give another --out"):
        fine_tune([text_file], out, tiny_spec, settings)
    assert not out.exists()
    free.free += 1
    assert fine_tune([text_file], out, tiny_spec, settings, should_stop=lambda: True) is None
    weights = {path for path in out.rglob("*") if path.suffix in (".safetensors", ".state")}
    assert len(weights) == 2, "the run's state, and what there is so far"
    assert sum(path.stat().st_size for path in weights) < needed + 20_000, "but for their headers"
    free.free = needed - sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert fine_tune([text_file], out, tiny_spec, settings), "it is replaced, and so is room"


def test_steps_are_cut_so_that_they_fit_and_layers_recomputed_where_they_must():
    size = Size(270_000_000, 270_000_000, 168_000_000, 262_144, 640, 18, 120_000)

    def fit(free_gb: float, size: Size = size, window: int = 1_024) -> estimate.Footprint:
        return footprint(
            size,
            bf16=False,
            chunk_logits=1 << 24,
            window=window,
            batch=8,
            free_bytes=round(free_gb * 1e9),
            device_type="cpu",
        )

    roomy, tight = fit(30.0), fit(8.0)
    assert (roomy.micro_windows, roomy.recomputes) == (2, False), "2,048 tokens at once"
    assert (tight.micro_windows, tight.recomputes) == (2, True)
    assert fit(30.0, window=256).micro_windows == 8
    for found, free_gb in ((roomy, 30.0), (tight, 8.0)):
        assert found.total_bytes < free_gb * 1e9
    adapter = replace(size, trained=1_000_000)
    assert fit(30.0, adapter).fixed_bytes < roomy.fixed_bytes / 2
    with pytest.raises(ConfigError, match="--window"):
        fit(1.0, adapter)


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_recomputed_layers_teach_the_same(
    tiny_spec: LoadedSpec,
    tiny_model: Path,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    lora_rank: int | None,
):
    settings = tuning(tiny_model, lora_rank=lora_rank, epochs=0.1, lr=2e-3)
    said: list[str] = []
    kept = fine_tune([text_file], tmp_path / "kept", tiny_spec, settings)
    small = estimate.Footprint(1, 1, 4, recomputes=True)
    monkeypatch.setattr(plan, "footprint", lambda *_, **__: small)
    again = fine_tune([text_file], tmp_path / "again", tiny_spec, settings, say=said.append)
    assert "computed twice" in said[0]
    assert again.perplexity_after == pytest.approx(kept.perplexity_after, rel=1e-3)
    assert not [w for w in recwarn if w.category is FutureWarning], "printed into the progress"


def test_the_size_is_known_without_the_weights(tiny_model: Path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    whole, adapter = size_of(tiny_model, None), size_of(tiny_model, 4)
    assert whole.parameters == whole.trained == sum(p.numel() for p in model.parameters())
    assert 0 < adapter.trained < whole.trained
    assert whole.head == model.lm_head.weight.numel()


def test_what_an_adapter_adds_to_experts_is_counted(save_tiny_model: Callable[..., Path]):
    from moesubnet.training.base_model import load_base

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 300}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 8}
    folder = save_tiny_model(config=MixtralConfig(num_experts_per_tok=3, **shape, **heads))
    size = size_of(folder, 2)
    model = load_base(folder, lora_rank=2, low_precision=False, seed=0, device=torch.device("cpu"))
    assert size.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert size.rebuilt == 2 * 8 * 3 * 32 * 48
    attention = 4 * (32 + 32)
    through_experts = 3 * (32 + 2 * 48) + 3 * (48 + 32)
    assert size.token_values == 2 * (attention + through_experts)


def test_the_first_ctrl_c_asks_and_the_second_ends():
    with first_interrupt() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_losses_go_to_tensorboard(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown: list[Progress] = []
    with tracked("tensorboard", tmp_path, shown.append) as show:
        show(Progress("t", 0.5, 1.25, 1.0, 10.0))
        show(Progress("t", 0.6, None, 1.0, None))
        show(Progress("t", 1.0, 1.0, 1.0, None))
    assert len(shown) == 3
    written = EventAccumulator(str(tmp_path / "runs")).Reload()
    curves = {
        tag: [(event.step, event.value) for event in written.Scalars(tag)]
        for tag in written.Tags()["scalars"]
    }
    assert curves == {"t/loss": [(1, 1.25), (2, 1.0)], "t/tokens_per_s": [(1, 10.0), (2, 0.0)]}


@pytest.mark.parametrize("tool", ["tensorboard", "wandb"])
def test_a_tracker_that_is_missing_is_named(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module = "torch.utils.tensorboard" if tool == "tensorboard" else tool
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"pip install {tool}"):
        tracked(tool, tmp_path, lambda progress: None).__enter__()
    with pytest.raises(ConfigError, match="neither"):
        tracked("paper", tmp_path, lambda progress: None).__enter__()


def test_options_that_need_a_model_say_so(text_file: Path, tiny_spec: LoadedSpec, tmp_path: Path):
    from moesubnet.miner.cli import expert_app

    def typed(*options: str) -> str:
        usual = ("--text", str(text_file), "--out", str(tmp_path), "--spec", str(tiny_spec.root))
        result = CliRunner().invoke(expert_app, ["train", *usual, *options])
        return f"{result.exception} {result.output}"

    assert "only with a model to start --from: --lora, --window" in typed("--lora=8", "--window=64")
    assert "only without --from: --min-steps" in typed("--from=x", "--min-steps=3")
    assert "greater than or equal to 0" in typed("--learning-rate", "-1")
    assert "not one of 'auto', 'bf16', 'f32'" in typed("--from", "x", "--precision", "fp4")
