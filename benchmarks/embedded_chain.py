"""The embedded chain: blocks, growth, start, idling, reads, submissions and import.

Blocks are made in this process, a small state and one of 100,000 accounts taking turns, and timed
in CPU of their thread, so that figures and ratios stand even where the machine is busy. The served
chain is `moesubnet chain dev` in a process of its own with a block a second. Latencies are wall
time and mean something on a quiet machine only; the section says how loaded it was. Prints one
Markdown table and puts it, dated, on top of benchmarks/results.md. Takes about two minutes.

    python benchmarks/embedded_chain.py
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import websocket

from moesubnet.chain.client import ChainClient
from moesubnet.chain.devchain.archive import export_blocks, import_blocks
from moesubnet.chain.devchain.blob import runtime_wasm
from moesubnet.chain.devchain.chain import Chain
from moesubnet.chain.devchain.executor import Executor
from moesubnet.chain.devchain.genesis import build_genesis
from moesubnet.chain.devchain.header import Block, Header
from moesubnet.chain.devchain.hostfns import twox
from moesubnet.chain.devchain.scale import compact, vec
from moesubnet.chain.devchain.store import Store
from moesubnet.chain.devchain.trie import Trie
from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.types import Coldkey

PRESET, ACCOUNTS = "development", 100_000
ROUNDS, BLOCKS_PER_ROUND, GROWTH_BLOCKS, IMPORTED_BLOCKS = 20, 50, 5_000, 500
IDLE_S, READS, REQUESTS, SUBMISSIONS = 15.0, 1_000, 2_000, 12
ALICE, BOB = keypair_from_uri("//Alice"), keypair_from_uri("//Bob")
RESULTS = Path(__file__).with_name("results.md")

Row = tuple[str, int, str, str, str]  # as the table's columns


def main() -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")  # compiled runtimes: none yet
        rows = [*_starts(root), *_blocks(root), *_imports(root), *asyncio.run(_served(root))]
    lines = ["| what | n | median | spread | asked for |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    title = f"## {datetime.datetime.now(datetime.UTC):%Y-%m-%d} · the embedded chain"
    about = (
        f"`python benchmarks/embedded_chain.py`, {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, wasmtime {version('wasmtime')}. Load of the machine "
        f"{load:.1f} before, {os.getloadavg()[0]:.1f} after. Spread = max/min."
    )
    section = "\n".join((title, "", about, "", *lines, "", ""))
    print(section)
    head, mark, older = RESULTS.read_text().partition("\n## ")
    RESULTS.write_text(f"{head}\n{section}{mark.lstrip()}{older}")


def _row(what: str, values: list[float], form: str, wanted: str = "") -> Row:
    """`form` prints the median."""
    spread = f"{max(values) / min(values):.2f}" if len(values) > 1 and min(values) > 0 else ""
    return what, len(values), form.format(statistics.median(values)), spread, wanted


def _cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _resident_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


def _open_mb(folder: Path) -> float:
    """What a fresh process holds with this chain open."""
    code = (
        "import psutil, sys; from pathlib import Path\n"
        "from moesubnet.chain.devchain.blob import runtime_wasm\n"
        "from moesubnet.chain.devchain.chain import Chain\n"
        "chain = Chain(Path(sys.argv[1]), runtime_wasm(), sys.argv[2])\n"
        "print(psutil.Process().memory_info().rss / 2**20)\n"
    )
    return float(subprocess.check_output([sys.executable, "-c", code, str(folder), PRESET]))


# --- in this process ----------------------------------------------------------------------------


def _starts(root: Path) -> Iterator[Row]:
    """Opening a chain: nothing compiled yet, a new one, one with blocks, a large one."""

    def start(folder: Path) -> float:
        return _cpu_s(lambda: Chain(folder, runtime_wasm(), PRESET).close())

    yield _row("open, compiling the runtime", [start(root / "first")], "{:.2f} CPU s")
    yield _row("open a new chain", [start(root / f"new-{i}") for i in range(5)], "{:.3f} CPU s")
    yield _row(
        "open it again in the same process",
        [start(root / "new-0") for _ in range(5)],
        "{:.3f} CPU s",
    )
    _grow(root / "grown")
    yield _row(f"open {ACCOUNTS:,} accounts", [start(root / "grown")], "{:.2f} CPU s")
    grown_mb = _open_mb(root / "grown") - _open_mb(root / "new-0")
    yield _row(f"memory for {ACCOUNTS:,} accounts", [grown_mb], "{:.0f} MB")


def _blocks(root: Path) -> Iterator[Row]:
    """Empty blocks on two states in turns, then memory over many of them."""
    small, grown = (Chain(root / name, runtime_wasm(), PRESET) for name in ("new-0", "grown"))

    def one_ms(chain: Chain) -> float:
        work = [chain.author] * BLOCKS_PER_ROUND
        return _cpu_s(lambda: [author(0, []) for author in work]) / BLOCKS_PER_ROUND * 1e3

    with contextlib.closing(small), contextlib.closing(grown):
        times = [(one_ms(small), one_ms(grown)) for _ in range(ROUNDS + 1)][1:]
        few, many = zip(*times, strict=True)
        yield _row("empty block", [*few], "{:.2f} CPU ms")
        yield _row(f"empty block over {ACCOUNTS:,} accounts", [*many], "{:.2f} CPU ms")
        yield _row("ratio of the two", [b / a for a, b in times], "{:.2f}", "does not grow")
        for name, chain in (("", small), (f" over {ACCOUNTS:,} accounts", grown)):
            before = _resident_mb()
            for _ in range(GROWTH_BLOCKS):
                chain.author(0, [])
            what = f"memory gained in {GROWTH_BLOCKS:,} blocks{name}"
            yield _row(what, [_resident_mb() - before], "{:.1f} MB", "bounded")


def _imports(root: Path) -> Iterator[Row]:
    """Making and importing blocks of one and of a hundred transfers."""
    file = root / "blocks"
    for transfers in (1, 100):
        count = IMPORTED_BLOCKS if transfers == 1 else 5
        folder = root / f"with-{transfers}"
        with contextlib.closing(Chain(folder, runtime_wasm(), PRESET)) as chain:
            batches = [
                [_transfer(chain, block * transfers + i) for i in range(transfers)]
                for block in range(count)
            ]
            made = _cpu_s(lambda: [*map(chain.author, [0] * count, batches)])  # noqa: B023
            assert len(chain.head.block.extrinsics) == 1 + transfers
            export_blocks(chain, file, lambda done, total: None)
        with contextlib.closing(Chain(root / f"copy-{transfers}", runtime_wasm(), PRESET)) as copy:
            took = _cpu_s(lambda: import_blocks(copy, file, lambda done, total: None))
            assert copy.head.block.number == count
        what = f"block of {transfers} transfer{'s' * (transfers > 1)}"
        yield what, count, f"{made / count * 1e3:.2f} CPU ms", "", ""
        imported = f"{took / count * 1e3:.2f} CPU ms, {count / took:.0f} a second"
        yield f"import of a {what}", count, imported, "", ""


def _grow(folder: Path) -> None:
    """A chain whose genesis has that many more accounts."""
    code = runtime_wasm()
    genesis = build_genesis(Executor(), code, PRESET)
    prefix, account = twox(b"System", 2) + twox(b"Account", 2), bytes(16) + b"\1" * 64
    keys = (sha256(i.to_bytes(4)).digest() for i in range(ACCOUNTS))
    state = genesis.state.update(
        {prefix + blake2b(key, digest_size=16).digest() + key: account for key in keys}
    )
    header = Header(bytes(32), 0, state.root(1), Trie().root(1), ())
    store = Store(folder)
    block = Block(header.hash(), header, ())
    store.create(PRESET, sha256(code).hexdigest(), block, dict(state.items()))
    store.close()


def _transfer(chain: Chain, nonce: int) -> bytes:
    """One rao from Alice to Bob, immortal, without a tip."""
    call = b"\5\0\0" + BOB.public_key + compact(1)
    extra = b"\0" + compact(nonce) + compact(0) + b"\0"
    numbers = (chain.version.spec_version, chain.version.transaction_version)
    implied = b"".join(n.to_bytes(4, "little") for n in numbers) + chain.genesis_hash * 2 + b"\0"
    signature = ALICE.sign(call + extra + implied)
    return vec(b"\x84\0" + ALICE.public_key + b"\1" + signature + extra + call)


# --- over the wire ------------------------------------------------------------------------------


async def _served(root: Path) -> list[Row]:
    words = ("-m", "moesubnet", "chain", "dev", "--port", "0", "--json", "--base-path")
    start = time.perf_counter()
    child = await asyncio.create_subprocess_exec(
        sys.executable, *words, str(root / "served"), stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        url = json.loads(await child.stdout.readline())["endpoint"]
        started_s = time.perf_counter() - start
        rows = [_row("`moesubnet chain dev` until it listens", [started_s], "{:.2f} s")]
        chain = psutil.Process(child.pid)
        rows.append(await _idle("idle", chain))
        async with aiohttp.ClientSession() as http, http.ws_connect(url) as heads:
            await heads.send_json({"id": 1, "method": "chain_subscribeNewHeads"})
            rows.append(await _idle("with a subscriber to heads", chain))
        async with await ChainClient.connect(url) as client:
            following = asyncio.create_task(_follow(client))
            rows.append(await _idle("with our client following heads", chain))
            following.cancel()
            rows += await _reads(client, chain)
            rows += await _submissions(client)
        return rows + _requests(url)
    finally:
        child.terminate()
        await child.wait()


async def _idle(name: str, chain: psutil.Process) -> Row:
    await asyncio.sleep(2)
    before, start = _spent_s(chain), time.perf_counter()
    await asyncio.sleep(IDLE_S)
    share = (_spent_s(chain) - before) / (time.perf_counter() - start)
    what = f"CPU of the chain at 1 s blocks, {name}"
    return _row(what, [share * 100], "{:.2f} % of a core", "below 2 %")


def _spent_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _follow(client: ChainClient) -> None:
    async for _ in client.heads():
        pass


async def _reads(client: ChainClient, chain: psutil.Process) -> list[Row]:
    account = Coldkey(BOB.ss58_address)
    await client.balance_rao(account)

    async def one_by_one() -> None:
        for _ in range(READS):
            await client.balance_rao(account)

    async def at_once() -> None:
        await client.query(*(("BlockAtRegistration", 1, uid) for uid in range(READS)))

    rows: list[Row] = []
    for name, work in (("one after the other", one_by_one), ("in one batch", at_once)):
        wall, cpu = [], []
        for _ in range(3):
            before, start = time.process_time() + _spent_s(chain), time.perf_counter()
            await work()
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() + _spent_s(chain) - before)
        rows.append(_row(f"{READS:,} reads {name}", wall, "{:.3f} s", "well under 1 s"))
        rows.append(_row(f"{READS:,} reads {name}, both sides", cpu, "{:.2f} CPU s"))
    return rows


async def _submissions(client: ChainClient) -> list[Row]:
    blocks, took_ms = [], []
    for _ in range(SUBMISSIONS):
        head, start = await client.head(), time.perf_counter()
        receipt = await client.transfer(Coldkey(BOB.ss58_address), 1, ALICE)
        assert receipt.event("Balances", "Transfer") is not None
        took_ms.append((time.perf_counter() - start) * 1e3)
        blocks.append(receipt.block - head.number)
    return [
        (
            "submit until its event, the slowest",
            SUBMISSIONS,
            f"{max(blocks)} blocks",
            "",
            "at most 2",
        ),
        _row("submit until its event is read", took_ms, "{:.0f} ms"),
    ]


def _requests(url: str) -> list[Row]:
    socket = websocket.create_connection(url, skip_utf8_validation=True)
    rows: list[Row] = []
    asks: dict[str, list[Any]] = {
        "chain_getHead": [],
        "state_getStorage": ["0x3a686561707061676573"],
        "state_call": ["AccountNonceApi_account_nonce", "0x" + ALICE.public_key.hex()],
    }
    for method, params in asks.items():
        text = json.dumps({"id": 1, "method": method, "params": params})
        times = []
        for _ in range(REQUESTS):
            start = time.perf_counter()
            socket.send(text)
            socket.recv()
            times.append((time.perf_counter() - start) * 1e3)
        p50, p99 = (statistics.quantiles(times, n=100)[i] for i in (49, 98))
        rows.append((f"`{method}`", REQUESTS, f"p50 {p50:.2f}, p99 {p99:.2f} ms", "", ""))
    socket.close()
    return rows


if __name__ == "__main__":
    main()
