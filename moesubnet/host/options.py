"""Options that commands of every component have, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CHAIN = "ws://127.0.0.1:9944"

Chain = Annotated[str, typer.Option(envvar="MOESUBNET_CHAIN", help="Chain endpoint.")]
Netuid = Annotated[int, typer.Option(min=0, max=65_535, help="Subnet.")]
SpecDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the subnet's spec.json; by default the owner's, by chain."),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[
    int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 picks a free one.")
]
AllowPrivate = Annotated[
    bool, typer.Option(help="Also call private and loopback addresses (local networks).")
]
AllowPrivateHere = Annotated[
    bool | None,
    typer.Option(
        help="Also fetch from private and loopback addresses (local networks); by default if the "
        "chain is on this machine."
    ),
]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with one JSON object.")]
