"""What the scoring alone says of each economy's members: one sheet of many walks, no chain.

    python benchmarks/record_laws.py FOLDER          # once
    python benchmarks/one_sheet.py FOLDER [--walks 192] [--seed 0] [--first] ECONOMY …

For members whose law does not change and who answer everybody; seconds each, where `economy.py`
takes minutes. The sheet is of an epoch in which all have been there for ten epochs or more, those
that are looked at without ever having had a place; with --first of the first epoch, in which nobody
has one and who answers sooner is heard first. Weights are of evidence alone (uniform gate).
Markdown: what those looked at score together and the best of them, of a mean honest specialist's
(of the first member's, where there is none); the standing of each; the most that an honest one
loses beside them; and what all of them add to the mixture of the others, in nats a token.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from cast import SPECIALISTS, Economy, Recordings
from economies import economies
from search_adversaries import label_nats, sheet_of
from simulation import Member

from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, MICRO, Sheet, sheet_seed
from moesubnet.validator.scoring import Recount, recount, terms

SETTLED = 20
HEADER = """\
| economy | looked at | score, of an honest one | best | standing of each | others | adds, nats |
|---|---|---|---|---|---|---|"""


def sheet_in(
    epoch: int,
    economy: Economy,
    said: Mapping[str, np.ndarray],
    walks: np.ndarray,
    baseline: np.ndarray,
) -> Sheet:
    """Members that are in `said` (label nats [walks, steps]), by names as hotkeys; in the first
    epoch, or when all are settled."""
    sheet = sheet_of(said, walks, baseline)
    by_name = {m.name: (index, m) for index, m in enumerate(economy.members)}

    def age_millis(index: int, member: Member) -> int:
        return 1_000 * (10 if member.joins and epoch else epoch + 1) - index

    columns = [by_name[hotkey] for hotkey in sheet.hotkeys]
    took = np.array([round(1e4 * member.delay_s) for _, member in columns])
    return replace(
        sheet,
        epoch=epoch,
        seed=sheet_seed(sheet.previous_sha256, epoch),
        age_millis=tuple(age_millis(*column) for column in columns),
        took_100us=np.where(sheet.log_q[:, :-1] > LOG_Q_UNANSWERED, took, 0).astype("<u2"),
        since=tuple(None if not epoch or h in economy.looked_at else 0 for h in sheet.hotkeys),
    )


def added_nats(sheet: Sheet, looked_at: frozenset[str]) -> float:
    """What the mixture of all knows more than that of the others, a token."""
    joint, weight, _ = terms(sheet)
    rest = [i for i, h in enumerate((*sheet.hotkeys, "")) if h not in looked_at]
    with_all, without = (
        np.log(joint[:, columns].sum(axis=1) / weight[:, columns].sum(axis=1))
        for columns in (list(range(joint.shape[1])), rest)
    )
    return float(np.mean(with_all - without))


def row(
    name: str, epoch: int, economy: Economy, said: dict[str, np.ndarray], recorded: Recordings
) -> str:
    rest = {n: nats for n, nats in said.items() if n not in economy.looked_at}
    sheet, without = (
        sheet_in(epoch, economy, those, recorded.walks, recorded.baseline.logp)
        for those in (said, rest)
    )
    beside, alone = ((s, recount(s)) for s in (sheet, without))
    scores, before = (_by_name(*one) for one in (beside, alone))
    honest = [n for n in SPECIALISTS if n in rest] or [economy.members[0].name]
    mean = sum(scores[n] for n in honest) / len(honest)
    taken = [scores[n] for n in sorted(economy.looked_at)]
    stand = dict(zip(sheet.hotkeys, beside[1].standing_ppm, strict=True))
    each = ", ".join(f"{stand[n] / MICRO:.2f}" for n in sorted(economy.looked_at))
    change = min((scores[n] / before[n] - 1, n) for n in rest if before[n])
    return (
        f"| {name} | {economy.claim} | {sum(taken) / mean:.0%} | {max(taken) / mean:.0%} | {each} "
        f"| {change[1]} {change[0]:+.0%} | {added_nats(sheet, economy.looked_at):+.4f} |"
    )


def _by_name(sheet: Sheet, found: Recount) -> dict[str, int]:
    return dict(zip(sheet.hotkeys, found.score_nano, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("economy", nargs="+", help="which")
    parser.add_argument("--walks", type=int, default=192)
    parser.add_argument("--seed", type=int, default=0, help="which text")
    parser.add_argument("--first", action="store_true", help="epoch of all")
    arguments = parser.parse_intermixed_args()
    recorded = Recordings(arguments.folder.expanduser())
    order = np.random.default_rng(arguments.seed).permutation(len(recorded.walks))
    recorded.walks = recorded.walks[np.sort(order[: arguments.walks])]
    known, said = economies(recorded), {}
    print(f"{arguments.walks} walks, seed {arguments.seed}\n\n{HEADER}")
    for name in arguments.economy:
        economy = known[name]()
        for member in economy.members:
            if member.law is not None and (member.name, member.law) not in said:
                said[member.name, member.law] = label_nats(member.law, recorded.walks)
        laws = {m.name: said[m.name, m.law] for m in economy.members if m.law is not None}
        epoch = 0 if arguments.first else SETTLED
        print(row(name, epoch, economy, laws, recorded), flush=True)


if __name__ == "__main__":
    main()
