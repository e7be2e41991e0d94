"""One expert through router and wire against plain `generate` of the same model.

Router, miner and the plain model share one process and one thread of the model, and take turns;
all figures are CPU seconds of the process, so that the ratios stand on a busy machine. The router
is the whole one, asked over HTTP as clients ask it; the miner answers signed requests on a socket.
MODEL is a folder. Prints one Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/served_model.py MODEL
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import aiohttp
import torch
from neurons import book_of, subnet
from substrateinterface import Keypair
from transformers import AutoModelForCausalLM, AutoTokenizer

from moesubnet.engine.named import load_engine
from moesubnet.engine.target import DEFAULT_ENGINE
from moesubnet.miner.app import build_app as build_miner
from moesubnet.miner.expert import Expert
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.gate import uniform_gate
from moesubnet.owner.build import build_spec
from moesubnet.router.app import build_app as build_router
from moesubnet.router.mixed import MixtureModel
from moesubnet.router.service import Service
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.family import read_family
from moesubnet.types import Axon, Hotkey
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.listening import serve
from moesubnet.wire.protocol import StepRequest, StepResponse
from moesubnet.wire.strangers import open_http_session

TOKENS, ROUNDS, STREAMS = 32, 3, 8
MINER, ROUTER = (Keypair.create_from_uri(uri) for uri in ("//Miner", "//Router"))
ROUTER_HOTKEY = Hotkey(ROUTER.ss58_address)
TEXT = "\n\n".join(topics[name] for name in sorted(topics))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    async with contextlib.AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (root / "public.txt").write_text(TEXT)
        spec = build_spec(
            read_family(str(arguments.model)),
            [root / "public.txt"],
            root / "spec",
            name="benchmark",
            context_tokens=4_096,
            min_caller_stake_rao=0,
        ).spec
        url = await serve_all(arguments.model, spec, stack)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        plain = Plain(arguments.model)
        print(f"{platform.machine()}, torch {torch.__version__}, one thread, {plain.model.dtype};")
        print(f"CPU seconds, medians of {ROUNDS} rounds.\n")
        print("| what | through router and wire | plain | ratio |\n|---|---|---|---|")
        async for row in measure(http, url, plain):
            print(row, flush=True)


async def serve_all(model: Path, spec: LoadedSpec, stack: contextlib.AsyncExitStack) -> str:
    """A miner with the model and a router that asks it; the router's URL."""
    engine = load_engine(DEFAULT_ENGINE, str(model), spec, threads=1)
    hotkey = Hotkey(MINER.ss58_address)
    seen = SimpleNamespace(current=lambda: subnet({hotkey: None, ROUTER_HOTKEY: None}))
    expert = Expert(engine, spec, seen, hotkey=hotkey, name="plain")  # type: ignore[arg-type]
    stack.push_async_callback(expert.close)
    listening = await serve(build_miner(expert, MINER, seen), "127.0.0.1", 0, grace_s=1.0)  # type: ignore[arg-type]
    stack.push_async_callback(listening.close)
    http = await stack.enter_async_context(open_http_session())
    mixture = MixtureModel(
        await book_of(http, ROUTER, spec, {hotkey: Axon("127.0.0.1", listening.port)}),
        uniform_gate,
        load_baseline(spec),
        vocab_size=spec.spec.vocab_size,
        deadline_s=60.0,
        top_k=8,
    )
    service = Service(spec, {"mixture": mixture})
    router = await serve(build_router(lambda: service), "127.0.0.1", 0, grace_s=1.0)
    stack.push_async_callback(router.close)
    return f"http://127.0.0.1:{router.port}/v1"


class Plain:
    """The model alone."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()

    def text(self, tokens: int, offset: int = 0) -> str:
        """Text that is about so many tokens, another one for another offset."""
        ids = self.tokenizer(TEXT[50_000 * (offset % 8) :][: 16 * tokens]).input_ids[:tokens]
        return f"{offset} " + self.tokenizer.decode(ids, skip_special_tokens=True)

    def generate(self, texts: Sequence[str], tokens: int) -> None:
        """As many tokens of each text, greedily, none of which ends it."""
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        batch = self.tokenizer(list(texts), return_tensors="pt", padding=True)
        with torch.inference_mode():
            self.model.generate(
                **batch, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
            )


async def measure(http: aiohttp.ClientSession, url: str, plain: Plain) -> AsyncIterator[str]:
    counter = iter(range(10_000))

    async def routed(texts: Sequence[str], tokens: int) -> float:
        """CPU seconds of answers to all at once; raises where one has fewer tokens."""
        started_s = time.process_time()
        counts = await asyncio.gather(*(answer(http, url, text, tokens) for text in texts))
        assert counts == [tokens] * len(texts), counts
        return time.process_time() - started_s

    def alone(texts: Sequence[str], tokens: int) -> float:
        started_s = time.process_time()
        plain.generate(texts, tokens)
        return time.process_time() - started_s

    def row(what: str, ours: list[float], theirs: list[float], *, faster: bool) -> str:
        a, b = statistics.median(ours), statistics.median(theirs)
        return f"| {what} | {a:.3f} s | {b:.3f} s | {b / a if faster else a / b:.2f}× |"

    for streams in (1, STREAMS):
        ours, theirs = [], []
        for _ in range(ROUNDS):
            texts = [plain.text(50, next(counter)) for _ in range(streams)]
            # The first token, with the prompt, is another figure.
            first = await routed(texts, 1), alone(texts, 1)
            texts = [plain.text(50, next(counter)) for _ in range(streams)]
            ours.append(await routed(texts, 1 + TOKENS) - first[0])
            theirs.append(alone(texts, 1 + TOKENS) - first[1])
        what = f"{TOKENS} tokens of each of {streams} streams (ratio of speeds)"
        yield row(what, ours, theirs, faster=True)
    prompts = [plain.text(2_000, next(counter)) for _ in range(ROUNDS)]
    first_turns, second_turns = [], []
    for text in prompts:
        first_turns.append(await routed([text], 1))
        second_turns.append(await routed([f"{text}\n\nAnd what follows from that?"], 1))
    prefills = [alone([text], 1) for text in prompts]
    yield row("prompt of 2,000 tokens to the first token", first_turns, prefills, faster=False)
    yield row("second turn against the first", second_turns, first_turns, faster=False)
    late, early = [], []
    for _ in range(ROUNDS):
        for length, into in ((1_000, late), (50, early)):
            text = plain.text(length, next(counter))
            await routed([text], 1)  # reads the prompt, which the next call finds read
            into.append(await routed([text], 1 + TOKENS))
    yield row(f"{TOKENS} tokens after 1,000 against after 50", late, early, faster=False)
    sizes: list[int] = []
    with patch.object(ExpertClient, "step", counted(ExpertClient.step, sizes)):
        texts = [plain.text(100, next(counter)) for _ in range(STREAMS)]
        await asyncio.gather(*(answer(http, url, text, TOKENS, temperature=1.0) for text in texts))
    low, high = statistics.median(sizes), statistics.quantiles(sizes, n=20)[-1]
    yield f"\nA step and its answer, without HTTP, in bytes: median {low:.0f}, p95 {high:.0f}"


def counted(step: Any, sizes: list[int]) -> Any:
    """ExpertClient.step, noting what one token's question and answer take."""

    async def stepped(client: ExpertClient, request: StepRequest, **options: Any) -> StepResponse:
        response: StepResponse = await step(client, request, **options)
        if not request.is_prompt and response.proof:
            sizes.append(len(request.to_bytes()) + len(response.proof.body))
        return response

    return stepped


async def answer(
    http: aiohttp.ClientSession, url: str, text: str, tokens: int, temperature: float = 0.0
) -> int:
    """Tokens that the router wrote."""
    body = {
        "model": "mixture",
        "prompt": text,
        "max_tokens": tokens,
        "temperature": temperature,
        "stream": False,
    }
    async with http.post(f"{url}/completions", json=body) as response:
        found = json.loads(await response.text())
        assert response.status == 200, found
        return int(found["usage"]["completion_tokens"])


if __name__ == "__main__":
    asyncio.run(main())
