"""Who earns what when some of the miners are hostile: the real code over the real runtime.

    python benchmarks/record_laws.py FOLDER          # once
    OMP_NUM_THREADS=1 python benchmarks/economy.py FOLDER [--epochs 50] [--seed 0] [ECONOMY …]

Each of `economies.py` has two honest validators of equal stake with different private text. One
Markdown row each: what those that are looked at (the hostile, or
honest newcomers) were paid together and the best of them, of a mean honest expert's pay (or, of
validators, of an honest one's by stake); their mean standing; what registering cost; what became
of the victim's pay against the economy without them, on the same text; and whether that is the
target. Epochs before the first votes are paid, and ten after somebody joined, do not count.
Rows are kept in FOLDER/economies-EPOCHS-WALKS-SEED.jsonl and not played again;
`economy_plots.py` makes a picture of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cast import SPECIALISTS, STAKE_TOKENS, VALIDATORS, Economy, Recordings
from economies import economies
from simulation import Ledger, Member, play
from virtual_time import run

from moesubnet.mixture.sheet import Sheet
from moesubnet.units import RAO_PER_TOKEN

MAY_LOSE = 0.1  # of its pay, a victim
MAY_GAIN = 0.05  # of its pay, whom routers praise
HEADER = """\
| economy | looked at | τ an epoch | of an honest one | best | standing | cost | others | target |
|---|---|---|---|---|---|---|---|---|"""


def judge(
    name: str,
    economy: Economy,
    ledger: Ledger,
    reference: Mapping[str, float],
    fair: Mapping[str, float],
) -> dict:
    """One row. reference: τ an epoch by expert where nobody is hostile; fair: where the newcomers
    were there from the beginning; both of the epochs that count here."""
    since = economy.counted_from
    epochs = max(1, len(ledger.paid_rao) - since)
    names = [m.name for m in economy.members]
    series = {
        name: [round(epoch.get(name, 0) / RAO_PER_TOKEN, 3) for epoch in ledger.paid_rao]
        for name in (*names, *VALIDATORS)
    }
    paid = {name: ledger.tokens(name, since) / epochs for name in series}
    looked_at = [m for m in economy.members if m.name in economy.looked_at]
    if looked_at and looked_at[0].stake_tokens:
        honest = [paid[v] for v in VALIDATORS]
    else:
        honest = [paid[n] for n in SPECIALISTS if n in paid and n not in economy.looked_at]
    mean = sum(honest) / len(honest) if honest else paid[economy.members[0].name]
    mean = mean or math.nan  # nothing that counts was paid yet
    taken = [paid[m.name] for m in looked_at]
    kept = {
        member: paid[member] / reference[member] - 1
        for member in ([economy.victim] if economy.victim else SPECIALISTS)
        if member in paid and member not in economy.looked_at and reference.get(member)
    }
    fairly = sum(fair.get(m.name, 0.0) for m in looked_at) or math.nan
    of_fair = sum(taken) / fairly if economy.like else None
    stand = [ledger.standing([m.hotkey], since) for m in looked_at]
    met = is_met(economy, sum(taken) / mean, of_fair, kept, stand)
    return {
        "economy": name,
        "claim": economy.claim,
        "series": series,
        "looked_at": sorted(economy.looked_at),
        "victim": economy.victim,
        "validators": [m.name for m in economy.members if m.stake_tokens],
        "joins": sorted({m.joins for m in economy.members} - {0}),
        "turns": economy.turns,
        "paid": paid,
        "taken": sum(taken),
        "of_an_honest_one": sum(taken) / mean,
        "of_fair": of_fair,
        "best": max(taken, default=0.0) / mean,
        "standing": ledger.standing([m.hotkey for m in looked_at], since),
        "each_stands": [round(standing, 3) for standing in stand],
        "cost": sum(ledger.burnt_rao.get(m.name, 0) for m in looked_at) / RAO_PER_TOKEN,
        "others": kept,
        "met": met,
    }


def is_met(
    economy: Economy,
    of_an_honest_one: float,
    of_fair: float | None,
    kept: Mapping[str, float],
    stand: Sequence[float],
) -> bool | None:
    """None: nothing is claimed."""
    if economy.stands is not None:
        return min(stand) >= economy.stands
    if economy.most is None:
        return None if of_fair is None else of_fair >= economy.least
    met = (of_an_honest_one if of_fair is None else of_fair) <= economy.most
    if economy.victim:
        met = met and min(kept.values()) >= -MAY_LOSE
        if economy.routers is not None:
            met = met and max(kept.values()) <= MAY_GAIN
    return met


def paid_since(found: dict, epoch: int) -> dict[str, float]:
    """τ an epoch, by name, of one row."""
    later = {name: paid[epoch:] for name, paid in found["series"].items()}
    return {name: sum(paid) / max(1, len(paid)) for name, paid in later.items()}


def row(found: dict) -> str:
    if found["economy"] == "honest":
        paid = found["paid"]
        kept = ", ".join(f"{name} {paid[name]:.2f} τ" for name in SPECIALISTS if name in paid)
        return f"| honest | {found['claim']} | – | – | – | – | – | {kept} | – |"
    kept = ", ".join(f"{name} {change:+.0%}" for name, change in found["others"].items())
    met = {True: "met", False: "**missed**", None: "–"}[found["met"]]
    if found["of_fair"] is not None:
        met += f", {found['of_fair']:.0%} of what is fair"
    stands = "–" if math.isnan(found["standing"]) else f"{found['standing']:.2f}"
    return (
        f"| {found['economy']} | {found['claim']} | {found['taken']:.2f} | "
        f"{found['of_an_honest_one']:.0%} | {found['best']:.0%} | {stands} | "
        f"{found['cost']:.4f} | {kept or '–'} | {met} |"
    )


class Played:
    """The economies of a folder that were played, kept in its file."""

    def __init__(self, recorded: Recordings, epochs: int, walks: int, seed: int) -> None:
        self._recorded, self._epochs, self._walks = recorded, epochs, walks
        self._known = economies(recorded)
        self._order = np.random.default_rng(seed).permutation(len(recorded.walks))
        self._of_sheets = (epochs + 1) * walks * len(VALIDATORS)
        if len(self._order) < 1.25 * self._of_sheets:
            raise SystemExit(f"{self._of_sheets} walks and a quarter more are needed: record more")
        self._path = recorded.root / f"economies-{epochs}-{walks}-{seed}.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._done = {found["economy"]: found for found in map(json.loads, lines)}

    def row(self, name: str) -> dict:
        """Of the economy, played unless it was."""
        if name not in self._done:
            economy = self._known[name]()
            since = economy.counted_from
            reference = {} if name == "honest" else paid_since(self.row("honest"), since)
            if economy.victim == "cpp-better":
                reference = paid_since(self.row("better"), since)
            fair = paid_since(self.row(economy.like), since) if economy.like else {}
            started_s = time.monotonic()
            found = judge(name, economy, self.play(economy), reference, fair)
            print(f"{name}: {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)
            with self._path.open("a") as log:
                log.write(json.dumps(found) + "\n")
            self._done[name] = found
        return self._done[name]

    def play(self, economy: Economy) -> Ledger:
        judges = [Member(v, stake_tokens=STAKE_TOKENS) for v in VALIDATORS]
        members = [*economy.members, *judges]
        # Sheets first; what is left is asked besides.
        walks, of_sheets = self._recorded.walks[self._order], self._of_sheets
        # The dishonest have the first one's text: who has none asks nobody, and votes for nobody
        # whom it has not asked.
        whose = {m.name: 0 for m in members if m.stake_tokens}
        whose |= {validator: k for k, validator in enumerate(VALIDATORS)}
        texts, held = (
            {name: part[k :: len(VALIDATORS)] for name, k in whose.items()}
            for part in (walks[:of_sheets], walks[of_sheets:])
        )

        def on_epoch(epoch: int, public: Sequence[Sheet]) -> None:
            for follower in economy.following:
                follower.begin(epoch, public)

        return run(
            play(
                members,
                texts,
                self._recorded.spec,
                self._recorded.baseline,
                epochs=self._epochs,
                walks_per_epoch=self._walks,
                on_epoch=on_epoch,
                held=held if economy.holds else None,
                routers=economy.routers,
                rules=economy.rules,
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("economy", nargs="*", help="which; all by default")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--walks", type=int, default=28, help="of a validator, an epoch")
    parser.add_argument("--seed", type=int, default=0, help="which text, in what order")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.ERROR)
    recorded = Recordings(arguments.folder.expanduser())
    known = economies(recorded)
    if unknown := set(arguments.economy) - set(known):
        parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    played = Played(recorded, arguments.epochs, arguments.walks, arguments.seed)
    print(f"{arguments.epochs} epochs, {arguments.walks} walks, seed {arguments.seed}\n")
    print(HEADER)
    for name in arguments.economy or known:
        print(row(played.row(name)), flush=True)


if __name__ == "__main__":
    main()
