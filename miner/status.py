"""What a miner earns and why, from what is public: the metagraph, revealed votes and sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from moesubnet.chain.nouns import WeightRow
from moesubnet.errors import ConfigError
from moesubnet.mixture.sheet import MICRO, NANO, Summary
from moesubnet.types import Hotkey, Metagraph, Neuron, ServedModel, Uid
from moesubnet.units import format_rao, u16_fraction

EXPLAINED = 0.1  # of standing: with less, by far the most of its pay is for what it adds


@dataclass(frozen=True, slots=True)
class Opinion:
    """One validator on one miner."""

    validator: Hotkey
    uid: Uid
    stake_share: float  # of all stake that votes
    vote: float | None  # fraction of its row; None if it has no row on chain
    sheet_epoch: int | None  # None: no sheet could be fetched
    value_nats: float | None  # moving average of what the miner adds to the mixture, per token
    standing: float | None  # 1: something of its own; 0: those before it say the same


@dataclass(frozen=True, slots=True)
class Status:
    """One miner at one block. Shares are fractions of one."""

    hotkey: Hotkey
    uid: Uid
    block: int
    epoch: int
    blocks_to_epoch: int
    published: str | None  # URL of its axon
    model: ServedModel | None  # as it said on chain
    stake_rao: int
    rank: int | None  # by incentive; None without any
    earning: int  # how many have incentive
    miners: int  # they, and whom validators measured
    incentive: float
    consensus: float
    paid_rao: int  # at the last epoch
    epochs_registered: int
    forecast: float  # incentive if the epoch ran on the votes that are on chain now
    forecast_rao: int | None  # None: what the last epoch paid to miners is not known
    opinions: tuple[Opinion, ...]  # by stake, largest first


def look(
    hotkey: Hotkey,
    metagraph: Metagraph,
    weights: Mapping[Uid, WeightRow],
    sheets: Sequence[Summary],
    pool_rao: int | None,
) -> Status:
    """`weights`: the revealed votes by uid; `pool_rao`: what an epoch pays all miners.

    Raises ConfigError when the hotkey is not in the metagraph.
    """
    neuron = metagraph.by_hotkey.get(hotkey)
    if neuron is None:
        raise ConfigError(
            f"{hotkey} is not registered on subnet {metagraph.netuid}: "
            f"moesubnet register --netuid {metagraph.netuid} --hotkey {hotkey}"
        )
    earning = sorted((n.incentive_u16 for n in metagraph.neurons if n.incentive_u16), reverse=True)
    voters = _voters(metagraph, weights)
    measured = {h for sheet in sheets for h in sheet.hotkeys if h in metagraph.by_hotkey}
    forecast = _incentives(metagraph, voters, weights).get(neuron.uid, 0.0)
    return Status(
        hotkey=hotkey,
        uid=neuron.uid,
        block=metagraph.block,
        epoch=metagraph.epoch_index,
        blocks_to_epoch=max(0, metagraph.next_epoch_block - metagraph.block),
        published=neuron.axon.url if neuron.axon else None,
        model=neuron.model,
        stake_rao=neuron.stake_rao,
        rank=earning.index(neuron.incentive_u16) + 1 if neuron.incentive_u16 else None,
        earning=len(earning),
        miners=len(measured | {hotkey} | {n.hotkey for n in metagraph.neurons if n.incentive_u16}),
        incentive=u16_fraction(neuron.incentive_u16),
        consensus=u16_fraction(neuron.consensus_u16),
        paid_rao=neuron.emission_rao,
        epochs_registered=(metagraph.block - neuron.registered_at_block) // metagraph.tempo_blocks,
        forecast=forecast,
        forecast_rao=None if pool_rao is None else int(forecast * pool_rao),
        opinions=_opinions(neuron, voters, weights, sheets),
    )


def _voters(metagraph: Metagraph, weights: Mapping[Uid, WeightRow]) -> list[Neuron]:
    """Who may vote, by stake; in the first epoch nobody has a permit and stake is enough."""
    staked = [
        n for n in metagraph.neurons if n.stake_rao and (n.validator_permit or n.uid in weights)
    ]
    return sorted(staked, key=lambda n: -n.stake_rao)


def _share(row: WeightRow, uid: Uid) -> float:
    total = sum(value for _, value in row)
    return sum(value for target, value in row if target == uid) / total if total else 0.0


def _incentives(
    metagraph: Metagraph, voters: Sequence[Neuron], weights: Mapping[Uid, WeightRow]
) -> dict[Uid, float]:
    """Yuma consensus in short: votes clipped to what half of the stake supports, then normalised.

    A forecast, not the chain's arithmetic: it ignores masks and rounding.
    """
    active = [n for n in voters if n.active and n.validator_permit]
    total_rao = sum(n.stake_rao for n in active)
    ranks: dict[Uid, float] = {}
    for target in {uid for n in active for uid, _ in weights.get(n.uid, ())}:
        votes = sorted(
            ((_share(weights.get(n.uid, ()), target), n.stake_rao) for n in active), reverse=True
        )
        supported_rao, consensus = 0, 0.0
        for vote, stake_rao in votes:
            supported_rao += stake_rao
            if 2 * supported_rao >= total_rao:
                consensus = vote
                break
        ranks[target] = sum(min(vote, consensus) * stake_rao for vote, stake_rao in votes)
    sum_of_ranks = sum(ranks.values())
    return {uid: rank / sum_of_ranks for uid, rank in ranks.items()} if sum_of_ranks else {}


def _opinions(
    neuron: Neuron,
    voters: Sequence[Neuron],
    weights: Mapping[Uid, WeightRow],
    sheets: Sequence[Summary],
) -> tuple[Opinion, ...]:
    total_rao = sum(n.stake_rao for n in voters)
    newest = {sheet.validator: sheet for sheet in sorted(sheets, key=lambda sheet: sheet.epoch)}
    opinions = []
    for voter in voters:
        sheet = newest.get(voter.hotkey)
        if sheet is None and voter.uid not in weights:
            continue  # a router or distiller: staked, and votes on nobody
        value = standing = None
        if sheet is not None and neuron.hotkey in sheet.hotkeys:
            column = sheet.hotkeys.index(neuron.hotkey)
            nano = sheet.ema_after[column]
            value = None if nano is None else nano / NANO
            standing = sheet.standing_ppm[column] / MICRO
        row = weights.get(voter.uid)
        opinions.append(
            Opinion(
                validator=voter.hotkey,
                uid=voter.uid,
                stake_share=voter.stake_rao / total_rao,
                vote=None if row is None else _share(row, neuron.uid),
                sheet_epoch=sheet.epoch if sheet else None,
                value_nats=value,
                standing=standing,
            )
        )
    return tuple(opinions)


def render(status: Status) -> str:
    """The status as a screen of text."""
    rank = f"{status.rank or 'none yet,'} of {status.miners} miners; {status.earning} earn"
    values = [o.value_nats for o in status.opinions if o.value_nats is not None]
    value = f"{median(values):+.4f} nats/token (median of validators)" if values else "not known"
    expected = (
        "not known"
        if status.forecast_rao is None
        else (f"{status.forecast_rao:,} rao ({format_rao(status.forecast_rao)}) per epoch")
    )
    lines = [
        f"{status.hotkey}  uid {status.uid}, {status.published or 'no axon on chain'}",
        f"block {status.block}, epoch {status.epoch}; the next one runs in "
        f"{status.blocks_to_epoch} blocks",
        "",
        f"rank       {rank}",
        f"value      {value}",
        f"expected   {expected}: {status.forecast:.2%} of what miners get, "
        "if the votes on chain stand",
        f"last paid  {status.paid_rao:,} rao  (incentive {status.incentive:.2%}, "
        f"consensus {status.consensus:.2%})",
        f"stake      {format_rao(status.stake_rao)}",
        f"model      {_said(status.model)}",
        "",
    ]
    if status.opinions:
        lines += [*(_line(opinion) for opinion in status.opinions), ""]
    return "\n".join([*lines, explain(status)])


def _said(model: ServedModel | None) -> str:
    if model is None:
        return "not on chain"
    kind = "open" if model.is_open else "private"
    return f"{model.commitment}, {kind}, on chain since block {model.block}"


def _line(opinion: Opinion) -> str:
    vote = "no vote" if opinion.vote is None else f"votes {opinion.vote:6.2%}"
    if opinion.sheet_epoch is None:
        measured = "no sheet to be had"
    elif opinion.value_nats is None:
        measured = f"not measured in epoch {opinion.sheet_epoch}"
    else:
        measured = f"value {opinion.value_nats:+.4f} in epoch {opinion.sheet_epoch}"
    standing = "" if opinion.standing is None else f", standing {opinion.standing:.2f}"
    return (
        f"validator {opinion.uid:>3}  {opinion.stake_share:6.1%} of the stake  "
        f"{vote}  {measured}{standing}"
    )


def explain(status: Status) -> str:
    """Why: the first reason that applies, with what can be done about it."""
    if status.published is None:
        return "Nobody can ask it: no axon is on chain. Start it: moesubnet miner run …"
    if not status.opinions:
        return "No validator votes yet. Votes count from the epoch after they are revealed."
    standings = [o.standing for o in status.opinions if o.standing is not None]
    if standings and max(standings) < EXPLAINED:
        return (
            "What it says, those that were there before say too, and it is paid for what it adds "
            "to them: train on other text."
        )
    if status.forecast > 0:
        clipped = [o for o in status.opinions if o.vote and o.vote > status.forecast * 1.5]
        if clipped:
            return (
                "It is paid for what half of the stake supports; validator "
                f"{clipped[0].uid} votes more than that."
            )
        return "It is paid in proportion to what it adds to the mixture, as validators measured it."
    if status.epochs_registered < 3:
        return (
            "Too early: validators measure in one epoch, reveal in the next, and the vote is paid "
            "at the end of that one. First pay within three epochs."
        )
    if any(o.value_nats is not None and o.value_nats <= 0 for o in status.opinions):
        return (
            "It adds nothing that the others do not have: on the validators' text the mixture is "
            "as good without it. Specialise on text that the others predict badly."
        )
    looked = [o for o in status.opinions if o.sheet_epoch is not None]
    if looked and all(o.value_nats is None for o in looked):
        return (
            "No validator has measured it. Is its address reachable from outside, and does its "
            "/metrics count answers to /v1/step?"
        )
    return (
        "Less than half of the stake votes for it (yet), and what fewer support is clipped: "
        "votes count from the end of the epoch in which they are revealed."
    )
