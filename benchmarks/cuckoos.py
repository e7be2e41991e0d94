"""How often a cuckoo is found, and an honest senior taken for one, on recorded laws.

    python benchmarks/record_laws.py FOLDER          # once
    python benchmarks/cuckoos.py FOLDER [--drawings 1000] [--walks 16] [--texts 4 8 16] …

Each drawing has three sheets of some walks and some texts of a senior's own, of which no walk is
in two. For each ordered pair of experts (the second came later and answers sooner): the first as
it is, in sheets and before (honest: the rate is of false alarms); and as a cuckoo, that was itself
and now says what the second says, or a mixture of both (the rate is of those that are found). All
recorded experts stand beside them, at the weights that evidence alone gives.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cast import Recordings

from moesubnet.mixture.sheet import LOG_Q_FLOOR, MICRO
from moesubnet.types import Hotkey
from moesubnet.validator.before import Again
from moesubnet.validator.cuckoos import is_cuckoo, joined
from moesubnet.validator.pool import PREFIX_TOKENS, STEP_TOKENS
from moesubnet.validator.turned import EACH_TIME, Read

GAMMA = 0.95


class Said:
    """log_q of walks' labels, by expert, the baseline last: [n + 1, walks, steps]."""

    def __init__(self, recorded: Recordings, names: list[str]) -> None:
        self.names = tuple(map(Hotkey, names))
        labels = recorded.walks[:, PREFIX_TOKENS:].astype(np.intp)
        laws = (np.load(recorded.path(name), mmap_mode="r") for name in names)
        said = [np.take_along_axis(law, labels[:, :, None], 2)[:, :, 0] for law in laws]
        self.log_q = np.maximum(np.stack([*said, recorded.baseline.logp[labels]]), LOG_Q_FLOOR)
        self.log_q = self.log_q.astype(np.float64)

    def again(self, walks: np.ndarray, elder: int, as_elder: np.ndarray) -> list[Again]:
        """One for each walk; as_elder: [walks, steps], what the elder says in all of them."""
        log_q = self.log_q[:, walks].copy()
        log_q[elder] = as_elder[walks]
        log_w, seen = np.empty_like(log_q), np.zeros(log_q.shape[:2])
        for step in range(STEP_TOKENS):
            log_w[:, :, step] = seen - seen.max(axis=0)
            seen = GAMMA * seen + log_q[:, :, step]
        micro = [np.rint(a.transpose(1, 2, 0) * MICRO).astype("<i4") for a in (log_q, log_w)]
        position = np.arange(PREFIX_TOKENS, PREFIX_TOKENS + STEP_TOKENS, dtype="<u4")
        return [
            Again(self.names[elder], 0, 1, self.names, position, q, w)
            for q, w in zip(*micro, strict=True)
        ]


def rate(
    said: Said, pair: tuple[int, int], share: float, texts: int, walks: int, lots: list[np.ndarray]
) -> float:
    """share: of the second in what the first says now. lots: walks, those of sheets last."""
    most = len(lots[0]) - EACH_TIME * walks
    elder, newcomer = pair
    own, other = said.log_q[elder], said.log_q[newcomer]
    with np.errstate(divide="ignore"):
        now = np.logaddexp(own + np.log1p(-share), other + np.log(share))
    found = 0
    for drawn in lots:
        sheets = [
            Read(joined(said.again(drawn[most + k * walks :][:walks], elder, now)))
            for k in range(EACH_TIME)
        ]
        before = said.again(drawn[:texts], elder, own)
        found += is_cuckoo(before, sheets, said.names[elder], said.names[newcomer])
    return found / len(lots)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--drawings", type=int, default=1_000)
    parser.add_argument("--walks", type=int, default=16, help="of a sheet")
    parser.add_argument("--texts", type=int, nargs="*", default=[4, 8, 16])
    parser.add_argument("--shares", type=float, nargs="*", default=[0.0, 0.1, 0.3, 0.5, 1.0])
    parser.add_argument("--pairs", nargs="*", metavar="SENIOR:NEWCOMER", help="all by default")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    recorded = Recordings(arguments.folder.expanduser())
    names = sorted(path.stem for path in (recorded.root / "laws").glob("*.npy"))
    said, rng = Said(recorded, names), np.random.default_rng(arguments.seed)
    size = max(arguments.texts) + EACH_TIME * arguments.walks
    lots = [rng.choice(len(recorded.walks), size, replace=False) for _ in range(arguments.drawings)]
    print(f"{arguments.drawings} drawings, sheets of {arguments.walks} walks, {len(names)} experts")
    print(
        "| senior | newcomer | texts | " + " | ".join(f"{s:.0%}" for s in arguments.shares) + " |"
    )
    print("|---|---|---|" + "---|" * len(arguments.shares))
    for elder, newcomer in np.ndindex(len(names), len(names)):
        pair = f"{names[elder]}:{names[newcomer]}"
        if elder == newcomer or (arguments.pairs and pair not in arguments.pairs):
            continue
        for texts in arguments.texts:
            rates = (
                rate(said, (elder, newcomer), share, texts, arguments.walks, lots)
                for share in arguments.shares
            )
            cells = " | ".join(f"{found:.2%}" for found in rates)
            print(f"| {names[elder]} | {names[newcomer]} | {texts} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
