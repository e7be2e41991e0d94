"""`moesubnet wallet|faucet|transfer|register|stake|subnet`: keys and chain from the command line.

A name in place of a key is looked up in the wallets folder; amounts are tokens (`1.5`) or `12rao`.
"""

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
from moesubnet.chain.stake_cli import stake_app
from moesubnet.chain.subnet_cli import subnet_app
from moesubnet.chain.wallet_cli import wallet_app
from moesubnet.errors import ConfigError
from moesubnet.types import Coldkey, NetUid, Uid
from moesubnet.units import format_rao, parse_rao

if TYPE_CHECKING:
    from moesubnet.chain.client import ChainClient

FAUCET_KEY = "//Alice"


def add_commands(app: typer.Typer) -> None:
    """Hang the chain's commands into the command tree."""
    app.add_typer(wallet_app, name="wallet", help="Keys: make, list, show, and what they hold.")
    app.command()(faucet)
    app.command()(transfer)
    app.command()(register)
    app.add_typer(stake_app, name="stake", help="Put stake on hotkeys and take it back.")
    app.add_typer(subnet_app, name="subnet", help="Look at a subnet.")


def faucet(
    to: Annotated[
        str, typer.Argument(help="Who gets tokens: a wallet, an address or //URI.")
    ] = DEFAULT_WALLET,
    amount: Annotated[str, typer.Option(help="Tokens, or `12rao`.")] = "100",
    chain: Chain = DEFAULT_CHAIN,
    wallets: WalletsDir = None,
    as_json: AsJson = False,
) -> None:
    """Get free tokens on a development chain, from //Alice."""
    from moesubnet.chain.wallet import keypair_from_uri

    receiver, amount_rao = Coldkey(account(to, wallets)), parse_rao(amount)
    rich = keypair_from_uri(FAUCET_KEY)

    async def give(client: ChainClient) -> int:
        # On a development chain the one who may do everything is a key that everybody knows.
        if await client.root_key() != rich.ss58_address:
            raise ConfigError(
                f"{chain} is no development chain, so it has no faucet: "
                "ask someone who holds tokens for a `moesubnet transfer`"
            )
        await client.transfer(receiver, amount_rao, rich)
        return await client.balance_rao(receiver)

    balance_rao = ask_chain(chain, give)
    answer(
        as_json,
        {"to": receiver, "amount_rao": amount_rao, "balance_rao": balance_rao},
        f"{receiver} got {format_rao(amount_rao)} and holds {format_rao(balance_rao)}",
    )


def transfer(
    to: Annotated[str, typer.Argument(help="Who gets it: an address, a wallet or //URI.")],
    amount: Annotated[str, typer.Argument(help="Tokens, or `12rao`.")],
    wallet: WalletSpec = DEFAULT_WALLET,
    chain: Chain = DEFAULT_CHAIN,
    wallets: WalletsDir = None,
    finalized: Finalized = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Send tokens. The fee comes on top."""
    from moesubnet.chain.wallet import load_coldkey

    receiver, amount_rao = Coldkey(account(to, wallets)), parse_rao(amount)
    confirm(f"Send {format_rao(amount_rao)} to {receiver}?", yes)
    coldkey = load_coldkey(wallet, wallets)
    wait = wait_for(finalized)
    receipt = ask_chain(
        chain, lambda client: client.transfer(receiver, amount_rao, coldkey, wait=wait)
    )
    answer(
        as_json,
        {
            "to": receiver,
            "amount_rao": amount_rao,
            "fee_rao": receipt.fee_rao,
            "block": receipt.block,
            "is_final": receipt.is_final,
            "extrinsic_hash": receipt.extrinsic_hash,
        },
        f"sent {format_rao(amount_rao)} in {block_of(receipt)}; "
        f"the fee was {format_rao(receipt.fee_rao)}",
    )


def register(
    wallet: OwnerSpec = None,
    hotkey: HotkeySpec = None,
    netuid: Netuid = 1,
    chain: Chain = DEFAULT_CHAIN,
    wallets: WalletsDir = None,
    finalized: Finalized = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Buy the hotkey a slot in a subnet. Nothing happens if it has one."""
    from moesubnet.chain.wallet import load_coldkey

    owner, joining = owner_and_hotkey(wallet, hotkey, wallets)
    subnet = NetUid(netuid)

    async def look(client: ChainClient) -> tuple[Uid | None, int]:
        metagraph = await client.metagraph(subnet)
        neuron = metagraph.by_hotkey.get(joining)
        return neuron.uid if neuron else None, await client.burn_price_rao(subnet)

    uid, price_rao = ask_chain(chain, look)
    paid_rao, is_final = 0, True
    if uid is None:
        limit_rao = price_rao * 11 // 10
        confirm(
            f"Register {joining} on subnet {netuid} for {format_rao(price_rao)} "
            f"(at most {format_rao(limit_rao)})? The price is burned.",
            yes,
        )
        coldkey = load_coldkey(owner, wallets)
        wait = wait_for(finalized)
        receipt = ask_chain(
            chain, lambda client: client.register(subnet, joining, coldkey, limit_rao, wait=wait)
        )
        registered = receipt.event("SubtensorModule", "NeuronRegistered")
        assert registered is not None, "a registration says so"
        uid, paid_rao = registered.fields["uid"], registered.fields["price_rao"]
        is_final = receipt.is_final
        price = format_rao(paid_rao)
        text = f"{joining} is uid {uid} of subnet {netuid} for {price} ({block_of(receipt)})"
    else:
        text = f"{joining} has uid {uid} of subnet {netuid} already; nothing to pay"
    fields = {"netuid": netuid, "hotkey": joining, "uid": uid, "price_rao": paid_rao}
    answer(as_json, fields | {"is_final": is_final}, text)
