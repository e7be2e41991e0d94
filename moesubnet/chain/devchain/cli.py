"""`moesubnet chain …` for the embedded chain."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.chain.devchain import archive_cli
from moesubnet.errors import ConfigError
from moesubnet.host.options import Host, Port

if TYPE_CHECKING:
    from moesubnet.chain.devchain.chain import NewHead
    from moesubnet.chain.devchain.service import DevChain, Seal

_REPORT_EVERY_BLOCKS = 10

chain_app = typer.Typer(no_args_is_help=True)
chain_app.command("export")(archive_cli.export)
chain_app.command("import")(archive_cli.import_)
chain_app.command()(archive_cli.reset)
chain_app.command("fork-at")(archive_cli.fork_at)


@chain_app.command()
def dev(
    preset: archive_cli.Preset = "development",
    base_path: archive_cli.BasePath = None,
    host: Host = "127.0.0.1",
    port: Port = 9944,
    seal: Annotated[
        str, typer.Option(help="When to make blocks: slot, instant, or every so many seconds.")
    ] = "slot",
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the chain, start over.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not report blocks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON lines.")] = False,
    unsafe_bind_public: Annotated[
        bool,
        typer.Option(
            "--unsafe-bind-public",
            help="Allow a --host that others can reach, although anyone can sign as Alice.",
        ),
    ] = False,
) -> None:
    """Run a chain in this process.

    The real runtime, one author, blocks final at once.
    """
    directory = archive_cli.chain_folder(base_path, preset)
    asyncio.run(
        _run(
            directory,
            preset,
            _seal(seal),
            fresh=fresh,
            host=host,
            port=port,
            unsafe=unsafe_bind_public,
            report=_Report(as_json, quiet),
        )
    )


async def _run(
    directory: Path,
    preset: str,
    seal: Seal,
    *,
    fresh: bool,
    host: str,
    port: int,
    unsafe: bool,
    report: _Report,
) -> None:
    """Open the chain, serve it, and wait for SIGINT, SIGTERM or a failure to seal."""
    from moesubnet.chain.devchain import DevChain
    from moesubnet.chain.devchain.accounts import funded_dev_accounts
    from moesubnet.chain.devchain.server import serve_chain
    from moesubnet.host.interrupt import stop_event
    from moesubnet.wire.addresses import is_loopback

    stop = stop_event()
    async with DevChain.open(directory, preset=preset, seal=seal, fresh=fresh) as chain:
        funded = funded_dev_accounts(chain.head.state)
        if funded and not is_loopback(host) and not unsafe:
            raise ConfigError(
                f"//{funded[0]} holds funds on this chain and everyone has its key: listen on "
                "127.0.0.1, or add --unsafe-bind-public if whoever reaches the port may spend them"
            )
        async with serve_chain(chain, host, port) as server:
            report.started(server.url, chain, directory)
            chain.listen(report.block)
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait((stopped, chain.sealing), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()


class _Report:
    """What the terminal, or a program that reads lines of JSON, gets to see."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self._as_json = as_json
        self._quiet = quiet
        self._transactions = 0

    def started(self, url: str, chain: DevChain, directory: Path) -> None:
        facts = {
            "endpoint": url,
            "genesis": f"0x{chain.genesis_hash.hex()}",
            "spec_version": chain.version.spec_version,
            "block": chain.head.block.number,
            "path": str(directory),
        }
        if self._as_json:
            self._print(json.dumps({"event": "started", **facts}))
            return
        for name, value in facts.items():
            self._print(f"{name.replace('_', ' '):<13} {value}")

    def block(self, new: NewHead) -> None:
        self._transactions += len(new.included)
        block = new.view.block
        if self._quiet or block.number % _REPORT_EVERY_BLOCKS:
            return
        facts = {
            "block": block.number,
            "hash": f"0x{block.hash.hex()}",
            "transactions": self._transactions,
        }
        self._transactions = 0
        if self._as_json:
            self._print(json.dumps({"event": "block", **facts}))
        else:
            self._print(" ".join(f"{name}={value}" for name, value in facts.items()))

    def _print(self, line: str) -> None:
        print(line, flush=True)


def _seal(text: str) -> Seal:
    if text == "slot":
        return "slot"
    if text == "instant":
        return "instant"
    try:
        interval_s = float(text)
    except ValueError:
        interval_s = 0.0
    if not 0 < interval_s < 86_400:
        raise typer.BadParameter("slot, instant, or a number of seconds", param_hint="--seal")
    return interval_s
