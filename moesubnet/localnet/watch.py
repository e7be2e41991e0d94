"""Turns the chain, the router and the processes into one snapshot for the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moesubnet.chain.client import ChainClient, Epoch
from moesubnet.host.supervisor import Process
from moesubnet.localnet.plan import NETUID, Plan
from moesubnet.localnet.view import ExpertRow, Snapshot, ValidatorRow
from moesubnet.mixture.history import Perplexities
from moesubnet.types import Hotkey, Metagraph, NetUid, Neuron, Uid
from moesubnet.units import u16_fraction


def why_unpaid(metagraph: Metagraph) -> str | None:
    """Why no miner has been paid yet; None once one was."""
    if any(neuron.incentive_u16 for neuron in metagraph.neurons):
        return None
    if not any(neuron.validator_permit for neuron in metagraph.neurons):
        return (
            "No incentive yet: the first epoch has no permitted validators and pays by stake. "
            "Stake placed now votes in the next epoch."
        )
    return (
        "No incentive yet: validators commit their weights in one epoch and reveal them in the "
        "next, so miners are first paid at the third epoch."
    )


async def take_snapshot(
    chain: ChainClient,
    plan: Plan,
    names: Mapping[Hotkey, str],
    processes: Mapping[str, Process],
    router_experts: Sequence[Mapping[str, Any]],
    perplexities: Perplexities | None,
) -> Snapshot:
    """One consistent view at the chain's head."""
    metagraph = await chain.metagraph(NetUid(NETUID))
    epoch: Epoch = await chain.epoch(NetUid(NETUID))
    weights = await chain.weights(NetUid(NETUID))
    judges = [neuron for neuron in metagraph.neurons if _is_validator(neuron, names)]
    answers = {str(row["hotkey"]): int(row["answers"]) for row in router_experts}
    serving = {str(row["hotkey"]) for row in router_experts if row["serving"]}

    def alive(neuron: Neuron) -> bool:
        process = processes.get(names.get(neuron.hotkey, ""))
        return process.alive if process is not None else neuron.hotkey in serving

    def votes(uid: Uid) -> list[float]:
        shares = []
        for judge in judges:
            row = dict(weights.get(judge.uid, ()))
            total = sum(row.values())
            shares.append(row.get(uid, 0) / total if total else 0.0)
        return shares

    validators = []
    for neuron in judges:
        reveal = await chain.last_reveal(NetUid(NETUID), neuron.hotkey)
        validators.append(
            ValidatorRow(
                uid=neuron.uid,
                name=names[neuron.hotkey],
                alive=alive(neuron),
                permit=neuron.validator_permit,
                dividends=u16_fraction(neuron.dividends_u16),
                emission_rao=neuron.emission_rao,
                stake_rao=neuron.stake_rao,
                last_sheet_epoch=reveal.epoch if reveal is not None else None,
            )
        )
    experts = [
        ExpertRow(
            uid=neuron.uid,
            name=names.get(neuron.hotkey, f"{neuron.hotkey[:10]}… (joined)"),
            alive=alive(neuron),
            answers=answers.get(neuron.hotkey, 0),
            weights=votes(neuron.uid),
            incentive=u16_fraction(neuron.incentive_u16),
            emission_rao=neuron.emission_rao,
            stake_rao=neuron.stake_rao,
        )
        for neuron in metagraph.neurons
        if _is_expert(neuron, names, answers)
    ]
    return Snapshot(
        block=metagraph.block,
        epoch=epoch.epoch_index,
        blocks_to_epoch=max(0, epoch.next_epoch_block - metagraph.block),
        experts=experts,
        validators=validators,
        paid_rao=sum(row.emission_rao for row in experts),
        mixture_ppl=perplexities.mixture if perplexities else None,
        best_expert_ppl=perplexities.best_expert if perplexities else None,
        why_unpaid=why_unpaid(metagraph),
    )


def _is_validator(neuron: Neuron, names: Mapping[Hotkey, str]) -> bool:
    return names.get(neuron.hotkey, "").startswith("validator-")


def _is_expert(neuron: Neuron, names: Mapping[Hotkey, str], answers: Mapping[str, int]) -> bool:
    return names.get(neuron.hotkey, "").startswith("miner-") or neuron.hotkey in answers
