"""The whole subnet as separate processes: chain, miners, validators, router; then we kill some.

Experts are bigram counts, so that nothing has to be trained; everything else is what users run:
the real runtime, real signatures, real HTTP, the real commands.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import openai
import pytest

from moesubnet.chain.client import ChainClient
from moesubnet.chain.network.run import free_ports
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import ChainError, ChainUnavailable
from moesubnet.host.supervisor import Process, Supervisor
from moesubnet.localnet.kinds import Small
from moesubnet.localnet.onboard import onboard
from moesubnet.localnet.plan import CHAIN_FOLDERS, NETUID, Plan
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate_sync import GateSync
from moesubnet.spec.content import LoadedSpec, Spec, save_spec, spec_files
from moesubnet.training.dataset import encode
from moesubnet.training.tokenizer import train_tokenizer
from moesubnet.types import Hotkey, NetUid
from moesubnet.validator.audit import audit
from moesubnet.validator.published import fetched
from moesubnet.validator.scoring import recount
from moesubnet.validator.voted import differs_on_chain
from moesubnet.wire.strangers import open_http_session

VOCAB_SIZE = 400
SPECIALISTS = ("letters", "digits")
EXPERTS = (*SPECIALISTS, "copier", "echo")
BLOCK_S = 0.5
ENGINES = "tests.integration.engines"
ROOT = Path(__file__).resolve().parents[2]


def sentences(domain: str, seed: int, count: int) -> str:
    """Text of a domain: two little languages that share nothing but the space."""
    draw = random.Random(domain)  # the same words in every text, in another order
    vowels, consonants = ("aeiou", "bcdfgklmnprst") if domain == "letters" else ("024", "13579")
    words = [
        "".join(draw.choice(consonants) + draw.choice(vowels) for _ in range(draw.randint(1, 4)))
        for _ in range(60)
    ]
    draw.seed(f"{domain}/{seed}")
    return " ".join(draw.choice(words[: draw.randint(5, 60)]) for _ in range(count))


def write_spec(root: Path) -> LoadedSpec:
    root.mkdir()
    texts = [sentences(domain, 0, 800) for domain in SPECIALISTS]
    tokenizer = train_tokenizer(texts, VOCAB_SIZE)
    tokenizer.save(str(root / "tokenizer.json"))
    lines = [json.dumps({"domain": d, "text": t}) for d, t in zip(SPECIALISTS, texts, strict=True)]
    (root / "public.jsonl").write_text("\n".join(lines) + "\n")
    ids = np.concatenate(encode(texts, tokenizer))
    Unigram.build(ids, tokenizer.get_vocab_size()).save(root / "unigram.npy")

    return save_spec(
        root,
        Spec(
            name="loop",
            vocab_size=tokenizer.get_vocab_size(),
            bos_id=0,
            stop_ids=(0,),
            context_tokens=256,
            chat_template="{% for m in messages %}{{ m.content }} {% endfor %}",
            min_caller_stake_rao=10**9,
            **spec_files(root),
        ),
    )


async def connect(url: str) -> ChainClient:
    for _ in range(60):
        try:
            return await ChainClient.connect(url, timeout_s=5.0)
        except ChainUnavailable:
            await asyncio.sleep(0.5)
    raise AssertionError("the chain never came up")


class LoopPlan(Plan):
    """The localnet's plan, with bigram engines, faster blocks, and one node instead of four."""

    expert_names = EXPERTS

    def chain(self) -> Process:
        process = super().chain()
        faster = (
            ("--seal", str(BLOCK_S)) if self.chain_kind == "embedded" else ("--validators", "1")
        )
        return dataclasses.replace(process, argv=(*process.argv, *faster))

    def miner(self, expert: str) -> Process:
        process = super().miner(expert)
        argv = list(process.argv)
        source = "letters" if expert in ("copier", "echo") else expert
        argv[argv.index("--model") + 1] = str(self.root / f"{source}.txt")
        kind = {"copier": "CopierEngine", "echo": "EchoEngine"}.get(expert, "BigramEngine")
        return dataclasses.replace(process, argv=(*argv, "--engine", f"{ENGINES}:{kind}"))


@dataclasses.dataclass
class Loop:
    plan: LoopPlan
    chain: ChainClient
    supervisor: Supervisor
    spec: LoadedSpec
    http: object

    def hotkey(self, name: str) -> Hotkey:
        return Hotkey(keypair_from_uri(self.plan.member(name).hotkey).ss58_address)

    def kill(self, name: str) -> None:
        os.kill(self.supervisor.processes[name].pid, signal.SIGKILL)

    async def until(self, condition, timeout_s: float):
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                found = await condition()
            except (ChainError, OSError):  # killed just now; its supervisor starts it again
                found = None
            if found:
                return found
            if time.monotonic() > deadline_s:
                raise AssertionError(
                    "\n".join(
                        f"{p.name}: {p.last_lines(4)}" for p in self.supervisor.processes.values()
                    )
                )
            await asyncio.sleep(0.5)

    async def incentives(self) -> dict[str, int]:
        metagraph = await self.chain.metagraph(NetUid(NETUID))
        return {
            name: metagraph.by_hotkey[self.hotkey(f"miner-{name}")].incentive_u16
            for name in EXPERTS
        }

    def client(self, url: str | None = None) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=url or self.plan.router_url, api_key="x", max_retries=3)

    async def start_router_of(self, name: str) -> str:
        """A router for users under somebody else's hotkey; its URL. It has no node."""
        [port] = free_ports(1)
        router = self.plan.router()
        argv = list(router.argv)
        at = argv.index("--node-host")
        del argv[at : at + 4]
        for option, value in (
            ("--hotkey", self.plan.member(name).hotkey),
            ("--state-dir", str(self.plan.root / f"router of {name}")),
            ("--port", str(port)),
        ):
            argv[argv.index(option) + 1] = value
        process = dataclasses.replace(router, name=f"router of {name}", argv=tuple(argv))
        await self.supervisor.start(process)
        return f"http://127.0.0.1:{port}/v1"


@pytest.fixture(params=["embedded", "node"])
async def loop(request, tmp_path, monkeypatch, make_fast_network):
    if request.param == "node":
        request.getfixturevalue("node_binary")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for domain in SPECIALISTS:
        (tmp_path / f"{domain}.txt").write_text(sentences(domain, 9, 20_000))
    pools = tmp_path / "corpora" / "validators"
    pools.mkdir(parents=True)
    for index in range(2):
        lines = [
            json.dumps({"domain": domain, "text": sentences(domain, 1 + index, 6_000)})
            for domain in SPECIALISTS
        ]
        (pools / f"{index}.jsonl").write_text("\n".join(lines) + "\n")
    spec = write_spec(tmp_path / "spec")
    ports = free_ports(12)
    plan = LoopPlan(
        tmp_path,
        Small(0),
        request.param,
        chain_port=ports[0],
        router_port=ports[1],
    )
    if request.param == "node":
        make_fast_network(tmp_path / CHAIN_FOLDERS["node"], [plan.chain_port], slot_s=BLOCK_S)
    names = [n for n in plan.ports() if n not in ("chain", "router")]
    fixed = dict(zip(names, ports[2:], strict=False)) | {"chain": ports[0], "router": ports[1]}
    monkeypatch.setattr(LoopPlan, "ports", lambda self: fixed)
    async with Supervisor(lambda *_: None) as supervisor:
        await supervisor.start(plan.chain())
        chain = await connect(plan.chain_url)
        async with chain, open_http_session() as http:
            await onboard(chain, plan, spec, lambda _: None)
            for expert in EXPERTS:
                await supervisor.start(plan.miner(expert))
            for index in range(2):
                await supervisor.start(plan.validator(index))
            await supervisor.start(plan.router())
            yield Loop(plan, chain, supervisor, spec, http)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_a_subnet_comes_alive_pays_what_helps_and_survives_killing(loop: Loop) -> None:
    async def all_serving():
        async with loop.http.get(f"{loop.plan.router_url}/moesubnet/experts") as response:
            rows = (await response.json())["experts"]
        return len(rows) == len(EXPERTS) and all(row["serving"] for row in rows)

    await loop.until(all_serving, 120)

    # The mixture answers, and knows who to listen to.
    client = loop.client()
    for domain in SPECIALISTS:
        prompt = sentences(domain, 7, 12)
        raw = await client.completions.with_raw_response.create(
            model="mixture", prompt=prompt, max_tokens=24, temperature=0.5, seed=1
        )
        weights = dict(pair.split("=") for pair in raw.headers["x-moesubnet-experts"].split(","))
        heaviest = max(weights, key=lambda key: float(weights[key]))
        wanted = {loop.hotkey(f"miner-{domain}")}
        if domain == "letters":
            wanted.add(loop.hotkey("miner-copier"))
        assert heaviest in wanted
        assert float(weights.get(loop.hotkey("miner-echo"), 0)) < 0.2

    # Streams go on while their experts are killed. (Not the original yet: while it is away in its
    # first epoch its copy is the first that says what both say, and rightly is the senior.)
    async def stream(client: openai.AsyncOpenAI = client) -> int:
        chunks = await client.completions.create(
            model="mixture",
            prompt=sentences("digits", 7, 12),
            max_tokens=120,
            temperature=1.0,
            stream=True,
        )
        finished = [c.choices[0].finish_reason async for c in chunks]
        assert finished[-1] in ("length", "stop")
        return len(finished)

    async def kill_some() -> None:
        for victim in ("miner-copier", "miner-digits", "validator-0"):
            await asyncio.sleep(0.4)
            loop.kill(victim)

    lengths = (await asyncio.gather(stream(), stream(), stream(), kill_some()))[:3]
    assert all(lengths)

    # A validator may serve users under its own hotkey; below its sheets are found whole.
    own = loop.client(await loop.start_router_of("validator-1"))

    async def served_beside_walks():
        try:
            return await asyncio.gather(stream(own), stream(own))
        except openai.OpenAIError:  # it has not met the experts yet
            return None

    lengths = await loop.until(served_beside_walks, 120)
    assert all(lengths)

    # Validators vote; who adds something is paid, who echoes is not.
    async def paid():
        assert all(await asyncio.gather(stream(own), stream(own)))
        incentives = await loop.incentives()
        return incentives if incentives["letters"] and incentives["digits"] else None

    await loop.until(paid, 240)
    block = (await loop.chain.head()).number
    for victim in ("miner-letters", "validator-1", "chain"):
        loop.kill(victim)

    async def two_epochs_on():
        return (await loop.chain.head()).number > block + 60

    await loop.until(two_epochs_on, 120)
    incentives = await loop.incentives()
    assert incentives["echo"] == 0
    assert incentives["letters"] > 0
    assert incentives["digits"] > 0
    # A copy that waits for its original adds nothing to what its original already gives, and does
    # not become the senior while the original is away.
    assert incentives["copier"] <= incentives["letters"]

    # Anyone can fetch the revealed sheets and recount the votes.
    metagraph = await loop.chain.metagraph(NetUid(NETUID))
    gates = GateSync(loop.chain, loop.http, loop.plan.root / "sheets", allow_private=True)
    await gates.refresh(metagraph)
    assert gates.sheets
    for item in gates.sheets:
        again = recount(item.sheet.read()).row_u16
        assert all(abs(a - b) <= 1 for a, b in zip(again, item.sheet.row_u16, strict=True))

    # … and check, answer by answer, what the experts signed.
    for name in ("validator-0", "validator-1"):
        neuron = metagraph.by_hotkey[loop.hotkey(name)]
        reveal = await loop.chain.last_reveal(NetUid(NETUID), neuron.hotkey)
        assert neuron.axon
        assert reveal
        address = f"{neuron.axon.ip}:{neuron.axon.port}"
        found = await fetched(address, reveal.sheet_sha256, None)
        checked = audit(found.sheet, found.receipts, found.answers)
        assert checked.is_clean, checked
        votes = await loop.chain.votes(NetUid(NETUID))
        assert differs_on_chain(found.sheet, votes) in (0, None)
        assert all(expert.agreeing == expert.answered > 0 for expert in checked.experts), checked
