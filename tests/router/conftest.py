"""A router over models with known laws; HTTP and clients are real."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import openai
import pytest
from tokenizers import Tokenizer

from moesubnet.errors import NobodyAnswers
from moesubnet.mixture.law import Law, mix
from moesubnet.mixture.sheet import Sheet
from moesubnet.router.app import build_app
from moesubnet.router.model import ALONE, Drawing, Forecast
from moesubnet.router.service import Service
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.listening import Listening
from moesubnet.wire.listening import serve as listen
from moesubnet.wire.protocol import Proof
from tests.conftest import TINY_TEXT, TINY_VOCAB


@pytest.fixture(autouse=True)
def patient_router(request, monkeypatch) -> None:
    """A trial of a grammar (0.5 s of CPU, one by one) comes to its end, and so does a student."""
    monkeypatch.setattr("moesubnet.router.grammar.PATIENCE_S", 120.0)
    if "impatient" not in request.fixturenames:
        monkeypatch.setattr("moesubnet.router.drafting.PATIENCE_S", 60.0)


@pytest.fixture(scope="session")
def spec(tiny_spec: LoadedSpec) -> LoadedSpec:
    return tiny_spec


@pytest.fixture(scope="session")
def tokenizer(spec: LoadedSpec) -> Tokenizer:
    return Tokenizer.from_file(str(spec.tokenizer_path))


class ParrotModel:
    """Continues TINY_TEXT from wherever the prompt stands in it, surely; ends with <|end|>."""

    def __init__(self, tokenizer: Tokenizer, text: str = TINY_TEXT) -> None:
        self.ids = tokenizer.encode(text, add_special_tokens=False).ids
        self.opened = 0
        self.closed = 0
        self.fail_after: int | None = None
        self.failure: Exception = NobodyAnswers()
        self.pause_s = 0.0
        self.goes_on = asyncio.Event()  # cleared, it writes nothing after the first token
        self.goes_on.set()
        self.price_rao_per_mtoken = 0
        self.beside = "baseline"  # who has the rest of the weight

    def open(self) -> ParrotSession:
        self.opened += 1
        return ParrotSession(self)

    def dearest_rao_per_mtoken(self) -> int:
        return self.price_rao_per_mtoken

    def table(self) -> list[dict[str, object]]:
        return [{"serving": True, "hotkey": "parrot"}]


class ParrotSession:
    def __init__(self, model: ParrotModel) -> None:
        self.model = model
        self.at = 0
        self.waited_s = 0.0

    def forecast(self) -> Forecast:
        after = self.model.fail_after
        if after is not None and self.at >= after:
            raise self.model.failure
        token_id = self.model.ids[self.at] if self.at < len(self.model.ids) else 0
        logprobs = np.full(TINY_VOCAB, np.log(0.01 / (TINY_VOCAB - 1)), np.float32)
        logprobs[token_id] = np.log(0.99)
        return Forecast(
            mix(np.zeros(1), [Law(logprobs)]), {"parrot": 0.75, self.model.beside: 0.25}
        )

    async def start(self, prompt_ids: np.ndarray, drawing: Drawing = ALONE) -> Forecast:
        self.at = len(prompt_ids)
        return self.forecast()

    async def append(self, token_id: int, drawing: Drawing) -> Forecast:
        self.at += 1
        await self.model.goes_on.wait()
        await asyncio.sleep(self.model.pause_s)
        return self.forecast()

    def fork(self) -> ParrotSession:
        self.model.opened += 1
        other = ParrotSession(self.model)
        other.at = self.at
        return other

    def proofs(self) -> dict[str, Proof]:
        return {}

    def answered(self) -> dict[str, tuple[int, int]]:
        return {"parrot": (self.at, self.model.price_rao_per_mtoken)}

    def close(self, *, is_over: bool = False) -> None:
        self.model.closed += 1


@pytest.fixture
def parrot(tokenizer: Tokenizer) -> ParrotModel:
    return ParrotModel(tokenizer)


@pytest.fixture
async def serve(spec: LoadedSpec, parrot: ParrotModel):
    """Start the app on a real socket; returns its base URL."""
    servers: list[Listening] = []

    async def start(
        sheets: Sequence[Sheet] = (),
        says: object = (),
        student: ParrotModel | None = None,
        offers: Mapping[str, ParrotModel] = MappingProxyType({}),
        **options: object,
    ) -> str:
        """says: what this spec.json says otherwise. student: is asked about all sheets first.
        offers: beside the mixture."""
        changed = replace(spec, spec=spec.spec.model_copy(update=dict(says)))  # type: ignore[call-overload]
        service = Service(changed, {"mixture": parrot, **offers}, sheets=lambda: sheets)
        for _ in sheets if student else ():
            await service.past.ask(student)
        app = build_app(lambda: service, **options)  # type: ignore[arg-type]
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
