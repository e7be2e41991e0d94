"""What the chain's commands share: options, asking the chain, answering people and machines."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from moesubnet.errors import ConfigError
from moesubnet.types import Hotkey

if TYPE_CHECKING:
    from moesubnet.chain.client import ChainClient, Receipt
    from moesubnet.chain.connection import Wait

T = TypeVar("T")

Chain = Annotated[str, typer.Option(envvar="MOESUBNET_CHAIN", help="Chain endpoint.")]
Netuid = Annotated[int, typer.Option(min=0, max=65_535, help="Subnet.")]
WalletSpec = Annotated[
    str,
    typer.Option(
        "--wallet",
        "-w",
        envvar="BT_WALLET",
        help="Whose keys: a wallet `name`, one of its hotkeys `name/hotkey`, or //Alice.",
    ),
]
OwnerSpec = Annotated[
    str | None,
    typer.Option(
        "--wallet",
        "-w",
        envvar="BT_WALLET",
        help="Whose keys: a wallet `name`, one of its hotkeys `name/hotkey`, or //Alice. "
        "By default the wallet that --hotkey names.",
    ),
]
HotkeySpec = Annotated[
    str | None,
    typer.Option(help="Another hotkey than the wallet's: `name/hotkey`, //URI or an address."),
]
WalletsDir = Annotated[
    Path | None,
    typer.Option(
        "--wallets",
        envvar="BT_WALLET_PATH",
        help="Folder with the wallets; ~/.bittensor/wallets by default.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with one JSON object.")]
Finalized = Annotated[
    bool,
    typer.Option(
        "--finalized", help="Wait until its block is final; otherwise until it is in one."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]

_TIMEOUT_S = 5.0  # people wait

DEFAULT_CHAIN = "ws://127.0.0.1:9944"
DEFAULT_WALLET = "default"


def ask_chain(url: str, question: Callable[[ChainClient], Awaitable[T]]) -> T:
    """Connect, ask, disconnect."""
    from moesubnet.chain.client import ChainClient

    async def asked() -> T:
        async with await ChainClient.connect(url, timeout_s=_TIMEOUT_S) as client:
            return await question(client)

    return asyncio.run(asked())


def answer(as_json: bool, fields: Mapping[str, object], text: str) -> None:
    """Say `text` to people, or `fields` as one JSON object to machines."""
    typer.echo(json.dumps(fields) if as_json else text)


def wait_for(finalized: bool) -> Wait:
    """What `--finalized` asks of the chain client."""
    return "finalization" if finalized else "inclusion"


def block_of(receipt: Receipt) -> str:
    """Where a call took effect, and whether that can still change."""
    return f"block {receipt.block}, {'final' if receipt.is_final else 'not final yet'}"


def confirm(question: str, yes: bool) -> None:
    """Go on only if a person agrees. Exit code 1 if not; ConfigError if nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"there is no terminal to ask on: {question} Pass --yes to agree")
    typer.confirm(question, abort=True, err=True)


def owner_and_hotkey(
    wallet: str | None, hotkey: str | None, wallets: Path | None
) -> tuple[str, Hotkey]:
    """What `--wallet` and `--hotkey` mean together: the coldkey's spec, the hotkey's address."""
    named = hotkey if hotkey and not _is_address(hotkey) else None
    owner = wallet or named or DEFAULT_WALLET
    return owner, Hotkey(account(hotkey or owner, wallets, hotkey=True))


def account(text: str, wallets: Path | None, *, hotkey: bool = False) -> str:
    """The address that `text` means: an address itself, or a key of a wallet, or //URI."""
    from moesubnet.chain.wallet import coldkey_address, hotkey_address

    if _is_address(text):
        return text
    return (hotkey_address if hotkey else coldkey_address)(text, wallets)


def _is_address(text: str) -> bool:
    from moesubnet.chain.codec import CodecError, public_key

    try:
        public_key(text)
    except CodecError:
        return False
    return True
