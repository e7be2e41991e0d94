"""`moesubnet localnet`: a whole subnet on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

localnet_app = typer.Typer(rich_markup_mode=None)


@localnet_app.callback(invoke_without_command=True)
def localnet(
    root: Annotated[
        Path | None, typer.Option("--dir", help="Folder for everything (default: data folder).")
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Delete what an earlier run left: chain, experts, student."),
    ] = False,
    new_chain: Annotated[
        bool, typer.Option("--new-chain", help="Keep text, experts and student; start a new chain.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            help="A model that you have, its folder or hub id: its family's subnet instead, with "
            "it and LoRA adapters of it, trained here, as experts. It chats if its template does."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the text split and of training.")] = 0,
    expert_seconds: Annotated[
        float | None,
        typer.Option(
            min=1, help="Seconds of training for each expert; 120 by default, 300 with --base."
        ),
    ] = None,
    distill: Annotated[
        bool, typer.Option(help="Distil a student and print the final table.")
    ] = True,
    chain: Annotated[
        str,
        typer.Option(
            help="`embedded`: in one process. `node`: four real nodes (scripts/build-node)."
        ),
    ] = "embedded",
    chain_port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the chain.")] = 9944,
    router_port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the router.")] = 8080,
    first_port: Annotated[
        int,
        typer.Option(min=1, max=65_000, help="First port of the miners' and validators' axons."),
    ] = 8100,
    until: Annotated[
        str, typer.Option(help="`stopped`: stay until Ctrl-C. `table`, `answer`: end after that.")
    ] = "stopped",
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout.")] = False,
) -> None:
    """Run a whole subnet on this machine.

    Trains experts on text that is here already, then runs everything on them.

    With --base MODEL the experts are that model and adapters of it, one a domain.

    Chain, miners, validators, router and distiller run as real processes with real signatures;
    only the text is borrowed from installed packages. The first start takes about a quarter
    of an hour on two cores, the next one under a minute. Ctrl-C stops everything cleanly.
    """
    import asyncio
    import shutil

    from moesubnet.chain.network.plan import find_binary
    from moesubnet.errors import ConfigError
    from moesubnet.host.paths import data_dir
    from moesubnet.localnet.kinds import FromBase, Kind, Small
    from moesubnet.localnet.plan import CHAIN_FOLDERS
    from moesubnet.localnet.run import Options, only_one, run_localnet, until_interrupted
    from moesubnet.localnet.view import open_screen

    if until not in ("stopped", "table", "answer"):
        raise ConfigError("--until is `stopped`, `table` or `answer`")
    if chain not in CHAIN_FOLDERS:
        raise ConfigError("--chain is `embedded` or `node`")
    if chain == "node":
        find_binary(None)
    kind: Kind = Small(expert_seconds or 120.0)
    folder = root or data_dir("localnet")
    if base is not None:
        kind = FromBase(base, expert_seconds or 300.0)
        folder = root or data_dir(f"localnet-{kind.name.replace('/', '-')}")
    if fresh and folder.exists():
        if not (folder / "lock").exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder} is not a localnet's folder; --fresh deletes only those")
        with only_one(folder):
            shutil.rmtree(folder)
    elif new_chain:
        # What is measured or voted belongs to one chain: the validators' state goes with it.
        with only_one(folder):
            for part in (*CHAIN_FOLDERS.values(), "validators", "router", "watch"):
                shutil.rmtree(folder / part, ignore_errors=True)
    for other, part in CHAIN_FOLDERS.items():
        if other != chain and (folder / part).exists():
            raise ConfigError(
                f"{folder} was started with --chain {other}, and votes belong to one chain: say so "
                "again, or add --new-chain, which keeps the experts"
            )
    options = Options(
        root=folder,
        seed=seed,
        kind=kind,
        distill=distill,
        chain_kind=chain,
        chain_port=chain_port,
        router_port=router_port,
        first_port=first_port,
        until=until,
    )
    screen = open_screen(as_json=as_json)
    try:
        asyncio.run(until_interrupted(run_localnet(options, screen), screen))
    finally:
        screen.close()
