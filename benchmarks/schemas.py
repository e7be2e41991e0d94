"""Answers of a real model held to JSON schemas that nobody chose, and what that costs in tokens/s.

    python benchmarks/schemas.py MODEL [--schemas 40] [--tokens 200]

MODEL is a folder of a model that chats. Router and miner are whole, over HTTP and signed, in one
process, with one thread of the model. Each schema is drawn, and asked about a piece of text drawn
from Python's own documentation, twice: held to the schema, and free, in turns. Tokens a second are
from the first token on, of all answers of a kind together, so that a busy machine is busy for
both; CPU is the whole process's, the client's too. Answers that `--tokens` cut are counted apart.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import torch
from served_model import TEXT, serve_all

from moesubnet.owner.build import build_spec
from moesubnet.spec.family import read_family

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.schemas import fits, some_schema


@dataclass
class Total:
    """Of all answers of one kind."""

    tokens: int = 0  # after the first of each
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.tokens:,} | {self.tokens / self.wall_s:.2f} | " + (
            f"{self.cpu_s / self.tokens * 1e3:.1f}"
        )


async def written(
    http: aiohttp.ClientSession, url: str, body: dict[str, object], total: Total
) -> tuple[str, str]:
    """The text and why it ended."""
    text, finish, since = "", "", None
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async with http.post(f"{url}/chat/completions", json=body | options) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            for choice in chunk["choices"]:
                if (choice["delta"].get("content") or "") and since is None:
                    since = time.perf_counter(), time.process_time()
                text += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
            if chunk.get("usage") and since is not None:
                total.tokens += chunk["usage"]["completion_tokens"] - 1
    if since is not None:
        total.wall_s += time.perf_counter() - since[0]
        total.cpu_s += time.process_time() - since[1]
    return text, finish


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--schemas", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=200, help="of an answer at most")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    free, held, whole, cut = Total(), Total(), 0, 0
    async with contextlib.AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (root / "public.txt").write_text(TEXT)
        family = read_family(str(arguments.model))
        spec = build_spec(
            family, [root / "public.txt"], root / "spec",
            name="benchmark", context_tokens=2_048, min_caller_stake_rao=0,
        ).spec  # fmt: skip
        url = await serve_all(arguments.model, spec, stack)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        for seed in range(arguments.schemas):
            rng = np.random.default_rng(seed)
            schema: dict[str, object] = {}
            while schema.get("type") not in ("object", "array"):
                schema = some_schema(rng)
            at = int(rng.integers(len(TEXT) - 300))
            asked = f"{TEXT[at : at + 300]}\n\nPut this into JSON."
            body: dict[str, object] = {
                "model": "mixture",
                "messages": [{"role": "user", "content": asked}],
                "max_tokens": arguments.tokens,
                "temperature": (0.0, 0.7, 1.0)[seed % 3],
                "seed": seed,
            }
            await written(http, url, body | {"max_tokens": 1}, Total())  # reads the prompt
            await written(http, url, body | {"max_tokens": 64}, free)
            named = {"name": "x", "schema": schema}
            form = {"type": "json_schema", "json_schema": named}
            text, finish = await written(http, url, body | {"response_format": form}, held)
            if finish == "length":
                cut += 1
                continue
            assert fits(json.loads(text), schema), (seed, schema, text)
            whole += 1
    print(f"{platform.machine()}, load {os.getloadavg()[0]:.1f}, V = {spec.spec.vocab_size:,}\n")
    print("| | tokens after the first | tokens/s | CPU ms a token |\n|---|---|---|---|")
    print(f"| free | {free} |\n| held to a schema | {held} |\n")
    speed = held.tokens / held.wall_s / (free.tokens / free.wall_s)
    print(f"{speed:.2f}× tokens/s. {arguments.schemas} schemas: {whole} answers whole, which all")
    print(f"parse and are of their schema; {cut} cut at {arguments.tokens} tokens.")


if __name__ == "__main__":
    asyncio.run(main())
