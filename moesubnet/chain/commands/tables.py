"""What the chain's commands print, in 100 columns. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

from moesubnet.chain.hyperparams import OwnerLimits, Value, about, format_value
from moesubnet.chain.nouns import Epoch, Votes
from moesubnet.chain.rpc.view import Event
from moesubnet.chain.subnets import Subnet, as_text
from moesubnet.types import Metagraph, Neuron
from moesubnet.units import RAO_PER_TOKEN, format_rao, u16_fraction

WIDTH = 100
_AXON_COLUMNS = 26
_NAME_COLUMNS = 24
_MOST_TARGETS_IN_A_TABLE = 12


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lines of aligned cells; the columns in `right` end at one edge."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def metagraph_table(metagraph: Metagraph) -> str:
    """Who is in a subnet, what each has at stake and earned."""
    m = metagraph
    reveal = "commit and reveal" if m.commit_reveal else "open votes"
    spec = f"spec {m.spec_sha256[:12]}…" if m.spec_sha256 else "no spec yet"
    lines = [
        f"subnet {m.netuid} at block {m.block} · epoch {m.epoch_index}, the next in "
        f"{max(0, m.next_epoch_block - m.block)} of {m.tempo_blocks} blocks",
        f"{reveal} · {spec}",
        f"{'uid':>4}  {'hotkey':<13} {'stake τ':>13} {'incentive':>9} {'dividends':>9} "
        f"{'earned τ':>11} {'vote':>6}  axon",
        *(_neuron_row(neuron, m) for neuron in m.neurons),
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


def subnets_table(subnets: Sequence[Subnet], next_price_rao: int) -> str:
    """All subnets, and what another one costs."""
    head = ("netuid", "name", "neurons", "slots", "tempo", "registration", "emission", "owner")
    rows = [
        (
            str(s.netuid),
            shortened(s.name, _NAME_COLUMNS) or "-",
            str(s.neurons),
            str(s.slots),
            f"{s.tempo_blocks:,}",
            format_rao(s.registration_price_rao, 4) if s.registration_allowed else "closed",
            _share(s),
            shortened(s.owner_coldkey or "-", 13),
        )
        for s in subnets
    ]
    end = f"the next subnet costs {format_rao(next_price_rao)}: moesubnet subnet create"
    return "\n".join([*columns([head, *rows], {0, 2, 3, 4, 5, 6}), end])


def subnet_card(subnet: Subnet, epoch: Epoch) -> str:
    """All about one subnet but its neurons."""
    s = subnet
    name = shortened(s.name, 64) + (f" ({shortened(s.symbol, 16)})" if s.symbol else "")
    registration = format_rao(s.registration_price_rao) + " now, burned"
    if not s.registration_allowed:
        registration = "closed"
    elif s.work_allowed:
        registration += "; or by work"
    next_epoch = f"the next in {max(0, epoch.next_epoch_block - epoch.block)}"
    vote = f"commit, then reveal in epoch +{s.reveal_period_epochs}"
    rows = [
        (f"subnet {s.netuid}", name or "(no name)"),
        ("owner", s.owner_coldkey or "-"),
        ("its hotkey", s.owner_hotkey or "-"),
        ("exists", f"since block {s.created_at_block:,}; {format_rao(s.cost_rao)} burned for it"),
        ("block", f"{epoch.block:,}, epoch {epoch.epoch_index:,}"),
        ("tempo", f"{s.tempo_blocks:,} blocks; {next_epoch}" if s.tempo_blocks else "paused"),
        ("votes", vote if s.commit_reveal else "in the open"),
        ("neurons", f"{s.neurons:,} in {s.slots:,} slots"),
        ("registration", registration),
        ("emission", f"{_share(s)} of the chain's"),
        (
            "next epoch",
            f"pays {format_rao(s.pending_neurons_rao)} to neurons and "
            f"{format_rao(s.pending_owner_rao)} to the owner, so far",
        ),
        ("spec", s.spec_sha256 or "none yet: moesubnet spec new, subnet set-spec"),
    ]
    if s.spec_url:
        held = "" if s.spec_from_epoch is None else f"holds from epoch {s.spec_from_epoch:,}"
        rows += [("", shortened(s.spec_url, 84)), ("", held)]
    return "\n".join(columns(rows))


def hyperparams_table(values: Mapping[str, Value], limits: OwnerLimits) -> str:
    """Every hyperparameter with its unit and meaning, and what binds the owner."""
    cells = [
        (name + (" *" if about(name).root_only else ""), format_value(name, value))
        for name, value in values.items()
    ]
    left = columns(cells)
    indent = max(map(len, left)) + 2
    lines = []
    for line, name in zip(left, values, strict=True):
        first, *rest = textwrap.wrap(about(name).meaning, WIDTH - indent) or [""]
        lines += [line.ljust(indent) + first, *(" " * indent + more for more in rest)]
    lines += [
        "* only root may change it; (%): of 65,535; ppm: millionths",
        f"The owner may change each once in {limits.change_every_blocks:,} blocks, none in the last"
        f" {limits.freeze_blocks:,} before an epoch,",
        f"and set no tempo below {limits.least_tempo_blocks:,} blocks, nor fewer slots than "
        f"{limits.least_slots:,}.",
    ]
    return "\n".join(lines)


def changes_table(old: Mapping[str, Value], new: Mapping[str, Value]) -> str:
    """What a change of hyperparameters would do."""
    rows = [
        (
            name,
            format_value(name, old[name]),
            "→",
            format_value(name, value),
            "root only" if about(name).root_only else "",
        )
        for name, value in new.items()
    ]
    return "\n".join(columns(rows))


def votes_text(votes: Votes) -> str:
    """Who voted what, and what was promised and waits."""
    m = votes.metagraph
    lines = [
        f"subnet {m.netuid} at block {m.block} · epoch {m.epoch_index} · votes in % of each row"
    ]
    targets = sorted({target for row in votes.rows.values() for target, _ in row})
    by_uid = {neuron.uid: neuron for neuron in m.neurons}
    ages = {
        uid: f"{m.block - neuron.last_update_block} blocks ago" for uid, neuron in by_uid.items()
    }
    if not votes.rows:
        lines.append("nobody's vote counts yet")
    elif len(targets) <= _MOST_TARGETS_IN_A_TABLE:
        head = ("voter", *(f"→{target}" for target in targets), "last vote")
        rows = []
        for uid, row in votes.rows.items():
            shares = _shares(row)
            cells = (f"{shares[t]:.1f}" if t in shares else "-" for t in targets)
            rows.append((str(uid), *cells, ages[uid]))
        lines += columns([head, *rows], range(len(targets) + 2))
    else:
        for uid, row in votes.rows.items():
            text = ", ".join(f"{target}: {share:.1f}" for target, share in _shares(row).items())
            lines += textwrap.wrap(
                f"uid {uid}, {ages[uid]} → {text}", WIDTH, subsequent_indent="    "
            )
    for uid, commits in votes.commits.items():
        for commit in commits:
            ahead = commit.reveal_epoch - votes.epoch_now
            when = "now" if ahead == 0 else "not yet" if ahead > 0 else "too late"
            lines.append(
                f"uid {uid} promised in block {commit.block} (epoch {commit.epoch}); "
                f"to be revealed in epoch {commit.reveal_epoch}: {when}"
            )
    sheets = [
        f"  uid {uid}, epoch {last.epoch}: {last.sheet_sha256}"
        for uid, last in votes.reveals.items()
        if last.sheet_sha256
    ]
    for uid in votes.rows:
        if (part := votes.vouched_part(uid)) is not None:
            heard = "heard" if part > 0.5 else "NOT heard, and earns nothing"
            lines.append(f"uid {uid}: {part:.0%} of the other stake vouches for it; {heard}")
    if sheets:
        how = "moesubnet validator audit SHEET --axon IP:PORT"
        lines += [f"score sheets of the last revealed votes; check: {how}", *sheets]
    return "\n".join(lines)


def event_line(block: int, event: Event) -> str:
    """One event, its netuid left out."""
    fields = " ".join(
        f"{name}={shortened(str(readable(value)), 13)}"
        for name, value in event.fields.items()
        if name not in {"netuid", "block"}
    )
    return shortened(f"block {block}  {event.name}  {fields}", WIDTH)


def readable(value: object) -> object:
    """A decoded value as JSON can hold it; bytes become text that cannot steer a terminal."""
    if isinstance(value, bytes):
        return as_text(value)
    if isinstance(value, dict):
        return {key: readable(item) for key, item in value.items() if item is not None}
    if isinstance(value, tuple | list):
        return [readable(item) for item in value]
    return value


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _neuron_row(neuron: Neuron, metagraph: Metagraph) -> str:
    vote = str(metagraph.block - neuron.last_update_block) if neuron.validator_permit else "-"
    axon = neuron.axon.url.removeprefix("http://") if neuron.axon else "-"
    return (
        f"{neuron.uid:>4}  {neuron.hotkey[:12]}… {_tokens(neuron.stake_rao):>13,.2f} "
        f"{u16_fraction(neuron.incentive_u16):>9.2%} {u16_fraction(neuron.dividends_u16):>9.2%} "
        f"{_tokens(neuron.emission_rao):>11,.4f} {vote:>6}  {shortened(axon, _AXON_COLUMNS)}"
    )


def _tokens(amount_rao: int) -> Decimal:
    return Decimal(amount_rao) / RAO_PER_TOKEN


def _share(subnet: Subnet) -> str:
    return (
        f"{subnet.emission_share / subnet.emission_shares:.1%}" if subnet.emission_shares else "-"
    )


def _shares(row: Sequence[tuple[int, int]]) -> dict[int, float]:
    """A row of u16 in per cent of its sum."""
    total = sum(value for _, value in row)
    return {target: 100 * value / total if total else 0.0 for target, value in row}
