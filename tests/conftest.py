"""Fixtures for whoever needs a real, tiny subnet spec, a real, tiny model, or a real node."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from moesubnet.chain.client import Call
from moesubnet.chain.devchain import blob
from moesubnet.chain.devchain.code import embedded_version
from moesubnet.chain.network.plan import Network, find_binary, make_network
from moesubnet.chain.network.run import free_ports
from moesubnet.errors import ConfigError
from moesubnet.spec.content import LoadedSpec, Spec, save_spec, spec_files
from moesubnet.wire import patience
from moesubnet.wire.panel import Panel
from tests.patient_loop import PatientLoop

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))  # its clock

settings.register_profile("moesubnet", deadline=None)  # nothing here is timed by the wall clock
settings.load_profile("moesubnet")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"patient": PatientLoop}


TINY_VOCAB = 300
TINY_CONTEXT = 64
TINY_TEXT = "the quick brown fox jumps over the lazy dog; naïve café 世界 STOP here. "


@pytest.fixture
def impatient() -> None:
    """For tests of who is late: see `patient`."""


@pytest.fixture(autouse=True)
def patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No expert is late because many work on this machine: it is waited for until the deadline."""
    if "impatient" not in request.fixturenames:
        monkeypatch.setattr(patience, "UNKNOWN_S", 60.0)
        monkeypatch.setattr(patience, "LEAST_S", 60.0)
        defaults = Panel.advance.__kwdefaults__
        assert "least_patience_s" in defaults
        monkeypatch.setitem(defaults, "least_patience_s", 60.0)


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A command that is run in this process sets up its log; not for the tests after it."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in [h for h in root.handlers if type(h) is logging.StreamHandler]:
        root.removeHandler(handler)


def _train_tokenizer(path: Path, text: str) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCAB,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text] * 3, trainer)
    assert tokenizer.get_vocab_size() == TINY_VOCAB
    tokenizer.save(str(path))


@pytest.fixture(scope="session")
def next_runtime() -> bytes:
    """The runtime that ships, with a `spec_version` one higher and nothing else changed."""
    wasm = blob.decompress(blob.runtime_wasm())
    version = embedded_version(wasm)
    assert version is not None
    numbers = struct.Struct("<III").pack  # as they stand in the custom section and in the code
    is_, to_be = (
        numbers(version.authoring_version, spec, version.impl_version)
        for spec in (version.spec_version, version.spec_version + 1)
    )
    assert wasm.count(is_) == 2, "the blob has its version elsewhere; see Version in configs.rs"
    return blob.compress(wasm.replace(is_, to_be))


@pytest.fixture(scope="session")
def upgrade_call() -> Callable[[bytes], Call]:
    """Root's call that replaces the runtime."""

    def call(code: bytes) -> Call:
        inner = {"call_module": "System", "call_function": "set_code"}
        args = {"call": inner | {"call_args": {"code": "0x" + code.hex()}}}
        return Call("Sudo", "sudo", args)

    return call


@pytest.fixture(scope="session")
def tiny_spec(tmp_path_factory: pytest.TempPathFactory) -> LoadedSpec:
    """A whole spec: byte-level BPE of 300 tokens, context 64, unigram baseline. TINY_TEXT has 34
    tokens."""
    root = tmp_path_factory.mktemp("spec")
    text = Path(__file__).with_name("tiny_text.txt").read_text()  # one that nobody edits
    _train_tokenizer(root / "tokenizer.json", text + 100 * TINY_TEXT)
    (root / "public.jsonl").write_text(json.dumps({"domain": "python", "text": text}) + "\n")
    np.save(root / "unigram.npy", np.full(TINY_VOCAB, -np.log(TINY_VOCAB), dtype=np.float32))

    return save_spec(
        root,
        Spec(
            name="tiny",
            vocab_size=TINY_VOCAB,
            bos_id=0,
            stop_ids=(0,),
            context_tokens=TINY_CONTEXT,
            chat_template="{% for m in messages %}{{ m.content }}\n{% endfor %}",
            min_caller_stake_rao=10**9,
            **spec_files(root),
        ),
    )


@pytest.fixture(scope="session")
def save_tiny_model(
    tiny_spec: LoadedSpec, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`save_tiny_model(seed=0, config=None)` → the folder of a random Llama (or `config`)."""

    def save(seed: int = 0, config: object = None) -> Path:
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp("model")
        model = AutoModelForCausalLM.from_config(
            config
            or LlamaConfig(
                vocab_size=TINY_VOCAB,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=TINY_CONTEXT,
                tie_word_embeddings=True,
                initializer_range=0.5,  # sharp laws: rows of wrong prefixes must not look alike
                bos_token_id=None,
                eos_token_id=0,
            )
        )
        model.save_pretrained(folder)
        (folder / "tokenizer.json").write_bytes(tiny_spec.tokenizer_path.read_bytes())
        return folder

    return save


@pytest.fixture(scope="session")
def tiny_model(save_tiny_model: Callable[..., Path]) -> Path:
    """A random Llama with the tokenizer of `tiny_spec`."""
    return save_tiny_model()


@pytest.fixture(scope="session")
def save_tiny_adapter(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`save_tiny_adapter(seed=0)` → the folder of a random LoRA of `tiny_model`."""

    def save(seed: int = 0) -> Path:
        import torch
        from transformers import AutoModelForCausalLM

        peft = pytest.importorskip("peft")
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
        )
        folder = tmp_path_factory.mktemp("adapter")
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        peft.get_peft_model(base, config).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def node_binary() -> Path:
    """The chain's node. Without one the test is skipped, and it is said how to build it."""
    try:
        return find_binary(None)
    except ConfigError as error:
        pytest.skip(f"NOT TESTED ON A REAL NODE: {error}")


@pytest.fixture(scope="session")
def make_fast_network() -> Callable[..., Network]:
    """`make_fast_network(root, rpc_ports, slot_s=…)` → the files of as many validators."""

    def make(root: Path, rpc_ports: Sequence[int], *, slot_s: float) -> Network:
        root.mkdir(parents=True, exist_ok=True)
        network = make_network(root, "development", free_ports(len(rpc_ports)), rpc_ports)
        spec = json.loads(network.spec_path.read_text())
        spec["genesis"]["runtimeGenesis"]["config"]["clock"] = {"slotDurationMs": int(1e3 * slot_s)}
        network.spec_path.write_text(json.dumps(spec))
        return network

    return make
