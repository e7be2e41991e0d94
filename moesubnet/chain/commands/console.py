"""What the chain's commands share: names of keys, asking the chain, asking the person."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from moesubnet.errors import ConfigError, Declined
from moesubnet.types import Hotkey

if TYPE_CHECKING:
    from moesubnet.chain.client import ChainClient, Receipt

T = TypeVar("T")

NetuidArgument = Annotated[int, typer.Argument(min=0, max=65_535, help="Number of the subnet.")]
Amount = Annotated[str, typer.Argument(help="Tokens, or `12rao`.")]
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
Finalized = Annotated[
    bool,
    typer.Option(
        "--finalized", help="Wait until its block is final; otherwise until it is in one."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what it would cost and whether the chain would take it; send nothing.",
    ),
]

_TIMEOUT_S = 5.0  # people wait

DEFAULT_WALLET = "default"


def ask_chain(url: str, question: Callable[[ChainClient], Awaitable[T]]) -> T:
    """Connect, ask, disconnect."""
    from moesubnet.chain.client import ChainClient

    async def asked() -> T:
        async with await ChainClient.connect(url, timeout_s=_TIMEOUT_S) as client:
            return await question(client)

    return asyncio.run(asked())


def block_of(receipt: Receipt) -> str:
    """Where a call took effect, and whether that can still change."""
    return f"block {receipt.block}, {'final' if receipt.is_final else 'not final yet'}"


def where(receipt: Receipt) -> dict[str, object]:
    """The same for machines."""
    return {"block": receipt.block, "is_final": receipt.is_final}


def confirm(question: str, yes: bool) -> None:
    """Go on only if a person agrees. Declined if not; ConfigError if nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"there is no terminal to ask on: {question} Pass --yes to agree")
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        typer.echo(err=True)  # Ctrl-C leaves the cursor behind the question
        agreed = False
    if not agreed:
        raise Declined("not agreed to; nothing has changed")


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
    from moesubnet.chain.rpc.codec import CodecError, public_key

    try:
        public_key(text)
    except CodecError:
        return False
    return True
