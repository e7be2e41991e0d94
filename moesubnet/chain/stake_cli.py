"""`moesubnet stake …`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.chain.console import (
    DEFAULT_CHAIN,
    DEFAULT_WALLET,
    AsJson,
    Chain,
    Finalized,
    HotkeySpec,
    Netuid,
    OwnerSpec,
    WalletsDir,
    WalletSpec,
    Yes,
    account,
    answer,
    ask_chain,
    block_of,
    confirm,
    owner_and_hotkey,
    wait_for,
)
from moesubnet.errors import ConfigError
from moesubnet.types import Coldkey, NetUid
from moesubnet.units import format_rao, parse_rao

if TYPE_CHECKING:
    from pathlib import Path

    from moesubnet.chain.client import ChainClient, Receipt

stake_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

ALL = "all"


@stake_app.command()
def add(
    amount: Annotated[str, typer.Argument(help="Tokens, or `12rao`.")],
    wallet: OwnerSpec = None,
    hotkey: HotkeySpec = None,
    netuid: Netuid = 1,
    chain: Chain = DEFAULT_CHAIN,
    wallets: WalletsDir = None,
    finalized: Finalized = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Stake tokens on a hotkey: its right to vote, and to call experts."""
    amount_rao = parse_rao(amount)
    _move(amount_rao, wallet, hotkey, netuid, chain, wallets, finalized, yes, as_json)


@stake_app.command()
def remove(
    amount: Annotated[str, typer.Argument(help="Tokens, `12rao`, or `all`.")],
    wallet: OwnerSpec = None,
    hotkey: HotkeySpec = None,
    netuid: Netuid = 1,
    chain: Chain = DEFAULT_CHAIN,
    wallets: WalletsDir = None,
    finalized: Finalized = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take stake back from a hotkey."""
    if amount == ALL:
        owner, on = owner_and_hotkey(wallet, hotkey, wallets)
        coldkey = Coldkey(account(owner, wallets))
        staked_rao = ask_chain(chain, lambda client: client.stake_rao(NetUid(netuid), on, coldkey))
        if not staked_rao:
            raise ConfigError(f"{coldkey} has no stake on {on} in subnet {netuid}")
        _move(-staked_rao, wallet, hotkey, netuid, chain, wallets, finalized, yes, as_json)
    else:
        _move(-parse_rao(amount), wallet, hotkey, netuid, chain, wallets, finalized, yes, as_json)


@stake_app.command()
def show(
    wallet: WalletSpec = DEFAULT_WALLET,
    chain: Chain = DEFAULT_CHAIN,
    wallets: WalletsDir = None,
    as_json: AsJson = False,
) -> None:
    """Everything that a coldkey has staked."""
    owner = Coldkey(account(wallet, wallets))
    stakes = ask_chain(chain, lambda client: client.stakes(owner))
    lines = (f"subnet {s.netuid:<4} {s.hotkey}  {format_rao(s.stake_rao):>24}" for s in stakes)
    answer(
        as_json,
        {
            "coldkey": owner,
            "stakes": [
                {"netuid": s.netuid, "hotkey": s.hotkey, "stake_rao": s.stake_rao} for s in stakes
            ],
        },
        "\n".join(lines) or f"{owner} has staked nothing",
    )


def _move(
    amount_rao: int,
    wallet: str | None,
    hotkey: str | None,
    netuid: int,
    chain: str,
    wallets: Path | None,
    finalized: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Stake (positive) or take back (negative)."""
    from moesubnet.chain.wallet import load_coldkey

    owner, on = owner_and_hotkey(wallet, hotkey, wallets)
    subnet = NetUid(netuid)
    verb, how = ("Stake", "on") if amount_rao > 0 else ("Take back", "from")
    confirm(f"{verb} {format_rao(abs(amount_rao))} {how} {on} in subnet {netuid}?", yes)
    coldkey = load_coldkey(owner, wallets)

    async def move(client: ChainClient) -> tuple[Receipt, int]:
        payer = Coldkey(coldkey.ss58_address)
        await client.stake_rao(subnet, on, payer)  # a chain where this fails gets nothing
        change = client.add_stake if amount_rao > 0 else client.remove_stake
        receipt = await change(subnet, on, abs(amount_rao), coldkey, wait=wait_for(finalized))
        return receipt, await client.stake_rao(subnet, on, payer)

    receipt, stake_rao = ask_chain(chain, move)
    answer(
        as_json,
        {
            "netuid": netuid,
            "hotkey": on,
            "moved_rao": amount_rao,
            "stake_rao": stake_rao,
            "block": receipt.block,
            "is_final": receipt.is_final,
        },
        f"{coldkey.ss58_address} now has {format_rao(stake_rao)} on {on} in subnet {netuid} "
        f"({block_of(receipt)})",
    )
