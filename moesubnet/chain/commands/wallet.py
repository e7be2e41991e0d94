"""`moesubnet wallet …`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.chain.commands.console import DEFAULT_WALLET
from moesubnet.chain.commands.options import Keys, example, with_options

if TYPE_CHECKING:
    from moesubnet.chain.wallet import NewKey, WalletEntry

wallet_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_WEAK = (
    "this password is weak, and nothing else protects a stolen key file: "
    "8 characters are the least, four random words are good"
)

Name = Annotated[str, typer.Argument(help="Name of the wallet.")]


@wallet_app.command(
    epilog=example("wallet new mine", "wallet new mine/second", "wallet new mine --restore")
)
@with_options
def new(
    name: Annotated[
        str, typer.Argument(help="Name of the wallet; `name/hotkey` names its hotkey too.")
    ] = DEFAULT_WALLET,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="Leave the coldkey unencrypted. For tests.")
    ] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Ask for the recovery words of an old coldkey.")
    ] = False,
    *,
    at: Keys,
) -> None:
    """Make a wallet: a coldkey that owns, and a hotkey that signs. Adds a hotkey to an old one.

    The recovery words are shown once and stored nowhere but in the key files.
    """
    from moesubnet.chain.wallet import create_coldkey, create_hotkey, split_spec, wallets_root

    wallet, hotkey = split_spec(name)
    folder = wallets_root(at.wallets) / wallet
    made: dict[str, NewKey] = {}
    if restore or not (folder / "coldkey").exists():
        words = typer.prompt("recovery words", hide_input=True, err=True) if restore else None
        password = None if no_password else _new_password(folder / "coldkey")
        made["coldkey"] = create_coldkey(name, password, at.wallets, words)
    # The words of a new coldkey must be shown, also beside a hotkey that is there already.
    if not made or not (folder / "hotkeys" / hotkey).exists():
        made["hotkey"] = create_hotkey(name, at.wallets)
    lines = []
    for kind, key in made.items():
        lines += [f"{kind} {key.address}", f"  file  {key.path}", f"  words {key.mnemonic}"]
    lines.append("Write the words down now: they are the only way back if the files are lost.")
    fields: dict[str, object] = {
        kind: {"address": key.address, "path": str(key.path), "mnemonic": key.mnemonic}
        for kind, key in made.items()
    }
    at.answer({"name": name, **fields}, "\n".join(lines))


@wallet_app.command("list", epilog=example("wallet list"))
@with_options
def list_all(*, at: Keys) -> None:
    """All wallets. Needs no password."""
    from moesubnet.chain.wallet import list_wallets, wallets_root

    entries = list_wallets(at.wallets)
    nothing = f"no wallets in {wallets_root(at.wallets)}; make one: moesubnet wallet new"
    at.answer(
        {"wallets": [_fields(entry) for entry in entries]},
        "\n".join(_describe(entry) for entry in entries) or nothing,
    )


@wallet_app.command(epilog=example("wallet show mine"))
@with_options
def show(name: Name = DEFAULT_WALLET, *, at: Keys) -> None:
    """One wallet's addresses. Needs no password."""
    from moesubnet.chain.wallet import show_wallet

    entry = show_wallet(name, at.wallets)
    at.answer(_fields(entry), _describe(entry))


def _new_password(path: Path) -> str:
    from moesubnet.chain.wallet import ask_on_terminal, is_weak, password_from_environment

    if password := password_from_environment(path):
        if is_weak(password):
            typer.echo(f"warning: {_WEAK}", err=True)
        return password
    while True:
        password = ask_on_terminal(f"new password for {path}: ")
        if is_weak(password):
            typer.echo(_WEAK, err=True)
            if not password or not typer.confirm("Use it all the same?", err=True):
                continue
        if password == ask_on_terminal("again: "):
            return password
        typer.echo("the passwords differ; once more", err=True)


def _fields(entry: WalletEntry) -> dict[str, object]:
    return {
        "name": entry.name,
        "path": str(entry.path),
        "coldkey": entry.coldkey,
        "encrypted": entry.encrypted,
        "hotkeys": dict(entry.hotkeys),
    }


def _describe(entry: WalletEntry) -> str:
    cold = entry.coldkey or "(no coldkey here)"
    lock = ", encrypted" if entry.encrypted else ""
    hotkeys = (f"  hotkey {name:<12} {address}" for name, address in entry.hotkeys)
    return "\n".join([f"{entry.name}{lock}", f"  {'coldkey':<19} {cold}", *hotkeys])
