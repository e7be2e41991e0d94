"""One epoch of Yuma consensus at growing sizes, native and as WASM on the embedded chain's heap.

Every validator votes and holds bonds on every uid. Times are CPU times of the calling thread;
instructions are those that wasmtime counts, the same on every machine. Both builds must decide the
same. Prints Markdown tables; `--record` puts them on top of benchmarks/results.md.

    python benchmarks/epoch.py --record

Needs Rust with the target wasm32v1-none, as scripts/build-runtime does.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import math
import os
import platform
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path

import wasmtime

from moesubnet.chain.devchain.memory import LinearMemory

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.md"
SIZES = ((256, 64), (1024, 128), (4096, 256))  # uids, validators
BOND_RULES = ("Yuma 3", "liquid alpha")
WEIGHTS = ROOT / "chain_pallet/pallets/subnet/src/weights/measured.rs"
READ_NS, WRITE_NS, BLOCK_NS = 8_000, 50_000, 2_000_000_000  # ParityDB's, and what a block may take
WASM_TARGET = "wasm32v1-none"
LINK = "-C link-arg=--import-memory -C link-arg=--export=__heap_base"

Prepare = Callable[[int, int, int], Callable[[], int]]


def build(target_dir: Path) -> tuple[Path, Path]:
    """The library for this machine, and for WASM."""
    cargo = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "yuma-epoch-bench"]
    where = {"cwd": ROOT / "chain_pallet", "check": True}
    env = os.environ | {"CARGO_TARGET_DIR": str(target_dir)}
    subprocess.run(cargo, env=env, **where)
    wasm_env = env | {"RUSTFLAGS": LINK}
    subprocess.run([*cargo, "--target", WASM_TARGET], env=wasm_env, **where)
    (native,) = (target_dir / "release").glob("*yuma_epoch_bench.[sd][oy]*")
    return native, target_dir / WASM_TARGET / "release" / "yuma_epoch_bench.wasm"


def native(library: Path) -> Prepare:
    lib = ctypes.CDLL(str(library))
    lib.prepare.restype = ctypes.c_void_p
    lib.run.restype, lib.run.argtypes = ctypes.c_uint64, [ctypes.c_void_p]

    def prepare(n: int, v: int, liquid: int) -> Callable[[], int]:
        subnet = lib.prepare(n, v, liquid)
        return lambda: int(lib.run(subnet))

    return prepare


def in_wasm(library: Path, fuel: list[int] | None) -> Prepare:
    """A fresh instance each time. With `fuel`, every run appends its count of instructions."""
    config = wasmtime.Config()
    config.cranelift_nan_canonicalization = True
    config.consume_fuel = fuel is not None
    engine = wasmtime.Engine(config)
    text = resources.files("moesubnet.chain.devchain").joinpath("host.wat").read_text()
    allocator = wasmtime.Module(engine, bytes(wasmtime.wat2wasm(text)))
    module = wasmtime.Module(engine, library.read_bytes())
    (wanted,) = [i.type for i in module.imports if isinstance(i.type, wasmtime.MemoryType)]

    def prepare(n: int, v: int, liquid: int) -> Callable[[], int]:
        store = wasmtime.Store(engine)
        plenty = 1 << 62
        if fuel is not None:
            store.set_fuel(plenty)
        memory = wasmtime.Memory(store, wanted)
        heap = wasmtime.Instance(store, allocator, [memory]).exports(store)
        linker = wasmtime.Linker(engine)
        linker.define(store, "env", "memory", memory)
        for name in ("malloc", "free"):
            linker.define(store, "env", f"ext_allocator_{name}_version_1", heap[name])
        exports = linker.instantiate(store, module).exports(store)
        base = (exports["__heap_base"].value(store) + 7) & ~7
        heap["base"].set_value(store, base)
        LinearMemory(store, memory).open_heap(base)
        subnet = exports["prepare"](store, n, v, liquid)

        def run() -> int:
            if fuel is not None:
                store.set_fuel(plenty)
            checksum = exports["run"](store, subnet) & (1 << 64) - 1
            if fuel is not None:
                fuel.append(plenty - store.get_fuel())
            return int(checksum)

        return run

    return prepare


def median_ms(run: Callable[[], int], repeats: int) -> tuple[float, int]:
    """CPU time in ms, and what the run decided."""
    times, checksums = [], set()
    for _ in range(repeats):
        begin = time.thread_time_ns()
        checksums.add(run())
        times.append((time.thread_time_ns() - begin) / 1e6)
    (checksum,) = checksums
    return statistics.median(times), checksum


def growth(work: list[int], cost: list[float]) -> float:
    """Exponent of cost ∝ work^e: the least-squares slope between their logarithms."""
    return statistics.linear_regression([*map(math.log, work)], [*map(math.log, cost)]).slope


def table(libraries: tuple[Path, Path], repeats: int) -> str:
    lines = []
    for liquid, rule in enumerate(BOND_RULES):
        lines += ["", f"| {rule}: uids × validators | native, ms | WASM, ms | WASM instructions |"]
        lines += ["|---|---|---|---|"]
        columns: tuple[list[float], list[float], list[float]] = ([], [], [])
        for n, v in SIZES:
            fuel: list[int] = []
            here, decided = median_ms(native(libraries[0])(n, v, liquid), repeats)
            there, in_wasm_decided = median_ms(in_wasm(libraries[1], None)(n, v, liquid), repeats)
            in_wasm(libraries[1], fuel)(n, v, liquid)()
            assert decided == in_wasm_decided, "native and WASM decide differently"
            for column, value in zip(columns, (here, there, float(fuel[0])), strict=True):
                column.append(value)
            lines.append(f"| {n:,} × {v} | {here:.2f} | {there:.2f} | {fuel[0] / 1e6:,.1f} M |")
        slopes = [growth([n * v for n, v in SIZES], column) for column in columns]
        lines.append(
            "| growth exponent in uids · validators | {:.2f} | {:.2f} | {:.2f} |".format(*slopes)
        )
    return "\n".join(lines)


def weights() -> str:
    """What the pallet charges, by the table that scripts/bench wrote."""
    cost = re.search(r"const epoch: Cost = (.*?);", WEIGHTS.read_text(), re.DOTALL)
    assert cost is not None
    fields = dict(re.findall(r"(\w+): \[([\d_, ]+)\]", cost[1]))
    lines = ["", "| uids × validators | weight of the epoch, ms | of a block |", "|---|---|---|"]
    for n, v in SIZES:
        ns, reads, writes = (
            sum(
                int(each) * count
                for each, count in zip(fields[name].split(", "), (1, n, v, n * v), strict=True)
            )
            for name in ("ns", "reads", "writes")
        )
        total = ns + reads * READ_NS + writes * WRITE_NS
        lines.append(f"| {n:,} × {v} | {total / 1e6:,.0f} | {total / BLOCK_NS:.0%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11, help="runs of each, of which the median")
    parser.add_argument("--record", action="store_true", help="put the tables into results.md")
    parser.add_argument("--target-dir", type=Path, help="keep what cargo builds here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        libraries = build(arguments.target_dir or Path(directory))
        tables = table(libraries, arguments.repeats) + "\n" + weights()
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True)
    said = (
        f"`benchmarks/epoch.py`, {os.cpu_count()} CPUs ({processor()}), {rustc.stdout.strip()}, "
        f"wasmtime {metadata.version('wasmtime')}; medians of {arguments.repeats} CPU times. Load "
        f"of the machine about {os.getloadavg()[0]:.0f}.\n{tables}\n"
    )
    print(said)
    if arguments.record:
        head, newest = RESULTS.read_text().split("\n## ", 1)
        section = f"## {datetime.date.today()} · an epoch of Yuma consensus\n\n{said}"
        RESULTS.write_text(f"{head}\n{section}\n## {newest}")


def processor() -> str:
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return models[0] if models else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
