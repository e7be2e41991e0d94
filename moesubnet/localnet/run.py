"""A whole subnet on this machine, from nothing to the final table. Orders named steps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp

from moesubnet.chain.client import ChainClient
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.errors import ChainError, ConfigError
from moesubnet.host.memory import trim_memory
from moesubnet.host.paths import held_alone
from moesubnet.host.supervisor import Supervisor
from moesubnet.localnet.distilling import final_table, run_distillation, stored_report
from moesubnet.localnet.kinds import Kind
from moesubnet.localnet.onboard import onboard
from moesubnet.localnet.plan import HOST, NETUID, TEMPO_BLOCKS, WALKS, Plan
from moesubnet.localnet.prepare import Prepared, prepare
from moesubnet.localnet.view import Screen, Snapshot, training_text
from moesubnet.localnet.watch import take_snapshot
from moesubnet.mixture.gate_sync import fetch_revealed_sheets
from moesubnet.mixture.history import Perplexities, perplexities
from moesubnet.mixture.sheet_cache import SheetCache
from moesubnet.types import Hotkey, NetUid
from moesubnet.wire.strangers import open_http_session

CHAIN_TIMEOUT_S = 60.0
SERVING_TIMEOUT_S = 180.0
FIRST_PAY_EPOCHS = 10
FIRST_ANSWER_TIMEOUT_S = 300.0
WALK_TOKENS = WALKS * 84  # of an expert, an epoch and a validator, in the mean
WALK_SLACK = 2.0  # routers, the chain and the distiller work beside them
BLOCK_S = 1.0  # of the development preset
QUESTION = "Explain in two sentences what a context manager is in Python."
SNAPSHOT_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose about a local network."""

    root: Path
    seed: int
    kind: Kind
    distill: bool
    chain_kind: str  # "embedded" or "node"
    chain_port: int
    router_port: int
    first_port: int
    until: str  # "stopped"; or, for scripts, end after the "table" or the first "answer"


async def run_localnet(options: Options, screen: Screen) -> None:
    """Bring everything up, show it, and stay until cancelled. Raises MoesubnetError."""
    start_s = time.monotonic()
    plan = Plan(
        options.root,
        options.kind,
        chain_kind=options.chain_kind,
        chain_port=options.chain_port,
        router_port=options.router_port,
        first_port=options.first_port,
    )
    with only_one(options.root):
        _check_ports(plan)  # not after minutes of training
        if options.kind.about:
            screen.note(options.kind.about.strip())
        screen.stage("text, tokenizer and experts")
        prepared = await prepare(
            options.root,
            options.kind,
            seed=options.seed,
            on_progress=lambda p: screen.progress(p.task, p.fraction, training_text(p)),
            say=screen.note,
        )
        trim_memory()  # all text was read
        tempo_blocks = epoch_blocks(plan, prepared)
        await _run_network(
            options, replace(plan, tempo_blocks=tempo_blocks), prepared, screen, start_s
        )


async def _run_network(
    options: Options, plan: Plan, prepared: Prepared, screen: Screen, start_s: float
) -> None:
    async with Supervisor(lambda name, text: screen.note(f"{name}: {text}")) as supervisor:
        screen.stage("chain, miners, validators, router")
        serve_s = time.monotonic()
        chain = await _start_chain(plan, supervisor, screen)
        async with chain, open_http_session() as http:
            await onboard(chain, plan, prepared.spec, screen.note)
            for name in plan.expert_names:
                await supervisor.start(plan.miner(name))
            for index in range(plan.validators):
                await supervisor.start(plan.validator(index))
            await supervisor.start(plan.router())
            await _wait_serving(http, plan, supervisor)
            await _first_answer(http, plan, prepared.prompts, screen, start_s, serve_s)
            if options.until == "answer":
                return
            watch = _Watch(chain, http, plan, supervisor, screen)
            async with _background(watch.run()):
                screen.stage("epochs: measuring, voting, paying")
                await watch.first_pay()
                if options.distill:
                    screen.stage("distilling the mixture into one student")
                    await _distill(plan, prepared, supervisor, screen)
                if options.until == "table":
                    return
                screen.stage("running; Ctrl-C stops everything")
                screen.note(next_steps(plan, prepared.prompts))
                await asyncio.Event().wait()


async def _start_chain(plan: Plan, supervisor: Supervisor, screen: Screen) -> ChainClient:
    process = plan.chain()
    await supervisor.start(process)
    deadline_s = time.monotonic() + CHAIN_TIMEOUT_S
    while True:
        try:
            chain = await ChainClient.connect(plan.chain_url, timeout_s=5.0)
        except ChainError as error:
            if time.monotonic() > deadline_s or process.restarts >= 2:
                raise ConfigError(
                    f"the chain does not come up. {process.log} ends with\n"
                    f"{process.last_lines(2)}\n"
                    f"If it was made by another version, `--new-chain` keeps the experts and "
                    "starts a new chain"
                ) from error
            await asyncio.sleep(0.3)
        else:
            head = await chain.head()
            screen.note(f"chain at block {head.number} on {plan.chain_url}")
            return chain


async def _router_get(http: aiohttp.ClientSession, url: str) -> Any:
    try:
        async with http.get(url, timeout=aiohttp.ClientTimeout(total=5)) as response:
            return await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


async def _wait_serving(http: aiohttp.ClientSession, plan: Plan, supervisor: Supervisor) -> None:
    """Until the router sees every expert."""
    deadline_s = time.monotonic() + SERVING_TIMEOUT_S
    wanted = len(plan.expert_names)
    while True:
        found = await _router_get(http, f"{plan.router_url}/moesubnet/experts")
        serving = sum(1 for row in found["experts"] if row["serving"]) if found else 0
        if serving >= wanted:
            return
        if time.monotonic() > deadline_s:
            logs = "\n".join(
                f"-- {process.log}:\n{process.last_lines(3)}"
                for process in supervisor.processes.values()
            )
            raise ConfigError(f"only {serving} of {wanted} experts answer the router.\n{logs}")
        await asyncio.sleep(0.5)


async def _first_answer(
    http: aiohttp.ClientSession,
    plan: Plan,
    prompts: Mapping[str, str],
    screen: Screen,
    start_s: float,
    serve_s: float,
) -> None:
    domain, prompt = next(iter(prompts.items()))
    body = {"model": "mixture", "max_tokens": 48, "temperature": 0.7, "seed": 1}
    if plan.kind.chats:
        domain, prompt = "a person", QUESTION
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    timeout = aiohttp.ClientTimeout(total=FIRST_ANSWER_TIMEOUT_S)
    url = f"{plan.router_url}/{'chat/' if plan.kind.chats else ''}completions"
    try:
        async with http.post(url, json=body, timeout=timeout) as response:
            answer = await response.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ConfigError(f"the router gives no answer: {error or type(error).__name__}") from error
    if response.status != 200:
        raise ConfigError(f"the router answers {response.status}: {answer}")
    written_by = response.headers.get("x-moesubnet-experts", "")
    now_s = time.monotonic()
    choice = answer["choices"][0]
    said = f"\n> {choice['message']['content']}" if plan.kind.chats else choice["text"]
    screen.note(
        f"first mixed answer {now_s - start_s:.0f} s after the start ({now_s - serve_s:.0f} s "
        f"after the experts were trained); a prompt from {domain}:\n{prompt}{said}"
    )
    screen.note(f"written by {name_weights(written_by, names_of(plan))}")


def names_of(plan: Plan) -> dict[Hotkey, str]:
    """Hotkey → name of every member."""
    return {
        Hotkey(keypair_from_uri(member.hotkey).ss58_address): member.name for member in plan.members
    }


def name_weights(header: str, names: Mapping[Hotkey, str]) -> str:
    """`x-moesubnet-experts` with names in place of hotkeys."""
    pairs = [pair.split("=") for pair in header.split(",") if "=" in pair]
    return ", ".join(f"{names.get(Hotkey(key), key)} {float(w):.2f}" for key, w in pairs)


class _Watch:
    """Polls the network once a second and draws it."""

    def __init__(
        self,
        chain: ChainClient,
        http: aiohttp.ClientSession,
        plan: Plan,
        supervisor: Supervisor,
        screen: Screen,
    ) -> None:
        self._chain, self._http, self._plan = chain, http, plan
        self._supervisor, self._screen = supervisor, screen
        self._names = names_of(plan)
        self._sheets = SheetCache(plan.root / "watch" / "sheets")
        self._perplexities: Perplexities | None = None
        self._epoch = -1
        self._paid = asyncio.Event()

    async def first_pay(self) -> None:
        """Until some miner has earned incentive; gives up waiting, with a note, after epochs."""
        timeout_s = FIRST_PAY_EPOCHS * self._plan.tempo_blocks * self._chain.block_seconds
        try:
            async with asyncio.timeout(timeout_s):
                await self._paid.wait()
        except TimeoutError:
            self._screen.note(
                f"no incentive within {timeout_s / 60:.0f} minutes: see the validators' logs"
            )

    async def run(self) -> None:
        while True:
            try:
                snapshot = await self._look()
            except ChainError as error:
                self._screen.note(f"chain: {error}")
            else:
                self._screen.snapshot(snapshot)
                if snapshot.why_unpaid is None and not self._paid.is_set():
                    self._paid.set()
                    self._screen.note(f"first incentive paid in epoch {snapshot.epoch}")
            await asyncio.sleep(SNAPSHOT_EVERY_S)

    async def _look(self) -> Snapshot:
        found = await _router_get(self._http, f"{self._plan.router_url}/moesubnet/experts")
        snapshot = await take_snapshot(
            self._chain,
            self._plan,
            self._names,
            self._supervisor.processes,
            found["experts"] if found else (),
            self._perplexities,
        )
        if snapshot.epoch != self._epoch:
            self._epoch = snapshot.epoch
            revealed = await fetch_revealed_sheets(
                self._chain,
                await self._chain.metagraph(NetUid(NETUID)),
                self._http,
                self._sheets,
                allow_private=True,
            )
            newest = max((item.sheet.epoch for item in revealed), default=-1)
            self._perplexities = await asyncio.to_thread(
                perplexities, [item.sheet for item in revealed if item.sheet.epoch == newest]
            )
        return snapshot


async def _distill(plan: Plan, prepared: Prepared, supervisor: Supervisor, screen: Screen) -> None:
    report = stored_report(plan)
    if report is None:
        report = await run_distillation(plan, prepared, supervisor, screen)
    else:
        screen.note("the student of an earlier run is served; --fresh distils a new one")
    screen.table("final", report, final_table(report, prepared, names_of(plan)))


def epoch_blocks(plan: Plan, prepared: Prepared) -> int:
    """So many that the validators' walks fit twice, as those of the first epoch have half of it: a
    token of a walk costs about what one of training did on this machine."""
    reports = prepared.expert_reports.values()
    tokens_per_s = sum(r.seen_tokens for r in reports) / sum(r.elapsed_s for r in reports)
    tokens = WALK_TOKENS * len(plan.expert_names) * plan.validators
    half_s = WALK_SLACK * tokens / (tokens_per_s * min(os.cpu_count() or 1, len(plan.expert_names)))
    return max(TEMPO_BLOCKS, math.ceil(2 * half_s / BLOCK_S))


def next_steps(plan: Plan, prompts: Mapping[str, str]) -> str:
    """What to try now."""
    prompt = next(iter(prompts.values())).strip().splitlines()[0]
    asked: dict[str, object] = {"prompt": prompt}
    what, create, piece = "completions", "completions", "text"
    if plan.kind.chats:
        asked = {"messages": [{"role": "user", "content": QUESTION}]}
        what, create, piece = "chat/completions", "chat.completions", "delta.content or ''"
    body = json.dumps({"model": "mixture", **asked, "max_tokens": 60})
    quoted = body.replace("'", "'\\''")
    judge = plan.root / "validators" / "0"
    ((name, value),) = asked.items()
    install = "" if find_spec("openai") else f"{sys.executable} -m pip install openai\n  "
    return f"""Try it.{plan.kind.about}

  curl {plan.router_url}/{what} -H 'Content-Type: application/json' \\
    -d '{quoted}'

  {install}{sys.executable} - <<'PY'
  from openai import OpenAI
  client = OpenAI(base_url="{plan.router_url}", api_key="none")
  stream = client.{create}.create(model="mixture", {name}={value!r}, max_tokens=60, stream=True)
  print("".join(chunk.choices[0].{piece} for chunk in stream))
  PY

  or open http://{HOST}:{plan.router_port}/ in a browser

  . {Path(sys.executable).parent / "activate"}
  moesubnet subnet metagraph --chain {plan.chain_url}
  moesubnet validator explain //{plan.members[0].name}//hotkey --state-dir {judge}

Add an expert of your own: README, "If you have a model". Logs: {plan.root / "logs"}"""


def only_one(root: Path) -> contextlib.AbstractContextManager[None]:
    """Two networks must not write into one folder."""
    return held_alone(
        root, f"a localnet already runs in {root}; stop it, or choose another --dir and ports"
    )


def _check_ports(plan: Plan) -> None:
    for name, port in plan.ports().items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                raise ConfigError(
                    f"port {port}, which {name} needs, is in use. Stop who uses it, or move the "
                    "network: --chain-port, --router-port, --first-port"
                ) from None


@contextlib.asynccontextmanager
async def _background(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until_interrupted(work: Coroutine[None, None, None], screen: Screen) -> None:
    """SIGINT, SIGTERM and a closed terminal cancel the work, which then cleans up after itself."""
    task = asyncio.ensure_future(work)

    def stop() -> None:
        if not task.cancelling():  # a second Ctrl-C must not cut the cleanup short
            task.cancel()
            screen.stage("stopping")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            loop.add_signal_handler(number, stop)
    with contextlib.suppress(asyncio.CancelledError):
        await task
