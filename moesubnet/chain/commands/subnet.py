"""`moesubnet subnet list|info|metagraph|watch`; `owner_cli` adds what changes a subnet."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from moesubnet.chain.commands import owner as owner_cli
from moesubnet.chain.commands.console import NetuidArgument
from moesubnet.chain.commands.options import Asking, example, with_options
from moesubnet.errors import ChainUnavailable
from moesubnet.types import NetUid

if TYPE_CHECKING:
    from moesubnet.chain.client import ChainClient, Epoch, Event, Subnet

_CLEAR_SCREEN = "\x1b[2J\x1b[H"
_EVENTS_SHOWN = 8

subnet_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@subnet_app.command("list", epilog=example("subnet list"))
@with_options
def list_all(*, at: Asking) -> None:
    """All subnets, and what slots and another subnet cost."""
    from moesubnet.chain.commands.tables import subnets_table

    async def look(client: ChainClient) -> tuple[tuple[Subnet, ...], int]:
        return await client.subnets(), await client.subnet_price_rao()

    subnets, price_rao = at.ask(look)
    fields = {"subnets": [asdict(subnet) for subnet in subnets], "next_price_rao": price_rao}
    at.answer(fields, subnets_table(subnets, price_rao))


@subnet_app.command(epilog=example("subnet info 1"))
@with_options
def info(netuid: NetuidArgument = 1, *, at: Asking) -> None:
    """One subnet: owner, epochs, price, pots, share, spec."""
    from moesubnet.chain.commands.tables import subnet_card

    async def look(client: ChainClient) -> tuple[Subnet, Epoch]:
        return await client.subnet(NetUid(netuid)), await client.epoch(NetUid(netuid))

    subnet, epoch = at.ask(look)
    at.answer(asdict(epoch) | asdict(subnet), subnet_card(subnet, epoch))


@subnet_app.command(epilog=example("subnet metagraph 1", "subnet metagraph 1 --json"))
@with_options
def metagraph(netuid: NetuidArgument = 1, *, at: Asking) -> None:
    """Who is in a subnet, what each has at stake and earned."""
    from moesubnet.chain.commands.tables import metagraph_table

    found = at.ask(lambda client: client.metagraph(NetUid(netuid)))
    at.answer(asdict(found), metagraph_table(found))


@subnet_app.command(epilog=example("subnet watch 1", "subnet watch 1 --json"))
@with_options
def watch(netuid: NetuidArgument = 1, *, at: Asking) -> None:
    """A subnet live, block by block, until Ctrl-C.

    Its epochs, neurons and last events. With --json one object a line and block.
    """
    try:
        at.ask(lambda client: _watch(client, NetUid(netuid), at))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return


async def _watch(client: ChainClient, netuid: NetUid, at: Asking) -> None:
    from moesubnet.chain.commands.tables import event_line, metagraph_table, readable
    from moesubnet.chain.rpc.link import NoSuchBlock, RpcError

    recent: deque[str] = deque(maxlen=_EVENTS_SHOWN)
    async for head in client.heads():
        try:
            metagraph = await client.metagraph(netuid, head.hash)
            events = [*_of(netuid, await client.events(head.hash))]
        except (ChainUnavailable, RpcError, NoSuchBlock):
            continue  # the chain is away, or the block lost to another fork: the next head comes
        recent.extend(event_line(head.number, event) for event in events)
        if not at.as_json and sys.stdout.isatty():
            typer.echo(_CLEAR_SCREEN, nl=False)
        told = [{"name": event.name, "fields": readable(event.fields)} for event in events]
        text = [metagraph_table(metagraph), *recent, "Ctrl-C ends it"]
        at.answer(asdict(metagraph) | {"events": told}, "\n".join(text))


def _of(netuid: NetUid, events: Iterable[Event]) -> Iterable[Event]:
    from moesubnet.chain.rpc.storage import PALLET

    return (e for e in events if e.pallet == PALLET and e.fields.get("netuid") == netuid)


owner_cli.add_commands(subnet_app)  # after those that only look, in the help too
