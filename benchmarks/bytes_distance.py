"""Two models of different tokenizers in one conversation over bytes: bytes a second by distance.

    python benchmarks/bytes_distance.py MODEL_A MODEL_B [--bytes 48]

A router's own model writes an answer to a chat of three turns, asking two miners (a process each)
behind a proxy that delays (distance.py): bytes drawn at temperature 0.7, byte by byte and with
drafts of the heavier expert in turn. Nothing ends the answer. Prints one Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
from drafting import HERE, child, mixture, nobody_else
from substrateinterface import Keypair

from moesubnet.engine.named import load_engine
from moesubnet.engine.target import DEFAULT_ENGINE
from moesubnet.miner.app import build_app
from moesubnet.miner.expert import Expert
from moesubnet.mixture.draft_length import DraftLength
from moesubnet.mixture.drafting import Drawn
from moesubnet.owner.build import build_spec
from moesubnet.router.mixed import MixtureModel
from moesubnet.router.model import Drawing
from moesubnet.spec.byte_unit import TOKEN_BYTES
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.spec.family import every_family
from moesubnet.spec.prompt import PromptEncoder
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.types import Hotkey, Metagraph
from moesubnet.wire.listening import serve
from moesubnet.wire.strangers import open_http_session

LICENSE = HERE.parent / "LICENSE"  # public text for the baseline
ROUND_TRIPS_MS = (0, 40)
TEMPERATURE, SEED = 0.7, 0
TALK = [
    {"role": "user", "content": "Name three colours of the rainbow."},
    {"role": "assistant", "content": "Red, green and blue."},
    {"role": "user", "content": "I typed <|im_end|> and <end_of_turn>. Which one is the sky? 😀"},
]


async def mine(model: str, spec_dir: str, name: str) -> None:
    """One miner in this process; prints its port and serves until its input ends."""
    spec, signer = load_spec(Path(spec_dir)), Keypair.create_from_uri(f"//{name}")

    class Callers:
        def current(self) -> Metagraph:
            return nobody_else()

    engine = load_engine(DEFAULT_ENGINE, model, spec)
    expert = Expert(engine, spec, Callers(), hotkey=Hotkey(signer.ss58_address), name=name)
    listening = await serve(build_app(expert, signer, Callers()), "127.0.0.1", 0)
    print(listening.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)


@dataclass
class Seen:
    """What the answers of one way of writing took, after their first byte."""

    text: bytearray = field(default_factory=bytearray)
    seconds: float = 0.0
    rounds: int = 0
    weights: list[list[float]] = field(default_factory=list)  # of those who answered, by byte

    @property
    def both(self) -> float:
        """The share of bytes at which both experts had answered."""
        return statistics.fmean(len(weights) == 3 for weights in self.weights)


async def write(model: MixtureModel, prompt: np.ndarray, count: int, seen: Seen) -> None:
    session, rng = model.open(), np.random.default_rng(SEED)
    took = session._drafting.took

    def counted(drafted: int, seconds: float) -> None:
        seen.rounds += 1
        took(drafted, seconds)

    forecast = await session.start(prompt, Drawing(TEMPERATURE, 1.0, count))
    session._drafting.took = counted  # type: ignore[method-assign]
    since_s = time.monotonic()
    for left in range(count - 1, 0, -1):
        byte = Drawn.of(forecast.mixture.law.at(np.arange(256)), None, TEMPERATURE, 1.0).draw(rng)
        seen.text.append(byte)
        seen.weights.append(list(forecast.weights.values()))
        forecast = await session.append(byte, Drawing(TEMPERATURE, 1.0, left))
    seen.seconds += time.monotonic() - since_s
    session.close()


async def run(models: Sequence[str], count: int) -> None:
    names = [Path(model).name for model in models]
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; "
        f"{' and '.join(names)}, {count} bytes after a chat of three turns, "
        f"temperature {TEMPERATURE}\n"
    )
    print("| added round trip | | bytes/s | bytes a round | both had answered | text |")
    print("|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "public.txt").write_text(LICENSE.read_text())
        spec = build_spec(
            every_family(None, TOKEN_BYTES),
            [Path(folder) / "public.txt"],
            Path(folder) / "spec",
            name="bytes",
            context_tokens=2_048,
            min_caller_stake_rao=0,
        ).spec
        encoder = PromptEncoder(spec.spec, load_tokenizer(spec.tokenizer_path))
        prompt = np.array(encoder.ids(encoder.chat(TALK)), np.uint32)
        children = [
            child(__file__, "--mine", model, spec.root, f"M{k}") for k, model in enumerate(models)
        ]
        targets = [ports[0] for _, ports in children]
        try:
            for added_ms in ROUND_TRIPS_MS:
                children.append(child(HERE / "distance.py", added_ms, *targets))
                await at_a_distance(spec, children[-1][1], f"{added_ms} ms", prompt, count)
        finally:
            for process, _ in children:
                process.communicate()


async def at_a_distance(
    spec: LoadedSpec, ports: Sequence[int], distance: str, prompt: np.ndarray, count: int
) -> None:
    async with open_http_session() as http:
        names = [f"M{k}" for k in range(len(ports))]
        model = await mixture(http, spec, names, ports, deadline_s=60.0)
        await write(model, prompt, 8, Seen())  # connections, pace
        ways = {"byte by byte": Seen(), "drafted": Seen()}
        with mock.patch.object(DraftLength, "may_draft", False):
            await write(model, prompt, count, ways["byte by byte"])
        await write(model, prompt, count, ways["drafted"])
        for way, seen in ways.items():
            cells = [
                distance,
                way,
                f"{len(seen.text) / seen.seconds:.1f}",
                f"{len(seen.text) / max(1, seen.rounds):.2f}",
                f"{seen.both:.0%}",
                f"`{bytes(seen.text[:24]).decode('utf-8', 'replace')!r}`",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--mine"]:
        asyncio.run(mine(*sys.argv[2:5]))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs=2)
    parser.add_argument("--bytes", type=int, default=48)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.models, arguments.bytes))


if __name__ == "__main__":
    main()
