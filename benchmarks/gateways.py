"""The router in solo beside other gateways, and beside its miner asked directly, by the same run.

Every gateway is a process (tree) of its own with one worker and one static key, and is asked over
HTTP for chat completions by the same load, in turns; its CPU is that of all its threads, as the
scheduler counts it. Behind each stands a played backend that writes a token of every stream each
10 ms: for the router a miner over the signed wire, which says a law, for the others an OpenAI
server, which sends a frame. So the router does more: it signs, draws, decodes and counts.

The second table is about one stream at a time, nothing else running: the router against
`/v1/generate` of the miner itself.

    python -m venv LITELLM; LITELLM/bin/pip install 'litellm[proxy]'
    python -m venv SMG; SMG/bin/pip install smg
    python benchmarks/gateways.py --litellm LITELLM --smg SMG
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import psutil
from aiohttp import web
from grammar import made_up
from lanes import Played
from neurons import book_of, subnet
from substrateinterface import Keypair

from moesubnet.host.garbage import settle
from moesubnet.miner.app import build_app as build_miner
from moesubnet.miner.expert import Expert
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.gate import uniform_gate
from moesubnet.router.app import build_app as build_router
from moesubnet.router.mixed import MixtureModel
from moesubnet.router.offer import SOLO
from moesubnet.router.service import Service
from moesubnet.spec.content import LoadedSpec, Spec, load_spec, save_spec, spec_files
from moesubnet.types import Axon, Hotkey
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.listening import serve
from moesubnet.wire.protocol import GenerateRequest
from moesubnet.wire.strangers import open_http_session

VOCAB, AT_ONCE, WARM = 2_048, 16, 32
SHAPES = ((1, False), (16, False), (16, True), (64, True))  # (tokens, streamed)
DIRECT_TOKENS, DIRECT_ANSWERS, BATCH_S = 48, 30, 0.010
KEY, ASKED = "sk-benchmark", [{"role": "user", "content": "Say something."}]
MINER, ROUTER = (Keypair.create_from_uri(uri) for uri in ("//Miner", "//Router"))
MINER_HOTKEY, ROUTER_HOTKEY = Hotkey(MINER.ss58_address), Hotkey(ROUTER.ss58_address)


class Endless(Played):
    """Nothing ends an answer but its length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.laws[:, 0] = -30.0


def made_spec(root: Path) -> LoadedSpec:
    made_up(VOCAB, np.random.default_rng(0)).save(str(root / "tokenizer.json"))
    np.save(root / "unigram.npy", np.full(VOCAB, -np.log(VOCAB), np.float32))
    (root / "public.jsonl").write_text(json.dumps({"domain": "x", "text": "x"}) + "\n")

    spec = Spec(
        name="benchmark",
        vocab_size=VOCAB,
        bos_id=0,
        stop_ids=(0,),
        context_tokens=4_096,
        chat_template="{% for m in messages %}{{ m.content }}\n{% endfor %}",
        min_caller_stake_rao=0,
        **spec_files(root),
    )
    return save_spec(root, spec)


# -- processes: each says its port and runs until it is ended ----------------------------------


def mine(spec_at: tuple[Path, str], ports: Any) -> None:
    async def run() -> None:
        seen: Any = SimpleNamespace(
            current=lambda: subnet({MINER_HOTKEY: None, ROUTER_HOTKEY: None})
        )
        engine: Any = Endless(VOCAB, BATCH_S, 0)
        expert = Expert(engine, load_spec(*spec_at), seen, hotkey=MINER_HOTKEY, name="played")
        listening = await serve(build_miner(expert, MINER, seen), "127.0.0.1", 0)
        ports.put(listening.port)
        await asyncio.Event().wait()

    asyncio.run(run())


def route(spec_at: tuple[Path, str], miner_port: int, ports: Any) -> None:
    async def run() -> None:
        spec = load_spec(*spec_at)
        async with open_http_session() as http:
            mixture = MixtureModel(
                await book_of(http, ROUTER, spec, {MINER_HOTKEY: Axon("127.0.0.1", miner_port)}),
                uniform_gate,
                load_baseline(spec),
                vocab_size=VOCAB,
                deadline_s=10.0,
                top_k=4,
            )
            service = Service(spec, {"mixture": mixture})
            app = build_router(lambda: service, api_keys=(KEY,))
            ports.put((await serve(app, "127.0.0.1", 0)).port)
            settle()  # as `router run` does
            await asyncio.Event().wait()

    asyncio.run(run())


def play_openai(ports: Any) -> None:
    """As many tokens as are asked for."""

    def part(**said: Any) -> dict[str, Any]:
        kind = "chat.completion.chunk" if "delta" in said else "chat.completion"
        choice = {"index": 0, "finish_reason": None} | said
        return {"id": "x", "object": kind, "created": 1, "model": "played", "choices": [choice]}

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        count = int(asked["max_tokens"])
        usage = {"prompt_tokens": 4, "completion_tokens": count, "total_tokens": 4 + count}
        if not asked.get("stream"):
            await asyncio.sleep(BATCH_S * count)
            said = {"role": "assistant", "content": " word" * count}
            whole = part(message=said, finish_reason="length")
            return web.json_response(whole | {"usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        parts = [part(delta={"role": "assistant", "content": " word"}) for _ in range(count)]
        for said in [*parts, part(delta={}, finish_reason="length") | {"usage": usage}]:
            await asyncio.sleep(BATCH_S)
            await response.write(f"data: {json.dumps(said)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(_: web.Request) -> web.Response:
        model = {"id": "played", "object": "model", "created": 1, "owned_by": "x"}
        return web.json_response({"object": "list", "data": [model]})

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        app.router.add_get("/v1/models", models)
        app.router.add_get("/health", models)
        ports.put((await serve(app, "127.0.0.1", 0)).port)
        await asyncio.Event().wait()

    asyncio.run(run())


@dataclass(frozen=True, slots=True)
class Gateway:
    name: str
    port: int
    model: str
    process: psutil.Process

    def cpu_s(self) -> float:
        """Of all its threads, by the scheduler's own count: a tick is too coarse for some."""
        tasks = [
            task
            for one in (self.process, *self.process.children(recursive=True))
            for task in Path(f"/proc/{one.pid}/task").glob("*/schedstat")
        ]
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str] | None = None) -> Iterator[psutil.Process]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | (env or {}), start_new_session=True
        )
        tree = psutil.Process(process.pid)
        try:
            yield tree
        finally:
            for one in [*tree.children(recursive=True), tree]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def version(venv: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.check_output([venv / "bin/python", "-c", code], text=True).strip()


# -- load --------------------------------------------------------------------------------------


async def ask(http: aiohttp.ClientSession, to: Gateway, tokens: int, *, stream: bool) -> None:
    """Raises where the answer is not whole."""
    body = {
        "model": to.model,
        "messages": ASKED,
        "max_tokens": tokens,
        "temperature": 1.0,
        "stream": stream,
    }
    async with http.post(to.url, json=body) as response:
        assert response.status == 200, (to.name, await response.text())
        if stream:
            last = b""
            async for line in response.content:
                last = line.strip() or last
            assert last == b"data: [DONE]", (to.name, last)
        else:
            said = await response.json()
            assert said["usage"]["completion_tokens"] == tokens, (to.name, said)


async def load(to: Gateway, answers: int, tokens: int, *, stream: bool) -> float:
    """CPU seconds a request."""
    headers, left = {"Authorization": f"Bearer {KEY}"}, iter(range(answers))
    async with aiohttp.ClientSession(headers=headers) as http:

        async def some() -> None:
            for _ in left:
                await ask(http, to, tokens, stream=stream)

        cpu_s = to.cpu_s()
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        return (to.cpu_s() - cpu_s) / answers


async def until_it_answers(to: Gateway, timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            with contextlib.suppress(aiohttp.ClientError, AssertionError):
                await load(to, 1, 1, stream=False)
                return
            await asyncio.sleep(1.0)


async def compare(gateways: list[Gateway], answers: int, rounds: int) -> None:
    for to in gateways:
        await until_it_answers(to, 180.0)
        for tokens, stream in SHAPES:
            await load(to, WARM, tokens, stream=stream)
    print(
        "| tokens | | "
        + " | ".join(f"{to.name}: requests a CPU second" for to in gateways)
        + " | ",
        end="",
    )
    print(" | ".join(f"router ÷ {to.name.split()[0]}" for to in gateways[1:]) + " |")
    print("|---" * (1 + 2 * len(gateways)) + "|")
    for tokens, stream in SHAPES:
        found: dict[str, list[float]] = {to.name: [] for to in gateways}
        for _ in range(rounds):
            for to in gateways:
                cpu_s = await load(to, answers, tokens, stream=stream)
                found[to.name].append(1.0 / cpu_s)
        rates = [statistics.median(found[to.name]) for to in gateways]
        cells = [f"{rate:.0f}" for rate in rates] + [f"{rates[0] / r:.2f}×" for r in rates[1:]]
        kind = "streamed" if stream else "whole"
        print(f"| {tokens} | {kind} | {' | '.join(cells)} |", flush=True)


async def direct(to: Gateway, miner_port: int) -> None:
    """One stream at a time, the two ways by turns."""
    axon = Axon("127.0.0.1", miner_port)
    firsts: dict[str, list[float]] = {"miner": [], "router": []}
    rates: dict[str, list[float]] = {"miner": [], "router": []}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with open_http_session() as signed, aiohttp.ClientSession(headers=headers) as http:
        client = ExpertClient(
            signed, ROUTER, MINER_HOTKEY, axon, vocab_size=VOCAB, allow_private=True
        )

        async def of_the_miner() -> list[float]:
            request = GenerateRequest(prompt_ids=[5] * 16, max_tokens=DIRECT_TOKENS)
            async with contextlib.aclosing(client.generate(request, timeout_s=60.0)) as chunks:
                return [time.perf_counter() async for _ in chunks]

        async def of_the_router() -> list[float]:
            body = {"model": to.model, "messages": ASKED, "max_tokens": DIRECT_TOKENS}
            async with http.post(to.url, json=body | {"stream": True}) as response:
                lines = [(time.perf_counter(), line) async for line in response.content]
            return [at_s for at_s, line in lines if line.startswith(b'data: {"id"')]

        ways: dict[str, Callable[[], Any]] = {"miner": of_the_miner, "router": of_the_router}
        for turn in range(DIRECT_ANSWERS + 3):
            for name, way in ways.items():
                since_s = time.perf_counter()
                times = await way()
                if turn >= 3:
                    firsts[name].append(times[0] - since_s)
                    rates[name].append(DIRECT_TOKENS / (times[-1] - since_s))
    first = {name: statistics.median(values) * 1e3 for name, values in firsts.items()}
    rate = {name: statistics.median(values) for name, values in rates.items()}
    print("\n| | miner itself | solo through the router | |\n|---|---|---|---|")
    print(
        f"| first token, median ms | {first['miner']:.1f} | {first['router']:.1f} | "
        f"{first['router'] - first['miner']:+.1f} |"
    )
    print(
        f"| tokens/s | {rate['miner']:.1f} | {rate['router']:.1f} | "
        f"{rate['router'] / rate['miner']:.2f}× |"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--litellm", type=Path, help="an environment with litellm[proxy]")
    parser.add_argument("--smg", type=Path, help="an environment with smg, a gateway in Rust")
    parser.add_argument("--answers", type=int, default=96, help="a gateway, shape and round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        spec = made_spec(root)
        spec_at = root, spec.sha256

        def started(target: Callable[..., None], *args: Any) -> tuple[int, psutil.Process]:
            ports: Any = context.Queue()
            process = context.Process(target=target, args=(*args, ports), daemon=True)
            process.start()
            stack.callback(process.terminate)
            return ports.get(), psutil.Process(process.pid)

        miner_port, _ = started(mine, spec_at)
        port, process = started(route, spec_at, miner_port)
        gateways = [Gateway("router", port, SOLO, process)]
        backend, _ = started(play_openai)
        if arguments.litellm:
            port, config = free_port(), root / "litellm.json"
            params = {
                "model": "openai/played",
                "api_base": f"http://127.0.0.1:{backend}/v1",
                "api_key": "x",
            }
            said = {"model_list": [{"model_name": "played", "litellm_params": params}]}
            config.write_text(json.dumps(said | {"general_settings": {"master_key": KEY}}))
            command = [arguments.litellm / "bin/litellm", "--config", config, "--port", port]
            process = stack.enter_context(
                running(
                    list(map(str, [*command, "--host", "127.0.0.1", "--num_workers", 1])),
                    {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
                )
            )
            name = f"LiteLLM {version(arguments.litellm, 'litellm')}"
            gateways.append(Gateway(name, port, "played", process))
        if arguments.smg:
            port = free_port()
            command = [arguments.smg / "bin/smg", "launch", "--host", "127.0.0.1", "--port", port]
            command += ["--worker-urls", f"http://127.0.0.1:{backend}", "--backend", "openai"]
            command += ["--api-key", KEY, "--log-level", "error", "--prometheus-port", free_port()]
            process = stack.enter_context(running(list(map(str, command))))
            name = f"smg {version(arguments.smg, 'smg')} (Rust)"
            gateways.append(Gateway(name, port, "played", process))
        await compare(gateways, arguments.answers, arguments.rounds)
        await direct(gateways[0], miner_port)
        how = f"{AT_ONCE} at once, medians of {arguments.rounds} rounds"
        print(f"\n{how}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    asyncio.run(main())
