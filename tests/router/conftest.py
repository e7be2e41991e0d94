"""A router over models with known laws; HTTP and clients are real."""

from __future__ import annotations

import asyncio
import hashlib

import numpy as np
import openai
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from moesubnet.baseline import Unigram
from moesubnet.listening import Listening
from moesubnet.listening import serve as listen
from moesubnet.router.app import build_app
from moesubnet.router.mixed import unavailable
from moesubnet.router.model import Law
from moesubnet.router.service import Service
from moesubnet.spec import Baseline, LoadedSpec, Spec, SpecFile, save_spec

VOCAB_SIZE = 320
CONTEXT_TOKENS = 96
TEXT = "the quick brown fox jumps over the lazy dog; naïve café 世界 STOP here. "


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> LoadedSpec:
    root = tmp_path_factory.mktemp("spec")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT * 8], trainer)
    tokenizer.save(str(root / "tokenizer.json"))
    (root / "public.jsonl").write_text('{"domain": "d", "text": "x"}\n')
    Unigram.build(np.arange(VOCAB_SIZE), VOCAB_SIZE).save(root / "unigram.npy")

    def named(name: str) -> SpecFile:
        digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
        return SpecFile(path=name, sha256=digest)

    return save_spec(
        root,
        Spec(
            name="test",
            tokenizer=named("tokenizer.json"),
            vocab_size=VOCAB_SIZE,
            eos_id=0,
            context_tokens=CONTEXT_TOKENS,
            chat_template="{% for m in messages %}{{ m.content }} {% endfor %}",
            min_caller_stake_rao=1,
            public_text=named("public.jsonl"),
            baseline=Baseline(kind="unigram", file=named("unigram.npy")),
        ),
    )


@pytest.fixture(scope="session")
def tokenizer(spec: LoadedSpec) -> Tokenizer:
    return Tokenizer.from_file(str(spec.tokenizer_path))


class ParrotModel:
    """Continues TEXT from wherever the prompt stands in it, surely; ends with <|end|>."""

    def __init__(self, tokenizer: Tokenizer, text: str = TEXT) -> None:
        self.ids = tokenizer.encode(text, add_special_tokens=False).ids
        self.opened = 0
        self.closed = 0
        self.fail_after: int | None = None
        self.failure: Exception = unavailable()
        self.pause_s = 0.0

    def open(self) -> ParrotSession:
        self.opened += 1
        return ParrotSession(self)

    def table(self) -> list[dict[str, object]]:
        return [{"serving": True, "hotkey": "parrot"}]


class ParrotSession:
    def __init__(self, model: ParrotModel) -> None:
        self.model = model
        self.at = 0

    def law(self) -> Law:
        after = self.model.fail_after
        if after is not None and self.at >= after:
            raise self.model.failure
        token_id = self.model.ids[self.at] if self.at < len(self.model.ids) else 0
        logprobs = np.full(VOCAB_SIZE, np.log(0.01 / (VOCAB_SIZE - 1)), np.float32)
        logprobs[token_id] = np.log(0.99)
        return Law(logprobs, {"parrot": 0.75, "baseline": 0.25})

    async def start(self, prompt_ids: np.ndarray) -> Law:
        self.at = len(prompt_ids)
        return self.law()

    async def append(self, token_id: int, temperature: float) -> Law:
        self.at += 1
        await asyncio.sleep(self.model.pause_s)
        return self.law()

    def fork(self) -> ParrotSession:
        self.model.opened += 1
        other = ParrotSession(self.model)
        other.at = self.at
        return other

    def close(self) -> None:
        self.model.closed += 1


@pytest.fixture
def parrot(tokenizer: Tokenizer) -> ParrotModel:
    return ParrotModel(tokenizer)


@pytest.fixture
async def serve(spec: LoadedSpec, parrot: ParrotModel):
    """Start the app on a real socket; returns its base URL."""
    servers: list[Listening] = []

    async def start(**options: object) -> str:
        app = build_app(Service(spec, {"mixture": parrot}), **options)  # type: ignore[arg-type]
        servers.append(await listen(app, "127.0.0.1", 0, grace_s=1.0))
        return f"http://127.0.0.1:{servers[-1].port}"

    yield start
    for server in servers:
        await server.close()


_clients: list[openai.AsyncOpenAI] = []


def client(url: str, key: str = "any") -> openai.AsyncOpenAI:
    _clients.append(openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0))
    return _clients[-1]


@pytest.fixture(autouse=True)
async def _close_clients():
    yield
    while _clients:
        await _clients.pop().close()
