"""`moesubnet doctor`: is this machine ready, and is the chain that it talks to healthy?"""

from __future__ import annotations

import asyncio
import importlib.util
import platform
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet import __version__
from moesubnet.errors import ChainError
from moesubnet.host.options import DEFAULT_CHAIN, AsJson, Chain, Netuid
from moesubnet.host.paths import data_dir

if TYPE_CHECKING:
    from moesubnet.chain.nouns import LastReveal
    from moesubnet.types import Uid

MIN_FREE_BYTES = 5 * 10**9
MAX_CLOCK_SKEW_S = 2.0  # a peer refuses requests from further in the future
PACKAGES = ("numpy", "aiohttp", "substrate-interface", "torch", "transformers", "wasmtime")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `ok` None means that it does not apply; `fix` says what to do."""

    name: str
    ok: bool | None
    text: str
    fix: str = ""


def check_python() -> Finding:
    text = f"Python {platform.python_version()}, moesubnet {__version__}"
    good = (3, 11) <= sys.version_info < (3, 14)
    return Finding("python", good, text, "use Python 3.11, 3.12 or 3.13")


def check_packages() -> Iterable[Finding]:
    for name in PACKAGES:
        try:
            yield Finding("package", True, f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding("package", None, f"{name} is not installed (not every role needs it)")


def check_disk() -> Finding:
    place = data_dir()
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"{free / 1e9:.1f} GB free at {place}"
    return Finding("disk", free >= MIN_FREE_BYTES, text, "free some space, or set MOESUBNET_HOME")


def check_machine() -> Finding:
    import psutil

    memory_gb = psutil.virtual_memory().total / 1e9
    cores = psutil.cpu_count() or 1
    text = f"{cores} cores, {memory_gb:.1f} GB of memory"
    enough = cores >= 2 and memory_gb >= 7.5
    return Finding("machine", enough, text, "a localnet wants 2 cores, 8 GB")


def check_accelerator() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("accelerator", None, "torch is not installed")
    import torch

    if torch.cuda.is_available():
        return Finding("accelerator", True, torch.cuda.get_device_name(0))
    return Finding("accelerator", None, "none; models run on the CPU")


def check_port(name: str, port: int) -> Finding:
    """A port is fine when free, and also when one of ours already listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            text = f"{port} ({name}) is in use"
            return Finding("port", None, text, "fine if a localnet is running; else stop its user")
    return Finding("port", True, f"{port} ({name}) is free")


async def check_chain(url: str, netuid: int, clock: Callable[[], float]) -> Iterable[Finding]:
    """Reachable, moving, in step with our clock; and whether its validators publish sheets."""
    from moesubnet.chain.client import ChainClient
    from moesubnet.types import NetUid

    try:
        async with await ChainClient.connect(url, timeout_s=5.0) as chain:
            first = await chain.head()
            metagraph = await chain.metagraph(NetUid(netuid))
            skew_s = clock() - await chain.timestamp_s()
            await asyncio.sleep(min(15.0, chain.block_seconds * 1.5 + 0.5))
            last = await chain.head()
            reveals = [
                (neuron.uid, await chain.last_reveal(NetUid(netuid), neuron.hotkey))
                for neuron in metagraph.neurons
                if neuron.validator_permit and neuron.axon is not None
            ]
    except ChainError as error:
        fix = "start one with `moesubnet chain dev` or `scripts/localnet`, or pass --chain"
        return [Finding("chain", False, f"{url}: {error}", fix)]
    found = [Finding("chain", True, f"{url} at block {last.number}")]
    found.append(
        Finding(
            "blocks",
            last.number > first.number,
            f"{last.number - first.number} new in {chain.block_seconds * 1.5 + 0.5:.0f} s",
            "the chain stands still: look at its log",
        )
    )
    allowed_s = MAX_CLOCK_SKEW_S + chain.block_seconds
    found.append(
        Finding(
            "clock",
            abs(skew_s) <= allowed_s,
            f"{skew_s:+.1f} s from the last block's timestamp",
            "set the clock (NTP): signed requests are refused when clocks differ"
            + (" (a chain that is sealed faster than its slots runs ahead)" if skew_s < 0 else ""),
        )
    )
    text = f"netuid {netuid}: {len(metagraph.neurons)} neurons, epoch {metagraph.epoch_index}"
    has_spec = metagraph.spec_sha256 is not None
    fix = "it has no spec; its owner makes one (`moesubnet spec new`, then `subnet set-spec`)"
    found.append(Finding("subnet", has_spec, text, fix))
    return found + check_sheets(reveals)


def check_sheets(reveals: Sequence[tuple[Uid, LastReveal | None]]) -> list[Finding]:
    """Whether those who voted bound a sheet to it, of everyone who may vote and has an axon.

    With few neurons miners and routers have a permit too: who never voted is no fault.
    """
    found = []
    for uid, reveal in reveals:
        if reveal is None:
            continue
        if reveal.sheet_sha256 is None:
            text = f"uid {uid} revealed weights without a sheet"
            fix = "its vote cannot be recomputed; routers ignore it"
            found.append(Finding("sheet", False, text, fix))
        else:
            text = f"uid {uid}: sheet of epoch {reveal.epoch} bound"
            found.append(Finding("sheet", True, text))
    return found or [Finding("sheet", None, "no validator has revealed a vote yet")]


def doctor(
    chain: Chain = DEFAULT_CHAIN,
    netuid: Netuid = 1,
    offline: Annotated[bool, typer.Option(help="Leave the chain out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check Python, packages, disk, ports, clock and chain. Exit code 1 if something is wrong."""
    findings = [check_python(), check_machine(), check_disk(), *check_packages()]
    findings.append(check_accelerator())
    findings += [check_port("chain", 9944), check_port("router", 8080)]
    if not offline:
        findings += asyncio.run(check_chain(chain, netuid, time.time))
    if as_json:
        import json

        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        marks = {True: "ok  ", False: "BAD ", None: "-   "}
        for finding in findings:
            typer.echo(f"{marks[finding.ok]}{finding.name:<12} {finding.text}")
            if finding.ok is False and finding.fix:
                typer.echo(f"{'':16} → {finding.fix}")
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)
