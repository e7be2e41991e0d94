"""Options that commands of every component have, said once."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_CHAIN = "ws://127.0.0.1:9944"

Chain = Annotated[str, typer.Option(envvar="MOESUBNET_CHAIN", help="Chain endpoint.")]
Netuid = Annotated[int, typer.Option(min=0, max=65_535, help="Subnet.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with one JSON object.")]
