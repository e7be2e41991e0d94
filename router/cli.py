"""`moesubnet router …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesubnet.host.options import (
    DEFAULT_CHAIN,
    AllowPrivate,
    Chain,
    Host,
    LogLevel,
    Netuid,
    Port,
    SpecDir,
)
from moesubnet.router.key_cli import State, accounts_of, key_app

router_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
router_app.add_typer(key_app, name="key")


@router_app.callback()
def _group() -> None:
    """One OpenAI-compatible endpoint over all experts of a subnet."""


@router_app.command()
def run(
    hotkey: Annotated[
        str, typer.Option(help="Key that signs calls to miners: a wallet `name/hotkey`, or //URI.")
    ],
    spec: SpecDir = None,
    chain: Chain = DEFAULT_CHAIN,
    netuid: Netuid = 1,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    node_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_535,
            help="Also serve validators, on this port, which goes on chain: they send their "
            "questions through routers, so that miners cannot tell them from users'. 0 picks one.",
        ),
    ] = None,
    node_host: Annotated[
        str, typer.Option(help="Address for validators to connect to.")
    ] = "127.0.0.1",
    external_ip: Annotated[
        str | None, typer.Option(help="Address to publish on chain; --node-host if not given.")
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="MOESUBNET_API_KEYS",
            help="A bearer key that spends without limit. Any address but loopback needs one, or "
            "a key of `moesubnet router key new`. Repeat it, or separate keys by spaces in the "
            "variable.",
        ),
    ] = None,
    state: State = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Where fetched score sheets are kept.")
    ] = None,
    student: Annotated[
        Path | None,
        typer.Option(help="Folder of a distilled student; offered as model `student`."),
    ] = None,
    top_k: Annotated[
        int,
        typer.Option(
            min=1, max=64, help="Most experts per stream. Validators measure with the default."
        ),
    ] = 8,
    deadline_s: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="An expert slower than this sits out; each token that it has to read adds 20 ms, "
            "those of prompts before it too.",
        ),
    ] = 5.0,
    max_running: Annotated[
        int, typer.Option(min=1, help="Choices written at once; more get 429.")
    ] = 64,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Let pages of this origin (`https://app.example`) call from a browser; `*` for "
            "all pages. Repeat it."
        ),
    ] = None,
    allow_private: AllowPrivate = False,
    log_level: LogLevel = "info",
) -> None:
    """Serve `/v1/chat/completions`, `/v1/completions` and `/v1/models`.

    Callers with a key of `moesubnet router key` are metered and held to its budget and rates.
    Experts are found on the chain and mixed token by token; a stream survives the death of any of
    them. The official OpenAI client works unmodified:

    \b
        client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="any")
        client.completions.create(model="mixture", prompt="def main(", max_tokens=40)
    """
    import asyncio

    from moesubnet.chain.wallet import load_hotkey
    from moesubnet.host.log import set_up_logging
    from moesubnet.host.paths import data_dir
    from moesubnet.router.run import RouterConfig, run_router

    set_up_logging(log_level)
    kept = state_dir or data_dir("router")
    config = RouterConfig(
        chain_url=chain,
        netuid=netuid,
        signer=load_hotkey(hotkey),
        spec_dir=spec,
        state_dir=kept,
        host=host,
        port=port,
        node_host=node_host,
        node_port=node_port,
        external_ip=external_ip,
        api_keys=tuple(api_key or ()),
        accounts=accounts_of(state, kept),
        origins=tuple(allow_origin or ()),
        allow_private=allow_private,
        deadline_s=deadline_s,
        top_k=top_k,
        max_running=max_running,
        student_dir=student,
    )
    asyncio.run(run_router(config))
