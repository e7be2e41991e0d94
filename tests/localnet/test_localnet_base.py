"""A localnet of a person's own model, from a folder to a chat."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from moesubnet.errors import ConfigError
from moesubnet.localnet.kinds import FromBase
from moesubnet.localnet.plan import Plan
from moesubnet.localnet.run import Options, epoch_blocks, next_steps, run_localnet
from moesubnet.localnet.sources import SOURCES
from moesubnet.localnet.view import JsonScreen
from tests.families import byte_level

TEMPLATE = (Path(__file__).parents[1] / "templates" / "chatml.jinja").read_text()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Of random weights, with a byte-level tokenizer and a chat template of its own."""
    folder = tmp_path / "my-model"
    tokenizer: Tokenizer = byte_level(["<|im_start|>", "<|im_end|>"])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=tokenizer.token_to_id("<|im_start|>"),
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    saved = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(saved))
    return folder


def test_a_model_becomes_a_subnet_that_chats(model: Path, tmp_path: Path):
    ports = [str(port) for port in free_ports()]
    run = subprocess.run(
        [
            *(sys.executable, "-m", "moesubnet", "localnet", "--json", "--base", str(model)),
            *("--dir", str(tmp_path / "net"), "--expert-seconds", "1", "--until", "answer"),
            *("--chain-port", ports[0], "--router-port", ports[1], "--first-port", ports[2]),
        ],
        capture_output=True,
        text=True,
        timeout=540,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr + run.stdout[-2_000:]
    said = [json.loads(line) for line in run.stdout.splitlines()]
    notes = "\n".join(row["text"] for row in said if row["event"] == "note")
    assert "a prompt from a person:\nExplain" in notes
    for domain in SOURCES:
        assert re.search(rf"{domain}: \d+ steps; held-out perplexity .* windows; there ", notes)
    written_by = notes.rpartition("written by ")[2]
    assert {f"miner-{name}" for name in ("base", *SOURCES)} <= set(written_by.split())
    adapter = tmp_path / "net" / "experts" / "python" / "adapter_config.json"
    assert json.loads(adapter.read_text())["base_model_name_or_path"] == str(model)


async def test_a_base_that_does_not_chat_says_so_before_anything_is_made(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    async def stopped(*_: object, **__: object) -> None:
        raise ConfigError("as far as this test goes")

    async def said(kind: FromBase) -> str:
        options = Options(tmp_path / "net", 0, kind, True, "embedded", *free_ports(), "answer")
        with pytest.raises(ConfigError, match="as far as this test goes"):
            await run_localnet(options, JsonScreen())
        return capsys.readouterr().out

    monkeypatch.setattr("moesubnet.localnet.run.prepare", stopped)
    assert "chat" not in await said(FromBase(str(model), 1.0))
    saved = json.loads((model / "tokenizer_config.json").read_text())
    del saved["chat_template"]
    (model / "tokenizer_config.json").write_text(json.dumps(saved))
    silent = FromBase(str(model), 1.0)
    told = await said(silent)
    assert "my-model has no chat template" in told
    assert "/v1/chat/completions and /v1/responses are refused" in told
    assert not (tmp_path / "net" / "corpora").exists()
    shown = next_steps(Plan(tmp_path, silent), {"python": "import os\n"})
    assert "no chat template" in shown
    assert "/v1/completions" in shown.partition("curl")[2].partition("-H")[0]


def test_an_epoch_is_as_long_as_slow_experts_take(model: Path, tmp_path: Path):
    class Told:
        """A training of so many tokens a second."""

        def __init__(self, tokens_per_s: float) -> None:
            self.seen_tokens, self.elapsed_s = round(100 * tokens_per_s), 100.0

    class Prepared:
        def __init__(self, tokens_per_s: float) -> None:
            self.expert_reports = {domain: Told(tokens_per_s) for domain in SOURCES}

    kind = FromBase(str(model), 1.0)
    plan = Plan(tmp_path, kind)
    quick, slow, slower = (epoch_blocks(plan, Prepared(rate)) for rate in (1e5, 100, 50))  # type: ignore[arg-type]
    assert quick == plan.tempo_blocks
    assert slower == pytest.approx(2 * slow, abs=1)


def test_what_is_no_model_is_refused_before_anything_is_made(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"there is no folder .*nothing"):
        _ = FromBase(str(tmp_path / "nothing"), 1.0).key


def free_ports() -> tuple[int, int, int]:
    """One for the chain, one for the router, and the first of ten for axons."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    first = 20_000 + os.getpid() % 20_000
    return ports[0], ports[1], first
