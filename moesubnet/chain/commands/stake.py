"""`moesubnet stake …`"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

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
from moesubnet.errors import ConfigError
from moesubnet.host.options import Netuid
from moesubnet.types import Coldkey, Hotkey, NetUid
from moesubnet.units import format_rao, parse_percent_u16, parse_rao, u16_fraction

if TYPE_CHECKING:
    from moesubnet.chain.client import ChainClient, StakePosition

stake_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

ALL = "all"


@stake_app.command(epilog=example("stake add 20 --hotkey mine/default --netuid 1"))
@with_options
def add(
    amount: Amount,
    wallet: OwnerSpec = None,
    hotkey: HotkeySpec = None,
    netuid: Netuid = 1,
    *,
    at: Changing,
) -> None:
    """Stake tokens on a hotkey of yours.

    Stake is a hotkey's right to vote, and to call experts.
    """
    owner, on = owner_and_hotkey(wallet, hotkey, at.wallets)
    _move(parse_rao(amount), owner, on, NetUid(netuid), at)


@stake_app.command(
    epilog=example(
        "stake remove 5 --hotkey mine/default --netuid 1",
        "stake remove all --wallet mine --dry-run",
    )
)
@with_options
def remove(
    amount: Annotated[str, typer.Argument(help="Tokens, `12rao`, or `all`.")],
    wallet: OwnerSpec = None,
    hotkey: HotkeySpec = None,
    netuid: Netuid = 1,
    *,
    at: Changing,
) -> None:
    """Take stake back from a hotkey."""
    owner, on = owner_and_hotkey(wallet, hotkey, at.wallets)
    if amount == ALL:
        coldkey = Coldkey(at.account(owner))
        amount_rao = at.ask(lambda client: client.stake_rao(NetUid(netuid), on, coldkey))
        if not amount_rao:
            raise ConfigError(f"{coldkey} has no stake on {on} in subnet {netuid}")
    else:
        amount_rao = parse_rao(amount)
    _move(amount_rao, owner, on, NetUid(netuid), at, back=True)


@stake_app.command(epilog=example("stake delegate HOTKEY 100 --wallet mine --netuid 1"))
@with_options
def delegate(
    hotkey: Annotated[str, typer.Argument(help="Whose: an address, `name/hotkey` or //URI.")],
    amount: Amount,
    wallet: WalletSpec = DEFAULT_WALLET,
    netuid: Netuid = 1,
    *,
    at: Changing,
) -> None:
    """Stake on somebody else's hotkey.

    You get a part of what its votes earn. Says first what the hotkey earned and what its owner
    takes. The stake stays yours and can be taken back at any time: `moesubnet stake remove`.
    """
    amount_rao, on = parse_rao(amount), Hotkey(at.account(hotkey, hotkey=True))

    async def look(client: ChainClient) -> tuple[Any, ...]:
        metagraph = await client.metagraph(NetUid(netuid))
        facts = await client.query(("Owner", on), ("Delegates", on), ("NominatorCount", on, netuid))
        return metagraph.by_hotkey.get(on), *facts

    neuron, owner, take_u16, others = at.ask(look)
    known: dict[str, object] = {"take_u16": take_u16}
    if owner is None:
        raise ConfigError(f"{on} was never registered anywhere, so nobody can stake on it")
    at.remark(
        f"{on}\n  belongs to {owner},\n"
        f"  who takes {u16_fraction(take_u16):.2%} of what others' stake earns"
    )
    if neuron is None:
        at.remark(f"  it has no slot in subnet {netuid} now, so stake on it earns nothing there")
    else:
        may_vote = "may vote" if neuron.validator_permit else "has no validator permit"
        at.remark(
            f"  uid {neuron.uid} of subnet {netuid}, {may_vote}; {format_rao(neuron.stake_rao)} "
            f"on it, from its owner and {others} others\n"
            f"  its last epoch earned {format_rao(neuron.emission_rao)}: "
            f"{u16_fraction(neuron.dividends_u16):.1%} of all dividends (shared),\n"
            f"  {u16_fraction(neuron.incentive_u16):.1%} of all incentive (its owner's alone)"
        )
        known |= {"last_epoch_rao": neuron.emission_rao, "dividends_u16": neuron.dividends_u16}
    _move(amount_rao, wallet, on, NetUid(netuid), at, known=known)


@stake_app.command("list", epilog=example("stake list --wallet mine", "stake list -w //Alice"))
@with_options
def list_all(wallet: WalletSpec = DEFAULT_WALLET, *, at: Asking) -> None:
    """Everything that a coldkey has staked, and on whom."""
    from moesubnet.chain.commands.tables import columns

    owner = Coldkey(at.account(wallet))

    async def look(client: ChainClient) -> tuple[tuple[StakePosition, ...], list[Any]]:
        stakes = await client.stakes(owner)
        facts = await client.query(
            *(
                ask
                for s in stakes
                for ask in (("Uids", s.netuid, s.hotkey), ("Delegates", s.hotkey))
            )
        )
        return stakes, facts

    stakes, facts = at.ask(look)
    found = [
        asdict(stake) | {"uid": uid, "take_u16": take_u16}
        for stake, uid, take_u16 in zip(stakes, facts[::2], facts[1::2], strict=True)
    ]
    totals: Counter[int] = Counter()
    rows = [("netuid", "uid", "hotkey", "take", "stake")]
    for one in found:
        totals[one["netuid"]] += one["stake_rao"]
        uid = "-" if one["uid"] is None else str(one["uid"])
        take = f"{u16_fraction(one['take_u16']):.2%}"
        rows.append((str(one["netuid"]), uid, one["hotkey"], take, format_rao(one["stake_rao"])))
    rows += [(str(netuid), "", "in all", "", format_rao(sum_)) for netuid, sum_ in totals.items()]
    rows.append(("", "", "everywhere", "", format_rao(totals.total())))
    at.answer(
        {"coldkey": owner, "stakes": found, "total_rao": totals.total()},
        "\n".join(columns(rows, {0, 1, 3, 4})) if found else f"{owner} has staked nothing",
    )


@stake_app.command(
    epilog=example("stake take --hotkey mine/default", "stake take 9% --hotkey mine/default")
)
@with_options
def take(
    take: Annotated[
        str | None, typer.Argument(help="New take: `9%`. Shows it if left out.")
    ] = None,
    wallet: OwnerSpec = None,
    hotkey: HotkeySpec = None,
    *,
    at: Changing,
) -> None:
    """Show or change what a hotkey's owner takes.

    It is taken of the dividends of others' stake, at most 18 %. It may be lowered at any time, and
    raised when enough blocks have passed since it last changed.
    """
    from moesubnet.chain import calls

    owner, of = owner_and_hotkey(wallet, hotkey, at.wallets)

    async def look(client: ChainClient) -> list[Any]:
        return await client.query(
            ("Delegates", of), ("LastTxBlockDelegateTake", of), ("TxDelegateTakeRateLimit",)
        )

    now_u16, last, limit = at.ask(look)
    may_rise_from = 0 if last is None else last + limit
    if take is None:
        rise = f"; it may rise from block {may_rise_from:,} on" if may_rise_from else ""
        at.answer(
            {"hotkey": of, "take_u16": now_u16, "may_rise_from_block": may_rise_from},
            f"{of} takes {u16_fraction(now_u16):.2%} of what others' stake earns{rise}",
        )
        return
    new_u16 = parse_percent_u16(take)
    if new_u16 == now_u16:
        raise ConfigError(f"the take is {take} already; nothing to change")
    verb = "Raise" if new_u16 > now_u16 else "Lower"
    receipt = at.submit(
        calls.change_take(of, new_u16, now_u16),
        owner,
        f"{verb} the take of {of} from {u16_fraction(now_u16):.2%} to "
        f"{u16_fraction(new_u16):.2%}? It cannot rise for {limit:,} blocks after that.",
    )
    at.answer(
        {"hotkey": of, "old_take_u16": now_u16, "take_u16": new_u16, **where(receipt)},
        f"{of} takes {u16_fraction(new_u16):.2%} since {block_of(receipt)}",
    )


def _move(
    amount_rao: int,
    owner: str,
    on: Hotkey,
    netuid: NetUid,
    at: Changing,
    *,
    back: bool = False,
    known: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Stake, or take `back`; `known` goes into the answer for machines."""
    from moesubnet.chain import calls

    call = (calls.remove_stake if back else calls.add_stake)(netuid, on, amount_rao)
    verb, how = ("Take back", "from") if back else ("Stake", "on")
    coldkey = Coldkey(at.account(owner))

    def look(client: ChainClient) -> Awaitable[int]:
        return client.stake_rao(netuid, on, coldkey)

    at.ask(look)  # a chain that keeps stake in another way is sent nothing
    question = f"{verb} {format_rao(amount_rao)} {how} {on} in subnet {netuid}?"
    receipt = at.submit(call, owner, question)
    stake_rao = at.ask(look)
    moved_rao = -amount_rao if back else amount_rao
    fields = {"netuid": netuid, "hotkey": on, "moved_rao": moved_rao, "stake_rao": stake_rao}
    at.answer(
        {**fields, **where(receipt), **known},
        f"{coldkey} now has {format_rao(stake_rao)} on {on} in subnet {netuid} "
        f"({block_of(receipt)})",
    )
