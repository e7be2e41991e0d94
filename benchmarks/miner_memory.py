"""Memory of a whole miner with a localnet's expert: loaded, and at work.

`moesubnet miner run` in a process of its own beside an embedded chain, with an expert of 1.7 M
parameters (V = 2,048, context 256) of random weights. It is asked over the wire by one caller, as
a router or a validator asks it: STREAMS streams at once, a prompt of up to 200 tokens each, then
60 tokens one by one; then the same with other sessions; then whole windows, every row of which is
wanted. What it holds is the kernel's sum over its mappings, in MiB; CPU is its own since it began.
Prints one Markdown table, and with --mappings the largest mappings.

    python benchmarks/miner_memory.py [--python INTERPRETER] [--mappings]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from grammar import made_up

from moesubnet.chain.client import ChainClient
from moesubnet.chain.devchain import DevChain
from moesubnet.chain.devchain.server import serve_chain
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import PeerRefused
from moesubnet.spec.content import LoadedSpec, Spec, save_spec, spec_files
from moesubnet.training.model import new_model, save_model, small_config
from moesubnet.types import Axon, Hotkey, NetUid
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.protocol import SequenceStep, StepRequest, base_hash
from moesubnet.wire.step import want_for
from moesubnet.wire.strangers import open_http_session

VOCAB, CONTEXT, STREAMS, WRITTEN, WINDOWS = 2_048, 256, 60, 60, 64
NETUID = NetUid(1)
MINER = Hotkey(keypair_from_uri("//Fay//hot").ss58_address)
CALLER = keypair_from_uri("//Caller")
FIELDS = ("Rss", "Anonymous", "Pss")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="whose packages the miner has")
    parser.add_argument("--mappings", action="store_true")
    arguments = parser.parse_args()
    async with contextlib.AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        spec = made_spec(root)
        save_model(new_model(small_config(spec), 0), spec, root / "expert")
        pid, client = await start(arguments.python, root, spec, stack)
        print("| | resident | anonymous | proportional | CPU seconds |\n|---|---|---|---|---|")

        def say(what: str) -> None:
            held = " | ".join(f"{mib(pid, field):.0f}" for field in FIELDS)
            print(
                f"| {what} | {held} | {sum(psutil.Process(pid).cpu_times()[:2]):.1f} |", flush=True
            )
            if arguments.mappings:
                print_mappings(pid)

        say("loaded and serving")
        for turn in range(2):
            await asyncio.gather(*(stream(client, turn, i) for i in range(STREAMS)))
            say(f"after {STREAMS} streams at once")
        await asyncio.gather(*(window(client, i) for i in range(WINDOWS)))
        say(f"after {WINDOWS} windows, all rows")
        await asyncio.sleep(35)  # freed memory goes back at the first pass after 30 s
        await stream(client, 2, 0)
        say("35 s later")


def made_spec(root: Path) -> LoadedSpec:
    made_up(VOCAB, np.random.default_rng(0)).save(str(root / "tokenizer.json"))
    np.save(root / "unigram.npy", np.full(VOCAB, -np.log(VOCAB), np.float32))
    (root / "public.jsonl").write_text(json.dumps({"domain": "x", "text": "x"}) + "\n")
    spec = Spec(
        name="benchmark",
        vocab_size=VOCAB,
        bos_id=0,
        stop_ids=(0,),
        context_tokens=CONTEXT,
        chat_template="{% for m in messages %}{{ m.content }}\n{% endfor %}",
        min_caller_stake_rao=10**9,
        **spec_files(root),
    )
    return save_spec(root, spec)


async def start(
    python: str, root: Path, spec: LoadedSpec, stack: contextlib.AsyncExitStack
) -> tuple[int, ExpertClient]:
    """A miner that serves; its process and who may ask it."""
    dev = await stack.enter_async_context(
        DevChain.open(root / "chain", preset="development", seal=0.25)
    )
    server = await stack.enter_async_context(serve_chain(dev, "127.0.0.1", 0))
    chain = await stack.enter_async_context(await ChainClient.connect(server.url))
    owner, payer = map(keypair_from_uri, ("//Alice", "//Bob"))
    await chain.set_subnet_spec(NETUID, spec.sha256, spec.root.as_uri(), owner)
    caller = Hotkey(CALLER.ss58_address)
    await chain.register(NETUID, caller, payer)
    await chain.add_stake(NETUID, caller, 2 * 10**9, payer)
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", "moesubnet", "miner", "run", "--chain", server.url, "--coldkey", "//Bob"),
        *("--hotkey", "//Fay//hot", "--model", str(root / "expert"), "--log-level", "warning"),
    )
    stack.callback(process.terminate)
    axon: Axon | None = None
    while axon is None:
        assert process.returncode is None, "the miner ended"
        await asyncio.sleep(0.5)
        neuron = (await chain.metagraph(NETUID)).by_hotkey.get(MINER)
        axon = None if neuron is None else neuron.axon
    await asyncio.sleep(2)
    http = await stack.enter_async_context(open_http_session())
    client = ExpertClient(http, CALLER, MINER, axon, vocab_size=VOCAB, allow_private=True)
    return process.pid, client


async def stream(client: ExpertClient, turn: int, number: int) -> None:
    """A prompt, then WRITTEN tokens one by one; sessions and texts of their own."""
    draw = np.random.default_rng((turn, number))
    ids = draw.integers(1, VOCAB, CONTEXT, dtype=np.uint32)
    prompt = int(draw.integers(20, CONTEXT - WRITTEN - 1))
    for begin, end in [(0, prompt), *((n, n + 1) for n in range(prompt, prompt + WRITTEN))]:
        await asked(client, f"{turn}/{number}", ids, begin, end, None)


async def window(client: ExpertClient, number: int) -> None:
    ids = np.random.default_rng((9, number)).integers(1, VOCAB, CONTEXT - 1, dtype=np.uint32)
    await asked(client, f"window/{number}", ids, 0, len(ids), 0)


async def asked(
    client: ExpertClient, name: str, ids: np.ndarray, begin: int, end: int, first: int | None
) -> None:
    step = SequenceStep(name, begin, base_hash(ids[:begin]), ids[begin:end], first=first)
    for _ in range(50):
        try:
            await client.step(StepRequest((step,), want_for(VOCAB)), timeout_s=60)
        except PeerRefused:  # too much is waiting, or it has not seen the caller's stake yet
            await asyncio.sleep(0.3)
        else:
            return
    raise AssertionError("the miner refuses the caller")


def mib(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024


def print_mappings(pid: int) -> None:
    """Resident MiB by file (or what the kernel calls it), anonymous of it."""
    resident: Counter[str] = Counter()
    anonymous: Counter[str] = Counter()
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            name = Path(words[5]).name if len(words) > 5 else "anonymous"
        elif words[0] == "Rss:":
            resident[name] += int(words[1])
        elif words[0] == "Anonymous:":
            anonymous[name] += int(words[1])
    for name, kib in resident.most_common(25):
        print(f"    {kib / 1024:7.1f} ({anonymous[name] / 1024:.1f}) {name}")


if __name__ == "__main__":
    asyncio.run(main())
