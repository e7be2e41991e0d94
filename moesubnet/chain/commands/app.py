"""`moesubnet wallet|balance|faucet|transfer|register|stake|subnet|weights`: keys and chain.

A name in place of a key is looked up in the wallets folder; amounts are tokens (`1.5`) or `12rao`.
Whatever changes the chain has `--dry-run`, and is tried on the chain before a key is unlocked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.chain.commands.console import (
    DEFAULT_WALLET,
    Amount,
    HotkeySpec,
    OwnerSpec,
    WalletSpec,
    block_of,
    owner_and_hotkey,
    where,
)
from moesubnet.chain.commands.options import Asking, Changing, example, with_options
from moesubnet.chain.commands.stake import stake_app
from moesubnet.chain.commands.subnet import subnet_app
from moesubnet.chain.commands.wallet import wallet_app
from moesubnet.chain.commands.weights import weights_app
from moesubnet.errors import ConfigError
from moesubnet.host.options import Netuid
from moesubnet.types import Coldkey, NetUid, Uid
from moesubnet.units import format_rao, parse_rao

if TYPE_CHECKING:
    from moesubnet.chain.client import ChainClient, StakePosition

FAUCET_KEY = "//Alice"

Holder = Annotated[str, typer.Argument(help="A wallet, an address or //URI.")]


def add_commands(app: typer.Typer) -> None:
    """Hang the chain's commands into the command tree."""
    app.add_typer(wallet_app, name="wallet", help="Keys: make, list, show.")
    app.command(epilog=example("balance mine", "balance //Alice --json"))(balance)
    app.command(epilog=example("faucet mine --amount 100"))(faucet)
    app.command(epilog=example("transfer mine 2.5 --wallet //Alice --dry-run"))(transfer)
    app.command(epilog=example("register --wallet mine/default --netuid 1"))(register)
    app.add_typer(stake_app, name="stake", help="Put stake on hotkeys and take it back.")
    app.add_typer(subnet_app, name="subnet", help="Look at subnets, buy one, and run it.")
    app.add_typer(weights_app, name="weights", help="Look at the votes of a subnet.")


@with_options
def balance(of: Holder = DEFAULT_WALLET, *, at: Asking) -> None:
    """What a coldkey holds: free, staked, and both."""
    coldkey = Coldkey(at.account(of))

    async def look(client: ChainClient) -> tuple[int, tuple[StakePosition, ...]]:
        return await client.balance_rao(coldkey), await client.stakes(coldkey)

    free_rao, stakes = at.ask(look)
    staked_rao = sum(stake.stake_rao for stake in stakes)
    total_rao = free_rao + staked_rao
    at.answer(
        {
            "address": coldkey,
            "free_rao": free_rao,
            "staked_rao": staked_rao,
            "total_rao": total_rao,
        },
        f"{coldkey} holds {format_rao(total_rao)}: "
        f"{format_rao(free_rao)} free and {format_rao(staked_rao)} staked",
    )


@with_options
def faucet(
    to: Annotated[
        str, typer.Argument(help="Who gets tokens: a wallet, an address or //URI.")
    ] = DEFAULT_WALLET,
    amount: Annotated[str, typer.Option(help="Tokens, or `12rao`.")] = "100",
    *,
    at: Changing,
) -> None:
    """Get free tokens on a development chain, from //Alice. Asks nothing."""
    from moesubnet.chain import calls
    from moesubnet.chain.wallet import keypair_from_uri

    receiver, amount_rao = Coldkey(at.account(to)), parse_rao(amount)
    # On a development chain the one who may do everything is a key that everybody knows.
    if at.ask(lambda client: client.root_key()) != keypair_from_uri(FAUCET_KEY).ss58_address:
        raise ConfigError(
            f"{at.chain} is no development chain, so it has no faucet: "
            "ask someone who holds tokens for a `moesubnet transfer`"
        )
    receipt = at.submit(calls.transfer(receiver, amount_rao), FAUCET_KEY, None)
    balance_rao = at.ask(lambda client: client.balance_rao(receiver))
    at.answer(
        {"to": receiver, "amount_rao": amount_rao, "balance_rao": balance_rao, **where(receipt)},
        f"{receiver} got {format_rao(amount_rao)} in {block_of(receipt)}, "
        f"and holds {format_rao(balance_rao)}",
    )


@with_options
def transfer(
    to: Annotated[str, typer.Argument(help="Who gets it: an address, a wallet or //URI.")],
    amount: Amount,
    wallet: WalletSpec = DEFAULT_WALLET,
    *,
    at: Changing,
) -> None:
    """Send tokens. The fee comes on top."""
    from moesubnet.chain import calls

    receiver, amount_rao = Coldkey(at.account(to)), parse_rao(amount)
    receipt = at.submit(
        calls.transfer(receiver, amount_rao),
        wallet,
        f"Send {format_rao(amount_rao)} to {receiver}?",
    )
    at.answer(
        {
            "to": receiver,
            "amount_rao": amount_rao,
            "fee_rao": receipt.fee_rao,
            **where(receipt),
            "extrinsic_hash": receipt.extrinsic_hash,
        },
        f"sent {format_rao(amount_rao)} in {block_of(receipt)}; "
        f"the fee was {format_rao(receipt.fee_rao)}",
    )


@with_options
def register(
    wallet: OwnerSpec = None,
    hotkey: HotkeySpec = None,
    netuid: Netuid = 1,
    *,
    at: Changing,
) -> None:
    """Buy the hotkey a slot in a subnet. Nothing happens if it has one."""
    from moesubnet.chain import calls

    owner, joining = owner_and_hotkey(wallet, hotkey, at.wallets)
    subnet = NetUid(netuid)

    async def look(client: ChainClient) -> tuple[Uid | None, int]:
        metagraph = await client.metagraph(subnet)
        neuron = metagraph.by_hotkey.get(joining)
        return neuron.uid if neuron else None, await client.burn_price_rao(subnet)

    uid, price_rao = at.ask(look)
    paid_rao, is_final = 0, True
    if uid is None:
        limit_rao = price_rao * 11 // 10
        receipt = at.submit(
            calls.register(subnet, joining, limit_rao),
            owner,
            f"Register {joining} on subnet {netuid} for {format_rao(price_rao)} "
            f"(at most {format_rao(limit_rao)})? The price is burned.",
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
    at.answer(fields | {"is_final": is_final}, text)
