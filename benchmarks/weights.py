"""Run the runtime's benchmarks in the embedded chain's host and write the pallet's weights.

Called by scripts/bench with the runtime that was compiled for it. Each benchmark runs at `--steps`
values of each of its components, `--repeats` times each. What is measured:

* computation: CPU time of the thread that executes the WASM, median of the repeats. The host
  functions, here in Python, are part of it, so it is more than a node needs;
* reads and writes: distinct keys of the state, counted as Substrate's own tool counts them;
* proof: the largest encoded size of each key read and the trie nodes on its way.

A cost is linear in the components (and their product, if there are two) by least squares without
negative terms; then its constant is raised until no measured point lies above.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import itertools
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from moesubnet.chain.devchain.executor import Executor
from moesubnet.chain.devchain.hostfns import HostFunctions
from moesubnet.chain.devchain.memory import LinearMemory
from moesubnet.chain.devchain.overlay import Overlay
from moesubnet.chain.devchain.scale import Reader, compact, vec
from moesubnet.chain.devchain.trie import Trie

PALLET = "pallet_subnet"
WEIGHTS = Path(__file__).parents[1] / "chain_pallet/pallets/subnet/src/weights/measured.rs"
COSTS = ("ns", "reads", "writes", "proof_bytes")
# Substrate's: fifteen hashes with their lengths a level, and how many levels so many values need.
_LEVEL_BYTES, _MAP_VALUES = 15 * 33, 1_000_000


class _State(Trie):
    """A trie that notes which keys it was asked for."""

    __slots__ = ("reads",)

    def __init__(self, trie: Trie, reads: set[bytes]) -> None:
        super().__init__(trie._root)
        self.reads = reads

    def get(self, key: bytes) -> bytes | None:
        self.reads.add(key)
        return super().get(key)

    def next_key(self, key: bytes) -> bytes | None:
        self.reads.add(key)
        return super().next_key(key)


class BenchmarkHost(HostFunctions):
    """What benchmarks ask of their host. The state begins empty."""

    largest: dict[bytes, int] = {}  # noqa: RUF012 - bytes of a key and its value, by item

    def __init__(self, memory: LinearMemory) -> None:
        super().__init__(memory)
        self._reads: set[bytes] = set()
        self._writes: set[bytes] = set()
        self._ignored: set[bytes] = set()
        self._whitelist = compact(0)

    def ext_benchmarking_wipe_db_version_1(self) -> None:
        self.overlay = Overlay(_State(Trie(), self._reads))

    def ext_benchmarking_commit_db_version_1(self) -> None:
        self._writes |= self.overlay.changes.keys()
        plain = Overlay(Trie(self.overlay.base._root))
        plain.changes = self.overlay.changes
        self.overlay = Overlay(_State(plain.merged(), self._reads))

    def ext_benchmarking_reset_read_write_count_version_1(self) -> None:
        self._reads.clear()
        self._writes.clear()

    def ext_benchmarking_read_write_count_version_1(self) -> int:
        counts = (len(self._reads - self._ignored), 0, len(self._writes - self._ignored), 0)
        return self._give(b"".join(count.to_bytes(4, "little") for count in counts))

    def ext_benchmarking_get_read_and_written_keys_version_1(self) -> int:
        return self._give(compact(0))

    def ext_benchmarking_set_whitelist_version_1(self, keys: int) -> None:
        self._whitelist = self._read(keys)
        reader = Reader(self._whitelist)
        self._ignored = set()
        for _ in range(reader.compact()):
            self._ignored.add(reader.vec())
            reader.take(9)  # accesses, and whether it is whitelisted
            if reader.uint(1):
                reader.vec()

    def ext_benchmarking_get_whitelist_version_1(self) -> int:
        return self._give(self._whitelist)

    def ext_benchmarking_proof_size_version_1(self) -> int:
        size = sum(self._proof_bytes(key) for key in self._reads - self._ignored)
        return self._give(b"\1" + size.to_bytes(4, "little"))

    def _proof_bytes(self, key: bytes) -> int:
        known = self.largest.get(key[:32])
        return known or len(key) + len(Trie.get(self.overlay.base, key) or b"") + _LEVEL_BYTES

    def ext_benchmarking_current_time_version_1(self) -> int:
        return self._memory.allocate(time.thread_time_ns().to_bytes(16, "little"))


@dataclass(frozen=True, slots=True)
class Benchmark:
    instance: bytes  # of the pallet
    name: str
    components: tuple[tuple[int, int, int], ...]  # letter as a number, least, most

    def points(self, steps: int) -> list[tuple[int, ...]]:
        ranges = (
            sorted({round(x) for x in np.linspace(least, most, steps)})
            for _, least, most in self.components
        )
        return list(itertools.product(*ranges))


class Runtime:
    def __init__(self, code: bytes) -> None:
        self._code = code
        self._executor = Executor(BenchmarkHost)

    def _call(self, function: str, data: bytes) -> Reader:
        return Reader(self._executor.call(self._code, function, data, Overlay(Trie())))

    def benchmarks(self) -> list[Benchmark]:
        """Those of the pallet. Teaches the host how large stored values can be."""
        answer = self._call("Benchmark_benchmark_metadata", b"\0")
        found = []
        for _ in range(answer.compact()):
            pallet, instance = answer.vec().decode(), answer.vec()
            for _ in range(answer.compact()):
                name = answer.vec().decode()
                ranges = [
                    (answer.uint(1), answer.uint(4), answer.uint(4))
                    for _ in range(answer.compact())
                ]
                for _ in range(2 * answer.compact()):
                    answer.vec()  # how to estimate proofs
                if pallet == PALLET:
                    found.append(Benchmark(instance, name, tuple(ranges)))
        for _ in range(answer.compact()):
            _pallet, _item, prefix = (answer.vec() for _ in range(3))
            values, size = (answer.uint(4) if answer.uint(1) else None for _ in range(2))
            if size is not None:
                levels = max(1, math.ceil(math.log(values or _MAP_VALUES, 16)))
                BenchmarkHost.largest[prefix] = size + levels * _LEVEL_BYTES
        return found

    def run(
        self, benchmark: Benchmark, point: tuple[int, ...], repeats: int, verify: bool = False
    ) -> list[float]:
        """Medians of `COSTS`."""
        letters = [letter for letter, _, _ in benchmark.components]
        chosen = [
            bytes((a,)) + x.to_bytes(4, "little") for a, x in zip(letters, point, strict=True)
        ]
        names = map(vec, (PALLET.encode(), benchmark.instance, benchmark.name.encode()))
        config = [
            *names,
            compact(len(chosen)),
            *chosen,
            bytes((verify,)),
            repeats.to_bytes(4, "little"),
        ]
        answer = self._call("Benchmark_dispatch_benchmark", b"".join(config))
        if answer.uint(1):
            raise SystemExit(f"{benchmark.name}{point}: {answer.vec().decode()}")
        runs = []
        for _ in range(answer.compact()):
            for _ in range(3):
                answer.vec()  # pallet, instance, benchmark
            for _ in range(answer.compact()):
                for _ in range(answer.compact()):
                    answer.take(5)
                ns, _root_ns = answer.uint(16), answer.uint(16)
                reads, _, writes, _, proof_bytes = (answer.uint(4) for _ in range(5))
                answer.compact()  # no keys
                runs.append((ns, reads, writes, proof_bytes))
        return [statistics.median(cost) for cost in zip(*runs, strict=True)]


def fit(points: list[tuple[int, ...]], costs: list[float]) -> list[int]:
    """Terms 1, a, b, a·b of a cost that none of the measured exceeds."""
    x = np.array(
        [[1, *point, *([math.prod(point)] if len(point) == 2 else [])] for point in points]
    )
    terms = range(1, x.shape[1])
    best, best_error = np.zeros(x.shape[1]), math.inf
    for size in range(x.shape[1]):
        for chosen in itertools.combinations(terms, size):
            columns = [0, *chosen]
            solution = np.linalg.lstsq(x[:, columns].astype(float), np.array(costs), rcond=None)[0]
            error = float(np.square(x[:, columns] @ solution - costs).sum())
            if (solution[1:] >= 0).all() and error < best_error * (1 - 1e-9):
                best, best_error = np.zeros(x.shape[1]), error
                best[columns] = solution
    slopes = [math.ceil(round(slope, 6)) for slope in best[1:]]
    constant = max(math.ceil(cost - row[1:] @ slopes) for row, cost in zip(x, costs, strict=True))
    return ([max(0, constant), *slopes] + [0] * 4)[:4]


def rust(name: str, costs: list[list[int]]) -> str:
    fields = (
        f"\t{field}: [{', '.join(f'{n:_}' for n in cost)}],"
        for field, cost in zip(COSTS, costs, strict=True)
    )
    return "\n".join((f"pub(super) const {name}: Cost = Cost {{", *fields, "};"))


def header(steps: int, repeats: int) -> str:
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True)
    cpu = f"{models[0] if models else 'unknown'}, {os.cpu_count()} CPUs"
    tools = f"wasmtime {metadata.version('wasmtime')}, Python {sys.version.split()[0]}"
    return f"""\
//! Costs as measured. Written by `scripts/bench`, do not edit; `benchmarks/weights.py` tells how.
//!
//! * machine: {cpu}, load about {os.getloadavg()[0]:.0f}
//! * date: {datetime.date.today()}
//! * command: `scripts/bench --steps {steps} --repeats {repeats}`
//! * {rustc.stdout.strip()}, {tools}

#![allow(non_upper_case_globals)]

use super::Cost;
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wasm", type=Path, help="a runtime with the feature runtime-benchmarks")
    parser.add_argument("--steps", type=int, default=5, help="values of each component")
    parser.add_argument("--repeats", type=int, default=11, help="runs of each, of which the median")
    parser.add_argument("--only", help="run one benchmark, write nothing")
    arguments = parser.parse_args()
    gc.disable()
    runtime = Runtime(arguments.wasm.read_bytes())
    written = []
    for benchmark in sorted(runtime.benchmarks(), key=lambda benchmark: benchmark.name):
        if arguments.only not in (None, benchmark.name):
            continue
        points = benchmark.points(arguments.steps)
        runtime.run(benchmark, points[-1], 1, verify=True)
        measured = [runtime.run(benchmark, point, arguments.repeats) for point in points]
        costs = [fit(points, list(cost)) for cost in zip(*measured, strict=True)]
        written.append(rust(benchmark.name, costs))
        ns, reads, writes, proof_bytes = measured[-1]
        print(
            f"{benchmark.name}{points[-1] or ''}: {ns / 1e6:.2f} ms, {reads:.0f} reads, "
            f"{writes:.0f} writes, {proof_bytes:.0f} bytes of proof; {costs}",
            flush=True,
        )
        gc.collect()
    if arguments.only is None:
        text = "\n\n".join((header(arguments.steps, arguments.repeats), *written))
        WEIGHTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
