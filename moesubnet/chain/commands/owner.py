"""`moesubnet subnet create|hyperparams|set-name|set-spec|trim`: buying a subnet and running it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.chain.commands.console import (
    DEFAULT_WALLET,
    HotkeySpec,
    NetuidArgument,
    OwnerSpec,
    WalletSpec,
    block_of,
    owner_and_hotkey,
    where,
)
from moesubnet.chain.commands.options import Changing, example, with_options
from moesubnet.errors import ConfigError
from moesubnet.types import NetUid
from moesubnet.units import format_rao

if TYPE_CHECKING:
    from moesubnet.chain.client import ChainClient, Subnet
    from moesubnet.chain.hyperparams import OwnerLimits, Value

_MOST_NAME_BYTES = 64

Name = Annotated[str, typer.Option(help="What the subnet is called, at most 64 bytes.")]
Symbol = Annotated[str, typer.Option(help="Symbol of its token, at most 64 bytes.")]


def add_commands(app: typer.Typer) -> None:
    """Hang the owner's commands into `moesubnet subnet`."""
    app.command(
        epilog=example(
            "subnet create --hotkey mine/default --name 'tiny experts' --dry-run",
            "subnet create --hotkey mine/default --name 'tiny experts'",
        )
    )(create)
    app.command(
        epilog=example(
            "subnet hyperparams 1",
            "subnet hyperparams 1 --set tempo=360 --set immunity_period=1000 --wallet mine",
        )
    )(hyperparams)
    app.command("set-name", epilog=example("subnet set-name 2 --name 'tiny experts' -w mine"))(
        set_name
    )
    app.command(
        "set-spec", epilog=example("subnet set-spec 3 --spec SPEC --url https://example.org/spec")
    )(set_spec)
    app.command(epilog=example("subnet trim 2 64 --wallet mine --dry-run"))(trim)


@with_options
def create(
    wallet: OwnerSpec = None,
    hotkey: HotkeySpec = None,
    name: Name = "",
    symbol: Symbol = "",
    *,
    at: Changing,
) -> None:
    """Buy a subnet. Its price is burned; its hotkey becomes uid 0 and is never pruned.

    The coldkey pays and owns it. A subnet earns nothing until root gives it a share in the
    emission. If somebody else buys one first, at this price, yours fails and costs only the fee.
    """
    from moesubnet.chain import calls
    from moesubnet.chain.subnets import first_free

    _check_name(name, symbol)
    owner, first = owner_and_hotkey(wallet, hotkey, at.wallets)

    async def look(client: ChainClient) -> tuple[tuple[Subnet, ...], int]:
        return await client.subnets(), await client.subnet_price_rao()

    subnets, price_rao = at.ask(look)
    netuid = first_free(subnets)
    receipt = at.submit(
        calls.register_network(first, netuid, name, symbol),
        owner,
        f"Buy subnet {netuid} for {format_rao(price_rao)}? The price is burned: nobody gets it "
        "back.",
    )
    bought = receipt.event("SubtensorModule", "NetworkAdded")
    assert bought is not None, "a purchase says so"
    netuid, paid_rao = bought.fields["netuid"], bought.fields["price_rao"]
    at.answer(
        {
            "netuid": netuid,
            "uid": 0,
            "hotkey": first,
            "price_rao": paid_rao,
            "fee_rao": receipt.fee_rao,
            **where(receipt),
        },
        f"subnet {netuid} is yours for {format_rao(paid_rao)}; {first} is its uid 0\n"
        "next: moesubnet spec new --from MODEL --text PUBLIC --out SPEC, publish it with\n"
        f"moesubnet subnet set-spec {netuid} --spec SPEC --url URL --wallet {owner},\n"
        "and ask root for a share in the emission",
    )


@with_options
def hyperparams(
    netuid: NetuidArgument = 1,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change one; may be given often."),
    ] = None,
    wallet: WalletSpec = DEFAULT_WALLET,
    *,
    at: Changing,
) -> None:
    """Show hyperparameters, or change some.

    Explains each one; with --set the owner changes those named.

    Amounts are tokens or `12rao`, switches `yes` or `no`. All changes are one call, in force at
    once; a new tempo holds from the next epoch on. The table ends with what binds an owner.
    """
    from moesubnet.chain import calls
    from moesubnet.chain.commands.tables import changes_table, hyperparams_table
    from moesubnet.chain.hyperparams import parse_changes

    async def look(client: ChainClient) -> tuple[dict[str, Value], OwnerLimits]:
        return await client.hyperparams(subnet), await client.owner_limits(subnet)

    subnet = NetUid(netuid)
    now, limits = at.ask(look)
    if not changes:
        fields = {"netuid": netuid, "hyperparams": now, "owner_limits": asdict(limits)}
        at.answer(fields, hyperparams_table(now, limits))
        return
    new = parse_changes(changes, now)
    at.remark(changes_table(now, new))
    update = {name: new.get(name) for name in now}
    call = calls.set_hyperparams(subnet, update)
    receipt = at.submit(call, wallet, f"Change this on subnet {netuid}?")
    changed = {name: {"old": now[name], "new": value} for name, value in new.items()}
    at.answer(
        {"netuid": netuid, "changed": changed, **where(receipt)},
        f"changed in {block_of(receipt)}",
    )


@with_options
def set_name(
    netuid: NetuidArgument,
    *,
    name: Name,
    symbol: Symbol = "",
    wallet: WalletSpec = DEFAULT_WALLET,
    at: Changing,
) -> None:
    """As the owner, name a subnet and its token."""
    from moesubnet.chain import calls

    _check_name(name, symbol)
    call = calls.set_subnet_name(NetUid(netuid), name, symbol)
    receipt = at.submit(call, wallet, f"Call subnet {netuid} {name!r}?")
    fields = {"netuid": netuid, "name": name, "symbol": symbol, **where(receipt)}
    at.answer(fields, f"subnet {netuid} is called {name!r} since {block_of(receipt)}")


@with_options
def set_spec(
    netuid: NetuidArgument = 1,
    *,
    spec: Annotated[Path, typer.Option(help="Folder with spec.json and the files it names.")],
    url: Annotated[
        str | None,
        typer.Option(
            help="Where others fetch that folder, as http(s): `moesubnet spec serve`. Only a chain "
            "on this machine gets a file: URL without it."
        ),
    ] = None,
    wallet: WalletSpec = DEFAULT_WALLET,
    at: Changing,
) -> None:
    """As the owner, publish the spec that every neuron must follow.

    It holds from the next epoch on. Routers, validators and miners fetch it meanwhile and go over
    together, without a restart; only miners need another model if its tokenizer, vocabulary or
    beginning of texts is another, or more context. Publish early in an epoch, in a new folder:
    those who run serve and read the old one until then.
    """
    from moesubnet.chain import calls
    from moesubnet.spec.content import load_spec
    from moesubnet.wire.addresses import may_be_public, names_loopback, split_url

    loaded = load_spec(spec)
    place = url or loaded.root.resolve().as_uri()
    if url is None:
        if not names_loopback(at.chain):
            raise ConfigError(
                "--url is missing: nobody elsewhere can read a folder of this machine. Serve it "
                f"(moesubnet spec serve {spec}) and give --url http://YOUR.ADDRESS:8300"
            )
        at.remark(f"only this machine's processes can read {place}; for others give --url")
    elif split_url(url).scheme not in ("http", "https", "file"):
        raise ConfigError(f"{url} is none of http:, https: and file:, so nobody could fetch it")
    elif split_url(url).scheme != "file" and not may_be_public(url):
        at.remark(
            f"miners fetch nothing from {url}, which is no public address: there each needs "
            "--spec FOLDER. If all run on this machine, leave --url out"
        )
    receipt = at.submit(
        calls.set_subnet_spec(NetUid(netuid), loaded.sha256, place),
        wallet,
        f"Publish spec {loaded.sha256[:12]}… at {place} on subnet {netuid}?",
    )
    published = receipt.event("SubtensorModule", "SubnetSpecSet")
    epoch = published.fields["from_epoch"] if published else None
    fields = {"spec_sha256": loaded.sha256, "url": place, "from_epoch": epoch, **where(receipt)}
    at.answer(
        fields,
        f"spec {loaded.sha256} published in {block_of(receipt)}; it holds from epoch {epoch} on",
    )


@with_options
def trim(
    netuid: NetuidArgument,
    slots: Annotated[int, typer.Argument(min=1, max=65_535, help="Slots that remain.")],
    wallet: WalletSpec = DEFAULT_WALLET,
    *,
    at: Changing,
) -> None:
    """As the owner, take slots away. Neurons that earned least lose theirs.

    The immune and the owner's stay. Neurons beyond the last slot move into the emptied ones, with
    their votes; where votes are open, vote again afterwards.
    """
    from moesubnet.chain import calls

    subnet = at.ask(lambda client: client.subnet(NetUid(netuid)))
    leaving = max(0, subnet.neurons - slots)
    receipt = at.submit(
        calls.trim_subnet(NetUid(netuid), slots),
        wallet,
        f"Leave subnet {netuid} {slots} of its {subnet.slots} slots? {leaving} of "
        f"{subnet.neurons} neurons lose theirs.",
    )
    pruned = [e.fields["hotkey"] for e in receipt.events if e.name == "NeuronPruned"]
    trimmed = receipt.event("SubtensorModule", "SubnetTrimmed")
    moves = [list(move) for move in trimmed.fields["moves"]] if trimmed else []
    lines = [
        f"subnet {netuid} has {slots} slots since {block_of(receipt)}",
        *(f"lost its slot: {hotkey}" for hotkey in pruned),
        *(f"uid {old} is uid {new} now" for old, new in moves),
    ]
    fields = {"netuid": netuid, "slots": slots, "pruned": pruned, "moves": moves}
    at.answer(fields | where(receipt), "\n".join(lines))


def _check_name(name: str, symbol: str) -> None:
    for text in (name, symbol):
        if len(text.encode()) > _MOST_NAME_BYTES:
            raise ConfigError(f"{text!r} is longer than {_MOST_NAME_BYTES} bytes; shorten it")
