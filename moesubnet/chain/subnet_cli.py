"""`moesubnet subnet …`"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesubnet.chain.console import (
    DEFAULT_CHAIN,
    DEFAULT_WALLET,
    AsJson,
    Chain,
    Netuid,
    WalletsDir,
    WalletSpec,
    Yes,
    answer,
    ask_chain,
    confirm,
)
from moesubnet.errors import ChainUnavailable
from moesubnet.types import Metagraph, NetUid, Neuron
from moesubnet.units import RAO_PER_TOKEN, format_rao, u16_fraction

if TYPE_CHECKING:
    from moesubnet.chain.client import ChainClient

_AXON_COLUMNS = 26
_CLEAR_SCREEN = "\x1b[2J\x1b[H"

subnet_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@subnet_app.callback()
def _group() -> None:
    """Look at a subnet, or tell it its spec."""


@subnet_app.command()
def metagraph(
    netuid: Netuid = 1,
    watch: Annotated[bool, typer.Option("--watch", help="Show every new block.")] = False,
    chain: Chain = DEFAULT_CHAIN,
    as_json: AsJson = False,
) -> None:
    """Who is in a subnet, what each has at stake and earned at the last epoch."""
    subnet = NetUid(netuid)
    if watch:
        try:
            ask_chain(chain, lambda client: _watch(client, subnet, as_json))
        except (KeyboardInterrupt, asyncio.CancelledError):
            return
    else:
        _say(ask_chain(chain, lambda client: client.metagraph(subnet)), as_json)


@subnet_app.command("set-spec")
def set_spec(
    spec: Annotated[Path, typer.Option(help="Folder with spec.json and the files it names.")],
    url: Annotated[
        str | None,
        typer.Option(help="Where others fetch that folder; a file: URL of it by default."),
    ] = None,
    wallet: WalletSpec = DEFAULT_WALLET,
    netuid: Netuid = 1,
    chain: Chain = DEFAULT_CHAIN,
    wallets: WalletsDir = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """As the subnet's owner, publish the spec that every neuron must follow."""
    from moesubnet.chain.wallet import load_coldkey
    from moesubnet.spec import load_spec

    loaded = load_spec(spec)
    place = url or loaded.root.resolve().as_uri()
    confirm(f"Publish spec {loaded.sha256[:12]}… at {place} on subnet {netuid}?", yes)
    owner = load_coldkey(wallet, wallets)
    receipt = ask_chain(
        chain,
        lambda client: client.set_subnet_spec(NetUid(netuid), loaded.sha256, place, owner),
    )
    fields = {"spec_sha256": loaded.sha256, "url": place, "block": receipt.block}
    answer(as_json, fields, f"spec {loaded.sha256} published in block {receipt.block}")


def table(metagraph: Metagraph) -> str:
    """The metagraph in 100 columns."""
    m = metagraph
    reveal = "commit and reveal" if m.commit_reveal else "open votes"
    spec = f"spec {m.spec_sha256[:12]}…" if m.spec_sha256 else "no spec yet"
    lines = [
        f"subnet {m.netuid} at block {m.block} · epoch {m.epoch_index}, the next in "
        f"{max(0, m.next_epoch_block - m.block)} of {m.tempo_blocks} blocks",
        f"{reveal} · {spec}",
        f"{'uid':>4}  {'hotkey':<13} {'stake τ':>13} {'incentive':>9} {'dividends':>9} "
        f"{'earned τ':>11} {'vote':>6}  axon",
        *(_row(neuron, m) for neuron in m.neurons),
    ]
    if not m.neurons:
        lines.append("nobody has registered yet: moesubnet register")
    else:
        total_rao = sum(neuron.stake_rao for neuron in m.neurons)
        lines.append(
            f"{len(m.neurons)} neurons, {format_rao(total_rao)} staked; "
            "vote: blocks since the last one, of those that may"
        )
    return "\n".join(lines)


def _row(neuron: Neuron, metagraph: Metagraph) -> str:
    vote = str(metagraph.block - neuron.last_update_block) if neuron.validator_permit else "-"
    axon = neuron.axon.url.removeprefix("http://") if neuron.axon else "-"
    if len(axon) > _AXON_COLUMNS:
        axon = axon[: _AXON_COLUMNS - 1] + "…"
    return (
        f"{neuron.uid:>4}  {neuron.hotkey[:12]}… {_tokens(neuron.stake_rao):>13,.2f} "
        f"{u16_fraction(neuron.incentive_u16):>9.2%} {u16_fraction(neuron.dividends_u16):>9.2%} "
        f"{_tokens(neuron.emission_rao):>11,.4f} {vote:>6}  {axon}"
    )


def _tokens(amount_rao: int) -> Decimal:
    return Decimal(amount_rao) / RAO_PER_TOKEN


async def _watch(client: ChainClient, netuid: NetUid, as_json: bool) -> None:
    async for _ in client.heads():
        try:
            metagraph = await client.metagraph(netuid)
        except ChainUnavailable:
            continue  # the next head comes when the chain is back
        if not as_json:
            typer.echo(_CLEAR_SCREEN, nl=False)
        _say(metagraph, as_json)


def _say(metagraph: Metagraph, as_json: bool) -> None:
    answer(as_json, asdict(metagraph), table(metagraph))
