"""When the first token of a long prompt comes, in round trips, over distances.

    python benchmarks/first_token.py [--prompt 500]

Four real miners on real sockets, behind a proxy that delays bytes and connections (distance.py);
their engines are played, and a prompt takes a batch for each part of it. What is read and computed
takes the same at any distance: round trips are what a distance adds to the first token, over what
it adds to an empty call. Prints a Markdown table of medians; distances take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import statistics
import time
from typing import Any

import numpy as np
from drafting import HERE, child, first_token_s
from lanes import ROUTER, mine, spec_of
from neurons import book_of
from substrateinterface import Keypair

from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import uniform_gate
from moesubnet.router.mixed import MixtureModel
from moesubnet.types import Axon, Hotkey
from moesubnet.wire.strangers import open_http_session

EXPERTS, BATCH_S, PROMPTS, SEED = 4, 0.005, 12, 0
ROUND_TRIPS_MS = (0, 40, 100)


async def empty_call_s(model: MixtureModel) -> float:
    client, since_s = next(iter(model.serving().values())), time.monotonic()
    await client.card(timeout_s=10.0)
    return time.monotonic() - since_s


async def compare(vocab: int, prompt_tokens: int, found: dict[str, int]) -> None:
    uris, rng = sorted(found), np.random.default_rng(SEED)
    prompts = rng.integers(0, vocab, (PROMPTS, prompt_tokens)).astype(np.uint32)
    baseline = Unigram(np.full(vocab, -np.log(vocab), np.float32))
    async with contextlib.AsyncExitStack() as stack:
        models = []
        for added_ms in ROUND_TRIPS_MS:
            http = await stack.enter_async_context(open_http_session())
            proxy, ports = child(HERE / "distance.py", added_ms, *(found[uri] for uri in uris))
            stack.callback(proxy.communicate)
            axons = {
                Hotkey(Keypair.create_from_uri(uri).ss58_address): Axon("127.0.0.1", port)
                for uri, port in zip(uris, ports, strict=True)
            }
            book = await book_of(http, ROUTER, spec_of(vocab), axons)
            models.append(
                MixtureModel(
                    book, uniform_gate, baseline, vocab_size=vocab, deadline_s=30.0, top_k=EXPERTS
                )
            )
        seen: list[list[tuple[float, float]]] = [[] for _ in models]
        for place, prompt in enumerate(prompts):
            for model, of_model in zip(models, seen, strict=True):
                both = await empty_call_s(model), await first_token_s(model, prompt)
                if place > 0:  # connections, pace
                    of_model.append(both)
    medians = [tuple(map(statistics.median, zip(*of_model, strict=True))) for of_model in seen]
    print("| added round trip | empty call, ms | first token, ms | round trips |")
    print("|---|---|---|---|")
    for added_ms, (call_s, first_s) in zip(ROUND_TRIPS_MS, medians, strict=True):
        (near_call_s, near_s), trips = medians[0], "–"
        if added_ms:
            trips = f"{(first_s - near_s) / (call_s - near_call_s):.2f}"
        print(f"| {added_ms} ms | {call_s * 1e3:.1f} | {first_s * 1e3:.1f} | {trips} |")
    print(f"\nV = {vocab:,}, prompts of {prompt_tokens}; load {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=2_048)
    parser.add_argument("--prompt", type=int, default=500, help="tokens")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ports: Any = context.Queue()
    miners = [
        context.Process(
            target=mine, args=(f"//Miner{i}", arguments.vocab, BATCH_S, i, ports), daemon=True
        )
        for i in range(EXPERTS)
    ]
    for miner in miners:
        miner.start()
    found = dict(ports.get() for _ in miners)
    try:
        asyncio.run(compare(arguments.vocab, arguments.prompt, found))
    finally:
        for miner in miners:
            miner.terminate()


if __name__ == "__main__":
    main()
